"""Rounding to a number format, to nearest or stochastically."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Shaped, UInt32

from ._bits import Code, asarray, float32_bits, to_float, to_raw
from ._formats import FloatFormat, jax_dtype, resolve
from ._grid import Format, checked_scale, scale_for, to_bits, to_code


@functools.partial(jax.jit, static_argnames="form")
def _round(
    x: Shaped[Array, "..."], form: Format, scale: Float[Array, ""] | None, noise: UInt32[Array, "..."] | None
) -> Shaped[Array, "..."]:
    used = scale_for(x, form, scale)
    return _as_stored(to_code(float32_bits(x), form, used, noise), form, used)


def _as_stored(code: Code, form: Format, scale: Array | None) -> Shaped[Array, "..."]:
    dtype = jax_dtype(form) if isinstance(form, FloatFormat) else None
    if dtype is None or scale is not None or not isinstance(form, FloatFormat):
        return to_float(to_bits(code, form, scale))
    raw = to_raw(code, form).astype(jnp.dtype(f"uint{form.bits}"))
    return lax.bitcast_convert_type(raw, dtype)


def nearest_round(
    x: Shaped[ArrayLike, "*shape"], dtype: object, *, scale: Shaped[ArrayLike, ""] | None = None
) -> Shaped[Array, "*shape"]:
    """Round to the nearest number of a format, ties to even, exactly as `ml_dtypes` (and NumPy) cast float32.

    Before 0.7 ml_dtypes rounded all numbers between 2^-127 and 2^-126, the two smallest of float8_e8m0fnu, up.

    Bit for bit the same inside and outside `jit`, on every device, subnormals, overflow and NaN included: the rounding
    is done in integers.  `x.astype(dtype)` gives no such promise, since compiled code may keep excess precision or
    flush subnormals.

    **Arguments:**

    - `x`: real numbers of any shape.  float64 is first rounded to float32.
    - `dtype`: one of `rx.quantization.FORMATS`, as a name or as a dtype.
    - `scale`: one positive number `s` for the whole array: the grid is then `s` times the grid of the format.  For
        integer formats the default is `max|x|` over the largest integer of the format; for others, 1.

    **Returns:**

    An array of dtype `dtype` where JAX has this floating dtype and no scale is given.  Else (float6, integers, any
    format with a scale) the rounded numbers themselves, in float32.  Numbers beyond the largest of the format become
    infinite in the formats that have infinity, NaN in those that have NaN only (`fn`, `fnuz`), and the largest number
    in those that have neither (float6, float4, integers).  The derivative is zero, as that of a staircase.

    **Raises:** `ValueError` for an unknown format or a scale that is not positive.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax.quantization as rq
        >>> rq.nearest_round(jnp.array([1.00390625, 1.00391]), "bfloat16")
        Array([1, 1.00781], dtype=bfloat16)
        >>> rq.nearest_round(jnp.array([0.3, 2.6, 100.0]), "float6_e2m3fn")
        Array([0.25, 2.5 , 7.5 ], dtype=float32)

        ```

    The rounding rules are those of IEEE 754 and of the OCP 8-bit and microscaling (MX) formats.
    """
    return _round(asarray(x, "x"), resolve(dtype), checked_scale(scale), None)


def stochastic_round(
    x: Shaped[ArrayLike, "*shape"],
    dtype: object,
    key: PRNGKeyArray,
    *,
    scale: Shaped[ArrayLike, ""] | None = None,
) -> Shaped[Array, "*shape"]:
    r"""Round up or down at random so that the mean is kept, $\mathbb{E}[\mathrm{SR}(x)] = x$.

    A number between the grid points $a < b$ becomes $b$ with probability $(x - a)/(b - a)$.  Numbers on the grid stay.
    Small updates then survive on average where rounding to nearest loses every one of them; the price is a random
    walk of variance $r(u - r)$ a step, $r$ being the distance to the next lower point on a grid of spacing $u$ (see
    `rounding_diffusion`).

    **Arguments:**

    - `x`: real numbers of any shape, in a wider format than `dtype`: `w + delta` summed in bfloat16 is rounded to
        nearest before it gets here.  float64 is first rounded to float32.
    - `dtype`, `scale`: as in `nearest_round`.
    - `key`: 32 random bits a number are drawn from it.  Probabilities are exact, except that those below `2**-32` are
        rounded down to a multiple of it (24 bits for integer formats).

    **Returns:**

    As `nearest_round`.  Between the largest number of the format and the power of two that would follow it, a number
    is rounded up to that one with the probability above and then overflows by the rule of the format.

    **Raises:** `ValueError` for an unknown format or a scale that is not positive.

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp, rxjax.quantization as rq
        >>> x = jnp.full(10_000, 1.001)
        >>> rounded = rq.stochastic_round(x, "bfloat16", jax.random.key(0))
        >>> print(f"{rounded.astype(jnp.float32).mean():.4f} {rq.nearest_round(x, 'bfloat16').mean():.4f}")
        1.0010 1.0000

        ```

    Source: stochastic rounding as in Gupta et al., "Deep learning with limited numerical precision" (2015).
    """
    form = resolve(dtype)
    array = asarray(x, "x")
    return _round(array, form, checked_scale(scale), jax.random.bits(key, array.shape, jnp.uint32))
