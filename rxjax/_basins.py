"""Basins of attraction of a loss on a grid.  On the host: how many there are depends on the values."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import ArrayLike, Float, Int, Shaped

from rxjax_solvers import Grid


def basins(energy: Shaped[ArrayLike, "*shape"], grid: Grid, depth: float = 0.0) -> Int[np.ndarray, "*shape"]:
    """The minimum that steepest descent from each cell ends in.

    Every cell points to the neighbour, diagonal ones included, to which the loss falls most steeply, or to itself in a
    minimum; pointers are then followed, twice as far each time.  Of a plateau the cell of lowest index counts as lower,
    so that a minimum between two equal cells is one.  Periodic axes wrap.

    **Arguments:**

    - `energy`: the loss in the cells, finite.
    - `grid`: the cells.
    - `depth`: a basin less deep than this, from its minimum to its lowest pass, is joined to the one beyond the pass if
        that reaches lower.  Good values: 0 for every minimum of the grid; half of kT for those that hold a density.

    **Returns:** for each cell the flat index of its minimum: an array of the grid's shape, equal within a basin.

    **How it fails:** with `depth=0` a valley narrower than a cell and oblique to the axes breaks into many basins.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> from rxjax._basins import basins
        >>> grid = rx.solvers.Grid(-2.0, 2.0, 8)
        >>> print(basins((grid.axes[0] ** 2 - 1) ** 2, grid))
        [2 2 2 2 5 5 5 5]

        ```
    """
    values = np.asarray(energy)
    if values.shape != grid.shape:
        raise ValueError(f"Argument `energy` must have the grid's shape {grid.shape}, but it has shape {values.shape}.")
    if not np.all(np.isfinite(values)):
        raise ValueError("Argument `energy` must be finite, but it is not.")
    if not (math.isfinite(depth) and depth >= 0):
        raise ValueError(f"Argument `depth` must be non-negative and finite, but it is {depth}.")
    wraps = [low == "periodic" for low, _ in grid.boundary]
    around = list(neighbours(values, np.asarray(grid.spacing, np.float64), wraps))
    roots = watershed(values, around)
    while depth > 0:
        joined = _follow(_across_passes(values.reshape(-1), roots, around, depth))[roots]
        if np.array_equal(joined, roots):
            break
        roots = joined
    return roots.reshape(grid.shape)


def shares(p: Shaped[ArrayLike, "*shape"], labels: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "n"]:
    """The share of a density `p` in each basin, in the order of `numpy.unique(labels)`."""
    _, which = np.unique(labels, return_inverse=True)
    mass = np.bincount(which.reshape(-1), weights=np.asarray(p, np.float64).reshape(-1))
    return mass / mass.sum()


def neighbours(
    energy: np.ndarray, spacing: np.ndarray, wraps: Sequence[bool]
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """For each offset its length, and every cell's neighbour there: its energy and its flat index.

    Outside the grid the energy is infinite, and the index the cell's own.
    """
    index = np.arange(energy.size).reshape(energy.shape)
    around, number = _pad(energy, wraps, math.inf), _pad(index, wraps, -1)
    for offset in itertools.product((-1, 0, 1), repeat=energy.ndim):
        if any(offset):
            window = tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, energy.shape, strict=True))
            beside = np.where(number[window] < 0, index, number[window]).reshape(-1)
            yield float(np.linalg.norm(offset * spacing)), around[window].reshape(-1), beside


def watershed(energy: np.ndarray, around: list[tuple[float, np.ndarray, np.ndarray]]) -> np.ndarray:
    """For each cell the flat index of the minimum to which steepest descent leads; infinite cells lead to their own."""
    return _follow(_downhill(energy, around))


def _downhill(energy: np.ndarray, around: list[tuple[float, np.ndarray, np.ndarray]]) -> np.ndarray:
    """For each cell the flat index of the neighbour to which the loss falls most steeply, or its own."""
    cells = energy.reshape(-1)
    lowest = level = np.arange(cells.size)
    steepest = np.zeros(cells.shape)
    for distance, height, number in around:
        with np.errstate(invalid="ignore"):
            slope = (cells - height) / distance
        lowest = np.where(slope > steepest, number, lowest)
        steepest = np.maximum(steepest, slope)
        level = np.where(height == cells, np.minimum(level, number), level)
    return np.where(steepest > 0, lowest, level)


def _across_passes(cells: np.ndarray, roots: np.ndarray, around: list, depth: float) -> np.ndarray:
    """For each minimum of a shallow basin the lower minimum beyond its lowest pass; for other cells their own."""
    own = np.arange(cells.size)
    sides = [(roots[number], np.maximum(cells, height)) for _, height, number in around]
    lowest = np.full(cells.shape, np.inf)
    for other, height in sides:
        np.minimum.at(lowest, roots, np.where(other == roots, np.inf, height))
    # Of several basins beyond passes of one height, that of the lowest index.
    beyond = np.full_like(own, cells.size)
    for other, height in sides:
        there = (other != roots) & (height == lowest[roots])
        np.minimum.at(beyond, roots[there], other[there])
    beyond = np.where(beyond < cells.size, beyond, own)
    reaches_lower = (cells[beyond] < cells) | ((cells[beyond] == cells) & (beyond < own))
    return np.where((lowest - cells < depth) & reaches_lower, beyond, own)


def _follow(pointer: np.ndarray) -> np.ndarray:
    """Where each pointer leads in the end."""
    for _ in range(max(1, math.ceil(math.log2(pointer.size)))):
        pointer = pointer[pointer]
    return pointer


def _pad(f: np.ndarray, wraps: Sequence[bool], outside: float | int) -> np.ndarray:
    """`f` with one more layer on every side: its own other end on an axis that wraps, else `outside`."""
    for axis, wrap in enumerate(wraps):
        width = [(1, 1) if i == axis else (0, 0) for i in range(f.ndim)]
        f = np.pad(f, width, mode="wrap") if wrap else np.pad(f, width, constant_values=outside)
    return f
