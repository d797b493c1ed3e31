"""Which updates survive the rounding of a number format: the quantization function Q."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from rxjax_solvers._checks import is_traced, one_of, require

from ._bits import Code, add_float32, asarray, float32_bits, power_of_two
from ._formats import FloatFormat, resolve
from ._grid import Format, checked_scale, gap_exponent, same, scale_for, split_power, to_bits, to_code


def _together(weight: ArrayLike, update: ArrayLike) -> tuple[Shaped[Array, "..."], Shaped[Array, "..."]]:
    w, delta = asarray(weight, "weight"), asarray(update, "update")
    try:
        shape = np.broadcast_shapes(w.shape, delta.shape)
    except ValueError:
        raise ValueError(
            f"Argument `update` must have the shape of `weight`, but it has shape {delta.shape} beside {w.shape}."
        ) from None
    return jnp.broadcast_to(w, shape), jnp.broadcast_to(delta, shape)


def _real_dtype(x: Shaped[Array, "..."]) -> np.dtype:
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def _over_gap(delta: Shaped[Array, "..."], code: Code, form: Format, scale: Array | None) -> Float[Array, "..."]:
    """|delta| over the gap of the grid in its direction, without a subnormal number in the arithmetic."""
    dtype = _real_dtype(delta)
    up = ~jnp.signbit(delta.astype(dtype))
    size = jnp.abs(delta.astype(dtype))
    if not isinstance(form, FloatFormat):
        assert scale is not None
        return size / scale.astype(dtype)
    if scale is not None:
        size = size / scale.astype(dtype)
    exponent = -gap_exponent(code, up, form)
    if dtype == jnp.float64:
        return size * jnp.exp2(exponent.astype(dtype))
    bits = float32_bits(delta) & np.uint32(0x7FFFFFFF)
    subnormal = (bits < np.uint32(0x00800000)) if scale is None else jnp.zeros(bits.shape, bool)
    steps = bits.astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-85)  # subnormals 2^64 times larger
    # A normal number over a gap below 2^-127 is above 1 in any case.
    first, second = split_power(jnp.where(subnormal, exponent - 64, jnp.minimum(exponent, 127)))
    return jnp.where(subnormal, steps, size) * first * second


def outcome(
    weight: Shaped[Array, "..."], update: Shaped[Array, "..."], form: Format, rounding: str, scale: Array | None
) -> tuple[Float[Array, "..."], Code, Code]:
    """Survival without checks, the weight's code, and the code of the rounded-to-nearest sum."""
    code = to_code(float32_bits(weight), form, scale)
    after = to_code(add_float32(to_bits(code, form, scale), float32_bits(update)), form, scale)
    if rounding == "nearest":
        return (~same(code, after)).astype(_real_dtype(update)), code, after
    chance = jnp.minimum(_over_gap(update, code, form, scale), 1.0)
    if form.name.startswith(("float6", "float4", "int")):
        # These formats saturate: from the last point there is nowhere to go.
        high = form.max_code if isinstance(form, FloatFormat) else jnp.where(code.negative, -form.low, form.high)
        stuck = (code.magnitude >= jnp.asarray(high, jnp.uint32)) & ((update < 0) == code.negative)
        chance = jnp.where(stuck, 0.0, chance)
    return chance, code, after


def unfit(weight: Shaped[Array, "..."], code: Code) -> tuple[Bool[Array, "..."], Bool[Array, "..."]]:
    """Where a weight is NaN (or no number of the format at all), and where it is finite but too large for it."""
    return (jnp.isnan(weight.astype(_real_dtype(weight))) | code.nan) & ~code.overflow, code.overflow


def survival(
    weight: Shaped[ArrayLike, "..."],
    update: Shaped[ArrayLike, "..."],
    dtype: object,
    *,
    rounding: str = "nearest",
    scale: Shaped[ArrayLike, ""] | None = None,
) -> Float[Array, "..."]:
    r"""The quantization function $Q(\delta)$: the probability that an update changes a weight kept in a number format.

    - `rounding="nearest"`: $Q = 1$ if $\mathrm{RN}(w + \delta) \neq w$, else 0.  `w + delta` is one float32 addition
        followed by one rounding, to nearest with ties to even; bit for bit what `ml_dtypes` gives.
    - `rounding="stochastic"`: $Q = \min(1, |\delta|/u)$, with $u$ the gap to the next number of the format in the
        direction of the update.  (A gap is twice as wide above a power of two as below it.)

    The rate of an update in low precision is `rate * survival`: `rx.quantized_rate`.

    **Arguments:**

    - `weight`: real numbers.  A weight that is not a number of the format is first rounded to the nearest one, for that
        is what a network in this format holds.
    - `update`: of the same shape, or either of the two a scalar.
    - `dtype`: one of `rx.quantization.FORMATS`, as a name or as a dtype.
    - `scale`: one positive number for the whole array, see `nearest_round`.  For integer formats the default is
        `max|weight|` over the largest integer.

    **Returns:**

    An array of their common shape with values in [0, 1]: float64 if `update` is, else float32.  An overflow to infinity
    or NaN counts as a change; saturation (float6, float4, integers) does not.  Rounding to nearest has zero derivative;
    the stochastic law has $\pm 1/u$ with respect to `update`.

    **Raises:** `ValueError` (a run-time error inside `jit`) if a weight is NaN or too large for the format, if an
    update is not finite, or for an unknown format or rounding.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax.quantization as rq
        >>> rq.survival(1.0, jnp.array([0.00390625, 0.00391, -0.001953, -0.00196]), "bfloat16")
        Array([0., 1., 0., 1.], dtype=float32)
        >>> rq.survival(1.0, jnp.array([1e-3, -1e-3]), "bfloat16", rounding="stochastic")
        Array([0.128, 0.256], dtype=float32)

        ```

    Source: the quantization-aware reaction rate of the reaction-rate picture of learning,
    $\rho^Q = \rho\, Q(\delta)$.
    """
    one_of(rounding, "rounding", ("nearest", "stochastic"))
    form = resolve(dtype)
    w, delta = _together(weight, update)
    bad = ~jnp.isfinite(delta.astype(_real_dtype(delta)))
    delta = require(delta, "update", "be finite", [(bad, "is not")])
    chance, nan, large = _survival(w, delta, form, rounding, checked_scale(scale))
    faults = [(nan, f"is not a number of {form.name}"), (large, f"is beyond the largest number of {form.name}")]
    return require(chance, "weight", f"fit into {form.name}", faults, "Use a wider format, or a `scale`.", _shown(w))


def _shown(w: Shaped[Array, "..."]) -> str | None:
    return None if is_traced(w) else np.array2string(np.asarray(w), threshold=8, precision=6)


@functools.partial(jax.jit, static_argnames=("form", "rounding"))
def _survival(
    w: Shaped[Array, "..."], delta: Shaped[Array, "..."], form: Format, rounding: str, scale: Float[Array, ""] | None
) -> tuple[Float[Array, "..."], Bool[Array, "..."], Bool[Array, "..."]]:
    chance, before, _ = outcome(w, delta, form, rounding, scale_for(w, form, scale))
    return chance, *unfit(w, before)


def spacing(
    weight: Shaped[ArrayLike, "..."], dtype: object, *, direction: Shaped[ArrayLike, "..."] = 1.0
) -> Float[Array, "..."]:
    """The gap (`ulp`) between a weight and the next number of a floating-point format.

    **Arguments:**

    - `weight`: real numbers, first rounded to the format.
    - `dtype`: one of `rx.quantization.FORMATS`, integers excepted: there the gap is the scale.
    - `direction`: its sign says on which side; above a power of two the gap is twice as wide as below it.

    **Returns:**

    The gaps, in float32.  Those below the smallest normal float32 (bfloat16 weights below about `1e-36`) come out
    right, but most arithmetic on them flushes to zero.  Beyond the largest number the gap is the one that an unbounded
    format would have.

    !!! example

        ```python
        >>> import rxjax.quantization as rq
        >>> rq.spacing(1.0, "bfloat16"), rq.spacing(1.0, "bfloat16", direction=-1.0)
        (Array(0.0078125, dtype=float32), Array(0.00390625, dtype=float32))

        ```
    """
    form = resolve(dtype)
    if not isinstance(form, FloatFormat):
        raise ValueError(
            f"Argument `dtype` must be a floating-point format, but it is {form.name!r}: its gap is the scale."
        )
    return _spacing(*_together(weight, direction), form)


@functools.partial(jax.jit, static_argnames="form")
def _spacing(w: Shaped[Array, "..."], side: Shaped[Array, "..."], form: FloatFormat) -> Float[Array, "..."]:
    exponent = gap_exponent(to_code(float32_bits(w), form, None), ~jnp.signbit(side.astype(jnp.float32)), form)
    tiny = exponent < -126
    steps = np.uint32(1) << jnp.clip(exponent + 149, 0, 31).astype(jnp.uint32)
    normal = lax.bitcast_convert_type(power_of_two(jnp.maximum(exponent, -126)), jnp.uint32)
    return lax.bitcast_convert_type(jnp.where(tiny, steps, normal), jnp.float32)
