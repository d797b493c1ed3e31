"""The compiled programs behind the rates on a grid."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rxjax_solvers import Grid
from rxjax_solvers._program import program

from ._grid_kernel import cost, everywhere, in_blocks, rows_of, slopes

# Updates whose exponentials are in flight together.
_GROUP = 4


@program
def log_rates(
    landscape: Callable,
    grid: Grid,
    delta: Float[Array, "m d"],
    attempt: Float[Array, "..."],
    temperature: Float[Array, "..."],
    energy: str,
    memory_limit: int,
    may_be_cold: bool,
) -> Float[Array, "m *shape"]:
    """The logarithm of the rate density of every update at every point."""
    local, change = _energy(landscape, grid.dim, energy)
    cold = temperature == 0
    beta = 1 / jnp.where(cold, 1, temperature)

    def log_rate(values, update, attempt, beta, cold, batch=None):
        energy = change(values, update, batch)
        if not may_be_cold:
            return attempt - beta * energy
        # At temperature zero the slopes are defined as zero.
        energy = jnp.where(cold, lax.stop_gradient(energy), energy)
        limit = jnp.where(energy == 0, 0, jnp.sign(energy) * jnp.inf)
        return attempt - jnp.where(cold, limit, beta * energy)

    if energy == "inner_product" and temperature.ndim == 0 and not may_be_cold:
        # One multiplication less for each of the results.
        delta, beta = delta * beta, jnp.ones((), delta.dtype)

    bytes_per_point, cheap = cost(local, grid.dim, delta.dtype)
    axes = lax.optimization_barrier(grid.axes)
    if cheap:
        rest = [x if x.ndim else jnp.broadcast_to(x, (1,) * grid.dim) for x in (attempt, beta, cold)]
        values = everywhere(local, axes)
        return jax.vmap(lambda update: log_rate(values, update, *rest))(lax.optimization_barrier(delta))

    rows = rows_of(axes, bytes_per_point, memory_limit, getattr(landscape, "batch_size", None))

    def fill(values, here, first, filled):
        def one(j, out):
            line = log_rate(values, delta[j], *here, batch=rows.batch)
            zero = jnp.zeros((), first.dtype)
            return lax.dynamic_update_slice(out, line[None], (j.astype(first.dtype), first, zero))

        return [lax.fori_loop(0, delta.shape[0], one, filled[0])]

    return in_blocks(local, rows, [attempt, beta, cold], fill, [((delta.shape[0],), (), delta.dtype)])[0]


@program
def log_sums(
    landscape: Callable,
    grid: Grid,
    delta: Float[Array, "m d"],
    weights: Float[Array, " m"],
    attempt: Float[Array, "..."],
    temperature: Float[Array, "..."],
    energy: str,
    memory_limit: int,
    flow: bool,
) -> list[Array]:
    """The logarithm of the sum of weighted rates at every point and, with `flow`, the mean update `(*shape, d)`."""
    local, change = _energy(landscape, grid.dim, energy)
    beta = 1 / temperature
    # Evaluations of the landscape take turns, for the sake of memory.
    together = _GROUP if energy == "inner_product" else 1
    extra = -delta.shape[0] % together
    weights = jnp.pad(weights, (0, extra)).reshape(-1, together)
    none = weights == 0
    # A weight is a factor where it is zero and has no logarithm.
    logs, factors = jnp.log(jnp.where(none, 1, weights)), jnp.where(none, weights, 1)
    groups = jnp.pad(delta, ((0, extra), (0, 0))).reshape(-1, together, grid.dim), logs, factors
    # Only the rate of an update with weight zero can be above the highest that counts: its slope by the weight is kept
    # where all derivatives are finite.
    most = math.log(float(jnp.finfo(delta.dtype).max)) / 2
    rows = rows_of(
        lax.optimization_barrier(grid.axes),
        cost(local, grid.dim, delta.dtype)[0],
        memory_limit,
        getattr(landscape, "batch_size", None),
    )

    def add_up(values, here, first, filled):
        attempt, beta = here
        block = values[0].shape
        # An energy linear in the values is scaled once a point instead of once an update.
        linear = energy == "inner_product"
        values = tuple(-beta * x for x in values) if linear else values

        def term(update, log):
            exponent = change(values, update, rows.batch)
            return log + (exponent if linear else -beta * exponent)

        def highest(top, group):
            for update, log, factor in zip(*group, strict=True):
                top = jnp.maximum(top, jnp.where(factor == 0, -jnp.inf, term(update, log)))
            return top, None

        def add(sums, group):
            total, moments = sums
            for update, log, factor in zip(*group, strict=True):
                rate = factor * jnp.exp(jnp.minimum(term(update, log) - top, most))
                total = total + rate
                moments = [moment + update[i] * rate for i, moment in enumerate(moments)]
            return (total, moments), None

        top = lax.scan(highest, jnp.full(block, -jnp.inf, delta.dtype), groups)[0]
        top = lax.stop_gradient(top)
        zero = jnp.zeros(block, delta.dtype)
        total, moments = lax.scan(add, (zero, [zero] * (grid.dim if flow else 0)), groups)[0]
        origin = jnp.zeros((), first.dtype)
        out = [lax.dynamic_update_slice(filled[0], attempt + top + jnp.log(total), (first, origin))]
        if flow:
            mean = jnp.stack([moment / total for moment in moments], axis=-1)
            out.append(lax.dynamic_update_slice(filled[1], mean, (first, origin, origin)))
        return out

    outputs = [((), (), delta.dtype)] + ([((), (grid.dim,), delta.dtype)] if flow else [])
    return in_blocks(local, rows, [attempt, beta], add_up, outputs)


def _energy(landscape: Callable, dim: int, energy: str) -> tuple[Callable, Callable]:
    """What to evaluate once at each point, and how the energy of an update follows from it.

    The latter, `change(values, update, batch)`, evaluates at most `batch` points of a row at once.
    """
    if energy == "inner_product":

        def change(values: tuple, update: Array, batch: int | None) -> Array:
            total = update[0] * values[0]
            for i in range(1, dim):
                total = total + update[i] * values[i]
            return total

        return slopes(landscape, dim), change

    def local(*xs: Array) -> tuple[Any, ...]:
        return landscape(jnp.stack(xs)), *xs

    def difference(values: tuple, update: Array, batch: int | None) -> Array:
        here, *xs = values
        moved = lambda *xs: landscape(jnp.stack(xs) + update)
        if batch is not None and batch < here.shape[-1]:
            # A block is then a single row.
            there = lax.map(lambda xs: moved(*xs), [x[0] for x in xs], batch_size=batch)
            return there[None] - here
        for _ in range(here.ndim):
            moved = jax.vmap(moved)
        return moved(*xs) - here

    return local, difference
