"""Points done, their rate and the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

Report = Callable[[int, int], None]


class _Rate(ProgressColumn):
    def render(self, task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.3g} points/s")


@contextmanager
def reporter(progress: bool | Report, done: int, total: int) -> Iterator[Report]:
    """`report(done, total)` for the function that the user gave, or a bar on a terminal."""
    console = Console(stderr=True)
    if not isinstance(progress, bool):
        progress(done, total)
        yield progress
    elif not (progress and console.is_terminal):
        yield lambda done, total: None
    else:
        columns = (TextColumn("Sweep"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            # What was finished before this run says nothing about the rate.
            task = bar.add_task("", total=total, completed=done)
            yield lambda done, total: bar.update(task, completed=done)
