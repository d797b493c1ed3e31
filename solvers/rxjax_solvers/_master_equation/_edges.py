"""Jumps along a list of edges."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Shaped

from .._checks import non_negative, require, seen
from .._compiled import compiled
from ._jumps import AbstractJumps


class EdgeJumps(AbstractJumps):
    """`rate[e]` leads from `source[e]` to `target[e]`; edges are sorted by their source."""

    source: Int[Array, " edges"]
    target: Int[Array, " edges"]
    rate: Float[Array, " edges"]
    exits: Float[Array, " n"]
    leaving: Float[Array, " n"]

    def __init__(
        self,
        source: Shaped[ArrayLike, "..."] | Sequence,
        target: Shaped[ArrayLike, "..."] | Sequence,
        rate: Shaped[ArrayLike, "..."] | Sequence,
        size: int,
        exits: Shaped[ArrayLike, "..."] | Sequence,
    ):
        if size < 1:
            raise ValueError(f"Argument `size` must be the number of states, at least 1, but it is {size}.")
        ends: list[Array] = []
        for given, name in ((source, "source"), (target, "target")):
            x = jnp.asarray(given)
            x = x if x.size else x.astype(jnp.int32)
            if x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.integer):
                raise ValueError(
                    f"Argument `{name}` must be a vector of integers, one state for each edge, but it has shape "
                    f"{x.shape} and dtype {x.dtype}."
                )
            faults = [((seen(x) < 0) | (seen(x) >= size), "is not")]
            ends.append(require(x.astype(jnp.int32), name, f"lie between 0 and size - 1 = {size - 1}", faults))
        start, end = ends
        rates = jnp.asarray(rate)
        rates = rates if jnp.issubdtype(rates.dtype, jnp.floating) else rates.astype(jnp.result_type(float))
        if start.shape != end.shape or rates.shape not in ((), start.shape):
            raise ValueError(
                f"Argument `target` must have the shape of `source`, one state for each edge, as `rate` must, but "
                f"their shapes are {start.shape}, {end.shape} and {rates.shape}."
            )
        remedy = "Leave the edge out: it changes nothing."
        end = require(end, "target", "differ from `source`", [(seen(end) == seen(start), "is the same state")], remedy)
        rates = jnp.broadcast_to(non_negative(rates, "rate"), start.shape)
        lost = non_negative(jnp.asarray(exits, rates.dtype), "exits")
        if lost.shape not in ((), (size,)):
            raise ValueError(f"Argument `exits` must be a number or have shape ({size},), but it has {lost.shape}.")
        self.source, self.target, self.rate, self.exits, self.leaving = _in_order(start, end, rates, lost, size)

    def _per_source(self, values: Float[Array, " edges"]) -> Float[Array, " n"]:
        return _per_source(values, self.source, self.exits.shape[0])

    def inflow(self, p: Float[Array, " n"]) -> Float[Array, " n"]:
        return jax.ops.segment_sum(self.rate * p[self.source], self.target, self.exits.shape[0])

    def adjoint(self, u: Float[Array, " n"]) -> Float[Array, " n"]:
        return self._per_source(self.rate * (u[self.target] - u[self.source])) - self.exits * u

    def draw(self, state: Int[Array, ""], key: PRNGKeyArray) -> Int[Array, ""]:
        first = jnp.searchsorted(self.source, state, side="left")
        end = jnp.searchsorted(self.source, state, side="right")
        level = jr.uniform(key, (), self.rate.dtype) * self.leaving[state]

        if not self.rate.shape[0]:
            return jnp.asarray(-1, jnp.int32)

        # Once along the edges of this state: no table of the largest degree, no sum over all edges.
        def go_on(carry):
            e, passed, _ = carry
            return (e < end) & (passed <= level)

        def advance(carry):
            e, passed, chosen = carry
            return e + 1, passed + self.rate[e], jnp.where(self.rate[e] > 0, self.target[e], chosen)

        nowhere = jnp.asarray(-1, jnp.int32)
        _, passed, chosen = lax.while_loop(go_on, advance, (first, jnp.zeros((), self.rate.dtype), nowhere))
        # Past the last edge lies the exit, if there is one; else rounding led there, and the last edge is meant.
        return jnp.where((passed <= level) & (self.exits[state] > 0), -1, chosen)


def _per_source(values: Array, source: Array, size: int) -> Array:
    return jax.ops.segment_sum(values, source, size, indices_are_sorted=True)


@compiled
def _in_order(start: Array, end: Array, rates: Array, lost: Array, size: int) -> tuple[Array, ...]:
    """Sources, targets and rates by source; exits and total rates of the states."""
    order = jnp.argsort(start, stable=True)
    start, end, rates, exits = start[order], end[order], rates[order], jnp.broadcast_to(lost, (size,))
    return start, end, rates, exits, _per_source(rates, start, size) + exits
