"""Dense elimination without subtraction (Grassmann, Taksar and Heyman 1985), many matrices at once.

`A = diag(outflow + loss) - rates`, columns summing to `loss >= 0`.  A state is eliminated by handing what leaves it on
to the others in proportion to its rates, so every intermediate is a sum of products of positive numbers, and every
entry of the inverse is right to a few roundings however ill-conditioned `A` is (Alfa, Xue and Ye 2002).
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# States are eliminated by blocks of so many, the rest is matrix products.
_BLOCK = 32


def inverse(rates: Float[Array, "batch n n"], loss: Float[Array, "batch n"]) -> Float[Array, "batch n n"]:
    """`A^-1`, non-negative; `rates[:, j, i]` leads from `i` to `j`, its diagonal is ignored."""
    n = rates.shape[-1]
    rates = jnp.where(jnp.eye(n, dtype=bool)[None], 0, rates)
    if n <= _BLOCK:
        return _one_by_one(rates, loss)
    blocks = -(-n // _BLOCK)
    pad = blocks * _BLOCK - n
    state = (
        jnp.pad(rates, ((0, 0), (0, pad), (0, pad))),
        jnp.pad(loss, ((0, 0), (0, pad)), constant_values=1),
    )
    at = jnp.arange(n + pad)

    def eliminate(k, state):
        # x: eliminated x eliminated holds the inverse so far, the other blocks what leads into, out of and past it.
        x, loss = state
        first = k * _BLOCK
        out = lax.dynamic_slice_in_dim(x, first, _BLOCK, 2)
        into = lax.dynamic_slice_in_dim(x, first, _BLOCK, 1)
        own = lax.dynamic_slice_in_dim(out, first, _BLOCK, 1)
        own_loss = lax.dynamic_slice_in_dim(loss, first, _BLOCK, 1)
        later = jnp.sum(jnp.where((at >= first + _BLOCK)[None, :, None], out, 0), axis=1)
        pivot = _one_by_one(jnp.where(jnp.eye(_BLOCK, dtype=bool)[None], 0, own), own_loss + later)
        here = (at >= first) & (at < first + _BLOCK)
        into = _multiply(pivot, jnp.where(here[None, None], 0, into))
        out = jnp.where(here[None, :, None], 0, out)
        x = jnp.where((here[:, None] | here[None])[None], 0, x) + _multiply(out, into)
        x = lax.dynamic_update_slice_in_dim(x, lax.dynamic_update_slice_in_dim(into, pivot, first, 2), first, 1)
        out = lax.dynamic_update_slice_in_dim(_multiply(out, pivot), pivot, first, 1)
        x = lax.dynamic_update_slice_in_dim(x, out, first, 2)
        return x, loss + _multiply(own_loss[:, None], into)[:, 0]

    return lax.fori_loop(0, blocks, eliminate, state)[0][:, :n, :n]


def _multiply(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _one_by_one(x: Array, loss: Array) -> Array:
    at = jnp.arange(x.shape[-1])

    def eliminate(k, state):
        x, loss = state
        out, into = (lax.dynamic_index_in_dim(x, k, axis, keepdims=False) for axis in (2, 1))
        own_loss = lax.dynamic_index_in_dim(loss, k, 1, keepdims=True)
        pivot = own_loss + jnp.sum(jnp.where((at > k)[None], out, 0), axis=1, keepdims=True)
        here = (at == k)[None]
        into = jnp.where(here, 1, into) / pivot
        out = jnp.where(here, 1, out)
        x = jnp.where((here[0][:, None] | here[0][None])[None], 0, x) + out[:, :, None] * into[:, None, :]
        return x, loss + own_loss * jnp.where(here, 0, into)

    return lax.fori_loop(0, x.shape[-1], eliminate, (x, loss))[0]
