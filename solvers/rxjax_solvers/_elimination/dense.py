"""Elimination of a full matrix, for generators without a grid."""

from typing import ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._generator import AbstractGenerator
from .._results import RESULTS
from ._base import AbstractElimination
from ._gth import inverse


class DenseElimination(AbstractElimination):
    """The inverse itself, entry by entry to rounding: `8 n^2` bytes in float64."""

    inverted: Float[Array, "n n"]

    tol: ClassVar[float] = 0.0
    fault: ClassVar[RESULTS] = RESULTS.unreachable

    def __init__(self, generator: AbstractGenerator, loss: Float[Array, "*shape"], keep: Bool[Array, "*shape"]):
        keep = keep.ravel()
        matrix = generator.as_matrix()
        size = matrix.shape[0]
        rates = jnp.where(jnp.eye(size, dtype=bool), 0, matrix)
        both = keep[:, None] & keep[None]
        lost = jnp.sum(jnp.where(~keep[:, None], rates, 0), axis=0)
        # An exit below the rounding of its column's sum is none.
        exits, leaving = generator.exit_rates().ravel(), generator.outflow().ravel()
        exits = jnp.where(exits > 8 * size * jnp.finfo(matrix.dtype).eps * leaving, exits, 0)
        loss = jnp.where(keep, loss.ravel() + exits + lost, 1)
        self.inverted = inverse(jnp.where(both, rates, 0)[None], loss[None])[0]

    def solve(self, b: Float[Array, "*shape"], error: Float[Array, ""] | None = None) -> Float[Array, "*shape"]:
        del error
        return jnp.matmul(self.inverted, b.ravel(), precision=lax.Precision.HIGHEST).reshape(b.shape)

    def transpose_solve(
        self, b: Float[Array, "*shape"], error: Float[Array, ""] | None = None
    ) -> Float[Array, "*shape"]:
        del error
        return jnp.matmul(b.ravel(), self.inverted, precision=lax.Precision.HIGHEST).reshape(b.shape)
