"""Lanczos' method for a symmetric operator, cut off where the Krylov space ends."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
    """`steps` products (at most `d`) from `start`, with full reorthogonalisation."""
    basis, diagonal, below = _krylov(product, start, min(steps, start.size))
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
    between = jnp.where(alive[1:], below[:-1], 0)
    values, vectors = jnp.linalg.eigh(jnp.diag(kept) + jnp.diag(between, 1) + jnp.diag(between, -1))
    known = jnp.arange(alive.size) >= alive.size - 1 - end
    basis = jnp.where(alive[:, None], basis, 0)
    # No product is better than rounding, nor than the smallest number.
    limits = jnp.finfo(below.dtype)
    errors = below[end] * jnp.abs(vectors[end]) + jnp.maximum(limits.eps * scale[end], limits.tiny)
    values, errors = jnp.where(lost, jnp.nan, values), jnp.where(lost, jnp.nan, errors)
    return Ritz(values, vectors, errors, known | lost, basis)


def _krylov(product: Callable, start: Array, m: int) -> tuple[Array, Array, Array]:
    """Orthonormal rows `(m, d)`, the products along themselves `(m,)` and the norms of what is new in each `(m,)`.

    The norms are told apart from zero and infinity where the squares are not.
    """
    exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def step(i, carry):
        basis, diagonal, below, v, length = carry
        basis = basis.at[i].set(v / length)
        v = product(basis[i])
        along = exact(basis, v)
        v = v - exact(along, basis)
        v = v - exact(exact(basis, v), basis)
        length = norm(v)
        return basis, diagonal.at[i].set(along[i]), below.at[i].set(length), v, length

    length, none = norm(start), jnp.zeros(m, start.dtype)
    begin = jnp.zeros((m, start.size), start.dtype), none, none, start, jnp.where(length > 0, length, 1)
    return jax.lax.fori_loop(0, m, step, begin)[:3]
