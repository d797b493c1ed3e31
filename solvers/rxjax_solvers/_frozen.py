"""Vectors that a first derivative may take as constants, and that a second may not."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._generator import AbstractGenerator


def frozen(x: Array, generator: AbstractGenerator) -> Array:
    """`x`, found from `generator` by iteration, as a constant; to differentiate a derivative with it raises."""
    leaving = jnp.sum(generator.outflow())
    return _constant(jax.lax.stop_gradient(x), leaving)


@jax.custom_jvp
def _constant(x: Array, source: Array) -> Array:
    del source
    return x


@_constant.defjvp
def _(primals, tangents):
    return _guarded(*primals), jnp.zeros_like(primals[0])


@jax.custom_jvp
def _guarded(x: Array, source: Array) -> Array:
    del source
    return x


@_guarded.defjvp
def _(primals, tangents):
    raise ValueError(
        "The second derivative of a rate must be taken as a difference of `jax.grad`s, but it was asked of JAX: the "
        "first one holds the law constant, so that the second would come out wrong in silence."
    )
