"""A density over its landscape."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from .._flow import Flow
from ._frames import Frames, frames, nearest, telling
from ._style import box_aspect, draw_loss_behind, draw_map, own_figure, time_colours

_PANELS, _CURVES, _COLUMNS = 4, 5, 4


def density(
    flow: Flow,
    times: float | Sequence[float] | np.ndarray | None = None,
    ax: Axes | None = None,
    *,
    axes: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    points: dict[str, Sequence[float]] | None = None,
) -> Figure:
    """Draw the density over the loss landscape at chosen times.

    In one dimension: curves over the loss, which has its own axis on the right.  In two: filled density, brighter where
    it is higher, under contour lines of the loss; one panel for each time, all on one colour scale.  Colours go with
    the square root of the density so that the way between two wells stays visible.  In three: two axes are shown, the
    third is integrated out, and the lines show the least loss along it.

    **Arguments:**

    - `flow`: what `rxjax.probability_flow` returned.
    - `times`: in units of learning rate x steps; the saved times nearest to them are shown, and titles say which.  If
        not given: the first, the last and those between them that differ most.
    - `ax`: draw here.  On a two-dimensional landscape it takes one time, the last if none is given.
    - `axes`: which one or two axes of the grid to show; the first two if not given.
    - `names`: a label for each axis of the grid.
    - `points`: places to mark on a two-dimensional map, label to coordinates.

    **Returns:** the figure.

    **Raises:** `ValueError` for times outside the flow, and for several times on one `ax` in two dimensions.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> well = rx.landscapes.DoubleWell()
        >>> run = rx.Hyperparameters(learning_rate=0.05, batch_size=1, dataset_size=1000)
        >>> grid = rx.solvers.Grid(-2.0, 2.0, 64)
        >>> flow = rx.probability_flow(well, run, 8.0, grid, grid.gaussian(-1.0, 0.2), jnp.linspace(0, 10, 5))
        >>> figure = rx.plot.density(flow, times=[0.0, 5.0, 10.0])
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['t = 0  (0 steps)', 't = 5  (100 steps)', 't = 10  (200 steps)']

        ```
    """
    data = frames(flow, axes, names)
    if data.dim == 1:
        picked = telling(data.ps, _CURVES) if times is None else nearest(data.ts, times)
        return _curves(data, picked, ax)
    if times is None:
        picked = [len(data.ts) - 1] if ax is not None else telling(data.ps, _PANELS)
    else:
        picked = nearest(data.ts, times)
    if ax is not None and len(picked) > 1:
        raise ValueError(
            f"Argument `times` must be one time when `ax` is given, but it picks {len(picked)}.  Leave `ax` out for "
            "panels, or call once for each of your axes."
        )
    return _maps(data, picked, ax, points)


def _curves(data: Frames, picked: list[int], ax: Axes | None) -> Figure:
    figure, ax = own_figure(ax, (6.4, 4.0))
    draw_loss_behind(ax, data, data.ps[picked])
    for i, colour in zip(picked, time_colours(len(picked)), strict=True):
        ax.plot(data.centers[0], data.ps[i], color=colour, lw=2.0, label=data.title(i))
    # The first density is often a spike; the others set the scale, within reason.
    later = data.ps[picked[1:]] if len(picked) > 1 else data.ps[picked]
    top = max(1.15 * later.max(), min(1.05 * data.ps[picked].max(), 2.5 * later.max()))
    ax.set_ylim(0, top if top > 0 else None)
    ax.legend(frameon=False, fontsize="small")
    return figure


def _maps(data: Frames, picked: list[int], ax: Axes | None, points: dict[str, Sequence[float]] | None) -> Figure:
    shown = data.ps[picked]
    top = float((shown[1:] if len(picked) > 1 else shown).max()) or 1.0
    norm = PowerNorm(0.5, 0.0, top)
    if ax is not None:
        figure, ax = own_figure(ax, (1.0, 1.0))
        panels = [ax]
    else:
        columns = min(len(picked), _COLUMNS)
        rows = -(-len(picked) // columns)
        size = (2.9 * columns + 1.1, rows * (2.75 * box_aspect(data) + 0.65) + 0.1)
        figure = Figure(figsize=size if columns > 1 else (5.2, 4.2 * box_aspect(data)), layout="compressed")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for empty in panels[len(picked) :]:
            empty.set_visible(False)
        panels = panels[: len(picked)]
    image = None
    for panel, i in zip(panels, picked, strict=True):
        image = draw_map(panel, data, data.ps[i], norm, points)
        panel.set_title(data.title(i), fontsize="medium")
        if ax is None:
            panel.label_outer()
    assert image is not None
    bar = figure.colorbar(image, ax=panels, extend="max" if shown.max() > top else "neither", pad=0.015, aspect=28)
    bar.set_label("probability density")
    return figure
