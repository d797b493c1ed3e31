"""Sets of cells that a process may hit."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Shaped

from ._checks import require, seen
from ._compiled import compiled
from ._fokker_planck import FokkerPlanck
from ._generator import AbstractGenerator
from ._grid import Grid, from_front, to_front
from ._program import program

Target = Callable | Shaped[Array, "..."]

# Halvings of the distance between two cells when looking for an edge.
_HALVINGS = 50
# Beyond this many kT between neighbouring cells a rate is one-way.
_STEEP = 500.0


class Region(eqx.Module):
    """A set of cells and how it is hit.

    - `members`: whether a cell belongs to it.
    - `extra`: what the rate from each cell outside into it grows by because its edge lies nearer than the next cell's
        centre; zero for a set of cells.
    - `into`: that rate itself, `extra` included, zero for members.
    """

    members: Bool[Array, "*shape"]
    extra: Float[Array, "*shape"]
    into: Float[Array, "*shape"]


def region(generator: AbstractGenerator, target: Target | None, name: str) -> Region:
    """A mask of the generator's shape, or a predicate `theta -> bool` whose edge lies where it changes its mind.

    The edge is found on the line between two neighbouring cells, and the rate across it is the exponentially fitted
    one of that shorter distance: hitting times are second order in the cell size (Gibou, Fedkiw, Cheng and Kang 2002).
    By the bounds of the grid they are differentiated with the edge at rest.
    With a full-tensor diffusion, whose hops along diagonals cross it too, the edge runs between the cells: first order,
    and moved by the bounds.
    """
    shares = None
    if callable(target):
        members, shares = _evaluate(target, generator, name)
    else:
        if target is None:
            raise ValueError(
                f"Argument `{name}` must be a Boolean mask or a predicate of theta, but it is None.  Absorbing sides "
                "end a passage, `mean_first_passage_time(generator, None)`, but are no set of cells."
            )
        members = _mask(target, generator, name)
    faults = [(~seen(members).any(), "holds none")]
    members = require(members, name, "hold at least one cell", faults, "Widen it, or refine the grid.", "no cell")
    return _hit(generator, members, shares)


@compiled
def _hit(generator: AbstractGenerator, members: Array, shares: tuple[Array, ...] | None) -> Region:
    extra = jnp.zeros(generator.shape, generator.dtype)
    if isinstance(generator, FokkerPlanck) and shares is not None:
        extra = _nearer(generator, members, shares)
    into = generator.adjoint(members.astype(extra.dtype))
    # Not the larger of it and zero, whose slope at a rate of zero is half of what it is.
    into = jnp.where(members | (into < 0), 0, into) + extra
    return Region(members, extra, into)


def _evaluate(predicate: Callable, generator: AbstractGenerator, name: str) -> tuple[Array, tuple[Array, ...] | None]:
    """The cells where it holds; and, if edges are to be placed, the share of the way to them along each axis."""
    grid = _grid_of(predicate, generator, name)
    placed = isinstance(generator, FokkerPlanck) and not generator.diagonals
    return _look(predicate, grid, placed)


def _grid_of(predicate: Callable, generator: AbstractGenerator, name: str) -> Grid:
    """The grid on which a predicate holds or not."""
    grid = generator.grid
    if grid is None:
        raise ValueError(
            f"Argument `{name}` must be a Boolean mask for a generator without a grid, but it is a function."
        )
    theta = jax.ShapeDtypeStruct((grid.dim,), grid.lower.dtype)
    value: Any = jax.eval_shape(predicate, theta)
    if getattr(value, "shape", None) != () or value.dtype != jnp.bool_:
        raise ValueError(f"Argument `{name}` must return a Boolean scalar for `theta` of shape ({grid.dim},).")
    return grid


@program
def _look(predicate: Callable, grid: Grid, placed: bool) -> tuple[Array, tuple[Array, ...] | None]:
    members = _everywhere(predicate, grid.points)
    if not placed:
        return members, None
    # What it closes over becomes an argument, as the rule for derivatives of an edge needs it.
    predicate = eqx.filter_closure_convert(predicate, jax.ShapeDtypeStruct((grid.dim,), grid.lower.dtype))
    return members, tuple(_share(predicate, grid, axis, members) for axis in range(grid.dim))


def cells(generator: AbstractGenerator, target: Target, name: str) -> Any:
    """The cells of a target alone, without a look for its edge; known ones as NumPy has them."""
    if callable(target):
        return seen(_cells(target, _grid_of(target, generator, name)))
    return seen(_mask(target, generator, name))


@program
def _cells(predicate: Callable, grid: Grid) -> Array:
    return _everywhere(predicate, grid.points)


def _mask(target: Any, generator: AbstractGenerator, name: str) -> Array:
    members = jnp.asarray(target)
    if members.shape != generator.shape or members.dtype != jnp.bool_:
        raise ValueError(
            f"Argument `{name}` must be a Boolean mask of shape {generator.shape} or a predicate of theta, but it "
            f"has shape {members.shape} and dtype {members.dtype}."
        )
    return members


def _everywhere(predicate: Callable, points: Array) -> Array:
    return jax.vmap(predicate)(points.reshape(-1, points.shape[-1])).reshape(points.shape[:-1])


def _share(predicate: Callable, grid: Grid, axis: int, members: Array) -> Array:
    inside, points = to_front(members, axis), to_front(grid.points, axis)
    if grid.boundary[axis][0] == "periodic":
        return _edge(predicate, points, grid.spacing, grid.upper[axis], inside, axis)
    return _edge(predicate, points[:-1], grid.spacing, None, inside[:-1], axis)


def _nearer(generator: FokkerPlanck, members: Array, shares: tuple[Array, ...]) -> Array:
    """By how much rates into the members grow, since their edge lies before the next cell's centre."""
    grid = generator.grid
    total = jnp.zeros(grid.shape, grid.lower.dtype)
    for axis, (rates, share) in enumerate(zip(generator.rates, shares, strict=True)):
        inside = to_front(members, axis)
        here, there = (inside, jnp.roll(inside, -1, 0)) if rates.periodic else (inside[:-1], inside[1:])
        crossed = here ^ there
        above = jnp.roll(rates.down, -1, 0) if rates.periodic else rates.down[1:]
        up = rates.up if rates.periodic else rates.up[:-1]
        upward = jnp.where(crossed & there, _growth(up, above, share), 0)
        downward = jnp.where(crossed & here, _growth(above, up, 1 - share), 0)
        if rates.periodic:
            part = upward + jnp.roll(downward, 1, 0)
        else:
            none = jnp.zeros_like(upward[:1])
            part = jnp.concatenate([upward, none]) + jnp.concatenate([none, downward])
        total = total + from_front(part, axis)
    return total


@eqx.filter_custom_jvp
def _edge(predicate: Callable, low: Array, spacing: Array, seam: Array | None, here: Array, axis: int) -> Array:
    """The share of the way from each cell to the next along an axis at which the predicate changes.

    Beyond the seam of a periodic axis the predicate is asked where the grid has those points, at its other end.
    """
    step = jnp.where(jnp.arange(spacing.size) == axis, spacing, 0).reshape((1,) * here.ndim + (-1,))

    def halve(_, ends):
        left, right = ends
        middle = (left + right) / 2
        points = low + middle[..., None] * step
        if seam is not None:
            points = jnp.where(points[..., axis : axis + 1] > seam, points - low.shape[0] * step, points)
        same = _everywhere(predicate, points) == here
        return jnp.where(same, middle, left), jnp.where(same, right, middle)

    ends = jnp.zeros(here.shape, low.dtype), jnp.ones(here.shape, low.dtype)
    left, right = lax.fori_loop(0, _HALVINGS, halve, ends)
    return (left + right) / 2


@_edge.def_jvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The edge rests in space while cells move past it, so the share changes; across, by the slope of the edge."""
    (predicate, low, spacing, seam, here, axis), (_, low_tangent, spacing_tangent, *_) = primals, tangents
    share = _edge(*primals)
    change = jnp.zeros_like(share)
    if low_tangent is not None:
        for other in range(low.shape[-1]):
            slope = -1 / spacing[axis]
            if other != axis:
                aside = jnp.finfo(low.dtype).eps ** 0.25 * spacing[other]
                shift = jnp.where(jnp.arange(spacing.size) == other, aside, 0).reshape((1,) * here.ndim + (-1,))
                above, below = (_edge(predicate, low + x, spacing, seam, here, axis) for x in (shift, -shift))
                slope = (above - below) / (2 * aside)
            change = change + slope * low_tangent[..., other]
    if spacing_tangent is not None:
        change = change - share * spacing_tangent[axis] / spacing[axis]
    if seam is not None:
        past = (low[..., axis] - seam) / spacing[axis] + share
        if spacing_tangent is not None:
            change = change + jnp.where(past > 0, low.shape[0] * spacing_tangent[axis] / spacing[axis], 0)
        # An edge on the seam itself is where the bounds are.
        change = jnp.where(jnp.abs(past) < jnp.finfo(low.dtype).eps ** 0.5, 0, change)
    return share, change


def _growth(rate: Array, back: Array, share: Array) -> Array:
    """The fitted rate over a share of the distance, per cell of full size, minus the rate over all of it."""
    known = (rate > 0) & (back > 0)
    x = jnp.log(jnp.where(known, rate, 1)) - jnp.log(jnp.where(known, back, 1))
    x = jnp.clip(x, -_STEEP, _STEEP)
    small = jnp.abs(x) < 1e-5
    safe = jnp.where(small, 1, x)
    share = jnp.maximum(share, jnp.finfo(share.dtype).eps)
    # (1 - e^-x)/(1 - e^-sx), written without overflow on either side.
    size = jnp.abs(safe)
    ratio = jnp.expm1(-size) / jnp.expm1(-share * size) * jnp.where(safe < 0, jnp.exp((1 - share) * size), 1)
    straight = (1 - x * (1 - share) / 2 * (1 - x * (2 - share) / 6)) / share
    ratio = jnp.where(small, straight, ratio)
    return jnp.where(known, rate * (ratio - 1), 0)


def as_regions(generator: AbstractGenerator, target: Target | Sequence[Target] | None) -> list[Region]:
    """Every target of a sequence, or the one that is given, as a region."""
    if target is None:
        return []
    targets: Any = target if isinstance(target, (tuple, list)) else (target,)
    return [region(generator, t, "target") for t in targets]
