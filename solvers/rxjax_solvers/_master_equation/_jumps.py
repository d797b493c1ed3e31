"""What a set of jumps between states can do, however it is stored."""

import abc

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray


class AbstractJumps(eqx.Module):
    """Jump rates between the states of a master equation; `leaving` is the total rate out of each, exits included.

    A new way to store rates is one subclass with these methods.  `inflow` is a sum of products of rates and densities,
    so that nothing turns negative by rounding.
    """

    leaving: eqx.AbstractVar[Float[Array, "*shape"]]

    @abc.abstractmethod
    def inflow(self, p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """What enters each state per unit time."""

    @abc.abstractmethod
    def adjoint(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Mean change of `u` per unit time seen from each state, with `u = 0` once the process has left for good."""

    @abc.abstractmethod
    def draw(self, state: Int[Array, ""], key: PRNGKeyArray) -> Int[Array, ""]:
        """Where the next jump from a state leads, both numbered in C order; -1 for an exit."""


def pick(rates: Float[Array, " m"], key: PRNGKeyArray) -> Int[Array, ""]:
    """An index with probability in proportion to its rate; never one of rate zero unless all are."""
    total = jnp.cumsum(rates)
    # Rounding must not lift the level to the total itself, where only states of rate zero lie.
    below = jnp.nextafter(total[-1], jnp.zeros_like(total[-1]))
    level = jnp.minimum(jr.uniform(key, (), rates.dtype) * total[-1], below)
    return jnp.minimum(jnp.sum(total <= level), rates.shape[0] - 1).astype(jnp.int32)
