"""A page of pictures of a training run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._style import GREY, time_colours


class Panel(NamedTuple):
    """Which metrics share a panel, and the lines that mean something in it."""

    title: str
    names: tuple[str, ...]
    levels: tuple[float, ...] = ()
    log: bool = False


PANELS = (
    Panel("loss", ("loss", "valid_loss"), log=True),
    Panel("learning rate", ("learning_rate", "rate", "recommended_learning_rate"), log=True),
    Panel("log-rate", ("log_rate", "gauge"), (0.0, -1.0)),
    Panel("edge of stability", ("edge", "step_edge"), (1.0,)),
    Panel("temperature", ("temperature",), log=True),
    Panel("equilibrium", ("fluctuation_dissipation",), (1.0,)),
    Panel("noise and signal", ("trace_sigma", "trace_c", "squared_gradient"), log=True),
    Panel("batch", ("critical_batch", "recommended_batch"), log=True),
    Panel("sharpness", ("lambda_max", "batch_sharpness"), log=True),
    Panel("the way back", ("barrier", "ridge")),
    Panel("growth of the displacement", ("growth_exponent",), (1.0,)),
    Panel("updates that survive", ("survival", "survival_abs", "survival_squared")),
    Panel("update over weight", ("update_ratio",), log=True),
)
_COLUMNS = 3


def status(history: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the metrics of `rx.Monitor` over the steps, a panel for each kind; grey lines mark equilibrium and edge.

    **Arguments:**

    - `history`: what `lax.scan` stacks, name to series; or a list of dictionaries of numbers, such as rows of a CSV
        file.  Metrics that it lacks have no panel; the steps are read from `steps`, else counted.

    **Returns:** the figure.

    **Raises:** `ValueError` if nothing in `history` can be drawn.

    !!! example

        ```python
        >>> import numpy as np, rxjax as rx
        >>> history = {"loss": np.geomspace(1.0, 0.1, 50), "edge": np.linspace(0.2, 1.0, 50)}
        >>> figure = rx.plot.status(history)
        >>> [ax.get_title() for ax in figure.axes]
        ['loss', 'edge of stability']

        ```
    """
    series = _series(history)
    shown = [p for p in PANELS if any(name in series for name in p.names)]
    if not shown:
        raise ValueError("Argument `history` must hold a metric of `rx.Monitor`, but it holds none that can be drawn.")
    columns = min(len(shown), _COLUMNS)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.4, 2.3 * rows + 0.3), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
    for extra in axes[len(shown) :]:
        extra.remove()
    for ax, panel in zip(axes, shown, strict=False):
        _draw(ax, panel, series)
    for ax in axes[max(0, len(shown) - columns) : len(shown)]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    return figure


def _series(history: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Name to series, all of one length; what is not one number a step is left out."""
    if isinstance(history, Mapping):
        found = {name: np.asarray(x, np.float64) for name, x in history.items()}
    else:
        names = {name for row in history for name in row}
        found = {n: np.array([float(row.get(n, np.nan)) for row in history]) for n in names}
    found = {name: x for name, x in found.items() if x.ndim == 1 and x.size}
    if len({x.size for x in found.values()}) > 1:
        raise ValueError("Argument `history` must hold series of one length, but their lengths differ.")
    return found


def _draw(ax: Axes, panel: Panel, series: dict[str, np.ndarray]) -> None:
    names = [name for name in panel.names if name in series]
    for level in panel.levels:
        ax.axhline(level, color=GREY, lw=0.9, ls="--")
    for name, colour in zip(names, time_colours(len(names)), strict=True):
        y = series[name]
        x = series.get("steps", np.arange(1, y.size + 1))
        ax.plot(x, np.where(np.isfinite(y), y, np.nan), color=colour, lw=1.1, label=name)
    values = np.concatenate([series[name] for name in names])
    values = values[np.isfinite(values)]
    # Numbers over more than a decade, nearly all of them positive: a logarithmic axis shows them.
    positive = values[values > 0]
    if panel.log and positive.size > 0.5 * values.size > 0 and positive.max() > 10 * positive.min():
        ax.set_yscale("log")
    ax.set_title(panel.title, fontsize="medium")
    ax.spines[["right", "top"]].set_visible(False)
    if len(names) > 1:
        ax.legend(frameon=False, fontsize="x-small")
