"""A bar on the terminal, and work that Ctrl-C can leave."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from ._ctrl_c import check

_T = TypeVar("_T")


class BarMeter(diffrax.AbstractProgressMeter):
    """Reports how far a solve has come, at every hundredth."""

    report: Callable[[float], None] = eqx.field(static=True)

    def init(self) -> jax.Array:
        return jnp.zeros((), jnp.float32)

    def step(self, state, progress):
        progress = jnp.asarray(progress, jnp.float32)

        def show(progress):
            jax.debug.callback(lambda done: self.report(float(done)), progress)
            return progress

        return jax.lax.cond(progress - state > 0.01, show, lambda _: state, progress)

    def close(self, state) -> None:
        del state


class Stages:
    """A line on the terminal that says what is being done and how far it is; silent where there is none."""

    def __init__(self, progress: Progress | None):
        self._progress = progress
        self._task = None if progress is None else progress.add_task("Starting", total=None)

    def say(self, what: str, total: float | None = None) -> None:
        """Begin a stage; without `total` the bar only moves to and fro."""
        if self._progress is not None and self._task is not None:
            self._progress.reset(self._task, total=total, description=what)

    def done(self, share: float) -> None:
        """How much of the stage is done, between 0 and 1."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=share)


@contextmanager
def stages(console: Console) -> Iterator[Stages]:
    """The line of stages, gone at the end."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    if not console.is_terminal:
        yield Stages(None)
        return
    with Progress(*columns, console=console, transient=True) as progress:
        yield Stages(progress)


def interruptible(fn: Callable[[], _T]) -> _T:
    """`fn()` in a thread of its own, so that Ctrl-C is heard while compiled code runs and leaves it behind."""
    outcome: dict[str, Any] = {}

    def work():
        try:
            outcome["value"] = fn()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, name="rxjax-work", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        check()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def still_working() -> bool:
    """Whether a thread was left behind."""
    return any(thread.name == "rxjax-work" for thread in threading.enumerate())
