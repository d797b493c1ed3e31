"""`rxjax train`: a whole training run, watched, and resumed where it was stopped."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ._errors import Refusal

TASKS = ("digits-mlp", "digits-cnn", "chars")
_OPTIMIZER_HELP = (
    "rate-adamw and rate-sgd find their rate; adamw and sgd take --learning-rate and decay it by a cosine."
)


def train(
    task: Annotated[str, typer.Argument(metavar="TASK", help=", ".join(TASKS), show_default=False)],
    optimizer: Annotated[str, typer.Option(help=_OPTIMIZER_HELP)] = "rate-adamw",
    learning_rate: Annotated[float | None, typer.Option(help="Of adamw and sgd, at the start.")] = None,
    steps: Annotated[int | None, typer.Option(help="As many as the task takes, if not given.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step.")] = None,
    seed: Annotated[int, typer.Option(help="Of the start and of the order of the data.")] = 0,
    monitor_every: Annotated[int, typer.Option(help="Steps between measurements of sharpness and barrier.")] = 100,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, to the same last bit.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("out"),
) -> None:
    """Train a small network and watch its temperature, noise and edge of stability.

    digits-mlp and digits-cnn classify scikit-learn's digits, chars learns the text of Python's own help.  Writes the
    metrics of every step (metrics.csv), pictures (loss.png, temperature.png, status.png), the parameters at the end
    (parameters.npz) and checkpoints into a folder of --out.
    """
    options = {k: v for k, v in locals().items() if k not in ("out", "resume")}
    from ._app import _complain

    try:
        _train(options, out, resume)
    except Refusal as refusal:
        _complain(str(refusal))
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted before the first step.", highlight=False)
        sys.exit(130)


def _train(options: dict[str, Any], out: Path, resume: bool) -> None:
    _check(options)
    from ._output import check_folder

    check_folder(out)
    import jax

    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", False)
    try:
        from ._train_run import carry_out

        stopped_at = carry_out(options, out, resume)
    finally:
        jax.config.update("jax_enable_x64", before)
    if stopped_at is not None:
        text = f"Interrupted; the run can go on from step {stopped_at}: add --resume."
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
        sys.exit(130)


def _check(options: dict[str, Any]) -> None:
    """Refuse what is wrong with the options before anything is loaded."""
    from . import _parse

    for name, allowed in (("task", TASKS), ("optimizer", ("rate-adamw", "rate-sgd", "adamw", "sgd"))):
        if options[name] not in allowed:
            shown = "TASK" if name == "task" else f"--{name}"
            raise Refusal(f"Argument `{shown}` must be one of {', '.join(allowed)}, but it is {options[name]!r}.")
    _parse.positive(options["learning_rate"], "--learning-rate")
    needs = not options["optimizer"].startswith("rate-")
    if needs and options["learning_rate"] is None:
        raise Refusal(
            f"Argument `--learning-rate` must be given for {options['optimizer']}, but it is missing.  Try 0.003 for "
            "adamw, 0.1 for sgd, or an optimizer that finds it: rate-adamw."
        )
    if not needs and options["learning_rate"] is not None:
        raise Refusal(
            f"Argument `--learning-rate` must come with adamw or sgd, but {options['optimizer']} finds its own."
        )
    limits = {
        "steps": (1, 10**7),
        "batch_size": (2, 10**5),
        "monitor_every": (2, 10**7),
        "checkpoint_every": (1, 10**7),
    }
    for name, (low, high) in limits.items():
        value = options[name]
        if value is not None and not low <= value <= high:
            raise Refusal(f"Argument `--{name.replace('_', '-')}` must be from {low} to {high:,}, but it is {value}.")
    if not 0 <= options["seed"] < 2**32:
        raise Refusal(f"Argument `--seed` must be from 0 to 2^32 - 1, but it is {options['seed']}.")
