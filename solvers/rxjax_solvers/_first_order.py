"""Answers that may be differentiated once: a second derivative, which would be wrong in silence, raises."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._generator import AbstractGenerator


def frozen(x: Array, generator: AbstractGenerator) -> Array:
    """`x`, found from `generator` by iteration, as a constant of a derivative that is not differentiated again."""
    remedy = "`quasi_stationary` holds the law constant for the first one.  Take differences of `jax.grad`s."
    return _constant(remedy, jax.lax.stop_gradient(x), jnp.sum(generator.outflow()))


def once(tree: Any, remedy: str) -> Any:
    """`tree`, whose numbers may be differentiated once on their way to an answer."""
    return jax.tree.map(lambda x: _passed(remedy, x) if eqx.is_inexact_array(x) else x, tree)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _constant(remedy: str, x: Array, source: Array) -> Array:
    return x


@_constant.defjvp
def _(remedy, primals, tangents):
    return _guarded(remedy, *primals), jnp.zeros_like(primals[0])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _passed(remedy: str, x: Array) -> Array:
    return x


@_passed.defjvp
def _(remedy, primals, tangents):
    return _guarded(remedy, *primals), tangents[0]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _guarded(remedy: str, x: Array, *source: Array) -> Array:
    return x


@_guarded.defjvp
def _(remedy, primals, tangents):
    raise ValueError(f"A second derivative must not be taken here, but it was asked for: {remedy}")
