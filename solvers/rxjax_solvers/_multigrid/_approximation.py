"""What an iteration needs: the matrix, and an approximate inverse."""

import abc

import equinox as eqx
from jaxtyping import Array, Float


class AbstractApproximation(eqx.Module):
    """`A = diag(outflow + loss) - rates` on the states that are kept, and an approximation of its inverse."""

    @abc.abstractmethod
    def apply(self, x: Float[Array, "*shape"], backward: bool) -> Float[Array, "*shape"]:
        """`A x`; `A' x` for functions (`backward`)."""

    @abc.abstractmethod
    def cycle(self, b: Float[Array, "*shape"], backward: bool) -> Float[Array, "*shape"]:
        """An approximation of `A^-1 b`, of `A^-T b` for functions (`backward`); linear in `b`."""
