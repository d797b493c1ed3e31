"""From drift and diffusion to hopping rates: along the axes, and along diagonals where the diffusion is a tensor."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._checks import finite, is_traced, non_negative
from ._coefficients import Corrected, NegativeGradient, Tabulated
from ._compiled import compiled
from ._convention import AbstractConvention
from ._diagonals import DiagonalRates
from ._face_rates import AxisRates, axis_rates, fitted
from ._grid import Grid, evaluate, to_front
from ._tensor import along_axis, along_diagonal, check_tensor

# Where a coefficient is read.  With the axis in front: ("faces", axis) between the cells, ("low", axis) and
# ("high", axis) on an absorbing side.  In the grid's order: ("cells",) and the middle of the hops along a diagonal,
# ("middle", axes, sign, direction).
Place = tuple[Any, ...]
CELLS: Place = ("cells",)


def potential_values(potential: Any, grid: Grid) -> Array:
    """The potential in the cells."""
    if isinstance(potential, Tabulated):
        return potential.values
    if callable(potential):
        return finite(evaluate(potential, grid.points, "potential", [()]), "potential")
    potential = jnp.asarray(potential)
    if potential.shape != grid.shape:
        raise ValueError(
            f"Argument `potential` must be a callable or have the grid's shape {grid.shape}, but it has shape "
            f"{potential.shape}."
        )
    return finite(potential.astype(grid.lower.dtype), "potential")


class _Table(eqx.Module):
    """Values of a coefficient at some places, one after the other; its methods belong into a compiled program."""

    values: Array
    places: tuple[Place, ...] = eqx.field(static=True)

    def at(self, grid: Grid, place: Place) -> Array:
        extents = [_extent(grid, one) for one in self.places]
        k = self.places.index(place)
        start = sum(math.prod(extent) for extent in extents[:k])
        values = self.values[start : start + math.prod(extents[k])]
        return values.reshape(*extents[k], *values.shape[1:])


class _Fields(eqx.Module):
    """Coefficients, which no longer depend on time, read where they are needed: constants or tables over places."""

    grid: Grid
    drift: Array | _Table | None
    correction: _Table | None
    diffusion: Array | _Table
    # The diffusion in the middle of hops along diagonals, unless it is constant.
    hops: _Table | None
    # In the cells; and on absorbing sides.
    potential: Array | None
    outside: _Table | None
    mobility: Array | None
    # Of the diffusion at a point.
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def is_tensor(self) -> bool:
        return len(self.shape) == 2

    def _read(self, coefficient: Array | _Table, place: Place) -> Array:
        if isinstance(coefficient, _Table):
            return coefficient.at(self.grid, place)
        return coefficient.reshape((1,) * self.grid.dim + coefficient.shape)

    def _diffusion(self, place: Place) -> Array:
        if place[0] == "cells" and len(place) == 2 and isinstance(self.diffusion, _Table):
            return to_front(self.diffusion.at(self.grid, CELLS), place[1])
        return self._read(self.hops if place[0] == "middle" and self.hops is not None else self.diffusion, place)

    def along(self, place: Place) -> Array:
        """Diffusion carried by the hops along an axis, that axis in front."""
        axis = place[1]
        value = self._diffusion(place)
        if self.is_tensor:
            # Below zero by rounding at most: that has been checked.
            value = jnp.maximum(along_axis(value, self.grid.spacing, axis) + self._by_the_walls(value, axis), 0)
        elif self.shape:
            value = value[..., axis]
        return jnp.broadcast_to(value, _extent(self.grid, place))

    def _walls(self, axis: int) -> list[tuple[int, Array]]:
        """For each other axis the share of a cell, one half, that lies between its centre and a reflecting side."""
        out = []
        for other, sides in enumerate(self.grid.boundary):
            if other != axis and "reflecting" in sides:
                share = np.zeros(self.grid.shape[other])
                for k, side in zip((0, -1), sides, strict=True):
                    share[k] = 0.5 * (side == "reflecting")
                at = other + 1 if other < axis else other
                place = [-1 if k == at else 1 for k in range(self.grid.dim)]
                out.append((other, jnp.asarray(share, self.grid.lower.dtype).reshape(place)))
        return out

    def _by_the_walls(self, tensor: Array, axis: int) -> Array:
        """What stands in, along a reflecting side, for the hops that it rejects.

        Nothing flows through the side, so the slope across it follows from that along it, and in the half cell beside
        it `D_jj - D_ij^2/D_ii` is left of the tensor, more than the hops along the axis `j` carry.
        """
        h, total = self.grid.spacing, jnp.zeros((), tensor.dtype)
        for other, share in self._walls(axis):
            across, normal = tensor[..., axis, other], tensor[..., other, other]
            rest = across**2 / jnp.where(normal > 0, normal, 1)
            total = total + share * (jnp.abs(across) * h[axis] / h[other] - rest)
        return total

    def across(self, place: Place, axes: tuple[int, int], sign: int) -> Array:
        """Rate of the hops along a diagonal."""
        rate = along_diagonal(self._diffusion(place), self.grid.spacing, axes, sign)
        return jnp.broadcast_to(rate, self.grid.shape)

    def drift_along(self, place: Place) -> Array:
        """A component of the drift with that axis in front, without what comes from a potential."""
        axis = place[1]
        drift = jnp.zeros((*_extent(self.grid, place), self.grid.dim), self.grid.lower.dtype)
        for part in (self.drift, self.correction):
            drift = drift if part is None else drift + self._read(part, place)
        total = drift[..., axis]
        if self.is_tensor:
            tensor = self._diffusion(place)
            for other, share in self._walls(axis):
                across, normal = tensor[..., axis, other], tensor[..., other, other]
                total = total - share * across / jnp.where(normal > 0, normal, 1) * drift[..., other]
        return total

    def mobility_along(self, axis: int) -> Array:
        """Of the hops along an axis."""
        mobility: Any = self.mobility
        if mobility.ndim == 2:
            tensor = mobility.reshape((1,) * self.grid.dim + mobility.shape)
            return along_axis(tensor, self.grid.spacing, axis) + self._by_the_walls(tensor, axis)
        return mobility[axis] if mobility.ndim else mobility

    def mobility_across(self, axes: tuple[int, int], sign: int) -> Array:
        """Of the hops along a diagonal, in units of their rate."""
        if self.mobility is None or self.mobility.ndim < 2:
            return jnp.zeros((), self.grid.lower.dtype)
        return along_diagonal(self.mobility, self.grid.spacing, axes, sign)


def _extent(grid: Grid, place: Place) -> tuple[int, ...]:
    """Shape of a scalar at a place."""
    if place == CELLS or place[0] == "middle":
        return grid.shape
    kind, axis = place
    n = grid.shape[axis]
    count = {"cells": n, "faces": n - (grid.boundary[axis][0] != "periodic")}.get(kind, 1)
    return (count, *grid.shape[:axis], *grid.shape[axis + 1 :])


@compiled
def _points(grid: Grid, places: tuple[Place, ...]) -> Array:
    """The points of some places, one after the other."""
    return jnp.concatenate([_points_of(grid, place).reshape(-1, grid.dim) for place in places])


def _points_of(grid: Grid, place: Place) -> Array:
    if place == CELLS:
        return grid.points
    if place[0] == "middle":
        return grid.points + (grid.spacing * (_steps(grid, place) / 2)).reshape((1,) * grid.dim + (-1,))
    kind, axis = place
    cells = to_front(grid.points, axis)
    half = jnp.zeros(grid.dim, cells.dtype).at[axis].set(grid.spacing[axis] / 2).reshape((1,) * grid.dim + (-1,))
    if kind == "faces":
        return (cells if grid.boundary[axis][0] == "periodic" else cells[:-1]) + half
    return cells[:1] - half if kind == "low" else cells[-1:] + half


def _ends(grid: Grid, axis: int) -> list[Place]:
    """The absorbing sides of an axis."""
    return [
        (name, axis) for name, side in zip(("low", "high"), grid.boundary[axis], strict=True) if side == "absorbing"
    ]


def _steps(grid: Grid, middle: Place) -> np.ndarray:
    """The hop along a diagonal of which this is the middle, in cells."""
    _, axes, sign, direction = middle
    steps = np.zeros(grid.dim, int)
    steps[list(axes)] = direction, direction * sign
    return steps


Diagonal = tuple[tuple[int, int], int]


def _diagonals_of(diffusion: Any, grid: Grid) -> Iterator[Diagonal]:
    """Those that a tensor may need: one or none of two axes where the sign of `D_ij` is known."""
    for axes in itertools.combinations(range(grid.dim), 2):
        if callable(diffusion) or is_traced(diffusion):
            yield from ((axes, 1), (axes, -1))
        else:
            entry = np.sign(np.asarray(diffusion)[axes])
            yield from [(axes, int(entry))] if entry else []


def _table(fn: Any, grid: Grid, places: Sequence[Place], name: str, allowed: list, check: Callable) -> _Table:
    """A function at some places."""
    return _Table(check(evaluate(fn, _points(grid, tuple(places)), name, allowed)), tuple(places))


def discretise(
    drift: Any, diffusion: Any, grid: Grid, convention: AbstractConvention
) -> tuple[tuple[AxisRates, ...], tuple[DiagonalRates, ...]]:
    """Hopping rates along each axis, and along the diagonals of pairs of axes for a tensor."""
    drift, correction = (drift.drift, drift.correction) if isinstance(drift, Corrected) else (drift, None)
    dim, shape = (grid.dim,), diffusion.shape if not callable(diffusion) else _shape_of(diffusion, grid)
    if shape == dim * 2 and convention.weight == 0.5:
        raise ValueError(
            "Argument `convention` must be Ito() or AntiIto() for a tensor as `diffusion`, which does not determine "
            "the Stratonovich equation.  Give `noise=sigma` instead."
        )
    diagonals = tuple(_diagonals_of(diffusion, grid)) if shape == dim * 2 else ()
    sides = [place for axis in range(grid.dim) for place in _ends(grid, axis)]
    along = [("faces", axis) for axis in range(grid.dim)] + sides
    middles = [("middle", *diagonal, direction) for diagonal in diagonals for direction in (1, -1)]

    def table(fn, name):
        return _table(fn, grid, along, name, [dim], lambda value: finite(value, name))

    potential, mobility, outside, hops = None, None, None, None
    if isinstance(drift, NegativeGradient):
        potential = potential_values(drift.potential, grid)
        mobility = jnp.asarray(drift.mobility, grid.lower.dtype)
        crossed = [place for place in middles if mobility.ndim == 2 and _leaves(grid, place)]
        outside = _potential_outside(drift.potential, grid, sides + crossed)
        drift = None
    else:
        drift = table(drift, "drift") if callable(drift) else finite(jnp.asarray(drift), "drift")
    correction = None if correction is None else table(correction, "noise")

    def checked(value):
        return check_tensor(value, grid.spacing, "diffusion") if shape == dim * 2 else non_negative(value, "diffusion")

    if callable(diffusion):
        # Ito: the rate along a diagonal is that of the cell left.  Anti-Ito: that of the middle of the hop, where only
        # the entry of two axes counts.
        if middles and convention.weight != 1.0:
            hops = _table(diffusion, grid, middles, "diffusion", [dim * 2], lambda value: value)
        diffusion = _table(diffusion, grid, [*along, CELLS], "diffusion", [(), dim, dim * 2], checked)
    else:
        diffusion = checked(diffusion)
    fields = _Fields(grid, drift, correction, diffusion, hops, potential, outside, mobility, shape)
    return _rates(fields, convention, diagonals)


def _shape_of(fn: Any, grid: Grid) -> tuple[int, ...]:
    value: Any = jax.eval_shape(fn, jax.ShapeDtypeStruct((grid.dim,), grid.lower.dtype))
    return getattr(value, "shape", ())


def _potential_outside(potential: Any, grid: Grid, places: Sequence[Place]) -> _Table | None:
    """On absorbing sides."""
    if not places:
        return None
    known = potential.potential if isinstance(potential, Tabulated) else potential
    if not callable(known):
        raise ValueError(
            "Argument `potential` must be a callable on a grid with absorbing sides, where its value on the face "
            "is needed, but it is an array."
        )
    return _table(known, grid, places, "potential", [()], lambda value: finite(value, "potential"))


# Once the coefficients are known nothing of a user's is left: one program for each kind of grid.
@compiled
def _rates(
    fields: _Fields, convention: AbstractConvention, diagonals: tuple[Diagonal, ...]
) -> tuple[tuple[AxisRates, ...], tuple[DiagonalRates, ...]]:
    axes = [_axis(fields, axis, convention) for axis in range(fields.grid.dim)]
    along = []
    for pair, sign in diagonals:
        rates, exits = _diagonal(fields, pair, sign, convention)
        along.append(rates)
        for axis, low, high in exits:
            r = axes[axis]
            low, high = to_front(low, axis), to_front(high, axis)
            axes[axis] = AxisRates(r.up.at[-1].add(high[-1]), r.down.at[0].add(low[0]), r.periodic)
    return tuple(axes), tuple(along)


def _falls(v: Array, periodic: bool) -> Array:
    """By how much a potential falls from each cell to the next along the first axis."""
    return v - jnp.roll(v, -1, 0) if periodic else v[:-1] - v[1:]


def _axis(fields: _Fields, axis: int, convention: AbstractConvention) -> AxisRates:
    grid, faces = fields.grid, ("faces", axis)
    h, periodic = grid.spacing[axis], grid.boundary[axis][0] == "periodic"
    free = fields.potential is not None and fields.correction is None
    drop = 0.0 if free else fields.drift_along(faces) * h
    v: Any = None
    mobility: Any = None
    outside: Any = fields.outside
    if fields.potential is not None:
        v, mobility = to_front(fields.potential, axis), fields.mobility_along(axis)
        drop = drop + mobility * _falls(v, periodic)
    ends: dict[str, Any] = {"low": None, "high": None}
    for place in _ends(grid, axis):
        name, _ = place
        out = 0.0 if free else (-1 if name == "low" else 1) * fields.drift_along(place) * h / 2
        if v is not None:
            out = out - mobility * (outside.at(grid, place) - (v[:1] if name == "low" else v[-1:]))
        ends[name] = (out, fields.along(place))
    return axis_rates(
        jnp.asarray(drop),
        fields.along(faces),
        fields.along(("cells", axis)),
        (ends["low"], ends["high"]),
        h,
        convention.weight,
        periodic,
    )


def _diagonal(fields: _Fields, axes: tuple[int, int], sign: int, convention: AbstractConvention):
    """Hops along one diagonal, and where they lead out through absorbing sides: `(axis, low, high)` of exit rates."""
    grid, potential = fields.grid, fields.potential
    wraps = (grid.boundary[axes[0]][0] == "periodic", grid.boundary[axes[1]][0] == "periodic")
    in_cells = fields.across(CELLS, axes, sign)
    mobility = fields.mobility_across(axes, sign)
    exits = {axis: [jnp.zeros(grid.shape, in_cells.dtype)] * 2 for axis in axes}
    rates = DiagonalRates(in_cells, in_cells, axes, sign, wraps)

    def hop(direction):
        middle = ("middle", axes, sign, direction)
        inside, lost = _landing(grid, middle)
        strength = in_cells if convention.weight == 1.0 else fields.across(middle, axes, sign)
        # Without a potential the drift is left to the axes.
        fall = jnp.zeros_like(strength)
        if potential is not None:
            fall = -mobility * (rates.shifted(potential, -direction) - potential)
        rate = jnp.where(inside, fitted(jnp.where(inside, fall, 0), strength)[0], 0)
        for axis, where in lost.items():
            if np.any(where):
                fall = jnp.zeros_like(strength)
                if potential is not None and fields.outside is not None and middle in fields.outside.places:
                    fall = -mobility * (fields.outside.at(grid, middle) - potential)
                out = jnp.where(where, 2 * fitted(fall, strength)[0], 0)
                side = int(_steps(grid, middle)[axis] > 0)
                exits[axis][side] = exits[axis][side] + out
        return rate

    return DiagonalRates(hop(1), hop(-1), axes, sign, wraps), [(axis, *pair) for axis, pair in exits.items()]


def _leaves(grid: Grid, middle: Place) -> bool:
    """Whether a hop leads out through an absorbing side somewhere."""
    return any(where.any() for where in _landing(grid, middle)[1].values())


def _landing(grid: Grid, middle: Place):
    """Where a hop stays on the grid, and where it ends on an absorbing side of each axis.

    A hop across a reflecting side is rejected; one across a corner is lost if both its sides absorb.
    """
    steps = _steps(grid, middle)
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
