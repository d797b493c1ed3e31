"""The number formats whose rounding is reproduced, one line each."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rxjax_solvers._checks import one_of


class FloatFormat(NamedTuple):
    """A floating-point format, by the integers that fix its grid.

    The magnitudes of the format, in ascending order, have the codes 0, 1, 2, ...: code and value rise together.
    """

    name: str
    bits: int  # of one number, sign included
    mantissa: int  # explicit bits of the significand
    min_exponent: int  # of the smallest normal number
    max_code: int  # of the largest finite number
    overflow: str  # "inf", "nan" or "saturate": what a number beyond the largest becomes
    kind: str = "signed"  # "fnuz": no negative zero, its bits mean NaN.  "scale": no sign and no zero


class IntegerFormat(NamedTuple):
    """A signed integer times one real scale for the whole array."""

    name: str
    low: int
    high: int


_FLOATS = (
    FloatFormat("float32", 32, 23, -126, 0x7F7FFFFF, "inf"),
    FloatFormat("bfloat16", 16, 7, -126, 0x7F7F, "inf"),
    FloatFormat("float16", 16, 10, -14, 0x7BFF, "inf"),
    FloatFormat("float8_e3m4", 8, 4, -2, 0x6F, "inf"),
    FloatFormat("float8_e4m3", 8, 3, -6, 0x77, "inf"),
    FloatFormat("float8_e4m3b11fnuz", 8, 3, -10, 0x7F, "nan", "fnuz"),
    FloatFormat("float8_e4m3fn", 8, 3, -6, 0x7E, "nan"),
    FloatFormat("float8_e4m3fnuz", 8, 3, -7, 0x7F, "nan", "fnuz"),
    FloatFormat("float8_e5m2", 8, 2, -14, 0x7B, "inf"),
    FloatFormat("float8_e5m2fnuz", 8, 2, -15, 0x7F, "nan", "fnuz"),
    FloatFormat("float8_e8m0fnu", 8, 0, -127, 0xFE, "nan", "scale"),
    FloatFormat("float6_e2m3fn", 6, 3, 0, 0x1F, "saturate"),
    FloatFormat("float6_e3m2fn", 6, 2, -2, 0x1F, "saturate"),
    FloatFormat("float4_e2m1fn", 4, 1, 0, 0x7, "saturate"),
)
_INTEGERS = (IntegerFormat("int8", -128, 127), IntegerFormat("int4", -8, 7), IntegerFormat("int2", -2, 1))
_TABLE: dict[str, FloatFormat | IntegerFormat] = {f.name: f for f in (*_FLOATS, *_INTEGERS)}

FORMATS: tuple[str, ...] = tuple(_TABLE)  # the names that every `dtype` of this package may take


def resolve(dtype: object, argument: str = "dtype") -> FloatFormat | IntegerFormat:
    """The format of a name (`"float6_e2m3fn"`), a JAX or NumPy dtype, or an `ml_dtypes` scalar type.

    `argument` is what a refusal calls it.
    """
    if isinstance(dtype, str):
        name = dtype
    else:
        try:
            name = np.dtype(dtype).name  # pyright: ignore[reportArgumentType, reportCallIssue]
        except TypeError:
            name = repr(dtype)
    one_of(name, argument, FORMATS)
    return _TABLE[name]


def jax_dtype(form: FloatFormat) -> np.dtype | None:
    """The dtype under which JAX stores the format, if it does (float6 has none)."""
    if form.bits == 6:
        return None
    return jnp.dtype(form.name)


def float_format(dtype: np.dtype) -> FloatFormat | None:
    """The format of an array's dtype, or None for integers, Booleans and float64."""
    form = _TABLE.get(dtype.name)
    return form if isinstance(form, FloatFormat) else None
