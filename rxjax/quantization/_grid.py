"""One face for both kinds of format: real numbers to grid points and back, with an optional scale."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped, UInt32

from rxjax_solvers._checks import positive

from ._bits import Code, decode, encode, float32_bits, power_of_two, to_float
from ._formats import FloatFormat, IntegerFormat

Format = FloatFormat | IntegerFormat
Bits = UInt32[Array, "..."]


def checked_scale(scale: ArrayLike | None) -> Float[Array, ""] | None:
    """The caller's scale in float32, if there is one."""
    if scale is None:
        return None
    scale = jnp.asarray(scale)
    if scale.shape != ():
        raise ValueError(f"Argument `scale` must be one number for the whole array, but it has shape {scale.shape}.")
    return positive(scale.astype(jnp.float32), "scale")


def scale_for(weight: Shaped[Array, "..."], form: Format, scale: Float[Array, ""] | None) -> Float[Array, ""] | None:
    """The caller's scale; else for integers the one that maps the largest |weight| to the largest integer."""
    if scale is not None or isinstance(form, FloatFormat):
        return scale
    largest = jnp.max(jnp.abs(to_float(float32_bits(weight))), initial=0.0)
    unit = to_float(_divide(lax.bitcast_convert_type(largest, jnp.uint32), jnp.float32(form.high)))
    return jnp.where(largest > 0, unit, 1.0)


def _divide(bits: Bits, scale: Float[Array, ""]) -> Bits:
    """Float32 division by one number, correctly rounded.

    Compilers turn it into a product with the reciprocal, unless each element has a divisor of its own: give the
    divisor the sign of the numerator.
    """
    sign = bits & np.uint32(0x80000000)
    divisor = to_float(lax.bitcast_convert_type(scale, jnp.uint32) | sign)
    return lax.bitcast_convert_type(to_float(bits) / divisor, jnp.uint32) | sign


def to_code(bits: Bits, form: Format, scale: Float[Array, ""] | None, noise: Bits | None = None) -> Code:
    """Round float32 numbers, given by their bits, to the grid."""
    if scale is not None:
        bits = _divide(bits, scale)
    if isinstance(form, FloatFormat):
        return encode(bits, form, noise)
    x = to_float(bits)
    nan = jnp.isnan(x)
    # Beyond 2^23 nothing is left to round, and everything beyond the range saturates anyway.
    x = jnp.clip(jnp.where(nan, 0.0, x), -(2.0**23), 2.0**23)
    if noise is None:
        steps = jnp.rint(x)
    else:
        steps = jnp.floor(x)
        chance = (noise >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-24)
        steps = steps + (chance < x - steps).astype(jnp.float32)
    steps = steps.astype(jnp.int32)
    overflow = (steps > form.high) | (steps < form.low)
    steps = jnp.clip(steps, form.low, form.high)
    return Code(jnp.abs(steps).astype(jnp.uint32), steps < 0, nan, overflow, jnp.zeros_like(bits))


def to_bits(code: Code, form: Format, scale: Float[Array, ""] | None) -> Bits:
    """The float32 bits of grid points, times the scale."""
    if isinstance(form, FloatFormat):
        bits = decode(code, form)
    else:
        x = code.magnitude.astype(jnp.int32).astype(jnp.float32)
        x = jnp.where(code.nan, jnp.float32(np.nan), jnp.where(code.negative, -x, x))
        bits = lax.bitcast_convert_type(x, jnp.uint32)
    if scale is not None:
        bits = lax.bitcast_convert_type(to_float(bits) * scale, jnp.uint32)
    return bits


def same(x: Code, y: Code) -> Bool[Array, "..."]:
    """Whether two codes stand for equal numbers; the two zeros are equal, NaN equals nothing."""
    sign = (x.negative == y.negative) | (x.magnitude == 0)
    return (x.magnitude == y.magnitude) & sign & ~x.nan & ~y.nan


def gap_exponent(code: Code, up: Bool[Array, "..."], form: FloatFormat) -> Int[Array, "..."]:
    """`log2` of the distance to the next grid point above (`up`) or below."""
    grows = (up != code.negative) | (code.magnitude == 0)
    lower = jnp.where(grows, code.magnitude, code.magnitude - jnp.minimum(code.magnitude, 1))
    if form.kind == "scale":
        return lower.astype(jnp.int32) + form.min_exponent
    level = jnp.maximum((lower >> form.mantissa).astype(jnp.int32), 1) - 1
    return level + (form.min_exponent - form.mantissa)


def split_power(exponent: Int[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Two float32 powers of two whose product is `2**exponent`, for exponents too large for one."""
    half = exponent // 2
    return power_of_two(half), power_of_two(exponent - half)
