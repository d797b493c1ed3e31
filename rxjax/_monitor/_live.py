"""The live table on a terminal."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ._advice import ENTRIES, Entry

# Looking at a metric waits for its step: no oftener than this.
_SECONDS = 0.25


class LiveTable:
    """A table of metrics that stays in place; silent where there is no terminal."""

    def __init__(self, total: int | None = None, console: Console | None = None):
        self._console = Console(stderr=True) if console is None else console
        self._total = total
        self._live: Live | None = None
        self._shown = float("-inf")

    def __enter__(self) -> "LiveTable":
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show the metrics of a step, unless the last ones have been on for less than a quarter of a second."""
        now = time.monotonic()
        if self._live is None or (now - self._shown < _SECONDS and step != self._total):
            return
        self._shown = now
        self._live.update(Group(self._head(step), table(metrics)), refresh=True)

    def _head(self, step: int) -> Table:
        head = Table.grid(padding=(0, 1))
        of = "" if self._total is None else f" of {self._total}"
        head.add_row(Text(f"step {step}{of}"), ProgressBar(self._total, step, width=40))
        return head


def table(metrics: Mapping[str, Any]) -> Table:
    """Name, value, meaning and advice of each metric."""
    out = Table(box=None)
    for heading in ("metric", "value", "", "advice"):
        out.add_column(heading, header_style="cyan", justify="right" if heading == "value" else "left")
    order = {name: i for i, name in enumerate(ENTRIES)}
    for name in sorted(metrics, key=lambda n: order.get(n, len(order))):
        value, entry = float(metrics[name]), ENTRIES.get(name, Entry(""))
        out.add_row(name, f"{value:.4g}", Text(entry.meaning, "dim"), Text(entry.advice(value), "yellow"))
    return out
