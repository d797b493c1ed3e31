"""A film of a flowing density."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from .._flow import Flow
from ._film import check_film, write_film
from ._frames import Frames, frames
from ._loss import loss
from ._style import INK, box_aspect, draw_loss_behind, draw_map, own_figure


def animate(
    flow: Flow,
    path: str | os.PathLike[str],
    ax: Axes | None = None,
    *,
    fps: float = 12.0,
    dpi: float = 100.0,
    axes: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    points: dict[str, Sequence[float]] | None = None,
    on_frame: Callable[[float], None] | None = None,
) -> Figure:
    """Write a film of the density, one frame for each saved time, with a dot that moves along the mean loss.

    **Arguments:**

    - `flow`: what `rxjax.probability_flow` returned.  Good values: 40 to 100 times; the title shows each, so they need
        not be evenly spaced (squares of evenly spaced numbers show the fast start and the slow crossing alike).
    - `path`: a file ending in `.gif`, or in `.mp4` where ffmpeg is installed.  An existing file is replaced.
    - `ax`: draw here, without the mean loss.
    - `fps`: frames a second.  `dpi`: dots an inch.
    - `axes`, `names`, `points`: as in `density`.
    - `on_frame`: called with the share of frames done, for a progress bar.

    **Returns:** the figure, at the last time.

    **Raises:** `ValueError` for another ending or without ffmpeg for `.mp4`; `OSError` if the file cannot be written.

    !!! example

        ```python
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp, rxjax as rx
        >>> bowl = rx.landscapes.Quadratic(1.0)
        >>> run = rx.Hyperparameters(learning_rate=0.05, batch_size=1, dataset_size=1000)
        >>> grid = rx.solvers.Grid(-3.0, 3.0, 64)
        >>> flow = rx.probability_flow(bowl, run, 2.0, grid, grid.gaussian(2.0, 0.2), jnp.linspace(0, 5, 3))
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "flow.gif"
        >>> figure = rx.plot.animate(flow, path, dpi=50.0)
        >>> path.read_bytes()[:3]
        b'GIF'

        ```
    """
    path = Path(path)
    check_film(path, fps)
    data = frames(flow, axes, names)
    mean = np.asarray(flow.loss)
    below: Axes | None = None
    if ax is None:
        height = 1.0 if data.dim == 1 else box_aspect(data)
        figure = Figure(figsize=(5.0, 4.2 * height + 1.6), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=[4.2 * height, 1.25])
        loss(flow, below, log=_falls_early(data.ts, mean))
    else:
        figure, above = own_figure(ax, (1.0, 1.0))
    change = _film_curve(above, data) if data.dim == 1 else _film_map(figure, above, data, points)
    # The lines and spines over a map move with it: they are drawn again on top.
    moving = [*above.images, *above.collections, *above.lines, *above.texts, *above.spines.values(), above.title]
    dots = []
    if below is not None:
        dots = below.plot(data.ts[:1], mean[:1], "o", color="#d1495b", ms=7, zorder=3)
    above.set_title(data.title(len(data.ts) - 1), fontsize="medium")
    if figure.get_layout_engine() is not None:
        # Laid out once: a layout that follows the length of each title would tremble.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")

    def draw(i: int) -> None:
        change(i)
        above.set_title(data.title(i), fontsize="medium")
        for dot in dots:
            # On a logarithmic axis time zero has no place: the dot waits at the first one that has.
            k = i if data.ts[i] > 0 or dot.axes is None or dot.axes.get_xscale() == "linear" else min(1, len(mean) - 1)
            dot.set_data(data.ts[k : k + 1], mean[k : k + 1])
        if on_frame is not None:
            on_frame((i + 1) / len(data.ts))

    write_film(figure, [*moving, *dots], draw, len(data.ts), path, fps, dpi)
    return figure


def _falls_early(ts: np.ndarray, mean: np.ndarray) -> bool:
    """Whether half of all that the mean loss does is done in the first twentieth of the time."""
    path = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(mean)))])
    early = ts - ts[0] <= 0.05 * (ts[-1] - ts[0])
    return bool(ts[0] >= 0 and np.sum(early) > 1 and path[early][-1] > 0.5 * path[-1] > 0)


def _top(ps: np.ndarray) -> float:
    """The density that most frames stay below: a narrow start may saturate."""
    peaks = ps.reshape(len(ps), -1).max(axis=1)
    return float(np.quantile(peaks, 0.9)) or 1.0


def _film_map(figure: Figure, ax: Axes, data: Frames, points: dict[str, Sequence[float]] | None):
    top = _top(data.ps)
    image = draw_map(ax, data, data.ps[0], PowerNorm(0.5, 0.0, top), points)
    bar = figure.colorbar(image, ax=ax, extend="max" if data.ps.max() > top else "neither", pad=0.02, aspect=28)
    bar.set_label("probability density")
    return lambda i: image.set_data(data.ps[i].T)


def _film_curve(ax: Axes, data: Frames):
    draw_loss_behind(ax, data, data.ps)
    (line,) = ax.plot(data.centers[0], data.ps[0], color=INK, lw=2.0)
    ax.set_ylim(0, 1.3 * _top(data.ps))
    return lambda i: line.set_ydata(data.ps[i])
