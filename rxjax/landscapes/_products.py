"""Stationary points of a sum of one-dimensional functions: every choice of one stationary point per coordinate."""

from collections.abc import Callable, Sequence

import numpy as np


def product_minima(wells: Sequence[float], dim: int, energy: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """All minima `(len(wells)**dim, dim)`, lowest energy first."""
    return _lowest_first(_product([np.asarray(wells)] * dim), energy)


def index_one_saddles(
    wells: Sequence[float], tops: Sequence[float], dim: int, energy: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """All saddles of index 1: one coordinate on a top, the others in wells.  Lowest energy first."""
    one_axis = lambda i: [np.asarray(tops if j == i else wells) for j in range(dim)]
    return _lowest_first(np.concatenate([_product(one_axis(i)) for i in range(dim)]), energy)


def _product(axes: list[np.ndarray]) -> np.ndarray:
    return np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=-1)


def _lowest_first(points: np.ndarray, energy: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    # Rounded, so that points of one energy stay in the order of their coordinates.
    return points[np.argsort(np.round(np.sum(energy(points), axis=-1), 9), kind="stable")]
