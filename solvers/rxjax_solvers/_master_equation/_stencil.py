"""Jumps on a grid within a radius, one field of rates for each offset."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import checks_off, non_negative
from .._compiled import compiled
from .._grid import Grid
from ._halo import fold, unfold
from ._jumps import AbstractJumps, pick

# Rates that would take more bytes than this are refused.
_MEMORY = 2**32
# So many rates are evaluated at a time.
_AT_ONCE = 2**21


class StencilJumps(AbstractJumps):
    """`rates[m]` leads from each cell by `offsets[m]` cells; rates of jumps beyond a reflecting side are zero."""

    rates: Float[Array, "m *shape"]
    offsets: Int[Array, "m d"]
    leaving: Float[Array, "*shape"]
    reach: tuple[int, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)

    def __init__(self, rate: Callable, grid: Grid, offsets: Int[np.ndarray, "m d"]):
        need = len(offsets) * grid.size * grid.lower.dtype.itemsize
        if need > _MEMORY:
            raise ValueError(
                f"Argument `radius` must leave the {len(offsets)} rates of each of {grid.size} cells below "
                f"{_MEMORY / 2**30:.0f} GiB, but they take {need / 2**30:.1f} GiB.  Take a smaller radius or a coarser "
                "grid, or a separable rate with `fft=True`, which stores no rates."
            )
        self.reach = reach_of(offsets, grid)
        self.periodic = tuple(low == "periodic" for low, _ in grid.boundary)
        self.offsets = jnp.asarray(offsets, jnp.int32)
        self.rates, self.leaving = _rates(_evaluate(rate, grid, self.offsets), grid)

    def inflow(self, p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        margin = jnp.asarray(self.reach, jnp.int32)

        def push(field, jump):
            rate, offset = jump
            start = tuple(offset + margin)
            landed = lax.dynamic_slice(field, start, p.shape) + rate * p
            return lax.dynamic_update_slice(field, landed, start), None

        empty = jnp.zeros(tuple(n + 2 * w for n, w in zip(p.shape, self.reach, strict=True)), p.dtype)
        return fold(lax.scan(push, empty, (self.rates, self.offsets))[0], self.reach, self.periodic)

    def adjoint(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        margin = jnp.asarray(self.reach, jnp.int32)
        around = unfold(u, self.reach, self.periodic)

        def gather(total, jump):
            rate, offset = jump
            return total + rate * (lax.dynamic_slice(around, tuple(offset + margin), u.shape) - u), None

        return lax.scan(gather, jnp.zeros_like(u), (self.rates, self.offsets))[0]

    def draw(self, state: Int[Array, ""], key: PRNGKeyArray) -> Int[Array, ""]:
        rates = self.rates.reshape(self.rates.shape[0], -1)[:, state]
        return landing(state, self.offsets[pick(rates, key)], self.leaving.shape, self.periodic)


def reach_of(offsets: Int[np.ndarray, "m d"], grid: Grid) -> tuple[int, ...]:
    """The longest jump along each axis in cells; none may go once around a periodic axis."""
    reach = tuple(int(n) for n in np.max(np.abs(offsets), axis=0))
    for axis, (n, width) in enumerate(zip(grid.shape, reach, strict=True)):
        if grid.boundary[axis][0] == "periodic" and width >= n:
            raise ValueError(
                f"Argument `radius` must be shorter than a periodic axis, but it reaches over {width} cells of axis "
                f"{axis}, which has {n}."
            )
    return reach


def rejected(cell: Int[Array, "*batch d"], offset: Int[Array, "*batch d"], grid: Grid) -> Array:
    """Whether a jump leads beyond a reflecting side."""
    to = cell + offset
    low = np.array([side == "reflecting" for side, _ in grid.boundary])
    high = np.array([side == "reflecting" for _, side in grid.boundary])
    n = np.array(grid.shape, np.int32)
    lead = (1,) * (to.ndim - 1) + (-1,)
    beyond = (to < 0) & low.reshape(lead) | (to >= n.reshape(lead)) & high.reshape(lead)
    return jnp.any(beyond, axis=-1)


def landing(
    state: Int[Array, ""], offset: Int[Array, " d"], shape: tuple[int, ...], periodic: tuple[bool, ...]
) -> Int[Array, ""]:
    """The number of the cell where a jump ends, -1 outside of the grid."""
    ends, outside = [], jnp.zeros((), bool)
    for at, by, n, wraps in zip(jnp.unravel_index(state, shape), offset, shape, periodic, strict=True):
        to = at.astype(jnp.int32) + by
        outside = outside | (False if wraps else (to < 0) | (to >= n))
        ends.append(to % n)
    return jnp.where(outside, -1, jnp.ravel_multi_index(tuple(ends), shape, mode="clip")).astype(jnp.int32)


def _evaluate(rate: Callable, grid: Grid, offsets: Int[Array, "m d"]) -> Float[Array, "cells m"]:
    """Density of jumps at the centre of the cell at each offset from each cell."""
    theta = jax.ShapeDtypeStruct((grid.dim,), grid.lower.dtype)
    value: Any = jax.eval_shape(rate, theta, theta)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"Argument `rate` must return a floating-point scalar for `theta` and `delta` of shape ({grid.dim},), but "
            f"it returns {value}."
        )

    def row(point, deltas):
        # What depends on the point alone, a gradient say, is computed once for all its jumps.
        return jax.vmap(lambda delta: jnp.asarray(rate(point, delta), point.dtype))(deltas)

    def from_cell(cell):
        point, deltas, closed = _jumps(grid, cell, offsets)
        return jnp.where(closed, 0, row(point, deltas))

    batch = max(1, _AT_ONCE // offsets.shape[0])
    # What comes out is checked below: checks inside, one for every jump, would only cost time.
    with checks_off():
        if batch >= grid.size:
            points, deltas, closed = _all_jumps(grid, offsets)
            density = jnp.where(closed, 0, jax.vmap(row)(points, deltas))
        else:
            density = lax.map(from_cell, _cells(grid), batch_size=batch)
    remedy = "It is a density of jumps per unit time and volume; at zero temperature or far downhill it overflows."
    return non_negative(density, "rate", remedy)


def _cells(grid: Grid) -> Int[Array, "cells d"]:
    axes = (jnp.arange(n, dtype=jnp.int32) for n in grid.shape)
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, grid.dim)


def _jumps(grid: Grid, cell: Int[Array, " d"], offsets: Int[Array, "m d"]) -> tuple[Array, Array, Array]:
    """Centre of a cell, its jumps, and which of them lead beyond a reflecting side: zero there."""
    h = grid.spacing
    closed = jax.vmap(lambda offset: rejected(cell, offset, grid))(offsets)
    # The rate need not exist beyond a reflecting side.
    deltas = jnp.where(closed[:, None], 0, offsets.astype(h.dtype) * h[None])
    return grid.lower + h * (cell.astype(h.dtype) + 0.5), deltas, closed


@compiled
def _all_jumps(grid: Grid, offsets: Array) -> tuple[Array, Array, Array]:
    return jax.vmap(lambda cell: _jumps(grid, cell, offsets))(_cells(grid))


@compiled
def _rates(density: Float[Array, "cells m"], grid: Grid) -> tuple[Float[Array, "m *shape"], Float[Array, "*shape"]]:
    """Rate to the cell at each offset, the density times its volume; and the total rate out of each cell."""
    rates = (density.T * grid.cell_volume).reshape(-1, *grid.shape)
    return rates, jnp.sum(rates, axis=0)
