"""The command line itself."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from . import _ctrl_c
from ._errors import Refusal, one_line
from ._problems import TOYS
from ._sweep_command import doctor, sweep
from ._train_command import train


def _complain(text: str) -> None:
    Console(stderr=True).print(f"[bold red]Error:[/] {text}".replace("\n", " "), soft_wrap=True, highlight=False)


class OneLineErrors(TyperGroup):
    """Says in one line what is wrong with the command line, and exits with 2.  Without a word it shows its help."""

    def main(self, args: Any = None, *more: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        words = sys.argv[1:] if args is None else args
        try:
            result = super().main(args if words else ["--help"], *more, standalone_mode=False, **kwargs)
        except Exception as error:
            # Typer brings its own copy of click or imports it, by version: known by what its usage errors can do.
            if not (standalone_mode and hasattr(error, "format_message") and hasattr(error, "exit_code")):
                raise
            _complain(one_line(Exception(error.format_message())))  # pyright: ignore[reportAttributeAccessIssue]
            sys.exit(2)
        if standalone_mode:
            sys.exit(result if isinstance(result, int) else 0)
        return result


app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    help="The reaction-rate picture of deep learning: how a density of networks flows over a loss landscape.",
)


def main() -> None:
    """The entry point of the command."""
    _ctrl_c.listen()
    try:
        app(prog_name="rxjax")
    except SystemExit as stop:
        # Compiled code cannot be stopped, so a thread that was left behind must not keep the process.
        progress = sys.modules.get(f"{__package__}._progress")
        if stop.code == 130 and progress is not None and progress.still_working():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        raise


def _version(wanted: bool) -> bool:
    if wanted:
        from .._version import __version__

        typer.echo(f"rxjax {__version__}")
        raise typer.Exit()
    return wanted


@app.callback()
def _rxjax(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    del version


app.command()(sweep)
app.command()(doctor)
app.command()(train)


_NAME_HELP = f"{', '.join(TOYS)}; digits for a real network; or module:function of your own, theta -> loss."


@app.command()
def flow(
    name: Annotated[str, typer.Argument(metavar="NAME", help=_NAME_HELP, show_default=False)],
    learning_rate: Annotated[float | None, typer.Option(help="Step size of SGD.")] = None,
    batch_size: Annotated[float | None, typer.Option(help="Examples per step.")] = None,
    dataset_size: Annotated[float | None, typer.Option(help="Examples in all.")] = None,
    covariance: Annotated[
        str | None,
        typer.Option(help="Variance of one example's gradient: a number, or one for each axis with commas."),
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Heavy-ball momentum, from 0 to below 1.")] = None,
    shape: Annotated[str | None, typer.Option(help="Cells of the grid, like 128 or 128x96.")] = None,
    dim: Annotated[int | None, typer.Option(help="Coordinates of a toy landscape, 1 to 3.")] = None,
    bounds: Annotated[str | None, typer.Option(help="Ends of each axis, like -2:2,-3:3.")] = None,
    boundary: Annotated[str, typer.Option(help="reflecting, absorbing or periodic.")] = "reflecting",
    time: Annotated[float | None, typer.Option(help="End, in units of learning rate x steps.")] = None,
    frames: Annotated[int, typer.Option(help="Times to save, from start to end.")] = 41,
    start: Annotated[str | None, typer.Option(help="Mean of the density at the start, like -1,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="Its standard deviation, one number or one for each axis.")] = None,
    animation: Annotated[bool, typer.Option("--animation", help="Write a GIF too.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("out"),
    seed: Annotated[int, typer.Option(help="Of the networks that `digits` trains.")] = 0,
    precision: Annotated[int, typer.Option(help="Bits of a number, 32 or 64.")] = 64,
) -> None:
    """Let a density of SGD runs flow over a loss landscape.

    Prints a table and writes a picture (.png), the mean loss (-loss.png) and the data (.nc) into --out.  What is not
    given is chosen for the landscape.
    """
    options = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items()}
    try:
        _flow(options, out)
    except Refusal as refusal:
        _complain(str(refusal))
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted: nothing was written.", highlight=False)
        sys.exit(130)


def _flow(options: dict[str, Any], out: Path) -> None:
    from . import _parse
    from ._output import check_folder

    precision, seed, frames = (options[k] for k in ("precision", "seed", "frames"))
    if precision not in (32, 64):
        raise Refusal(f"Argument `--precision` must be 32 or 64, but it is {precision}.")
    if not 0 <= seed < 2**32:
        raise Refusal(f"Argument `--seed` must be from 0 to 2^32 - 1, but it is {seed}.")
    if not 2 <= frames <= 10_000:
        raise Refusal(f"Argument `--frames` must be from 2 to 10,000, but it is {frames}.")
    _parse.positive(options["time"], "--time")
    bounds = _parse.bounds(options["bounds"])
    check_folder(out)
    import jax

    # A check that fails inside compiled code is reported once, by us.
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", precision == 64)
    try:
        _carry_out(options, bounds, out)
    finally:
        jax.config.update("jax_enable_x64", before)


def _carry_out(options: dict[str, Any], bounds: Any, out: Path) -> None:
    import jax

    from . import _parse
    from ._problems import find
    from ._progress import stages
    from ._report import report
    from ._run import compute
    from ._write import write

    try:
        problem = find(options["name"], options["dim"], bounds, options["seed"])
        given = {k: options[k] for k in ("learning_rate", "batch_size", "dataset_size", "momentum", "shape", "time")}
        given |= {k: _parse.numbers(options[k], f"--{k}", problem.dim) for k in ("covariance", "start", "std")}
        if bounds is not None and len(bounds) == 1:
            bounds = bounds * problem.dim
        if bounds is not None and len(bounds) != problem.dim:
            raise Refusal(
                f"Argument `--bounds` must hold {problem.dim} ranges, one for each axis, but it holds {len(bounds)}."
            )
        with stages(Console(stderr=True)) as line:
            run = compute(problem, given, bounds, options["boundary"], options["frames"], line)
            files = write(run, out, options["animation"], options, line)
    except (ValueError, TypeError, jax.errors.JaxRuntimeError) as error:
        raise Refusal(one_line(error)) from error
    console = Console()
    report(run, console)
    console.print()
    for path in files:
        console.print(f"Wrote {path}", highlight=False, soft_wrap=True)
