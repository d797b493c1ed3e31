"""Rounding to narrow formats: bit for bit ml_dtypes under `jit`, stochastic rounding, and the closed form of noise."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy.stats import norm

import rxjax.quantization as rq
from rxjax.quantization._bits import add_float32

# Rounding is the subject here, so these compile as users do.
pytestmark = pytest.mark.usefixtures("optimized")

FLOATS = [name for name in rq.FORMATS if name.startswith(("float", "bfloat")) and name != "float32"]

SATURATING = ("float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn")

RNG = np.random.default_rng(0)


def numpy_dtype(name):
    return np.dtype(np.float16) if name == "float16" else np.dtype(getattr(ml_dtypes, name))


def codes_dtype(dtype):
    return np.dtype(f"uint{8 * dtype.itemsize}")


def cast(x, dtype):
    """By ml_dtypes, which before 0.7 rounded all between the two smallest numbers of float8_e8m0fnu up."""
    if "e8m0" in dtype.name:
        x = np.where((x > 2.0**-127) & (x < 1.5 * 2.0**-127), np.float32(2.0**-127), x)
    return x.astype(dtype)


@functools.cache
def every_value(name):
    """All numbers of a format, NaNs and infinities too, as float32."""
    dtype = numpy_dtype(name)
    bits = dtype.itemsize * 8 if dtype.itemsize > 1 else ml_dtypes.finfo(dtype).bits
    return np.arange(2**bits, dtype=np.uint32).astype(codes_dtype(dtype)).view(dtype).astype(np.float32)


def finite_values(name):
    values = every_value(name)
    return values[np.isfinite(values)]


def hard_numbers(name):
    """Every value, every half-way point and its two neighbours, subnormals, random bits, and the edge of the range."""
    values = every_value(name)
    grid = np.unique(finite_values(name)).astype(np.float64)
    half = ((grid[1:] + grid[:-1]) / 2).astype(np.float32)
    infinity = np.float32(np.inf)
    # The lowest fraction bits are masked: at the top of float32 a random number is a NaN of arbitrary payload.
    random = RNG.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    return np.concatenate(
        [
            values,
            half,
            np.nextafter(half, infinity),
            np.nextafter(half, -infinity),
            random,
            RNG.integers(0, 2**24, 5_000, dtype=np.uint32).view(np.float32),
            (grid[-1] * RNG.uniform(0.9, 1.2, 2_000)).astype(np.float32),
            (RNG.standard_normal(20_000) * 10.0 ** RNG.uniform(-8, 5, 20_000)).astype(np.float32),
        ]
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", FLOATS)
def test_every_format_is_that_of_ml_dtypes_bit_for_bit(name):
    """Rounding hard numbers, reading the format's own numbers, and survival of updates far below and above the gap."""
    dtype = numpy_dtype(name)
    x = hard_numbers(name)
    narrow = every_value(name).astype(dtype)
    weights = np.unique(finite_values(name))
    steps = np.diff(weights.astype(np.float64))
    above, below = np.append(steps, 2 * steps[-1]), np.append(2 * steps[0], steps)
    parts = np.array([-3.0, -1.0, -0.5, -0.49999997, -0.25, -1e-3, 0.0, 0.2, 0.5, 0.50000006, 0.75, 1.0, 1e4])
    w, part = (a.ravel() for a in np.meshgrid(weights, parts, indexing="ij"))
    gap = np.where(part > 0, np.repeat(above, 13), np.repeat(below, 13))
    update = (gap * part).astype(np.float32)
    keep = np.isfinite(update)
    w, update, gap = w[keep], update[keep], gap[keep]

    @jax.jit
    def ours(x, narrow, w, update):
        laws = [rq.survival(w, update, dtype, rounding=rounding) for rounding in ("nearest", "stochastic")]
        return rq.nearest_round(x, dtype), rq.nearest_round(narrow, "float32"), *laws

    if name.startswith("float6"):  # no JAX dtype: values in float32
        expected = cast(x, dtype).astype(np.float32)
        rounded, again, kept, chance = map(np.asarray, ours(x, every_value(name), w, update))
    else:
        expected = cast(x, dtype)
        rounded, again, kept, chance = map(np.asarray, ours(x, narrow, w, update))
    assert rounded.dtype == expected.dtype
    unsigned = codes_dtype(rounded.dtype)
    np.testing.assert_array_equal(rounded.view(unsigned), expected.view(unsigned))
    np.testing.assert_array_equal(again.view(np.uint32), narrow.astype(np.float32).view(np.uint32))

    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, (cast(w + update, dtype) != w.astype(dtype)).astype(np.float32))
    outward = ((w == weights[-1]) & (update > 0)) | ((w == weights[0]) & (update < 0))
    inner = ~outward
    expected = np.minimum(1, np.abs(update.astype(np.float64)) / gap)
    np.testing.assert_allclose(chance[inner], expected[inner], rtol=1e-6, atol=0)
    if name in SATURATING:
        assert not chance[outward].any()
    elif "e8m0" not in name:  # the gap that a format without a largest number would have is as wide as the last one
        np.testing.assert_allclose(
            chance[outward], np.minimum(1, 2 * np.abs(update[outward]) / gap[outward]), rtol=1e-6
        )


def test_addition_keeps_subnormals():
    """Compiled addition on a CPU reads subnormal operands as zero; NumPy does not."""
    near = RNG.integers(0, 1 << 25, 20_000, dtype=np.uint32) | (RNG.integers(0, 2, 20_000, dtype=np.uint32) << 31)
    bits = np.concatenate([near, RNG.integers(0, 2**32, 20_000, dtype=np.uint32)])
    other = np.concatenate([RNG.permutation(near), bits[20_000:] ^ RNG.integers(0, 1 << 12, 20_000, dtype=np.uint32)])
    x, y = bits.view(np.float32), other.view(np.float32)
    with np.errstate(all="ignore"):
        expected = x + y
    total = np.asarray(jax.jit(add_float32)(bits, other))
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(total.view(np.float32)), nan)
    np.testing.assert_array_equal(total[~nan], expected.view(np.uint32)[~nan])


@pytest.mark.parametrize("name, low, high", [("int8", -128, 127), ("int4", -8, 7), ("int2", -2, 1)])
def test_integers_with_a_scale(name, low, high):
    x = (RNG.standard_normal(20_000) * 0.4 * high).astype(np.float32) * np.float32(0.03)
    scale = np.float32(0.03)
    # np.rint is to nearest even, and ml_dtypes' casts to int4 truncate: round and clip first.
    expected = (
        np.clip(np.rint(x / scale), low, high).astype(getattr(ml_dtypes, name, np.int8)).astype(np.float32) * scale
    )
    np.testing.assert_array_equal(jax.jit(lambda x: rq.nearest_round(x, name, scale=scale))(x), expected)
    default = np.float32(np.max(np.abs(x))) / np.float32(high)
    expected = np.clip(np.rint(x / default), low, high).astype(np.float32) * default
    np.testing.assert_array_equal(jax.jit(lambda x: rq.nearest_round(x, name))(x), expected)

    w = np.float32(0.5) * np.arange(low, high + 1).astype(np.float32)
    for update in (0.24, 0.25, 0.26, -0.24, -0.25, -0.26, -0.75):
        kept = rq.survival(w, np.float32(update), name, scale=0.5)
        after = np.clip(np.rint((w + np.float32(update)) / 0.5), low, high)
        np.testing.assert_array_equal(kept, after != w / 0.5)
        chance = np.asarray(rq.survival(w, np.float32(update), name, rounding="stochastic", scale=0.5))
        edge = w / 0.5 == (high if update > 0 else low)
        np.testing.assert_allclose(chance, np.where(edge, 0, min(1, abs(update) / 0.5)), rtol=1e-6)


def test_a_scale_on_a_float_format():
    x = RNG.standard_normal(1000).astype(np.float32)
    expected = (x / np.float32(0.25)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(0.25)
    rounded = rq.nearest_round(x, "float8_e4m3fn", scale=0.25)
    np.testing.assert_array_equal(rounded, expected)
    update = 0.02 * RNG.standard_normal(1000).astype(np.float32)
    for rounding in ("nearest", "stochastic"):
        kept = rq.survival(rounded, update, "float8_e4m3fn", scale=0.25, rounding=rounding)
        plain = rq.survival(4 * rounded, 4 * update, "float8_e4m3fn", rounding=rounding)
        np.testing.assert_array_equal(kept, plain)


def test_bfloat16_at_one():
    updates = np.array([0.00390625, 0.00391, -0.001953, -0.00196])
    after = [1, 1.0078125, 1, 0.99609375]
    np.testing.assert_array_equal(rq.survival(1.0, updates, jnp.bfloat16), [0, 1, 0, 1])
    np.testing.assert_array_equal(rq.nearest_round(1 + updates, jnp.bfloat16).astype(jnp.float64), after)
    assert rq.survival(1, -1e-3, "bfloat16", rounding="stochastic") == pytest.approx(0.256)


def test_a_hundred_small_steps():
    """100 updates of -1e-3 from 1: lost by rounding to nearest, kept on average by stochastic rounding."""

    @jax.jit
    def walk(key):
        def step(w, key):
            total = w.astype(jnp.float32) - jnp.float32(1e-3)
            return rq.stochastic_round(total, jnp.bfloat16, key), None

        return jax.lax.scan(step, jnp.ones(4096, jnp.bfloat16), jax.random.split(key, 100))[0].astype(jnp.float32)

    @jax.jit
    def still(w):
        step = lambda w, _: (rq.nearest_round(w.astype(jnp.float32) - jnp.float32(1e-3), jnp.bfloat16), None)
        return jax.lax.scan(step, w, None, length=100)[0]

    ends = walk(jax.random.key(0))
    assert float(still(jnp.ones((), jnp.bfloat16))) == 1.0
    assert float(jnp.mean(ends)) == pytest.approx(0.9, abs=1e-3)
    # Twice the diffusion per step, times 100 steps, is the variance; the gap below 1 is 2^-8.
    assert float(jnp.var(ends)) == pytest.approx(200 * float(rq.rounding_diffusion(1e-3, 2.0**-8)), rel=0.1)


def test_stochastic_rounding_keeps_the_mean():
    """At points within normal and subnormal ranges, also far below the smallest number of the format."""
    names = ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2fnuz", "float6_e3m2fn", "float4_e2m1fn", "int4"]
    scales = [0.5 if name == "int4" else None for name in names]
    points = []
    for name in names:
        least = 0.5 if name == "int4" else float(np.min(finite_values(name)[finite_values(name) > 0]))
        small = [0.3, 1e-30, -1e-37] if name == "bfloat16" else [least * 0.01, least * 0.3, -least * 2.2]
        points.append([*small, 1.1, -2.7, 3.0])
    points = np.array(points, np.float32)
    n = 20_000

    @jax.jit
    def draw(points, key):
        found = []
        for p, name, scale in zip(points, names, scales, strict=True):
            rounded = rq.stochastic_round(jnp.broadcast_to(p, (n, 6)), name, key, scale=scale)
            exact = rq.nearest_round(p, name, scale=scale)
            again = rq.stochastic_round(jnp.broadcast_to(exact, (n, 6)), name, key, scale=scale)
            found.append((rounded, exact, again))
        return found

    for p, results in zip(points, draw(points, jax.random.key(1)), strict=True):
        rounded, exact, again = (np.asarray(x).astype(np.float64) for x in results)
        low, high = rounded.min(axis=0), rounded.max(axis=0)
        assert np.all((low <= p) & (p <= high))
        deviation = np.sqrt((high - p) * (p - low))  # exact for a two-point law of this mean
        assert np.all(np.abs(rounded.mean(axis=0) - p) <= 4 * deviation / np.sqrt(n))
        assert max(np.unique(column).size for column in rounded.T) <= 2
        # A number of the format stays.
        np.testing.assert_array_equal(again, np.broadcast_to(exact, (n, 6)))


def test_dithered_rounding():
    """The closed form at three noises, its defining sum on both sides of the change of series, and no noise at all."""
    mean, std = (a.ravel() for a in np.meshgrid([-3.3, -0.5, 1e-3, 0.49, 7.0], [0.1, 0.3, 0.34, 0.36, 0.8, 2.0]))
    k = np.arange(-60, 61)[:, None]
    sums = np.sum(k * (norm.cdf((k + 0.5 - mean) / std) - norm.cdf((k - 0.5 - mean) / std)), axis=0)
    # Without noise: nearest, ties to even.
    mean, std = np.append(mean, [0.4, 0.5, 1.5, -0.6]), np.append(std, np.zeros(4))
    sums = np.append(sums, [0, 0, 2, -1])
    mean, std = np.append(mean, [0.1, 0.1, 0.1]), np.append(std, [0.25, 0.5, 1.0])
    step = jax.jit(rq.dithered_step)
    steps = step(0.25 * mean, 0.25 * std, 0.25)
    np.testing.assert_allclose(steps[:-3], 0.25 * sums, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(steps[-3:] / 0.025, [0.466, 0.987, 1.0], atol=5e-4)
    narrow = step(mean.astype(np.float32), std.astype(np.float32), np.float32(1))
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow[:-3], sums, rtol=1e-5)


def test_slopes_of_dithering_by_hardly_any_noise():
    """Far from a tie nothing changes, and that is the slope."""
    std = jnp.array([1e-3, 1e-18, 1e-36], jnp.float32)
    slopes = jax.vmap(jax.grad(rq.dithered_step, (0, 1, 2)), (None, 0, None))
    np.testing.assert_array_equal(jnp.stack(slopes(jnp.float32(0.3), std, jnp.float32(1.0))), 0)
