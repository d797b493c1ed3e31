"""Exact rounding in integer arithmetic on the bits of float32.

Compiled code may keep more precision than a cast asks for, `lax.reduce_precision` flushes subnormals, and XLA on CPU
treats subnormal float32 operands of every addition and comparison as zero (bfloat16 subnormals are such numbers).
Integers do none of that, and one code path serves every format, also those that JAX has no dtype for.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped, UInt32

from ._formats import FloatFormat, float_format

_ABS = np.uint32(0x7FFFFFFF)
_INF = np.uint32(0x7F800000)
_FRACTION = np.uint32(0x007FFFFF)
_HIDDEN = np.uint32(0x00800000)
_SIGN = np.uint32(0x80000000)
_QUIET = np.uint32(0x7FC00000)


class Code(NamedTuple):
    """Numbers of a format: sign, index of the magnitude on the format's grid, and what rounding did to them."""

    magnitude: UInt32[Array, "..."]
    negative: Bool[Array, "..."]
    nan: Bool[Array, "..."]
    overflow: Bool[Array, "..."]  # a finite number beyond the largest of the format, whatever became of it
    payload: UInt32[Array, "..."]  # fraction bits of a float32 NaN


def to_float(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    return lax.bitcast_convert_type(bits, jnp.float32)


def power_of_two(exponent: Int[Array, "..."]) -> Float[Array, "..."]:
    """`2**exponent` in float32, exact for exponents from -126 to 127."""
    return to_float((exponent.astype(jnp.int32) + 127).astype(jnp.uint32) << 23)


def float32_bits(x: Shaped[Array, "..."]) -> UInt32[Array, "..."]:
    """The bits of `x` as float32, subnormals included whatever the dtype of `x`."""
    if x.dtype == jnp.float32:
        return lax.bitcast_convert_type(x, jnp.uint32)
    if x.dtype == jnp.float64:
        # A conversion would flush subnormal results: count in units of the smallest float32 instead.
        tiny = jnp.abs(x) < 2.0**-126
        steps = jnp.rint(jnp.where(tiny, jnp.abs(x), 0.0) * 2.0**149).astype(jnp.uint32)
        steps = steps | jnp.where(jnp.signbit(x), _SIGN, np.uint32(0))
        return jnp.where(tiny, steps, lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32))
    form = float_format(x.dtype)
    if form is None:
        return lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    raw = lax.bitcast_convert_type(x, jnp.dtype(f"uint{form.bits}"))
    return decode(from_raw(raw.astype(jnp.uint32), form), form)


def asarray(x: ArrayLike, name: str) -> Shaped[Array, "..."]:
    """`x` as a JAX array; NumPy arrays of a dtype that JAX lacks (float6) become float32, which holds them exactly."""
    if isinstance(x, np.ndarray | np.generic) and x.dtype.name.startswith("float6"):
        x = np.asarray(x).astype(np.float32)
    array = jnp.asarray(x)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"Argument `{name}` must be real, but it has dtype {array.dtype}.")
    return array


def add_float32(x: UInt32[Array, "..."], y: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """The bits of the float32 sum, with subnormal operands and results kept."""
    small = jnp.maximum(x & _ABS, y & _ABS) < np.uint32(0x40000000)

    # Numbers below 2 are added 2^64 times larger, so that nothing is subnormal; above, subnormals are lost anyway.
    def enlarge(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
        tiny = (bits & _ABS) < _HIDDEN
        steps = (bits & _FRACTION).astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-85)
        larger = jnp.where(tiny, lax.bitcast_convert_type(steps, jnp.uint32) | (bits & _SIGN), bits + (64 << 23))
        return to_float(jnp.where(small, larger, bits))

    total = lax.bitcast_convert_type(enlarge(x) + enlarge(y), jnp.uint32)
    size = total & _ABS
    exponent = (size >> 23).astype(jnp.int32)
    shift = jnp.clip(65 - exponent, 0, 31).astype(jnp.uint32)
    smaller = jnp.where(exponent > 64, size - (64 << 23), ((size & _FRACTION) | _HIDDEN) >> shift)
    smaller = jnp.where(size == 0, size, smaller)
    return jnp.where(small, smaller, size) | (total & _SIGN)


def encode(bits: UInt32[Array, "..."], form: FloatFormat, noise: UInt32[Array, "..."] | None = None) -> Code:
    """Round float32 numbers to a format: to nearest, ties to even, or stochastically by 32 random bits each."""
    size = bits & _ABS
    negative = (bits & _SIGN) != 0
    nan = size > _INF
    if form.min_exponent == -126:
        code = _shorten(size, 23 - form.mantissa, noise)
    else:
        code = _rebase(size, form, noise)
    if form.kind == "scale":
        nan = nan | negative | (size == 0)
    beyond = (code > form.max_code) & ~nan
    overflow = beyond & ((size < _INF) | (form.overflow == "saturate"))
    if form.overflow == "saturate":
        # These formats have no NaN: ml_dtypes turns one into a zero of the other sign.
        code = jnp.where(nan, np.uint32(0), jnp.where(beyond, np.uint32(form.max_code), code))
        negative = negative ^ nan
        nan = jnp.zeros_like(nan)
    elif form.overflow == "nan":
        nan = nan | beyond
    else:
        code = jnp.where(beyond, np.uint32(form.max_code + 1), code)
    if form.kind == "fnuz":
        negative = (negative & (code != 0)) | nan  # the one NaN reads as a negative one
    return Code(code, negative, nan, overflow, jnp.where(size > _INF, size & _FRACTION, np.uint32(0)))


def _shorten(size: UInt32[Array, "..."], drop: int, noise: UInt32[Array, "..."] | None) -> UInt32[Array, "..."]:
    """Codes of a format with the exponents of float32, whose own bits count its magnitudes in ascending order."""
    if drop == 0:
        return size
    if noise is None:
        return (size + ((1 << (drop - 1)) - 1) + ((size >> drop) & 1)) >> drop
    return (size + (noise >> (32 - drop))) >> drop


def _rebase(size: UInt32[Array, "..."], form: FloatFormat, noise: UInt32[Array, "..."] | None) -> UInt32[Array, "..."]:
    """Codes of a format with other exponents: count in units of its spacing at each number."""
    # |x| = significand 2^(exponent - 23); the subnormals of float32 are below all these formats.
    subnormal = size < _HIDDEN
    significand = jnp.where(subnormal, np.uint32(0), (size & _FRACTION) | _HIDDEN)
    exponent = (size >> 23).astype(jnp.int32) - 127
    level = jnp.maximum(exponent, form.min_exponent)
    drop = (level - exponent + (23 - form.mantissa)).astype(jnp.uint32)  # low bits of the significand to lose
    all_lost = drop > 23
    within = jnp.minimum(drop, 23)
    kept = jnp.where(all_lost, np.uint32(0), significand >> within)
    rest = significand - (kept << within)
    if noise is None:
        half = np.uint32(1) << (jnp.minimum(drop, 26) - 1)
        up = (rest > half) | ((rest == half) & (kept % 2 == 1))
    else:
        # Up with probability rest / 2^drop, in steps of 2^-32.
        rest = rest >> jnp.clip(drop.astype(jnp.int32) - 32, 0, 31).astype(jnp.uint32)
        up = (noise >> jnp.clip(32 - drop.astype(jnp.int32), 0, 31).astype(jnp.uint32)) < rest
    code = ((level - form.min_exponent).astype(jnp.uint32) << form.mantissa) + kept + up.astype(jnp.uint32)
    if form.kind == "scale":
        # Codes start at 2^-127, which is also where everything below goes, and go on at 2^-126; half-way goes up.
        above = jnp.maximum(size, 0x00400000) - 0x00400000
        up = (above >= 0x00200000) if noise is None else ((noise >> 10) < above)
        code = jnp.where(subnormal, up.astype(jnp.uint32), code - 1)
    return code


def decode(code: Code, form: FloatFormat) -> UInt32[Array, "..."]:
    """The bits of the float32 numbers that codes stand for."""
    size = _magnitude(code.magnitude, form)
    if form.overflow == "inf":
        size = jnp.where(code.magnitude > form.max_code, _INF, size)
    size = jnp.where(code.nan, jnp.where(code.payload == 0, _QUIET, _INF | code.payload), size)
    return size | jnp.where(code.negative, _SIGN, np.uint32(0))


def _magnitude(code: UInt32[Array, "..."], form: FloatFormat) -> UInt32[Array, "..."]:
    """The float32 bits of a finite magnitude."""
    if form.min_exponent == -126:
        return code << (23 - form.mantissa)
    if form.kind == "scale":
        return jnp.where(code == 0, np.uint32(0x00400000), code << 23)
    lifted = code >> form.mantissa  # 0 for subnormals, then 1, 2, ...
    normal = (code << (23 - form.mantissa)) + ((form.min_exponent + 126) << 23)
    spacing = np.float32(2.0 ** (form.min_exponent - form.mantissa))
    below = lax.bitcast_convert_type(code.astype(jnp.int32).astype(jnp.float32) * spacing, jnp.uint32)
    return jnp.where(lifted == 0, below, normal)


def to_raw(code: Code, form: FloatFormat) -> UInt32[Array, "..."]:
    """The format's own bits, right-aligned."""
    sign = jnp.where(code.negative, np.uint32(1 << (form.bits - 1)), np.uint32(0))
    if form.kind == "fnuz":
        return jnp.where(code.nan, np.uint32(0x80), code.magnitude | sign)
    if form.kind == "scale":
        return jnp.where(code.nan, np.uint32(0xFF), code.magnitude)
    if form.overflow == "nan":
        return jnp.where(code.nan, np.uint32(form.max_code + 1), code.magnitude) | sign
    if form.overflow == "inf":
        infinity = np.uint32(form.max_code + 1)
        nan = infinity | np.uint32(1 << (form.mantissa - 1))
        if form.name in ("float16", "float32"):  # NumPy keeps what fits of a NaN's payload, ml_dtypes does not
            nan = infinity + jnp.maximum(code.payload >> (23 - form.mantissa), 1)
        return jnp.where(code.nan, nan, code.magnitude) | sign
    return code.magnitude | sign


def from_raw(raw: UInt32[Array, "..."], form: FloatFormat) -> Code:
    """The inverse of `to_raw`."""
    mask = np.uint32((1 << (form.bits - 1)) - 1)
    no = jnp.zeros(raw.shape, bool)
    none = jnp.zeros_like(raw)
    if form.kind == "scale":
        return Code(raw, no, raw == 0xFF, no, none)
    if form.kind == "fnuz":
        nan = raw == 0x80
        return Code(raw & mask, raw > mask, nan, no, none)
    magnitude, negative = raw & mask, raw > mask
    if form.overflow == "saturate":
        return Code(magnitude, negative, no, no, none)
    nan = magnitude > (form.max_code + 1 if form.overflow == "inf" else form.max_code)
    payload = (magnitude & np.uint32((1 << form.mantissa) - 1)) << (23 - form.mantissa)
    return Code(magnitude, negative, nan, no, jnp.where(nan, payload, none) if form.bits > 8 else none)
