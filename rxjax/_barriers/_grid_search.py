"""Candidates for saddles on a grid: the passes between watersheds, and the places where the slope is least."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._union import kruskal

CELLS = {1: 4096, 2: 256, 3: 64}


class GridSearch(NamedTuple):
    """What a grid shows of the passes between minima.

    - `candidates`: `(c, d)`, points near which a saddle may be.
    - `merges`: for each merge of two basins that hold a listed minimum, one minimum of either and the energy.
    - `cell`: the diagonal of a cell.
    """

    candidates: np.ndarray
    merges: list[tuple[int, int, float]]
    cell: float


def search_grid(landscape: Callable, minima: np.ndarray, bounds: np.ndarray, shape: tuple[int, ...]) -> GridSearch:
    """Flood the landscape on a grid of points that includes the bounds.

    The watershed of the grid gives every pair of basins that touch and the lowest point of their common edge; among
    these are the passes of all minimax paths.  A saddle that is not the lowest between its two basins shows as a local
    minimum of the squared slope.
    """
    axes = [np.linspace(low, high, n) for (low, high), n in zip(bounds, shape, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
    batch = int(getattr(landscape, "batch_size", 4096))
    energy, slope = (np.asarray(x).reshape(shape) for x in _survey(landscape, jnp.asarray(points, minima.dtype), batch))
    energy, slope = (np.where(np.isfinite(x), x, np.inf) for x in (energy, slope))

    basins = _basins(energy)
    passes, heights, cells = _passes(energy, basins)
    flat = np.flatnonzero(_no_neighbour_below(slope) & np.isfinite(slope))
    candidates = points[np.unique(np.concatenate([cells, flat]))]

    spacing = (bounds[:, 1] - bounds[:, 0]) / (np.asarray(shape) - 1)
    home = np.rint((minima - bounds[:, 0]) / spacing).astype(int)
    inside = np.all((home >= 0) & (home < np.asarray(shape)), axis=1)
    listed = {int(basins[tuple(home[i])]): i for i in np.flatnonzero(inside)}
    return GridSearch(candidates, _merges(passes, heights, listed), float(np.linalg.norm(spacing)))


@eqx.filter_jit
def _survey(landscape: Callable, points: Array, batch_size: int) -> tuple[Array, Array]:
    """Energy and squared slope at every point."""

    def both(theta):
        energy, gradient = jax.value_and_grad(landscape)(theta)
        return energy, jnp.sum(gradient**2)

    return jax.lax.map(both, points, batch_size=batch_size)


def _neighbours(dim: int) -> list[tuple[int, ...]]:
    """Offsets to the cells around, corners included."""
    return [offset for offset in itertools.product((-1, 0, 1), repeat=dim) if any(offset)]


def _shifted(x: np.ndarray, offset: tuple[int, ...], fill: float) -> np.ndarray:
    """`x` at the neighbour in the direction `offset`; `fill` beyond the edge."""
    padded = np.pad(x, 1, constant_values=fill)
    return padded[tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, x.shape, strict=True))]


def _no_neighbour_below(x: np.ndarray) -> np.ndarray:
    least = np.minimum.reduce([_shifted(x, offset, np.inf) for offset in _neighbours(x.ndim)])
    return x <= least


def _basins(energy: np.ndarray) -> np.ndarray:
    """For every cell the flat index of the lowest cell to which steepest descent leads."""
    index = np.arange(energy.size).reshape(energy.shape)
    steepest, downhill = np.zeros(energy.shape), index.copy()
    for offset in _neighbours(energy.ndim):
        with np.errstate(invalid="ignore"):
            fall = (energy - _shifted(energy, offset, np.inf)) / np.linalg.norm(offset)
        better = fall > steepest
        steepest = np.where(better, fall, steepest)
        downhill = np.where(better, _shifted(index, offset, -1), downhill)
    flat = downhill.ravel()
    while True:
        further = flat[flat]
        if np.array_equal(further, flat):
            return flat.reshape(energy.shape)
        flat = further


def _passes(energy: np.ndarray, basins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of basins that touch, lowest pass first, with its energy and the cell on its top."""
    index = np.arange(energy.size).reshape(energy.shape)
    found = []
    for offset in _neighbours(energy.ndim):
        other = _shifted(basins, offset, -1)
        edge = (other > basins) & (energy >= _shifted(energy, offset, np.inf))
        edge |= (other >= 0) & (other < basins) & (energy > _shifted(energy, offset, np.inf))
        a, b = basins[edge], other[edge]
        found.append(np.stack([np.minimum(a, b), np.maximum(a, b), index[edge]], axis=1))
    edges = np.concatenate(found)
    edges = edges[np.isfinite(energy.ravel()[edges[:, 2]])]
    heights = energy.ravel()[edges[:, 2]]
    edges = edges[np.lexsort((heights, edges[:, 1], edges[:, 0]))]
    new = np.ones(len(edges), bool)
    new[1:] = np.any(edges[1:, :2] != edges[:-1, :2], axis=1)
    edges = edges[new]
    edges = edges[np.argsort(energy.ravel()[edges[:, 2]], kind="stable")]
    return edges[:, :2], energy.ravel()[edges[:, 2]], edges[:, 2]


def _merges(passes: np.ndarray, heights: np.ndarray, listed: dict[int, int]) -> list[tuple[int, int, float]]:
    """The merges of the flood that join two listed minima, as a minimum of either side and the energy."""
    labels, compact = np.unique(passes, return_inverse=True)
    merges, rows = kruskal(len(labels), compact.reshape(-1, 2))
    inhabitant: list[int | None] = [listed.get(int(label)) for label in labels]
    joined = []
    for (a, b), row in zip(merges, rows, strict=True):
        i, j = inhabitant[a], inhabitant[b]
        if i is not None and j is not None:
            joined.append((i, j, float(heights[row])))
        inhabitant.append(j if i is None else i)
    return joined
