"""A measured number and how far it may be off."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class Estimate(eqx.Module):
    """A measured number.

    - `value`: the estimate.
    - `standard_error`: of the sampling; infinite where too few samples were given to tell.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


def ratio_of_means(tops: Float[Array, "n"], bottoms: Float[Array, "n"]) -> Estimate:
    """`mean(tops) / mean(bottoms)` of independent pairs, with the standard error of the delta method."""
    n = tops.shape[0]
    total = jnp.sum(bottoms)
    value = jnp.sum(tops) / total
    if n < 2:
        return Estimate(value, jnp.full_like(value, jnp.inf))
    spread = jnp.sum((tops - value * bottoms) ** 2) * n / (n - 1)
    return Estimate(value, jnp.sqrt(spread) / jnp.abs(total))
