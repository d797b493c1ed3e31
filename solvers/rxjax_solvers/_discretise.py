"""From drift and diffusion to hopping rates: along the axes, and along diagonals where the diffusion is a tensor."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._checks import finite, is_traced, non_negative, require, seen
from ._coefficients import Corrected, NegativeGradient, Tabulated
from ._compiled import compiled
from ._convention import AbstractConvention
from ._diagonals import DiagonalRates
from ._face_rates import AxisRates, axis_rates, fitted
from ._fields import CELLS, Fields, Place, Table, hop_steps, landing, points_at
from ._grid import Grid, evaluate, to_front
from ._tensor import check_tensor


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


def _ends(grid: Grid, axis: int) -> list[Place]:
    """The absorbing sides of an axis."""
    return [
        (name, axis) for name, side in zip(("low", "high"), grid.boundary[axis], strict=True) if side == "absorbing"
    ]


Diagonal = tuple[tuple[int, int], int]


def _diagonals_of(tensors: Sequence[Any], grid: Grid) -> Iterator[Diagonal]:
    """Those that tensors may need: where signs are known that of `D_ij`, and what `D_ik D_kj` make of it by a wall."""
    for axes in itertools.combinations(range(grid.dim), 2):
        walls = [k for k, sides in enumerate(grid.boundary) if k not in axes and "reflecting" in sides]
        signs = set()
        for tensor in tensors:
            if callable(tensor) or is_traced(tensor):
                signs |= {1, -1}
            else:
                known = np.sign(np.asarray(tensor))
                signs |= {known[axes], *(-known[axes[0], k] * known[k, axes[1]] for k in walls)}
        yield from ((axes, sign) for sign in (1, -1) if sign in signs)


def _table(fn: Any, grid: Grid, places: Sequence[Place], name: str, allowed: list, check: Callable) -> Table:
    """A function at some places."""
    return Table(check(evaluate(fn, points_at(grid, tuple(places)), name, allowed)), tuple(places))


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
    mobility = _mobility(drift.mobility, grid, shape) if isinstance(drift, NegativeGradient) else None
    tensors = [diffusion] if mobility is None or mobility.ndim < 2 else [diffusion, mobility]
    diagonals = tuple(_diagonals_of(tensors, grid)) if shape == dim * 2 else ()
    sides = [place for axis in range(grid.dim) for place in _ends(grid, axis)]
    along = [("faces", axis) for axis in range(grid.dim)] + sides
    middles = [("middle", *diagonal, direction) for diagonal in diagonals for direction in (1, -1)]

    def table(fn, name):
        return _table(fn, grid, along + middles, name, [dim], lambda value: finite(value, name))

    potential, outside, hops = None, None, None
    if isinstance(drift, NegativeGradient):
        potential = potential_values(drift.potential, grid)
        crossed = [place for place in middles if tensors[1:] and _leaves(grid, place)]
        outside = _potential_outside(drift.potential, grid, sides + crossed)
        drift = None
    else:
        drift = table(drift, "drift") if callable(drift) else finite(jnp.asarray(drift), "drift")
    correction = None if correction is None else table(correction, "noise")

    def checked(value):
        return check_tensor(value, grid.spacing, "diffusion") if shape == dim * 2 else non_negative(value, "diffusion")

    if callable(diffusion):
        # Ito: the rate along a diagonal is that of the cell left.  Anti-Ito: that of the middle of the hop, where a
        # drift is shared out as well.
        if middles and (convention.weight != 1.0 or drift is not None or correction is not None):
            hops = _table(diffusion, grid, middles, "diffusion", [dim * 2], lambda value: value)
        diffusion = _table(diffusion, grid, [*along, CELLS], "diffusion", [(), dim, dim * 2], checked)
    else:
        diffusion = checked(diffusion)
    fields = Fields(grid, drift, correction, diffusion, hops, potential, outside, mobility, shape)
    return _rates(fields, convention, diagonals)


def _shape_of(fn: Any, grid: Grid) -> tuple[int, ...]:
    value: Any = jax.eval_shape(fn, jax.ShapeDtypeStruct((grid.dim,), grid.lower.dtype))
    return getattr(value, "shape", ())


def _mobility(mobility: Any, grid: Grid, diffusion: tuple[int, ...]) -> Array:
    """A number or one per axis; a symmetric tensor where the diffusion is a tensor too."""
    mobility = finite(jnp.asarray(mobility, grid.lower.dtype), "mobility")
    dim = (grid.dim,)
    if mobility.shape not in ((), dim, *[dim * 2] * (diffusion == dim * 2)):
        raise ValueError(
            f"Argument `mobility` must be a scalar or have shape {dim}, one number per axis, or {dim * 2} beside a "
            f"`diffusion` of that shape, but it has shape {mobility.shape}."
        )
    if mobility.ndim < 2:
        return mobility
    value = seen(mobility)
    skew = abs(value - value.T) > 64 * jnp.finfo(value.dtype).eps * abs(value).max()
    return require(mobility, "mobility", "be symmetric", [(skew, "is not")], "Give other drifts as a function.")


def _potential_outside(potential: Any, grid: Grid, places: Sequence[Place]) -> Table | None:
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
    fields: Fields, convention: AbstractConvention, diagonals: tuple[Diagonal, ...]
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


def _axis(fields: Fields, axis: int, convention: AbstractConvention) -> AxisRates:
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


def _diagonal(fields: Fields, axes: tuple[int, int], sign: int, convention: AbstractConvention):
    """Hops along one diagonal, and where they lead out through absorbing sides: `(axis, low, high)` of exit rates."""
    grid, potential = fields.grid, fields.potential
    wraps = (grid.boundary[axes[0]][0] == "periodic", grid.boundary[axes[1]][0] == "periodic")
    in_cells = fields.across(CELLS, axes, sign)
    mobility = fields.mobility_across(axes, sign)
    exits = {axis: [jnp.zeros(grid.shape, in_cells.dtype)] * 2 for axis in axes}
    rates = DiagonalRates(in_cells, in_cells, axes, sign, wraps)

    def hop(direction):
        middle = ("middle", axes, sign, direction)
        inside, lost = landing(grid, middle)
        between = in_cells
        if convention.weight != 1.0 or fields.is_driven:
            between = fields.across(middle, axes, sign)
        carried = fields.drift_across(middle) if fields.is_driven else jnp.zeros_like(between)

        def rate(fall):
            # As along the axes: the share that leaves with the drift is that of the middle, the cell left multiplies.
            forth = fitted(fall, between)[0]
            known = between > 0
            share = jnp.where(known, in_cells, 1) / jnp.where(known, between, 1)
            return jnp.where(known, forth * share, in_cells) if convention.weight == 1.0 else forth

        fall = carried
        if potential is not None:
            fall = fall - mobility * (rates.shifted(potential, -direction) - potential)
        for axis, where in lost.items():
            if np.any(where):
                out = carried / 2
                if potential is not None and fields.outside is not None and middle in fields.outside.places:
                    out = out - mobility * (fields.outside.at(grid, middle) - potential)
                side = int(hop_steps(grid, middle)[axis] > 0)
                exits[axis][side] = exits[axis][side] + jnp.where(where, 2 * rate(out), 0)
        return jnp.where(inside, rate(jnp.where(inside, fall, 0)), 0)

    return DiagonalRates(hop(1), hop(-1), axes, sign, wraps), [(axis, *pair) for axis, pair in exits.items()]


def _leaves(grid: Grid, middle: Place) -> bool:
    """Whether a hop leads out through an absorbing side somewhere."""
    return any(where.any() for where in landing(grid, middle)[1].values())
