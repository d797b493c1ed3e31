"""Generators of which no more is known than how to apply them."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._generator import AbstractGenerator
from ._approximation import AbstractApproximation


class Scaled(AbstractApproximation):
    """The matrix by `apply` and `adjoint`, its inverse approximated by that of its diagonal (Jacobi 1845)."""

    generator: AbstractGenerator
    loss: Float[Array, "*shape"]
    keep: Bool[Array, "*shape"]
    inverted: Float[Array, "*shape"]

    def __init__(self, generator: AbstractGenerator, loss: Float[Array, "*shape"], keep: Bool[Array, "*shape"]):
        self.generator, self.loss, self.keep = generator, loss, keep
        diagonal = jnp.where(keep, loss + generator.outflow(), 1)
        self.inverted = 1 / diagonal

    def apply(self, x: Float[Array, "*shape"], backward: bool) -> Float[Array, "*shape"]:
        kept = jnp.where(self.keep, x, 0)
        moved = self.generator.adjoint(kept) if backward else self.generator.apply(kept)
        return jnp.where(self.keep, self.loss * kept - moved, x)

    def cycle(self, b: Float[Array, "*shape"], backward: bool) -> Float[Array, "*shape"]:
        del backward
        return self.inverted * b
