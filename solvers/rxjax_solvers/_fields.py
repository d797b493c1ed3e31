"""Coefficients of a Fokker-Planck equation where its rates need them: in cells, on faces and sides, between hops."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._compiled import compiled
from ._grid import Grid, to_front
from ._tensor import along_axis, along_diagonal, shared_out

# Where a coefficient is read.  With the axis in front: ("faces", axis) between the cells, ("low", axis) and
# ("high", axis) on an absorbing side.  In the grid's order: ("cells",) and the middle of the hops along a diagonal,
# ("middle", axes, sign, direction).
Place = tuple[Any, ...]
CELLS: Place = ("cells",)


class Table(eqx.Module):
    """Values of a coefficient at some places, one after the other; its methods belong into a compiled program."""

    values: Array
    places: tuple[Place, ...] = eqx.field(static=True)

    def at(self, grid: Grid, place: Place) -> Array:
        extents = [extent(grid, one) for one in self.places]
        k = self.places.index(place)
        start = sum(math.prod(extent) for extent in extents[:k])
        values = self.values[start : start + math.prod(extents[k])]
        return values.reshape(*extents[k], *values.shape[1:])


class Fields(eqx.Module):
    """Coefficients, which no longer depend on time, read where they are needed: constants or tables over places."""

    grid: Grid
    drift: Array | Table | None
    correction: Table | None
    diffusion: Array | Table
    # The diffusion in the middle of hops along diagonals, unless it is constant.
    hops: Table | None
    # In the cells; and on absorbing sides.
    potential: Array | None
    outside: Table | None
    mobility: Array | None
    # Of the diffusion at a point.
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def is_tensor(self) -> bool:
        return len(self.shape) == 2

    def _read(self, coefficient: Array | Table, place: Place) -> Array:
        if isinstance(coefficient, Table):
            return coefficient.at(self.grid, place)
        return self._everywhere(coefficient)

    def _diffusion(self, place: Place) -> Array:
        if place[0] == "cells" and len(place) == 2 and isinstance(self.diffusion, Table):
            return to_front(self.diffusion.at(self.grid, CELLS), place[1])
        return self._read(self.hops if place[0] == "middle" and self.hops is not None else self.diffusion, place)

    def along(self, place: Place) -> Array:
        """Diffusion carried by the hops along an axis, that axis in front."""
        axis = place[1]
        value = self._diffusion(place)
        if self.is_tensor:
            # Below zero by rounding at most: that has been checked.
            value = jnp.maximum(along_axis(self._by_the_walls(value, (axis,)), self.grid.spacing, axis), 0)
        elif self.shape:
            value = value[..., axis]
        return jnp.broadcast_to(value, extent(self.grid, place))

    def _walls(self, axes: tuple[int, ...]) -> list[tuple[int, Array]]:
        """For each other axis the share of a cell, one half, that lies between its centre and a reflecting side.

        Beside one axis with that in front, beside two in the grid's order.
        """
        out = []
        for other, sides in enumerate(self.grid.boundary):
            if other not in axes and "reflecting" in sides:
                share = np.zeros(self.grid.shape[other])
                for k, side in zip((0, -1), sides, strict=True):
                    share[k] = 0.5 * (side == "reflecting")
                at = other + 1 if len(axes) == 1 and other < axes[0] else other
                place = [-1 if k == at else 1 for k in range(self.grid.dim)]
                out.append((other, jnp.asarray(share, self.grid.lower.dtype).reshape(place)))
        return out

    def _by_the_walls(self, tensor: Array, axes: tuple[int, ...]) -> Array:
        """A tensor without what does not flow beside the reflecting sides of other axes, and without hops they reject.

        Nothing flows through a side `j`, so the slope across it follows from that along it, and in the half cell beside
        it `D_ik - D_ij D_jk/D_jj` is left of the tensor, which asks no more of the cells than the tensor does.
        """
        less = jnp.zeros((), tensor.dtype)
        for other, share in self._walls(axes):
            across, normal = tensor[..., other], tensor[..., other, other]
            scaled = across / jnp.where(normal > 0, normal, 1)[..., None]
            less = less + share[..., None, None] * scaled[..., :, None] * across[..., None, :]
        return tensor - less

    def across(self, place: Place, axes: tuple[int, int], sign: int) -> Array:
        """Rate of the hops along a diagonal."""
        rate = along_diagonal(self._by_the_walls(self._diffusion(place), axes), self.grid.spacing, axes, sign)
        return jnp.broadcast_to(rate, self.grid.shape)

    @property
    def is_driven(self) -> bool:
        """By more than a potential."""
        return self.drift is not None or self.correction is not None

    def _drift(self, place: Place) -> Array:
        drift = jnp.zeros((*extent(self.grid, place), self.grid.dim), self.grid.lower.dtype)
        for part in (self.drift, self.correction):
            drift = drift if part is None else drift + self._read(part, place)
        return drift

    def drift_along(self, place: Place) -> Array:
        """Of the drift, without what comes from a potential: what the hops along an axis carry, that axis in front."""
        axis, drift = place[1], self._drift(place)
        if not self.is_tensor:
            return drift[..., axis]
        tensor = self._diffusion(place)
        force, rest = shared_out(tensor, drift)
        total = self.along(place) * force[..., axis] + rest[..., axis]
        for other, share in self._walls((axis,)):
            across, normal = tensor[..., axis, other], tensor[..., other, other]
            total = total - share * across / jnp.where(normal > 0, normal, 1) * rest[..., other]
        return total

    def drift_across(self, middle: Place) -> Array:
        """What a hop along a diagonal carries of the drift, in units of its rate."""
        _, axes, sign, _ = middle
        force, _ = shared_out(self._diffusion(middle), self._drift(middle))
        hop = self.grid.spacing * jnp.asarray(hop_steps(self.grid, middle), self.grid.lower.dtype)
        return self.across(middle, axes, sign) * jnp.sum(force * hop.reshape((1,) * self.grid.dim + (-1,)), axis=-1)

    def mobility_along(self, axis: int) -> Array:
        """Of the hops along an axis."""
        mobility: Any = self.mobility
        if mobility.ndim == 2:
            return along_axis(self._by_the_walls(self._everywhere(mobility), (axis,)), self.grid.spacing, axis)
        return mobility[axis] if mobility.ndim else mobility

    def mobility_across(self, axes: tuple[int, int], sign: int) -> Array:
        """Of the hops along a diagonal, in units of their rate."""
        if self.mobility is None or self.mobility.ndim < 2:
            return jnp.zeros((), self.grid.lower.dtype)
        return along_diagonal(self._by_the_walls(self._everywhere(self.mobility), axes), self.grid.spacing, axes, sign)

    def _everywhere(self, value: Array) -> Array:
        """A constant, of one cell along each axis."""
        return value.reshape((1,) * self.grid.dim + value.shape)


def extent(grid: Grid, place: Place) -> tuple[int, ...]:
    """Shape of a scalar at a place."""
    if place == CELLS or place[0] == "middle":
        return grid.shape
    kind, axis = place
    n = grid.shape[axis]
    count = {"cells": n, "faces": n - (grid.boundary[axis][0] != "periodic")}.get(kind, 1)
    return (count, *grid.shape[:axis], *grid.shape[axis + 1 :])


@compiled
def points_at(grid: Grid, places: tuple[Place, ...]) -> Array:
    """The points of some places, one after the other."""
    return jnp.concatenate([_points_of(grid, place).reshape(-1, grid.dim) for place in places])


def _points_of(grid: Grid, place: Place) -> Array:
    if place == CELLS:
        return grid.points
    if place[0] == "middle":
        inside, lost = landing(grid, place)
        # Where a hop is rejected the coefficients of its cell stand in: beside a wall they may be infinite.
        taken = jnp.asarray(np.any([inside, *lost.values()], axis=0)[..., None])
        half = grid.spacing * jnp.asarray(hop_steps(grid, place) / 2, grid.lower.dtype)
        return grid.points + jnp.where(taken, half.reshape((1,) * grid.dim + (-1,)), 0)
    kind, axis = place
    cells = to_front(grid.points, axis)
    half = jnp.zeros(grid.dim, cells.dtype).at[axis].set(grid.spacing[axis] / 2).reshape((1,) * grid.dim + (-1,))
    if kind == "faces":
        return (cells if grid.boundary[axis][0] == "periodic" else cells[:-1]) + half
    return cells[:1] - half if kind == "low" else cells[-1:] + half


def hop_steps(grid: Grid, middle: Place) -> np.ndarray:
    """The hop along a diagonal of which this is the middle, in cells."""
    _, axes, sign, direction = middle
    steps = np.zeros(grid.dim, int)
    steps[list(axes)] = direction, direction * sign
    return steps


def landing(grid: Grid, middle: Place) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Where a hop stays on the grid, and where it ends on an absorbing side of each axis.

    A hop across a reflecting side is rejected; one across a corner is lost if both its sides absorb.
    """
    steps = hop_steps(grid, middle)
    inside, closed, lost = np.ones(grid.shape, bool), np.zeros(grid.shape, bool), {}
    for axis in middle[1]:
        side = grid.boundary[axis][int(steps[axis] > 0)]
        edge = grid.shape[axis] - 1 if steps[axis] > 0 else 0
        crossing = (np.arange(grid.shape[axis]) == edge) & (side != "periodic")
        crossing = np.broadcast_to(crossing.reshape([-1 if i == axis else 1 for i in range(grid.dim)]), grid.shape)
        closed = closed | (crossing & (side == "reflecting"))
        lost[axis] = crossing & inside & (side == "absorbing")
        inside = inside & ~crossing
    return inside, {axis: where & ~closed for axis, where in lost.items()}
