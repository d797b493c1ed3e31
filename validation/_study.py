"""What the studies share: rows with a verdict, figures, the record of a run, and SGD's first passages.

A study is a script `NN_name.py` with one function `run(study)`.  It states each prediction and its tolerance, then
measures.  The verdict of a row follows from its numbers by `verdict` below and from nothing else.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure

jax.config.update("jax_enable_x64", True)

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
FIGURES = FOLDER.parent / "docs/figures/validation"
# Beyond this many standard errors a difference counts.
SIGMAS = 3.0
# A row whose error bar hides a deviation of this share of the prediction decides nothing.
COARSE = 0.5


def verdict(predicted: float, measured: float, error: float, tolerance: float = 0.0) -> str:
    """`holds` within three standard errors or within the stated share of the prediction, else `fails`.

    `undecided` where three standard errors are wider than half of the prediction and than the tolerance: nothing could
    have failed there.
    """
    if not all(math.isfinite(x) for x in (predicted, measured, error)):
        return "fails"
    size = abs(predicted)
    if abs(measured - predicted) > max(SIGMAS * error, tolerance * size):
        return "fails"
    return "undecided" if SIGMAS * error > max(COARSE, tolerance) * size else "holds"


class Row(NamedTuple):
    """One line of the table: an equation in a setting, what it predicts and what was measured."""

    equation: str
    source: str
    setting: str
    predicted: float
    measured: float
    error: float
    tolerance: float
    verdict: str
    besides: dict[str, float]  # what else was measured, by name: a setting names what was set


class Study:
    """The rows and the figure of one study."""

    def __init__(self, name: str):
        self.name = name
        self.rows: list[Row] = []
        self.picture: Figure | None = None

    def row(
        self,
        equation: str,
        source: str,
        setting: str,
        *,
        predicted: Any,
        measured: Any,
        error: Any = 0.0,
        tolerance: float = 0.0,
        besides: Mapping[str, Any] | None = None,
    ) -> str:
        """Record a comparison: `error` is one standard error of the measurement, `tolerance` a share of `predicted`.

        `setting` names what was set and nothing measured, so that it is the same on every machine; measured numbers
        behind the row go into `besides`.
        """
        forecast, found, bar = float(predicted), float(measured), float(error)
        outcome = verdict(forecast, found, bar, tolerance)
        others = {name: float(value) for name, value in (besides or {}).items()}
        self.rows.append(Row(equation, source, setting, forecast, found, bar, tolerance, outcome, others))
        return outcome

    def figure(self, panels: int = 1) -> Any:
        """Axes to draw on, an array of them for several panels."""
        self.picture = Figure(figsize=(3.4 * panels + 0.6, 2.9), layout="constrained", dpi=90)
        axes = self.picture.subplots(1, panels, squeeze=False)[0]
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
        return axes[0] if panels == 1 else axes

    def record(self) -> dict[str, Any]:
        """What is kept of a run, ready for JSON."""
        return {"name": self.name, "rows": [row._asdict() for row in self.rows]}


def main(file: str) -> None:
    """Run the study of a script and keep its record and its figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="a folder for the record; figures are then left out")
    out = parser.parse_args().out
    start = time.perf_counter()
    import __main__

    study = Study(Path(file).stem)
    __main__.run(study)
    seconds = round(time.perf_counter() - start)
    for row in study.rows:
        print(f"{row.setting:60.60} {row.predicted:12.5g} {row.measured:12.5g} ± {row.error:<10.2g} {row.verdict}")
    print(f"{len(study.rows)} rows, {seconds} s")
    folder = RESULTS if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(study.record() | {"seconds": seconds}, indent=1, ensure_ascii=False)
    (folder / f"{study.name}.json").write_text(text + "\n")
    if out is None and study.picture is not None:
        FIGURES.mkdir(parents=True, exist_ok=True)
        study.picture.savefig(FIGURES / f"{study.name}.png")


def mean_of(samples: Any) -> tuple[float, float]:
    """The mean of independent samples and its standard error."""
    x = np.asarray(samples, float).ravel()
    return float(x.mean()), float(x.std(ddof=1) / math.sqrt(x.size))


class Passages(NamedTuple):
    """First passages of walkers that start again after each: the mean in steps, its standard error, their number."""

    steps: float
    error: float
    count: int
    early: float  # share of first passages within `soon` steps


def first_passages(
    step: Callable, reached: Callable, start: Any, key: Any, *, steps: int, walkers: int, soon: int = 0
) -> Passages:
    """Mean number of SGD steps from `start` until `reached(x)`, over walkers that go back to the start each time.

    `step(x, noise)` moves all walkers, an array `(walkers,)`, by one step with standard normal `noise`.  The estimate
    is all steps over all passages; what is cut off at the end cancels where passages are nearly exponential.
    """
    x0 = jnp.full((walkers,), start)

    def one(carry, key):
        x, age, count, early = carry
        x, age = step(x, jr.normal(key, x.shape, x.dtype)), age + 1
        out = reached(x)
        count, early = count + jnp.sum(out), early + jnp.sum(out & (age <= soon))
        return (jnp.where(out, x0, x), jnp.where(out, 0, age), count, early), None

    def block(carry, key):
        return jax.lax.scan(one, carry, jr.split(key, 1000))

    @jax.jit
    def all_steps(key):
        start = (x0, jnp.zeros(walkers, int), jnp.zeros((), int), jnp.zeros((), int))
        return jax.lax.scan(block, start, jr.split(key, -(-steps // 1000)))[0][2:]

    count, early = (int(n) for n in all_steps(key))
    mean = walkers * 1000 * -(-steps // 1000) / count
    return Passages(mean, mean / math.sqrt(count), count, early / count)
