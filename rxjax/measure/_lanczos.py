"""Lanczos' method for a symmetric operator, cut off where the Krylov space ends."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from matfree import decomp

from ..landscapes._trees import norm


class Ritz(NamedTuple):
    """Ritz pairs of `m` steps, ascending; those of a space that ended earlier come after entries that mean nothing.

    All are NaN where the operator is not finite.
    """

    values: Float[Array, "m"]
    vectors: Float[Array, "m m"]  # in columns, in the Krylov basis: the first row squared are the weights of quadrature
    errors: Float[Array, "m"]  # the norms of the residuals and one rounding: an exact eigenvalue lies this near
    known: Bool[Array, "m"]  # false for what lies beyond the end of the space
    basis: Float[Array, "m d"]  # orthonormal rows, zero beyond the end


def ritz_pairs(product: Callable, start: Float[Array, "d"], steps: int) -> Ritz:
    """`steps` products (at most `d`) from `start`, with full reorthogonalisation, and one for their size."""
    run = decomp.hessenberg(min(steps, start.size), reortho="full", custom_vjp=False)
    length = norm(start)
    start = start / jnp.where(length > 0, length, 1)
    # matfree takes roots of sums of squares: in units of a first product, which costs one more, they are in range.
    unit = norm(product(start))
    unit = jnp.where(unit > 0, unit, 1)
    found = run(lambda v: product(v) / unit, start)
    small = unit * jnp.asarray(found.J_small)
    # Below the diagonal stand the residuals; its mean with the one above, `tridiag_sym`, hides that one vanished.
    diagonal, beside = jnp.diagonal(small), jnp.diagonal(small, -1)
    below = jnp.concatenate([beside, unit * norm(found.residual)[None]])
    # A first product that is not finite leaves nothing.
    lost = ~jnp.isfinite(diagonal[0] + below[0])
    # A residual of zero ends the iteration early: what follows it is normalised rounding, or NaN, and is cut off.
    below = jnp.where(jnp.isfinite(below), below, 0)
    scale = jax.lax.cummax(below + jnp.where(jnp.isfinite(diagonal), jnp.abs(diagonal), 0))
    goes_on = below > jnp.finfo(below.dtype).eps ** (2 / 3) * scale
    alive = jnp.concatenate([jnp.ones(1, bool), jnp.cumprod(goes_on[:-1].astype(jnp.int32)) > 0])
    end = jnp.sum(alive) - 1
    # What is cut off gets values of its own below all Ritz values, which lie within three times the scale.
    apart = jnp.linspace(4, 5, alive.size, dtype=below.dtype)
    kept = jnp.where(alive, diagonal, -apart * scale[end])
    between = jnp.where(alive[1:], beside, 0)
    values, vectors = jnp.linalg.eigh(jnp.diag(kept) + jnp.diag(between, 1) + jnp.diag(between, -1))
    known = jnp.arange(alive.size) >= alive.size - 1 - end
    basis = jnp.where(alive[:, None], jnp.asarray(found.Q_tall), 0)
    # No product is better than rounding, nor than the smallest number.
    limits = jnp.finfo(below.dtype)
    errors = below[end] * jnp.abs(vectors[end]) + jnp.maximum(limits.eps * scale[end], limits.tiny)
    values, errors = jnp.where(lost, jnp.nan, values), jnp.where(lost, jnp.nan, errors)
    return Ritz(values, vectors, errors, known | lost, basis)
