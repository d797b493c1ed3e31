"""Proposals: densities that integrate to one, samples, closed-form moment generating functions against mpmath."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from finite_differences import assert_gradients
from refusals import assert_refused

from rxjax.proposals import Ball, Box, Gaussian
from rxjax.proposals._bessel import log_bessel, log_bessel_slope

X = np.concatenate([np.logspace(-6, 4, 31), [3.0, 16.0, 33.0]])
PROPOSALS = [Gaussian(0.7), Box(0.7), Ball(0.7)]
PER_AXIS = [Gaussian(jnp.array([0.2, 1.5])), Box(jnp.array([0.2, 1.5]))]


def exact_bessel(x, dim):
    """log of Gamma(d/2+1) (2/x)^(d/2) I_{d/2}(x), and I_{d/2+1}/(x I_{d/2}), by 40 digits."""
    with mp.workdps(40):
        x, order = mp.mpf(float(x)), mp.mpf(dim) / 2
        value, above = mp.besseli(order, x), mp.besseli(order + 1, x)
        log = mp.loggamma(order + 1) + order * mp.log(2 / x) + mp.log(value)
        return float(log), float(above / x / value)


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8, 13, 20, 32, 500])
def test_bessel_against_mpmath(dim):
    exact = np.array([exact_bessel(x, dim) for x in X])
    for dtype, rtol in ((jnp.float64, 3e-13), (jnp.float32, 1e-6)):
        y = jnp.asarray(X**2, dtype)
        np.testing.assert_allclose(log_bessel(y, dim), exact[:, 0], rtol=rtol)
        np.testing.assert_allclose(log_bessel_slope(y, dim), exact[:, 1], rtol=rtol)


def test_bessel_at_zero_and_its_derivatives():
    y = jnp.array([0.0, 1e-3, 2.0, 300.0])
    for dim in (1, 2, 20, 100):
        first = jax.vmap(jax.grad(lambda y, dim=dim: log_bessel(y, dim)))(y)
        np.testing.assert_allclose(2 * first, log_bessel_slope(y, dim), rtol=1e-14)
        assert log_bessel(y, dim)[0] == 0.0
        assert 2 * first[0] == pytest.approx(1 / (dim + 2), rel=1e-14)
    assert_gradients([(lambda y, d=d: log_bessel_slope(y, d), y) for d in (1, 3, 40) for y in (0.1, 30.0)])


def nodes(proposal, dim):
    """A product rule of 40 Gauss-Legendre points an axis that covers the support, or eight widths of a Gaussian."""
    points, weights = np.polynomial.legendre.leggauss(40)
    width = {"Gaussian": lambda: 8 * proposal.std, "Box": lambda: proposal.half_width}[type(proposal).__name__]()
    width = np.broadcast_to(np.asarray(width), (dim,))
    grid = np.stack(np.meshgrid(*[points] * dim, indexing="ij"), -1).reshape(-1, dim) * width
    volume = np.prod(np.stack(np.meshgrid(*[weights] * dim, indexing="ij"), -1).reshape(-1, dim) * width, axis=1)
    return jnp.asarray(grid), jnp.asarray(volume)


@pytest.mark.parametrize("proposal", [*PROPOSALS[:2], *PER_AXIS])
def test_density_and_moments_by_quadrature(proposal):
    dim = 2
    tilt = jnp.array([1.3, -0.4])
    grid, volume = nodes(proposal, dim)
    density = volume * jnp.exp(jax.vmap(proposal.log_density)(grid))
    assert jnp.sum(density) == pytest.approx(1.0, rel=1e-9)
    tilted = density * jnp.exp(grid @ tilt)
    assert jnp.sum(tilted) == pytest.approx(float(jnp.exp(proposal.log_mgf(tilt))), rel=1e-9)
    np.testing.assert_allclose(tilted @ grid / jnp.sum(tilted), proposal.tilted_mean(tilt), rtol=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_ball_by_quadrature(dim):
    """Slices across the tilt: balls of one dimension less and of radius sqrt(r^2 - x^2)."""
    proposal, slope = Ball(0.7), 2.1
    angles = (np.arange(4000) + 0.5) * np.pi / 4000
    x = 0.7 * np.cos(angles)
    weights = np.sin(angles) ** dim / np.sum(np.sin(angles) ** dim)
    tilt = jnp.zeros(dim).at[-1].set(slope)
    mean = float(np.sum(weights * np.exp(slope * x)))
    assert proposal.log_mgf(tilt) == pytest.approx(np.log(mean), rel=1e-6)
    jump = float(np.sum(weights * x * np.exp(slope * x))) / mean
    np.testing.assert_allclose(proposal.tilted_mean(tilt)[-1], jump, rtol=1e-6)
    volume = {1: 2.0, 2: np.pi, 3: 4 / 3 * np.pi}[dim] * 0.7**dim
    assert proposal.log_density(0.39 * jnp.ones(dim)) == pytest.approx(-np.log(volume))
    assert proposal.log_density(0.71 * jnp.ones(dim) / np.sqrt(dim)) == -jnp.inf


@pytest.mark.parametrize("proposal", [*PROPOSALS, *PER_AXIS])
def test_samples(proposal):
    dim = 2
    draws = proposal.sample(jax.random.key(0), (200, 100, dim)).reshape(-1, dim)
    assert jnp.all(jnp.isfinite(jax.vmap(proposal.log_density)(draws)))
    # Mean and variance, of which the latter is the tilted mean per small tilt.
    variance = jax.vmap(proposal.tilted_mean)(1e-6 * jnp.eye(dim)).diagonal() / 1e-6
    np.testing.assert_allclose(jnp.mean(draws, 0) / jnp.sqrt(variance), jnp.zeros(dim), atol=4 / np.sqrt(20_000))
    np.testing.assert_allclose(jnp.var(draws, 0), variance, rtol=0.05)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_strong_and_zero_tilts(proposal):
    for scale in (0.0, 1e-200, 1e-9, 1e4, 1e8):
        tilt = scale * jnp.array([1.0, -2.0, 0.0])
        log, mean = jax.jit(jax.value_and_grad(proposal.log_mgf))(tilt)
        np.testing.assert_allclose(mean, proposal.tilted_mean(tilt), rtol=1e-13)
        assert jnp.isfinite(log)
    if not isinstance(proposal, Gaussian):
        expected = [0.7, -0.7, 0.0] if isinstance(proposal, Box) else 0.7 * np.array([1.0, -2.0, 0.0]) / np.sqrt(5)
        np.testing.assert_allclose(mean, expected, rtol=1e-6)


def test_an_interval_is_a_ball_and_high_dimensions_are_gaussian():
    for tilt in (0.3, 50.0):
        assert Box(0.7).log_mgf(jnp.array([tilt])) == pytest.approx(float(Ball(0.7).log_mgf(jnp.array([tilt]))))
    dim = 100_000
    tilt = jnp.full(dim, 0.01)
    assert Ball(np.sqrt(dim + 2)).log_mgf(tilt) == pytest.approx(float(Gaussian(1.0).log_mgf(tilt)), rel=1e-4)


def test_gradients_and_vmap():
    tilt, delta = jnp.array([1.3, -0.4, 2.0]), jnp.array([0.1, -0.2, 0.3])
    cases = []
    for kind in (Gaussian, Box, Ball):
        cases.append((lambda x, kind=kind: kind(x).log_mgf(tilt * x), 0.9))
        cases.append((lambda x, kind=kind: jnp.sum(kind(x).tilted_mean(tilt + x)), 0.9))
        cases.append((lambda x, kind=kind: kind(x).log_density(delta), 0.9))
    assert_gradients(cases)
    widths = jnp.array([0.1, 1.0, 10.0])
    for kind in (Gaussian, Box, Ball):
        swept = jax.vmap(lambda w, kind=kind: kind(w).log_mgf(tilt))(widths)
        np.testing.assert_allclose(swept, [kind(w).log_mgf(tilt) for w in widths], rtol=1e-13)


def test_float32(float32):
    for proposal in (Gaussian(0.7), Box(0.7), Ball(0.7)):
        assert proposal.sample(jax.random.key(0), (3, 4)).dtype == jnp.float32
        for scale in (1e-8, 1.0, 1e3):
            tilt = scale * jnp.array([1.0, -2.0, 0.5])
            assert proposal.log_mgf(tilt).dtype == jnp.float32
            assert not jnp.any(jnp.isnan(jax.grad(proposal.log_mgf)(tilt)))
    tilt = np.array([1.0, -2.0, 0.5])
    exact = sum(np.log(np.sinh(0.7 * np.abs(tilt)) / (0.7 * np.abs(tilt))))
    assert float(Box(0.7).log_mgf(tilt)) == pytest.approx(exact, rel=1e-6)


def test_bad_numbers():
    v = jnp.ones(2)
    cases = []
    for kind, name in ((Gaussian, "std"), (Box, "half_width"), (Ball, "radius")):
        cases.append((lambda x, kind=kind: kind(x).log_mgf(v), 0.0, name, 1e-9))
        cases.append((lambda x, kind=kind: kind(x).log_mgf(v), jnp.nan, name, 1e9))
        cases.append((lambda x, kind=kind: kind(1.0).tilted_mean(x * v), jnp.inf, "tilt", 0.0))
        cases.append((lambda x, kind=kind: kind(1.0).log_density(x * v), jnp.nan, "delta", 0.0))
    assert_refused(cases)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Ball(jnp.ones(2)), "radius"),
        (lambda: Gaussian(jnp.eye(2)), "std"),
        (lambda: Box(1j), "half_width"),
        (lambda: Box(1.0).log_mgf(jnp.eye(2)), r"shape \(d,\)"),
        (lambda: Gaussian(jnp.ones(2)).log_mgf(jnp.ones(3)), "as the proposal"),
        (lambda: Gaussian(jnp.ones(2)).sample(jax.random.key(0), (5, 3)), "end with the dimension 2"),
        (lambda: Ball(1.0).sample(jax.random.key(0), ()), "shape"),
    ],
)
def test_bad_calls(call, words):
    with pytest.raises(Exception, match=words):
        call()
