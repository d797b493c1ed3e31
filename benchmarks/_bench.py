"""What the benchmarks share: one core, medians, tables."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def one_core() -> None:
    """Pin this process to one core; call before importing JAX."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def median_seconds(f: Callable, repeats: int = 5) -> float:
    """Median wall time of `f()` after the first call has been made elsewhere."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def in_turns(programs: Sequence[Callable], repeats: int) -> list[float]:
    """Median seconds of programs that take turns, so that a change of the machine's pace meets all of them."""
    import jax

    times: list[list[float]] = [[] for _ in programs]
    for _ in range(repeats):
        for kept, f in zip(times, programs, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(f())
            kept.append(time.perf_counter() - start)
    return [statistics.median(t) for t in times]


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded to read as text."""
    widths = [max(len(str(r[i])) for r in [header, *rows]) for i in range(len(header))]
    line = lambda r: "| " + " | ".join(str(c).ljust(w) for c, w in zip(r, widths, strict=True)) + " |"
    return "\n".join([line(header), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows)])


def write(name: str, text: str) -> None:
    """Print a report and keep it beside the script, with the versions that it was measured with."""
    from importlib.metadata import version

    packages = ("jax", "jaxlib", "diffrax", "equinox", "numpy", "scipy")
    stamp = f"Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages)
    text = f"{text}\n\nMeasured on one core with {stamp}.\n"
    print(text)
    (Path(__file__).parent / name).write_text(text)
