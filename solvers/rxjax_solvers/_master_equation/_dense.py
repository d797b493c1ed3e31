"""Jumps from a full matrix."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Shaped

from .._checks import finite, is_traced, require, seen
from .._compiled import compiled
from ._jumps import AbstractJumps, pick


class DenseJumps(AbstractJumps):
    """`rates[j, i]` leads from state `i` to `j`, its diagonal zero; `exits[i]` out of the system."""

    rates: Float[Array, "n n"]
    exits: Float[Array, " n"]
    leaving: Float[Array, " n"]

    def __init__(self, matrix: Shaped[ArrayLike, "..."] | Sequence):
        matrix = jnp.asarray(matrix)
        matrix = matrix if jnp.issubdtype(matrix.dtype, jnp.floating) else matrix.astype(jnp.result_type(float))
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
            raise ValueError(f"Argument `W` must be a square matrix, but it has shape {matrix.shape}.")
        matrix = finite(matrix, "W")
        rates, columns, positive, self.exits = _split(matrix)
        shown = None
        if not is_traced(matrix):
            shown = f"lowest rate {np.min(np.asarray(rates)):.6g}, largest column sum {np.max(np.asarray(columns)):.6g}"
        faults = [(seen(rates) < 0, "has a negative rate off its diagonal"), (positive, "has columns that do not")]
        remedy = (
            "`W[j, i]` is the rate from i to j and `dp/dt = W p`: a matrix of rows that sum to zero is its transpose."
        )
        rates = require(
            rates, "W", "have rates >= 0 off its diagonal and columns that sum to 0 or below", faults, remedy, shown
        )
        self.rates = rates
        # From the checked rates, so that the check is not compiled away.
        self.leaving = _leaving(rates, self.exits)

    def inflow(self, p: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.matmul(self.rates, p, precision=jax.lax.Precision.HIGHEST)

    def adjoint(self, u: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.matmul(u, self.rates, precision=jax.lax.Precision.HIGHEST) - self.leaving * u

    def draw(self, state: Int[Array, ""], key: PRNGKeyArray) -> Int[Array, ""]:
        to = pick(jnp.concatenate([self.rates[:, state], self.exits[state][None]]), key)
        return jnp.where(to == self.rates.shape[0], -1, to)


@compiled
def _split(matrix: Array) -> tuple[Array, ...]:
    """Rates, sums of columns and which of them are positive, and exits."""
    rates = jnp.where(jnp.eye(matrix.shape[0], dtype=bool), 0, matrix)
    # Where mass is conserved a column sums to zero up to the rounding of the caller.
    tolerance = 8 * matrix.shape[0] * jnp.finfo(matrix.dtype).eps * jnp.sum(jnp.abs(matrix), axis=0)
    columns = jnp.sum(matrix, axis=0)
    exits = jnp.where(columns < -tolerance, -columns, 0)
    return rates, columns, columns > tolerance, exits


@compiled
def _leaving(rates: Array, exits: Array) -> Array:
    return jnp.sum(rates, axis=0) + exits
