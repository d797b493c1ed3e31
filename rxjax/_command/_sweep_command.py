"""The commands `rxjax sweep` and `rxjax doctor`.  JAX is loaded when they run."""

import logging
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .._messages import unwrapped
from ._errors import Refusal

# What `rxjax flow` takes as an option is a key of the file here.
_KEYS = {"NAME": "landscape.name", "--dim": "landscape.dim", "--bounds": "landscape.bounds", "--out": "run.out"}


def sweep(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What to sweep; see docs/scaling.md.")],
) -> None:
    """Compute a quantity over axes of settings, resumable, and draw heat maps of it.

    The file names a landscape or a function of your own, the axes, and where the results go.
    """
    from ._app import _complain

    try:
        _sweep(config)
    except Refusal as refusal:
        _complain(str(refusal))
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted; finished chunks are in the store, if one was given.", highlight=False)
        sys.exit(130)


def _sweep(path: Path) -> None:
    from ._output import check_folder
    from ._sweep_config import read

    settings = read(path)
    try:
        check_folder(Path(settings.run["out"]))
        _carry_out(path, settings)
    except Refusal as refusal:
        option = re.match(r"Argument `([^`]+)`", str(refusal))
        key = _KEYS.get(option[1]) if option else None
        if option is None or key is None:
            raise
        raise Refusal(f"{path}: `{key}`{str(refusal)[option.end() :]}") from None


def _carry_out(path: Path, settings: Any) -> None:
    import jax

    from ._sweep_run import report, run, write

    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", settings.run["precision"] == 64)
    try:
        data, seconds = run(settings)
        files = write(data, settings)
    except (ValueError, TypeError, RuntimeError, OSError, MemoryError) as error:
        raise Refusal(f"{path}: {' '.join(unwrapped(error).split())}") from error
    finally:
        jax.config.update("jax_enable_x64", before)
    console = Console()
    report(data, seconds, console)
    for place in [*files, *([settings.run["store"]] if settings.run["store"] else [])]:
        console.print(f"Wrote {place}", highlight=False, soft_wrap=True)


def doctor() -> None:
    """Print versions, what each device does as measured, and known problems of this installation."""
    from ..hardware import report
    from ._doctor import show

    found = report()
    show(found, Console())
    if found.problems:
        sys.exit(1)
