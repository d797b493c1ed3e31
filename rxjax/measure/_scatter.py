"""The scatter of gradients about their mean, added up chunk by chunk in bounded memory."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PyTree

from ._curvature import shaped_like

_EXACT = jax.lax.Precision.HIGHEST
# Random sums of what is left out: the relative error of their mean square is the root of two over their number.
_SUMS = 16


class LowRank(eqx.Module):
    r"""The largest eigenpairs of $\Sigma_1$, made by [`gradient_noise`][].

    - `values`: eigenvalues, descending, in the units of a squared gradient.
    - `vectors`: unit eigenvectors, a tree like the parameters with a leading axis; zero where the value is rounding.
    - `error`: a value is never above that of the sample's whole covariance, and below it by less than this, a bound
      that chunks of single examples seldom come near; zero for micro-batches.
    - `missed`: how far each value is below, an ESTIMATE and no bound: what the chunks dropped along its vector, from
      16 random sums (a third of it is their noise).  First order: two or three times too small where the next
      eigenvalues are as large.
    """

    values: Float[Array, "k"]
    vectors: PyTree
    error: Float[Array, ""]
    missed: Float[Array, "k"]


class Scatter(NamedTuple):
    """Sums over rows `x` of `x x^T`, in the parts that were asked for."""

    diagonal: Float[Array, "d"] | None
    projected: Float[Array, "m m"] | None  # onto directions
    rows: Float[Array, "r d"] | None  # orthogonal, the square of each its eigenvalue
    left_out: Float[Array, ""]  # bounds what earlier chunks lost of any eigenvalue
    last: Float[Array, ""]  # what the last chunk left out, which no kept row has missed yet
    dropped: Float[Array, "s d"] | None  # sums of all rows left out with random signs: E (sum.v)^2 = sum of (row.v)^2
    key: Array  # of the signs

    @classmethod
    def zero(cls, like: Array, diagonal: bool, directions: Array | None, rows: int) -> "Scatter":
        zeros = lambda *shape: jnp.zeros(shape, like.dtype)
        d = like.size
        projected = None if directions is None else zeros(len(directions), len(directions))
        kept, dropped = (zeros(rows, d), zeros(_SUMS, d)) if rows else (None, None)
        return cls(zeros(d) if diagonal else None, projected, kept, zeros(), zeros(), dropped, jr.key(0))

    def plus(self, apart: Array, directions: Array | None) -> "Scatter":
        """With the rows `apart` `(chunk, d)` added."""
        diagonal, projected, rows, left_out, last, dropped, key = self
        if diagonal is not None:
            diagonal = diagonal + jnp.sum(apart**2, axis=0)
        if projected is not None and directions is not None:
            along = jnp.matmul(apart, directions.T, precision=_EXACT)
            projected = projected + jnp.matmul(along.T, along, precision=_EXACT)
        if rows is not None and dropped is not None:
            # Eigenvectors of the small Gram matrix turn all rows into orthogonal ones, of which the longest are kept.
            kept, rows = rows.shape[0], jnp.concatenate([rows, apart])
            values, turn = jnp.linalg.eigh(jnp.matmul(rows, rows.T, precision=_EXACT))
            key, now = jr.split(key)
            signs = jr.rademacher(now, (_SUMS, turn.shape[0] - kept), rows.dtype)
            mixed = jnp.matmul(signs, turn[:, :-kept].T, precision=_EXACT)
            dropped = dropped + jnp.matmul(mixed, rows, precision=_EXACT)
            rows = jnp.matmul(turn[:, -kept:].T, rows, precision=_EXACT)
            left_out, last = left_out + last, jnp.maximum(values[-kept - 1], 0)
        return Scatter(diagonal, projected, rows, left_out, last, dropped, key)

    def low_rank(self, params: PyTree, rank: int, scale: Array) -> LowRank | None:
        """The `rank` largest eigenpairs, of `scale` times the sum."""
        if self.rows is None or self.dropped is None:
            return None
        squares = jnp.sum(self.rows**2, axis=1)
        values, first = jax.lax.top_k(squares, rank)
        # Of the Gram matrix only this much is above rounding.
        seen = values > 10 * self.rows.shape[0] * jnp.finfo(values.dtype).eps * values[0]
        length = jnp.sqrt(jnp.where(seen, values, 1))
        unit = jnp.where(seen[:, None], self.rows[first] / length[:, None], 0)
        vectors = jax.vmap(lambda v: shaped_like(params, v))(unit)
        missed = jnp.mean(jnp.matmul(unit, self.dropped.T, precision=_EXACT) ** 2, axis=1)
        return LowRank(scale * values, vectors, scale * self.left_out, scale * missed)
