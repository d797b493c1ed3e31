"""A measured number and how far it may be off."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..landscapes._trees import norm


class Estimate(eqx.Module):
    """A measured number.

    - `value`: the estimate.
    - `standard_error`: of the sampling; infinite where too few samples were given to tell.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


def deviation(samples: Float[Array, "n"]) -> Float[Array, ""]:
    """The standard deviation of independent samples, whose squares may be out of range."""
    return norm(samples - jnp.mean(samples)) / (samples.shape[0] - 1) ** 0.5


def ratio_of_means(tops: Float[Array, "n"], bottoms: Float[Array, "n"]) -> Estimate:
    """`mean(tops) / mean(bottoms)` of independent pairs, with the standard error of the delta method."""
    n = tops.shape[0]
    total = jnp.sum(bottoms)
    value = jnp.sum(tops) / total
    if n < 2:
        return Estimate(value, jnp.full_like(value, jnp.inf))
    spread = norm(tops - value * bottoms) * (n / (n - 1)) ** 0.5
    return Estimate(value, spread / jnp.abs(total))
