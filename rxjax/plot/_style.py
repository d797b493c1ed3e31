"""Colours, sizes and axes shared by all pictures."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ._frames import Frames, loss_levels

# Perceptually uniform and readable with any colour vision; black is no density at all.
DENSITY_MAP = "magma"
INK, GREY = "#30234f", "#8a8a94"
TIME = "time  (learning rate × steps)"


def time_colours(n: int) -> np.ndarray:
    """Colours for `n` ascending times, early ones dark; the palest, which paper swallows, left out."""
    return colormaps["viridis"](np.linspace(0.0, 0.85, n) if n > 1 else np.array([0.4]))


def density_map() -> Colormap:
    """The map for filled densities."""
    return ListedColormap(colormaps[DENSITY_MAP](np.linspace(0.0, 1.0, 256)), "density")


def own_figure(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """The figure and axes to draw on: those of `ax`, or new ones of `size` inches."""
    if ax is None:
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.add_subplot()
    figure = ax.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise ValueError("Argument `ax` must belong to a figure, but it was removed from its own.")
    return figure, ax


def box_aspect(frames: Frames) -> float:
    """Height over width of a panel: that of the grid, within limits."""
    width, height = (e[-1] - e[0] for e in frames.edges)
    return float(np.clip(height / width, 0.7, 1.3))


def draw_map(ax: Axes, frames: Frames, p: np.ndarray, norm, points: dict[str, Sequence[float]] | None) -> AxesImage:
    """One filled density under loss contour lines."""
    (left, right), (bottom, top) = ((e[0], e[-1]) for e in frames.edges)
    image = ax.imshow(
        p.T,
        origin="lower",
        extent=(left, right, bottom, top),
        cmap=density_map(),
        norm=norm,
        aspect="auto",
        interpolation="bilinear",
    )
    levels = loss_levels(frames.energy)
    if levels.size:
        x, y = frames.centers
        ax.contour(x, y, frames.energy.T, levels=levels, colors="white", linewidths=0.6, alpha=0.5, linestyles="solid")
    for label, place in (points or {}).items():
        if np.shape(place) != (2,):
            raise ValueError(f"Argument `points` must hold two coordinates a label, but {label!r} has {place}.")
        ax.plot(*place, "o", mfc="none", mec="#5ad1e6", ms=7, mew=1.6)
        ax.annotate(label, (place[0], place[1]), (6, 5), textcoords="offset points", color="#5ad1e6", fontsize=10)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_box_aspect(box_aspect(frames))
    ax.set_xlabel(frames.names[0])
    ax.set_ylabel(frames.names[1])
    return image


def draw_loss_behind(ax: Axes, frames: Frames, ps: np.ndarray) -> Axes:
    """The loss of a one-dimensional flow, grey, on a second axis behind the densities; returns that axis."""
    x = frames.centers[0]
    twin = ax.twinx()
    twin.plot(x, frames.energy, color=GREY, lw=1.6)
    twin.fill_between(x, frames.energy, frames.energy.min(), color=GREY, alpha=0.12, lw=0)
    # As high as any shown density reaches, and some room: steep walls would flatten the wells.
    reached = np.any(ps > 1e-3 * ps.max(axis=1, keepdims=True), axis=0)
    low = frames.energy.min()
    high = frames.energy[reached].max(initial=low)
    twin.set_ylim(low, min(low + 1.25 * (high - low), frames.energy.max()) if high > low else None)
    twin.set_ylabel("loss", color=GREY)
    twin.tick_params(axis="y", colors=GREY)
    ax.set_zorder(twin.get_zorder() + 1)
    ax.patch.set_visible(False)
    ax.set_xlim(frames.edges[0][0], frames.edges[0][-1])
    ax.set_xlabel(frames.names[0])
    ax.set_ylabel("probability density")
    for side in ("top",):
        ax.spines[side].set_visible(False)
        twin.spines[side].set_visible(False)
    return twin
