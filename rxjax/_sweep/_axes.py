"""The points of a sweep, and the rectangles into which they are cut."""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ._outputs import STATUS

# The dimension of a zipped sweep.
POINT = "point"


@dataclass(frozen=True)
class Points:
    """Values of each axis; their product, or all axes side by side if `zipped`."""

    values: dict[str, np.ndarray]
    zipped: bool

    @property
    def dims(self) -> tuple[str, ...]:
        return (POINT,) if self.zipped else tuple(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        lengths = tuple(len(v) for v in self.values.values())
        return lengths[:1] if self.zipped else lengths

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def at(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The settings of some points, by their place in C order, in the dtypes that JAX computes with."""
        places = (index,) * len(self.values) if self.zipped else np.unravel_index(index, self.shape)
        return {name: _canonical(v)[i] for (name, v), i in zip(self.values.items(), places, strict=True)}

    def coordinates(self) -> dict[str, tuple[str, np.ndarray]]:
        """For a data set: each axis along its dimension."""
        return {name: (POINT if self.zipped else name, v) for name, v in self.values.items()}


def as_points(axes: Mapping[str, Any], zipped: bool) -> Points:
    """The axes as the user gave them, checked."""
    if not axes:
        raise ValueError("Argument `axes` must name an axis, like `learning_rate=[0.1, 0.2]`, but it is empty.")
    if STATUS in axes:
        raise ValueError(f"Argument `axes` must not name `{STATUS}`, where it is said why a point failed, but it does.")
    values = {name: _axis(name, v) for name, v in axes.items()}
    lengths = {name: len(v) for name, v in values.items()}
    if zipped and len(set(lengths.values())) > 1:
        raise ValueError(f"Argument `zipped` must come with axes of one length, but they have {lengths}.")
    return Points(values, zipped)


def _axis(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != 1 or not len(array):
        raise ValueError(
            f"Argument `{name}` must be a vector of at least one value, but it has shape {array.shape}.  What does not "
            "vary belongs into `fn`."
        )
    if array.dtype != bool and not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"Argument `{name}` must hold numbers or truth values, but it holds {array.dtype}.")
    if np.issubdtype(array.dtype, np.floating) and np.any(np.isnan(array)):
        raise ValueError(f"Argument `{name}` must not hold NaN, but it does: no coordinate could name that point.")
    lost = array[_beyond(array)]
    if len(lost):
        raise ValueError(
            f"Argument `{name}` must hold numbers within the range of {_canonical(array).dtype}, but it holds "
            f"{lost[0]}.  "
            'Use floating-point numbers for large counts, or `jax.config.update("jax_enable_x64", True)`.'
        )
    return array


def _canonical(values: np.ndarray) -> np.ndarray:
    """In the dtype that JAX computes with."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(jax.dtypes.canonicalize_dtype(values.dtype))


def _beyond(values: np.ndarray) -> np.ndarray:
    """Which values JAX would compute with as others: wrapped, infinite or zero."""
    held = _canonical(values)
    if not np.issubdtype(held.dtype, np.inexact):
        return held.astype(values.dtype) != values
    tiny = np.finfo(held.dtype).tiny
    return (np.isfinite(values) & ~np.isfinite(held)) | ((values != 0) & (np.abs(held) < tiny))


def check_function(fn: Callable, names: list[str]) -> None:
    """Refuse a function that cannot be called with these keywords."""
    if not callable(fn):
        raise ValueError(f"Argument `fn` must be a function of {', '.join(names)}, but it is {type(fn).__name__}.")
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError as error:
        raise ValueError(
            f"Argument `fn` must take {', '.join(names)} as keywords, but its signature is {signature}: {error}."
        ) from None


@dataclass(frozen=True)
class Tiles:
    """A product of axes cut into rectangles of one shape, smaller at the far sides; each is a chunk in a store."""

    shape: tuple[int, ...]
    tile: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], most: int) -> "Tiles":
        """Rectangles of at most so many points: whole last axes, an even part of one, single values of the others."""
        tile = [1] * len(shape)
        for axis in reversed(range(len(shape))):
            parts = -(-shape[axis] // max(1, most))
            tile[axis] = -(-shape[axis] // parts)
            if parts > 1:
                break
            most //= shape[axis]
        return cls(shape, tuple(tile))

    @property
    def points(self) -> int:
        """Points of a full rectangle."""
        return math.prod(self.tile)

    def __iter__(self) -> Iterator[tuple[slice, ...]]:
        starts = [range(0, n, k) for n, k in zip(self.shape, self.tile, strict=True)]
        for corner in itertools.product(*starts):
            ends = zip(corner, self.tile, self.shape, strict=True)
            yield tuple(slice(a, min(a + k, n)) for a, k, n in ends)

    def index(self, region: tuple[slice, ...]) -> np.ndarray:
        """Places in C order of the points of a rectangle, in its own C order."""
        grids = np.meshgrid(*[np.arange(s.start, s.stop) for s in region], indexing="ij")
        return np.ravel_multi_index(tuple(grids), self.shape).ravel()
