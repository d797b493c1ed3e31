"""Candidates for saddles on a grid: the passes between watersheds, and the places where the slope is least."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rxjax_solvers._program import program

from .._basins import neighbours, watershed
from ..landscapes._trees import norm
from ._union import kruskal

CELLS = {1: 4096, 2: 256, 3: 64}


class GridSearch(NamedTuple):
    """What a grid shows of the passes between minima.

    - `candidates`: `(c, d)`, points near which a saddle may be.
    - `merges`: for each merge of two floods that hold listed minima, the minima of either and the energy.
    - `cell`: the diagonal of a cell.
    """

    candidates: np.ndarray
    merges: list[tuple[list[int], list[int], float]]
    cell: float


def search_grid(landscape: Callable, minima: np.ndarray, bounds: np.ndarray, shape: tuple[int, ...]) -> GridSearch:
    """Flood the landscape on a grid of points that includes the bounds.

    The watershed of the grid gives every pair of basins that touch and the lowest point of their common edge; among
    these are the passes of all minimax paths.  A saddle that is not the lowest between its two basins shows as a local
    minimum of the slope.
    """
    axes = [np.linspace(low, high, n) for (low, high), n in zip(bounds, shape, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
    batch = int(getattr(landscape, "batch_size", 4096))
    energy, slope = (np.asarray(x) for x in _survey(landscape, jnp.asarray(points, minima.dtype), batch))
    energy, slope = (np.where(np.isfinite(x), x, np.inf) for x in (energy, slope))

    spacing = (bounds[:, 1] - bounds[:, 0]) / (np.asarray(shape) - 1)
    around = list(neighbours(energy.reshape(shape), spacing, [False] * len(shape)))
    basins = watershed(energy, around)
    passes, heights, cells = _passes(energy, basins, around)
    least = np.minimum.reduce([slope[number] for _, _, number in around])
    flat = np.flatnonzero((slope <= least) & np.isfinite(slope))
    candidates = points[np.unique(np.concatenate([cells, flat]))]

    home = np.rint((minima - bounds[:, 0]) / spacing).astype(int)
    inside = np.all((home >= 0) & (home < np.asarray(shape)), axis=1)
    at = basins.reshape(shape)
    listed = {int(at[tuple(home[i])]): int(i) for i in np.flatnonzero(inside)}
    return GridSearch(candidates, _merges(passes, heights, listed), float(np.linalg.norm(spacing)))


@program
def _survey(landscape: Callable, points: Array, batch_size: int) -> tuple[Array, Array]:
    """Energy and slope at every point."""

    def both(theta):
        energy, gradient = jax.value_and_grad(landscape)(theta)
        return energy, norm(gradient)

    return jax.lax.map(both, points, batch_size=batch_size)


def _passes(
    energy: np.ndarray, basins: np.ndarray, around: list[tuple[float, np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of basins that touch, lowest pass first, with its energy and the cell on its top."""
    cells = np.arange(energy.size)
    found = []
    for _, height, number in around:
        other = basins[number]
        edge = (other > basins) & (energy >= height) | (other < basins) & (energy > height)
        a, b = basins[edge], other[edge]
        found.append(np.stack([np.minimum(a, b), np.maximum(a, b), cells[edge]], axis=1))
    edges = np.concatenate(found)
    edges = edges[np.isfinite(energy[edges[:, 2]])]
    edges = edges[np.lexsort((energy[edges[:, 2]], edges[:, 1], edges[:, 0]))]
    new = np.ones(len(edges), bool)
    new[1:] = np.any(edges[1:, :2] != edges[:-1, :2], axis=1)
    edges = edges[new]
    edges = edges[np.argsort(energy[edges[:, 2]], kind="stable")]
    return edges[:, :2], energy[edges[:, 2]], edges[:, 2]


def _merges(
    passes: np.ndarray, heights: np.ndarray, listed: dict[int, int]
) -> list[tuple[list[int], list[int], float]]:
    """The merges of the flood that join listed minima, as the minima of either side and the energy."""
    labels, compact = np.unique(passes, return_inverse=True)
    merges, rows = kruskal(len(labels), compact.reshape(-1, 2))
    members = [[listed[int(label)]] if int(label) in listed else [] for label in labels]
    joined = []
    for (a, b), row in zip(merges, rows, strict=True):
        if members[a] and members[b]:
            joined.append((members[a], members[b], float(heights[row])))
        members.append(members[a] + members[b])
    return joined
