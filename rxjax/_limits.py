"""Boltzmann exponents and exponentials whose values have their limits, and whose gradients are never NaN."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


@jax.custom_jvp
def boltzmann_ratio(energy: Array, temperature: Array) -> Array:
    """`energy / temperature`, at temperature zero its limit: plus or minus infinity by the sign of the energy, or 0.

    At temperature zero the gradient is defined as zero.  Where the ratio or its slope overflows, the slope used is a
    large finite number of its sign.
    """
    cold = temperature == 0
    limit = jnp.where(energy == 0, 0.0, jnp.sign(energy) * jnp.inf)
    return jnp.where(cold, limit, energy / jnp.where(cold, 1, temperature))


@boltzmann_ratio.defjvp
def _boltzmann_ratio_jvp(primals, tangents):
    energy, temperature = primals
    ratio = boltzmann_ratio(energy, temperature)
    cold = temperature == 0
    safe = jnp.where(cold, 1, temperature)
    by_energy = jnp.where(cold, 0, saturate(1 / safe))
    by_temperature = jnp.where(cold, 0, saturate(-saturate(ratio) / safe))
    return ratio, by_energy * tangents[0] + by_temperature * tangents[1]


@jax.custom_jvp
def exponential(x: Array) -> Array:
    """`exp(x)`, infinite where it overflows; its slope there is a large finite number, so that 0 times it is 0."""
    return jnp.exp(x)


@exponential.defjvp
def _exponential_jvp(primals, tangents):
    y = exponential(primals[0])
    return y, saturate(y) * tangents[0]


def times_rate(rate: Array, jump: Array) -> Array:
    """`rate * jump`; where the rate is infinite, infinite with the sign of the jump, and zero along an axis without."""
    endless = jnp.isinf(rate)
    return jnp.where(endless, jnp.where(jump == 0, 0, jnp.sign(jump) * jnp.inf), jnp.where(endless, 0, rate) * jump)


def saturate(x: Array) -> Array:
    """Infinities replaced by a large finite number of their sign.  For slopes only, never for values.

    The number is the root of the largest, so that the product of two of them is still finite, and 0 times it is 0.
    """
    return jnp.where(jnp.isinf(x), jnp.sign(x) * jnp.sqrt(jnp.finfo(x.dtype).max), x)
