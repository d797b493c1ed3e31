"""Which cells lie within a radius of a cell."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Int, Shaped

from ._checks import is_traced, positive
from ._grid import Grid


def offsets_within(
    grid: Grid,
    radius: Shaped[ArrayLike, "..."] | Sequence | None,
    reach: int | Sequence[int] | None = None,
    *,
    include_zero: bool = False,
) -> Int[np.ndarray, "m d"]:
    """Index offsets that lead from a cell to every cell within a radius, in C order.

    **Arguments:**

    - `radius`: in the units of `theta`; a number for a ball, or `(d,)`, the half axes of an ellipsoid.
    - `reach`: the half axes in cells instead, for a grid whose bounds are traced.
    - `include_zero`: keep the offset that leads nowhere.

    **Raises:** `ValueError` for a radius below the spacing of every axis, or for a traced radius or grid: how many
    offsets there are depends on both.
    """
    if (radius is None) == (reach is None):
        raise ValueError("Argument `radius` must be given or `reach`, a number of cells, but not both.")
    if reach is not None:
        half = np.asarray(reach, np.float64)
        if half.shape not in ((), (grid.dim,)) or not np.all((half >= 0) & np.isfinite(half)):
            raise ValueError(
                f"Argument `reach` must be a number of cells or have shape ({grid.dim},), finite and not negative, but "
                f"it is {reach}."
            )
        half = np.broadcast_to(half, (grid.dim,))
    else:
        half = _in_cells(grid, radius)
    # A hair more, so that a radius of three cells holds three cells in spite of rounding.
    most = np.floor(half * (1 + 1e-6)).astype(int)
    if np.max(most) < 1:
        if radius is None:
            raise ValueError(f"Argument `reach` must be at least 1 cell, but it is {reach}.")
        raise ValueError(
            f"Argument `radius` must be at least the spacing of the grid, {np.min(np.asarray(grid.spacing)):.6g}, but "
            f"it is {radius}."
        )
    offsets = np.array(list(itertools.product(*(range(-n, n + 1) for n in most))), dtype=np.int64)
    inside = np.sum((offsets / np.maximum(half, 1e-30)) ** 2, axis=1) <= 1 + 1e-6
    return offsets[inside & (include_zero | np.any(offsets != 0, axis=1))]


def _in_cells(grid: Grid, radius: Any) -> np.ndarray:
    """A radius as half axes in cells."""
    if is_traced(grid.lower, grid.upper) or is_traced(radius if isinstance(radius, jax.Array) else 0):
        raise ValueError(
            "Argument `radius` must be known while compiling, and so must the grid, but one is traced: make the grid "
            "outside `jit`, or count in cells."
        )
    with jax.ensure_compile_time_eval():
        spacing = np.asarray(grid.spacing, np.float64)
        half = np.asarray(positive(jnp.asarray(radius, grid.lower.dtype), "radius"), np.float64)
    if half.shape not in ((), (grid.dim,)):
        raise ValueError(
            f"Argument `radius` must be a number or have shape ({grid.dim},), one half axis per axis, but it has shape "
            f"{half.shape}."
        )
    return half / spacing
