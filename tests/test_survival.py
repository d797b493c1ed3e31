"""Which updates survive rounding: laws and their properties, gradients, reports over networks, and refusals."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from finite_differences import assert_gradients
from hypothesis import given, settings, strategies as st
from refusals import assert_refused

import rxjax.quantization as rq

# Where rounding is the subject, programs compile as users do.
rounding = pytest.mark.usefixtures("optimized")

RNG = np.random.default_rng(0)


@rounding
def test_no_excess_precision_through_a_fused_update():
    """The product of an update is rounded to float32 before it is added, though the compiler could fuse the two."""
    w = RNG.uniform(1, 2, 50_000).astype(ml_dtypes.bfloat16)
    gradient = RNG.standard_normal(50_000).astype(np.float32)
    rate = np.float32(0.01)
    with jax.numpy_dtype_promotion("standard"):
        kept = jax.jit(lambda w, g, rate: rq.survival(w, -rate * g, "bfloat16"))(w, gradient, rate)
    expected = (w.astype(np.float32) + -rate * gradient).astype(ml_dtypes.bfloat16) != w
    np.testing.assert_array_equal(np.asarray(kept) == 1, expected)


@rounding
def test_survival_of_uniform_weights():
    """Relative steps r = .003 on [1, 2): nearest loses those below half a gap, 2^-8/r."""
    grid = 1 + np.arange(128) / 128
    assert float(jnp.sum(rq.survival(grid, 0.003 * grid, "bfloat16"))) == 89
    w = np.linspace(1, 2, 200_000, endpoint=False)
    kept = np.asarray(rq.survival(w, 0.003 * w, "bfloat16"))
    # Weights that round to 2 face the wider gap above it; without them the law of continuous weights.
    below = w < 2 - 2.0**-8
    assert kept[below].sum() / w.size + np.mean(~below) == pytest.approx(2 - 2.0**-8 / 0.003, abs=2e-4)
    assert not kept[~below].any()


def test_gradients():
    params, small = {"w": jnp.ones(2)}, jnp.asarray(1e-3)
    chance = functools.partial(rq.survival, rounding="stochastic")
    shares = lambda d: rq.report(params, {"w": jnp.stack([d, small])}, "bfloat16", rounding="stochastic")
    assert_gradients(
        [
            (lambda m: rq.dithered_step(m, 0.25), 0.0),
            (lambda m: rq.dithered_step(m, 0.25), 0.5),
            (lambda m: rq.dithered_step(m, 0.5), -1.3),
            (lambda s: rq.dithered_step(0.1, s), 0.2),
            (lambda s: rq.dithered_step(0.1, s), 0.6),
            (lambda s: rq.dithered_step(0.3, 0.0 * s), 0.1),
            (lambda u: rq.dithered_step(0.1, 0.3, u), 1.1),
            (lambda d: rq.rounding_diffusion(d, 0.5), -0.8),
            (lambda u: rq.rounding_diffusion(0.2, u), 0.5),
            (lambda d: chance(1.0, d, "bfloat16"), -1e-3),
            (lambda d: chance(1.0, d, "bfloat16"), 0.1),
            (lambda d: rq.survival(1.0, d, "bfloat16"), 0.01),
            (lambda d: chance(1.0, d, "int8", scale=0.01), 4e-3),
            (lambda d: shares(d).fraction_squared, 2e-3),
        ]
    )
    # In float32, and at a subnormal gap.
    slope = jax.grad(lambda w, d: chance(w, d, "bfloat16"), argnums=1)
    assert slope(jnp.float32(1), jnp.float32(-1e-3)) == -256
    assert slope(jnp.float32(0), jnp.float32(1e-30)) == 0


@jax.jit
def _laws(w, part, sign):
    """For two formats: chances of updates by parts of the gap, and of the mirrored ones."""
    found = []
    for name in ("bfloat16", "float6_e3m2fn"):
        value = rq.nearest_round(w, name).astype(jnp.float32)
        parts = jnp.stack([0 * part, 0.4 * part, part, 1 + 0 * part, 1.5 + 0 * part]).astype(jnp.float32)
        updates = sign * rq.spacing(value, name, direction=sign) * parts
        for rounding in ("nearest", "stochastic"):
            law = jax.vmap(functools.partial(rq.survival, dtype=name, rounding=rounding), in_axes=(None, 0))
            found.append(jnp.stack([law(value, updates), law(-value, -updates)]))
    return found


@rounding
@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 6), st.floats(1e-3, 1), st.sampled_from([-1.0, 1.0]))
def test_survival_properties(w, part, sign):
    """Between 0 and 1, rising with |update|, certain from a whole gap on, nothing for no update, odd symmetric."""
    for chance, mirrored in map(np.asarray, _laws(w, part, np.float32(sign))):
        assert np.all((chance >= 0) & (chance <= 1)) and np.all(np.diff(chance) >= 0)
        assert chance[0] == 0 and chance[-2:].all()
        np.testing.assert_array_equal(mirrored, chance)


@rounding
def test_report():
    params = {"a": RNG.standard_normal((5, 4000)).astype(np.float32), "b": [None, 0.7], "n": np.arange(3)}
    updates = (3e-3 * RNG.standard_normal((5, 4000)) * 10.0 ** RNG.uniform(-1, 1, (5, 4000))).astype(np.float32)
    updates = {"a": updates, "b": [None, np.float32(0)], "n": np.zeros(3)}
    w, d = np.append(params["a"], 0.7), np.append(updates["a"], np.float32(0))
    size = np.abs(d.astype(np.float64))

    @jax.jit
    def both(params, updates, w, d):
        kinds = ("nearest", "stochastic")
        reports = [rq.report(params, updates, "bfloat16", rounding=kind) for kind in kinds]
        return reports, [rq.survival(w, d, "bfloat16", rounding=kind) for kind in kinds]

    for outcome, chance in zip(*both(params, updates, w, d), strict=True):
        q = np.asarray(chance, np.float64)
        assert outcome.fraction == pytest.approx(q.sum() / 20_000, rel=1e-6)
        assert outcome.fraction_abs == pytest.approx((q * size).sum() / size.sum(), rel=1e-6)
        assert outcome.fraction_squared == pytest.approx((q * size**2).sum() / (size**2).sum(), rel=1e-6)
        assert (outcome.size, outcome.nonzero, outcome.overflows, outcome.excluded) == (20_001, 20_000, 0, 0)
        assert outcome.fraction < outcome.fraction_abs < outcome.fraction_squared


@rounding
def test_report_counts_what_it_leaves_out():
    params = {"w": jnp.array([1.0, jnp.nan, 1e9, 440.0, 1.0, 2.0])}
    updates = {"w": jnp.array([1.0, 1.0, 1.0, 100.0, jnp.inf, 0.0])}
    outcome = rq.report(params, updates, "float8_e4m3fn")
    assert (outcome.size, outcome.nonzero, outcome.overflows, outcome.excluded) == (6, 2, 1, 3)
    assert (outcome.fraction, outcome.fraction_abs, outcome.fraction_squared) == (1, 1, 1)
    still = rq.report({"w": jnp.ones(3)}, {"w": jnp.zeros(3)}, "float16")
    assert (still.fraction, still.fraction_abs, still.fraction_squared, still.nonzero) == (0, 0, 0, 0)
    empty = rq.report({}, {}, "float16")
    assert (empty.fraction, empty.size) == (0, 0)


@rounding
def test_report_in_float32(float32):
    """Sums do not underflow, each leaf may answer for its own dtype, and a bfloat16 network is reported in float32."""
    params = {"low": jnp.ones(1000, jnp.bfloat16), "high": jnp.ones(1000)}
    updates = {"low": jnp.full(1000, 1e-3), "high": jnp.full(1000, 1e-3)}
    outcome = rq.report(params, updates)
    assert outcome.fraction.dtype == jnp.float32
    assert outcome.fraction == 0.5
    tiny = rq.report({"w": jnp.zeros(10)}, {"w": jnp.full(10, 1e-30)}, "bfloat16")
    assert (tiny.fraction, tiny.fraction_abs, tiny.fraction_squared) == (1, 1, 1)
    assert rq.survival(1.0, 1e-3, "bfloat16", rounding="stochastic") == pytest.approx(0.128)
    text = jax.jit(rq.report, static_argnums=2).lower(params, updates, "bfloat16").as_text()
    assert "callback" not in text and "custom_call" not in text


def test_lowers_for_accelerators():
    def all_of_it(w, update, key):
        outcome = rq.report([w], [update], "float8_e4m3fn", rounding="stochastic")
        return outcome, rq.stochastic_round(w, "bfloat16", key)

    arguments = jnp.ones(8, jnp.float32), jnp.ones(8, jnp.float32), jax.random.key(0)
    jax.jit(all_of_it).trace(*arguments).lower(lowering_platforms=("cuda", "tpu"))


def test_refusals():
    law = lambda w, d: rq.survival(w, d, "float8_e4m3fn")
    assert_refused(
        [
            (
                lambda x: law(x, 0.1),
                np.nan,
                "Argument `weight` must fit into float8_e4m3fn, but it is not a number",
                1.0,
            ),
            (lambda x: law(x, 0.1), 1e6, "beyond the largest number of float8_e4m3fn.*wider format", 1.0),
            (lambda x: rq.survival(x, 0.1, "float4_e2m1fn"), np.inf, "beyond the largest", 1.0),
            (lambda x: rq.survival(x, 0.1, "int4", scale=1.0), 9.0, "beyond the largest", 1.0),
            (lambda x: law(1.0, x), np.inf, "Argument `update` must be finite", 1.0),
            (lambda x: rq.survival(1.0, 0.1, "int8", scale=x), 0.0, "Argument `scale` must be positive", 1.0),
            (lambda x: rq.nearest_round(1.0, "int8", scale=x), -1.0, "Argument `scale` must be positive", 1.0),
            (lambda x: rq.dithered_step(x, 1.0), np.nan, "Argument `mean` must be finite", 0.1),
            (lambda x: rq.dithered_step(0.1, x), -1.0, "Argument `std` must be non-negative", 0.0),
            (lambda x: rq.dithered_step(0.1, 1.0, x), 0.0, "Argument `spacing` must be positive", 0.1),
            (lambda x: rq.rounding_diffusion(x), np.inf, "Argument `update` must be finite", 0.1),
            (lambda x: rq.rounding_diffusion(0.1, x), -1.0, "Argument `spacing` must be positive", 0.1),
        ]
    )
    for bad in ("float7", "float64", np.float64, "brain", object()):
        with pytest.raises(ValueError, match="Argument `dtype` must be one of .*bfloat16.*but it is"):
            rq.survival(1.0, 0.1, bad)
    with pytest.raises(ValueError, match="Argument `rounding` must be one of"):
        rq.survival(1.0, 0.1, "bfloat16", rounding="up")
    with pytest.raises(ValueError, match="Argument `rounding` must be one of"):
        rq.report({}, {}, "bfloat16", rounding="up")
    with pytest.raises(ValueError, match="Argument `update` must have the shape of `weight`"):
        rq.survival(jnp.ones(2), jnp.ones(3), "bfloat16")
    with pytest.raises(ValueError, match="Argument `scale` must be one number"):
        rq.nearest_round.__wrapped__(jnp.ones(2), "int8", scale=jnp.ones(2))
    with pytest.raises(ValueError, match="Argument `updates` must have the structure of `params`"):
        rq.report({"a": 1.0}, {"b": 1.0}, "bfloat16")
    with pytest.raises(ValueError, match="Argument `updates` must have the shapes of `params`"):
        rq.report({"a": jnp.ones(2)}, {"a": jnp.ones(3)}, "bfloat16")
    with pytest.raises(ValueError, match="shapes are `mean` \\(2,\\), `std` \\(3,\\)"):
        rq.dithered_step(jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match="Argument `dtype` must be a floating-point format"):
        rq.spacing(1.0, "int8")
    assert rq.survival(jnp.inf, 1.0, "bfloat16") == 0.0
