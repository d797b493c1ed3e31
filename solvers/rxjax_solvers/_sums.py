"""Sums over whole arrays."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Parts of an array that are added up side by side.
_PARTS = 16


def total(x: Float[Array, "n *rest"]) -> Float[Array, ""]:
    """The sum, by adding rows to rows first, which XLA does in vector registers."""
    rows = x.shape[0] // _PARTS
    most = x[: rows * _PARTS].reshape(_PARTS, rows, *x.shape[1:])
    # Else both sums become one again.
    most = lax.optimization_barrier(jnp.sum(most, axis=0))
    return jnp.sum(most) + jnp.sum(x[rows * _PARTS :])
