"""Estimates from two batch sizes: unbiased on simulated gradients, exact on expectations, precision and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from refusals import assert_refused

from rxjax.measure import noise_from_two_batches

TRACE, SQUARE, SMALL, LARGE = 52.5, 0.5, 8, 64


def test_exact_on_expectations():
    """E|G_b|^2 = |G|^2 + tr Sigma_1 / b."""
    noise = noise_from_two_batches(SQUARE + TRACE / SMALL, SQUARE + TRACE / LARGE, SMALL, LARGE)
    assert noise.trace == pytest.approx(TRACE, rel=1e-12)
    assert noise.squared_gradient == pytest.approx(SQUARE, rel=1e-12)
    assert noise.critical_batch_size == pytest.approx(105.0, rel=1e-12)


def test_unbiased_on_simulated_gradients():
    """Fifty parameters, 100,000 trials: each mean within four standard errors, and the ratio of the means."""
    rng, trials, dim = np.random.default_rng(0), 100_000, 50
    gradient = np.full(dim, np.sqrt(SQUARE / dim))
    small, large = (
        np.sum((gradient + np.sqrt(TRACE / dim / b) * rng.standard_normal((trials, dim))) ** 2, axis=1)
        for b in (SMALL, LARGE)
    )
    noise = noise_from_two_batches(small, large, SMALL, LARGE)
    for estimates, exact in ((noise.trace, TRACE), (noise.squared_gradient, SQUARE)):
        estimates = np.asarray(estimates)
        assert abs(estimates.mean() - exact) < 4 * estimates.std() / np.sqrt(trials) < 0.01 * exact
    assert noise.critical_batch_size == pytest.approx(105.0, rel=0.01)
    # The mean of the ratios is no estimate: single estimates of the squared gradient pass through zero.
    assert abs(np.mean(np.asarray(noise.trace) / np.asarray(noise.squared_gradient)) - 105.0) > 5


def test_precision_vmap_and_gradients(float32):
    small, large = np.array([6.0, 9.0], np.float32), np.array([2.0, 1.0], np.float32)
    noise = jax.jit(noise_from_two_batches)(small, large, 8, 64)
    assert noise.trace.dtype == jnp.float32
    np.testing.assert_allclose(noise.trace, (small - large) * 512 / 56, rtol=1e-6)
    low = noise_from_two_batches(jnp.bfloat16(6), jnp.bfloat16(2), 8, 64)
    assert low.trace.dtype == jnp.float32 and float(low.trace) == pytest.approx(256 / 7)
    swept = jax.vmap(lambda b: noise_from_two_batches(6.0, 2.0, b, 64).trace)(jnp.array([8, 16]))
    np.testing.assert_allclose(swept, [256 / 7, 4 * 64 / 3], rtol=1e-6)


def test_gradients():
    assert_gradients(
        [
            (lambda x: noise_from_two_batches(x, 0.3 * x**2, 8 * x, 64).trace, 1.3),
            (lambda x: noise_from_two_batches(x, 0.3 * x**2, 8, 64 * x).critical_batch_size, 1.3),
        ]
    )


def test_refusals():
    noise = noise_from_two_batches
    assert_refused(
        [
            (lambda x: noise(x, 1.0, 8, 64).trace, -1.0, "Argument `small_squared_norm`", 1.0),
            (lambda x: noise(1.0, x, 8, 64).trace, np.nan, "Argument `large_squared_norm`", 1.0),
            (lambda x: noise(1.0, 1.0, x, 64).trace, 0.0, "Argument `small_batch`", 8.0),
            (lambda x: noise(1.0, 1.0, 8, x).trace, 8.0, "Argument `large_batch` must exceed `small_batch`", 64.0),
        ]
    )
    with pytest.raises(ValueError, match="Argument `large_squared_norm` must have the shape"):
        noise(np.ones(2), np.ones(3), 8, 64)
    with pytest.raises(ValueError, match="Argument `small_batch` must be one number.*Vmap"):
        noise(np.ones(2), np.ones(2), np.ones(2), 64)
