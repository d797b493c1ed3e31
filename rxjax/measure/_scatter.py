"""The scatter of gradients about their mean, added up chunk by chunk in bounded memory."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._curvature import shaped_like

_EXACT = jax.lax.Precision.HIGHEST


class LowRank(eqx.Module):
    r"""The largest eigenpairs of $\Sigma_1$, made by [`gradient_noise`][].

    - `values`: eigenvalues, descending, in the units of a squared gradient.
    - `vectors`: unit eigenvectors, a tree like the parameters with a leading axis; zero where the value is rounding.
    - `error`: a value is never above that of the sample's whole covariance, and below it by less than this, a bound
      that chunks of single examples seldom come near; zero for micro-batches.
    """

    values: Float[Array, "k"]
    vectors: PyTree
    error: Float[Array, ""]


class Scatter(NamedTuple):
    """Sums over rows `x` of `x x^T`, in the parts that were asked for."""

    diagonal: Float[Array, "d"] | None
    projected: Float[Array, "m m"] | None  # onto directions
    rows: Float[Array, "r d"] | None  # orthogonal, the square of each its eigenvalue
    left_out: Float[Array, ""]  # bounds what earlier chunks lost of any eigenvalue
    last: Float[Array, ""]  # what the last chunk left out, which no kept row has missed yet

    @classmethod
    def zero(cls, like: Array, diagonal: bool, directions: Array | None, rows: int) -> "Scatter":
        zeros = lambda *shape: jnp.zeros(shape, like.dtype)
        d = like.size
        projected = None if directions is None else zeros(len(directions), len(directions))
        return cls(zeros(d) if diagonal else None, projected, zeros(rows, d) if rows else None, zeros(), zeros())

    def plus(self, apart: Array, directions: Array | None) -> "Scatter":
        """With the rows `apart` `(chunk, d)` added."""
        diagonal, projected, rows, left_out, last = self
        if diagonal is not None:
            diagonal = diagonal + jnp.sum(apart**2, axis=0)
        if projected is not None and directions is not None:
            along = jnp.matmul(apart, directions.T, precision=_EXACT)
            projected = projected + jnp.matmul(along.T, along, precision=_EXACT)
        if rows is not None:
            # Eigenvectors of the small Gram matrix turn all rows into orthogonal ones, of which the longest are kept.
            kept, rows = rows.shape[0], jnp.concatenate([rows, apart])
            values, turn = jnp.linalg.eigh(jnp.matmul(rows, rows.T, precision=_EXACT))
            rows = jnp.matmul(turn[:, -kept:].T, rows, precision=_EXACT)
            left_out, last = left_out + last, jnp.maximum(values[-kept - 1], 0)
        return Scatter(diagonal, projected, rows, left_out, last)

    def low_rank(self, params: PyTree, rank: int, scale: Array) -> LowRank | None:
        """The `rank` largest eigenpairs, of `scale` times the sum."""
        if self.rows is None:
            return None
        squares = jnp.sum(self.rows**2, axis=1)
        values, first = jax.lax.top_k(squares, rank)
        # Of the Gram matrix only this much is above rounding.
        seen = values > 10 * self.rows.shape[0] * jnp.finfo(values.dtype).eps * values[0]
        length = jnp.sqrt(jnp.where(seen, values, 1))
        unit = jnp.where(seen[:, None], self.rows[first] / length[:, None], 0)
        vectors = jax.vmap(lambda v: shaped_like(params, v))(unit)
        return LowRank(scale * values, vectors, scale * self.left_out)
