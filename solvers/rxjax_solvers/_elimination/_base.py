"""What every way of factoring `loss - W` on part of the states can do."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from .._results import RESULTS


class AbstractElimination(eqx.Module):
    """The factored matrix `A = diag(outflow + loss) - rates` on the states that are kept; the identity elsewhere.

    Arrays only: made once, carried through `jit`, `vmap` and loops.  A solve that fails is not finite.

    - `tol`: relative error of a solve, 0 for rounding alone.
    - `fault`: what it means if a solve is not finite.
    """

    tol: eqx.AbstractVar[Float[Array, ""] | float]
    fault: eqx.AbstractClassVar[RESULTS]

    @abc.abstractmethod
    def solve(self, b: Float[Array, "*shape"], error: Float[Array, ""] | None = None) -> Float[Array, "*shape"]:
        """`A^-1 b`; to `tol`, or where given to an `error` in the sum of absolute values, if that saves anything."""

    @abc.abstractmethod
    def transpose_solve(
        self, b: Float[Array, "*shape"], error: Float[Array, ""] | None = None
    ) -> Float[Array, "*shape"]:
        """`A^-T b`; to `tol`, or where given to an `error` of the largest value, if that saves anything."""
