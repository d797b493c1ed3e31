"""From drift and diffusion to hopping rates: along the axes, and along diagonals where the diffusion is a tensor."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._checks import finite, is_traced, non_negative
from ._coefficients import Corrected, NegativeGradient, Tabulated
from ._convention import AbstractConvention
from ._diagonals import DiagonalRates
from ._face_rates import AxisRates, axis_rates, fitted
from ._grid import Grid, evaluate, to_front
from ._tensor import along_axis, along_diagonal, check_tensor


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


class _Fields:
    """Coefficients, which no longer depend on time, as functions of points and an axis."""

    def __init__(self, drift: Any, diffusion: Any, grid: Grid):
        self.drift, self.correction = (drift.drift, drift.correction) if isinstance(drift, Corrected) else (drift, None)
        self.diffusion: Any = diffusion
        self.grid = grid
        self.potential: Any = None
        self.mobility: Any = None
        if isinstance(self.drift, NegativeGradient):
            self.potential = potential_values(self.drift.potential, grid)
            self.mobility = jnp.asarray(self.drift.mobility, grid.lower.dtype)
        dim = (grid.dim,)
        self.shape = () if not callable(self.diffusion) else self._shape_of_callable()
        self.shape = self.shape if callable(self.diffusion) else self.diffusion.shape
        self.is_tensor = self.shape == dim * 2
        if self.is_tensor and not callable(self.diffusion):
            self.diffusion = check_tensor(self.diffusion, grid.spacing, "diffusion")

    def _shape_of_callable(self) -> tuple[int, ...]:
        theta, diffusion = jax.ShapeDtypeStruct((self.grid.dim,), self.grid.lower.dtype), self.diffusion
        return getattr(jax.eval_shape(diffusion, theta), "shape", ())

    def _diffusion(self, points: Array) -> Array:
        dim = (self.grid.dim,)
        if callable(self.diffusion):
            return evaluate(self.diffusion, points, "diffusion", [(), dim, dim * 2])
        return self.diffusion.reshape((1,) * (points.ndim - 1) + self.shape)

    def along(self, points: Array, axis: int) -> Array:
        """Diffusion carried by the hops along an axis, at points with that axis in front."""
        if not callable(self.diffusion) and not self.is_tensor:
            value = self.diffusion[axis] if self.shape else self.diffusion
            return jnp.broadcast_to(non_negative(value, "diffusion"), points.shape[:-1])
        value = self._diffusion(points)
        if self.is_tensor:
            value = check_tensor(value, self.grid.spacing, "diffusion") if callable(self.diffusion) else value
            kept = along_axis(value, self.grid.spacing, axis) + self._by_the_walls(value, axis)
            # Below zero by rounding at most: that has been checked.
            value = jnp.maximum(kept, 0)
        else:
            value = non_negative(value[..., axis] if self.shape else value, "diffusion")
        return jnp.broadcast_to(value, points.shape[:-1])

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

    def across(self, points: Array, axes: tuple[int, int], sign: int) -> Array:
        """Rate of the hops along a diagonal."""
        return jnp.broadcast_to(
            along_diagonal(self._diffusion(points), self.grid.spacing, axes, sign), points.shape[:-1]
        )

    def drift_along(self, points: Array, axis: int) -> Array:
        """A component of the drift at points with that axis in front, without what comes from a potential."""
        drift = self._drift(points)
        total = drift[..., axis]
        if self.is_tensor:
            tensor = self._diffusion(points)
            for other, share in self._walls(axis):
                across, normal = tensor[..., axis, other], tensor[..., other, other]
                total = total - share * across / jnp.where(normal > 0, normal, 1) * drift[..., other]
        return total

    def _drift(self, points: Array) -> Array:
        dim = (self.grid.dim,)
        total = jnp.zeros(points.shape, points.dtype)
        if self.potential is None and callable(self.drift):
            total = finite(evaluate(self.drift, points, "drift", [dim]), "drift")
        elif self.potential is None:
            total = total + finite(jnp.asarray(self.drift), "drift").reshape((1,) * (points.ndim - 1) + (-1,))
        if self.correction is not None:
            total = total + finite(evaluate(self.correction, points, "noise", [dim]), "noise")
        return total

    def mobility_along(self, axis: int) -> Array:
        """Of the hops along an axis."""
        if self.mobility.ndim == 2:
            tensor = self.mobility.reshape((1,) * self.grid.dim + self.mobility.shape)
            return along_axis(tensor, self.grid.spacing, axis) + self._by_the_walls(tensor, axis)
        return self.mobility[axis] if self.mobility.ndim else self.mobility

    def mobility_across(self, axes: tuple[int, int], sign: int) -> Array:
        """Of the hops along a diagonal, in units of their rate."""
        if self.mobility is None or self.mobility.ndim < 2:
            return jnp.zeros((), self.grid.lower.dtype)
        return along_diagonal(self.mobility, self.grid.spacing, axes, sign)

    def potential_at(self, points: Array) -> Array:
        """On an absorbing side."""
        known = self.drift.potential
        potential = known.potential if isinstance(known, Tabulated) else known
        if not callable(potential):
            raise ValueError(
                "Argument `potential` must be a callable on a grid with absorbing sides, where its value on the face "
                "is needed, but it is an array."
            )
        return finite(evaluate(potential, points, "potential", [()]), "potential")

    def signs(self, axes: tuple[int, int]) -> list[int]:
        """The diagonals of two axes that may be needed: one or none where the sign of `D_ij` is known."""
        if callable(self.diffusion) or is_traced(self.diffusion):
            return [1, -1]
        with jax.ensure_compile_time_eval():
            entry = float(self.diffusion[axes])
        return [int(np.sign(entry))] if entry else []


def discretise(
    drift: Any, diffusion: Any, grid: Grid, convention: AbstractConvention
) -> tuple[tuple[AxisRates, ...], tuple[DiagonalRates, ...]]:
    """Hopping rates along each axis, and along the diagonals of pairs of axes for a tensor."""
    fields = _Fields(drift, diffusion, grid)
    if fields.is_tensor and convention.weight == 0.5:
        raise ValueError(
            "Argument `convention` must be Ito() or AntiIto() for a tensor as `diffusion`, which does not determine "
            "the Stratonovich equation.  Give `noise=sigma` instead."
        )
    axes = [_axis(fields, grid, axis, convention) for axis in range(grid.dim)]
    diagonals = []
    if fields.is_tensor:
        for pair in itertools.combinations(range(grid.dim), 2):
            for sign in fields.signs(pair):
                rates, exits = _diagonal(fields, grid, pair, sign, convention)
                diagonals.append(rates)
                for axis, low, high in exits:
                    r = axes[axis]
                    low, high = to_front(low, axis), to_front(high, axis)
                    axes[axis] = AxisRates(r.up.at[-1].add(high[-1]), r.down.at[0].add(low[0]), r.periodic)
    return tuple(axes), tuple(diagonals)


@partial(jax.jit, static_argnums=1, inline=True)
def _places(grid: Grid, axis: int) -> tuple[Array, Array, Array, Array]:
    """Centres of the cells, of the faces between them and of those of both sides, the axis in front."""
    cells = to_front(grid.points, axis)
    half = jnp.zeros(grid.dim, cells.dtype).at[axis].set(grid.spacing[axis] / 2).reshape((1,) * grid.dim + (-1,))
    faces = cells if grid.boundary[axis][0] == "periodic" else cells[:-1]
    return cells, faces + half, cells[:1] - half, cells[-1:] + half


@partial(jax.jit, static_argnums=1, inline=True)
def _falls(v: Array, periodic: bool) -> Array:
    """By how much a potential falls from each cell to the next along the first axis."""
    return v - jnp.roll(v, -1, 0) if periodic else v[:-1] - v[1:]


def _axis(fields: _Fields, grid: Grid, axis: int, convention: AbstractConvention) -> AxisRates:
    low, high = grid.boundary[axis]
    h, periodic = grid.spacing[axis], low == "periodic"
    cells, faces, at_low, at_high = _places(grid, axis)
    sides = [(low, at_low, -1), (high, at_high, 1)]
    free = fields.potential is not None and fields.correction is None
    drop = 0.0 if free else fields.drift_along(faces, axis) * h
    ends: list[Any] = [None, None]
    for k, (side, points, sign) in enumerate(sides):
        if side == "absorbing":
            ends[k] = 0.0 if free else sign * fields.drift_along(points, axis) * h / 2
    if fields.potential is not None:
        v, mobility = to_front(fields.potential, axis), fields.mobility_along(axis)
        drop = drop + mobility * _falls(v, periodic)
        for k, ((side, points, _), inner) in enumerate(zip(sides, (v[:1], v[-1:]), strict=True)):
            if side == "absorbing":
                ends[k] = ends[k] - mobility * (fields.potential_at(points) - inner)
    at_low, at_high = (
        None if end is None else (end, fields.along(points, axis))
        for end, (_, points, _) in zip(ends, sides, strict=True)
    )
    return axis_rates(
        jnp.asarray(drop),
        fields.along(faces, axis),
        fields.along(cells, axis),
        (at_low, at_high),
        h,
        convention.weight,
        periodic,
    )


def _diagonal(fields: _Fields, grid: Grid, axes: tuple[int, int], sign: int, convention: AbstractConvention):
    """Hops along one diagonal, and where they lead out through absorbing sides: `(axis, low, high)` of exit rates."""
    steps = np.zeros(grid.dim, int)
    steps[list(axes)] = 1, sign
    wraps = (grid.boundary[axes[0]][0] == "periodic", grid.boundary[axes[1]][0] == "periodic")
    in_cells = fields.across(grid.points, axes, sign)
    mobility = fields.mobility_across(axes, sign)
    exits = {axis: [jnp.zeros(grid.shape, in_cells.dtype)] * 2 for axis in axes}
    rates = DiagonalRates(in_cells, in_cells, axes, sign, wraps)

    # Ito: the rate is that of the cell left.  Anti-Ito: that of the middle of the hop.
    from_cells = convention.weight == 1.0

    def hop(direction):
        middle = grid.points + (grid.spacing * (direction * steps / 2)).reshape((1,) * grid.dim + (-1,))
        inside, lost = _landing(grid, axes, direction * steps)
        strength = in_cells if from_cells else fields.across(middle, axes, sign)
        # Without a potential the drift is left to the axes.
        fall = jnp.zeros_like(strength)
        if fields.potential is not None:
            fall = -mobility * (rates.shifted(fields.potential, -direction) - fields.potential)
        rate = jnp.where(inside, fitted(jnp.where(inside, fall, 0), strength)[0], 0)
        for axis, where in lost.items():
            if np.any(where):
                fall = jnp.zeros_like(strength)
                if fields.potential is not None and fields.mobility.ndim == 2:
                    fall = -mobility * (fields.potential_at(middle) - fields.potential)
                out = jnp.where(where, 2 * fitted(fall, strength)[0], 0)
                side = int(direction * steps[axis] > 0)
                exits[axis][side] = exits[axis][side] + out
        return rate

    return DiagonalRates(hop(1), hop(-1), axes, sign, wraps), [(axis, *pair) for axis, pair in exits.items()]


def _landing(grid: Grid, axes: tuple[int, int], steps: np.ndarray):
    """Where a hop stays on the grid, and where it ends on an absorbing side of each axis.

    A hop across a reflecting side is rejected; one across a corner is lost if both its sides absorb.
    """
    inside, closed, lost = np.ones(grid.shape, bool), np.zeros(grid.shape, bool), {}
    for axis in axes:
        side = grid.boundary[axis][int(steps[axis] > 0)]
        edge = grid.shape[axis] - 1 if steps[axis] > 0 else 0
        crossing = (np.arange(grid.shape[axis]) == edge) & (side != "periodic")
        crossing = np.broadcast_to(crossing.reshape([-1 if i == axis else 1 for i in range(grid.dim)]), grid.shape)
        closed = closed | (crossing & (side == "reflecting"))
        lost[axis] = crossing & inside & (side == "absorbing")
        inside = inside & ~crossing
    return inside, {axis: where & ~closed for axis, where in lost.items()}
