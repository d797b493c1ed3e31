"""Proposals: densities that integrate to one, samples, closed-form moment generating functions against mpmath."""

import equinox as eqx
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


log_densities = eqx.filter_jit(lambda proposal, deltas: jax.vmap(proposal.log_density)(deltas))
moments = eqx.filter_jit(lambda proposal, tilt: (proposal.log_mgf(tilt), proposal.tilted_mean(tilt)))
slopes = eqx.filter_jit(lambda proposal, tilt: jax.grad(proposal.log_mgf)(tilt))


def exact_bessel(x, dim):
    """log of Gamma(d/2+1) (2/x)^(d/2) I_{d/2}(x), and I_{d/2+1}/(x I_{d/2}), by 40 digits."""
    with mp.workdps(40):
        x, order = mp.mpf(float(x)), mp.mpf(dim) / 2
        value, above = mp.besseli(order, x), mp.besseli(order + 1, x)
        log = mp.loggamma(order + 1) + order * mp.log(2 / x) + mp.log(value)
        return float(log), float(above / x / value)


@pytest.mark.parametrize("dim", [1, 2, 13, 20, 500])
def test_bessel_against_mpmath(dim):
    exact = np.array([exact_bessel(x, dim) for x in X])
    for dtype, rtol in ((np.float64, 1e-12), (np.float32, 1e-6)):
        y = (X**2).astype(dtype)
        np.testing.assert_allclose(log_bessel(y, dim), exact[:, 0], rtol=rtol)
        np.testing.assert_allclose(log_bessel_slope(y, dim), exact[:, 1], rtol=rtol)


def test_bessel_at_zero_and_its_derivatives():
    y, dims = np.array([0.0, 1e-3, 2.0, 300.0]), (1, 3, 20, 40)

    @jax.jit
    def derivatives(y):
        return [jax.vmap(jax.value_and_grad(lambda y, d=d: log_bessel(y, d)))(y) for d in dims]

    for dim, (value, slope) in zip(dims, derivatives(y), strict=True):
        np.testing.assert_allclose(2 * np.asarray(slope), log_bessel_slope(y, dim), rtol=1e-14)
        assert value[0] == 0.0
        assert 2 * slope[0] == pytest.approx(1 / (dim + 2), rel=1e-14)
    assert_gradients([(lambda y, d=d: log_bessel_slope(y, d), y) for d in (1, 40) for y in (0.1, 30.0)])


def nodes(proposal, dim):
    """A product rule of 40 Gauss-Legendre points an axis that covers the support, or eight widths of a Gaussian."""
    points, weights = np.polynomial.legendre.leggauss(40)
    width = {"Gaussian": lambda: 8 * proposal.std, "Box": lambda: proposal.half_width}[type(proposal).__name__]()
    width = np.broadcast_to(np.asarray(width), (dim,))
    grid = np.stack(np.meshgrid(*[points] * dim, indexing="ij"), -1).reshape(-1, dim) * width
    volume = np.prod(np.stack(np.meshgrid(*[weights] * dim, indexing="ij"), -1).reshape(-1, dim) * width, axis=1)
    return grid, volume


@pytest.mark.parametrize("proposal", [*PROPOSALS[:2], *PER_AXIS])
def test_density_and_moments_by_quadrature(proposal):
    tilt = np.array([1.3, -0.4])
    grid, volume = nodes(proposal, len(tilt))
    density = volume * np.exp(log_densities(proposal, grid))
    assert np.sum(density) == pytest.approx(1.0, rel=1e-9)
    tilted = density * np.exp(grid @ tilt)
    log, mean = moments(proposal, tilt)
    assert np.sum(tilted) == pytest.approx(np.exp(log), rel=1e-9)
    np.testing.assert_allclose(tilted @ grid / np.sum(tilted), mean, rtol=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_ball_by_quadrature(dim):
    """Slices across the tilt: balls of one dimension less and of radius sqrt(r^2 - x^2)."""
    proposal, slope = Ball(0.7), 2.1
    angles = (np.arange(4000) + 0.5) * np.pi / 4000
    x = 0.7 * np.cos(angles)
    weights = np.sin(angles) ** dim / np.sum(np.sin(angles) ** dim)
    log, jump = moments(proposal, slope * np.eye(dim)[-1])
    mean = float(np.sum(weights * np.exp(slope * x)))
    assert log == pytest.approx(np.log(mean), rel=1e-6)
    np.testing.assert_allclose(jump[-1], np.sum(weights * x * np.exp(slope * x)) / mean, rtol=1e-6)
    volume = {1: 2.0, 2: np.pi, 3: 4 / 3 * np.pi}[dim] * 0.7**dim
    inside, outside = log_densities(proposal, np.array([[0.39], [0.71 / np.sqrt(dim)]]) * np.ones(dim))
    assert inside == pytest.approx(-np.log(volume))
    assert outside == -np.inf


@pytest.mark.parametrize("proposal", [*PROPOSALS, PER_AXIS[1]])
def test_samples(proposal):
    draws = jax.jit(lambda key: proposal.sample(key, (200, 100, 2)))(jax.random.key(0)).reshape(-1, 2)
    assert np.all(np.isfinite(log_densities(proposal, draws)))
    # Mean and variance, of which the latter is the tilted mean per small tilt.
    variance = np.array([moments(proposal, 1e-6 * v)[1] @ v / 1e-6 for v in np.eye(2)])
    draws = np.asarray(draws)
    np.testing.assert_allclose(np.mean(draws, 0) / np.sqrt(variance), np.zeros(2), atol=4 / np.sqrt(20_000))
    np.testing.assert_allclose(np.var(draws, 0), variance, rtol=0.05)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_strong_and_zero_tilts(proposal):
    direction = np.array([1.0, -2.0, 0.0])
    for scale in (0.0, 1e-200, 1e-9, 1e4, 1e8):
        log, mean = moments(proposal, scale * direction)
        np.testing.assert_allclose(slopes(proposal, scale * direction), mean, rtol=1e-13)
        assert np.isfinite(log)
    if not isinstance(proposal, Gaussian):
        expected = [0.7, -0.7, 0.0] if isinstance(proposal, Box) else 0.7 * direction / np.sqrt(5)
        np.testing.assert_allclose(mean, expected, rtol=1e-6)


def far_moments(proposal, tilt, radius):
    """Logarithm, mean, slopes by the tilt and by the width, and slopes of the mean."""
    log = lambda tilt, radius: proposal(radius).log_mgf(tilt)
    mean = lambda tilt: proposal(radius).tilted_mean(tilt)
    return log(tilt, radius), mean(tilt), *jax.grad(log, (0, 1))(tilt, radius), jax.jacfwd(mean)(tilt)


@pytest.mark.parametrize("proposal", [Ball, Box])
def test_tilts_whose_squares_overflow(proposal, float32):
    """Up to the largest numbers, as float64 has them and, at its own end, as they must be."""
    direction, both = np.array([0.6, -0.8, 0.0]), jax.jit(far_moments, static_argnums=0)
    for scale, radius in ((1e4, 1.0), (1e15, 0.5), (3e19, 1.0), (1e30, 2.0), (2e38, 0.1), (2e38, 1e-25)):
        tilt = (scale * direction).astype(np.float32)
        got = both(proposal, tilt, np.float32(radius))
        with jax.enable_x64(True):
            exact = both(proposal, tilt.astype(np.float64), np.float64(np.float32(radius)))
        for one, other in zip(got, exact, strict=True):
            assert one.dtype == jnp.float32
            np.testing.assert_allclose(one, other, rtol=3e-6, atol=1e-37)
    with jax.enable_x64(True):
        log, mean, slope, by_radius, _ = both(proposal, 1e300 * direction, np.float64(1e-3))
        length = 1.4 if proposal is Box else 1.0
        np.testing.assert_allclose([log, by_radius / 1e3], [length * 1e297] * 2, rtol=1e-14)
        np.testing.assert_allclose(mean, 1e-3 * (np.sign(direction) if proposal is Box else direction), rtol=1e-14)
        np.testing.assert_allclose(slope, mean, rtol=1e-14)


def test_an_interval_is_a_ball_and_high_dimensions_are_gaussian():
    for tilt in (np.array([0.3]), np.array([50.0])):
        np.testing.assert_allclose(moments(Box(0.7), tilt)[0], moments(Ball(0.7), tilt)[0], rtol=1e-13)
    dim = 100_000
    tilt = np.full(dim, 0.01)
    assert moments(Ball(np.sqrt(dim + 2)), tilt)[0] == pytest.approx(dim * 0.01**2 / 2, rel=1e-4)


def test_gradients_and_vmap():
    tilt, delta = jnp.array([1.3, -0.4, 2.0]), jnp.array([0.1, -0.2, 0.3])
    cases = []
    for kind in (Gaussian, Box, Ball):
        cases.append((lambda x, kind=kind: kind(x).log_mgf(tilt * x), 0.9))
        cases.append((lambda x, kind=kind: jnp.sum(kind(x).tilted_mean(tilt + x)), 0.9))
        cases.append((lambda x, kind=kind: kind(x).log_density(delta), 0.9))
    assert_gradients(cases)
    widths = np.array([0.1, 1.0, 10.0])
    for kind in (Gaussian, Box, Ball):
        swept = jax.jit(jax.vmap(lambda w, kind=kind: kind(w).log_mgf(tilt)))(widths)
        np.testing.assert_allclose(swept, [moments(kind(w), tilt)[0] for w in widths], rtol=1e-13)


def test_float32(float32):
    v = np.array([1.0, -2.0, 0.5], np.float32)
    for proposal in (Gaussian(0.7), Box(0.7), Ball(0.7)):
        assert proposal.sample(jax.random.key(0), (3, 4)).dtype == jnp.float32
        for scale in (1e-8, 1.0, 1e3):
            log, mean = moments(proposal, scale * v)
            assert log.dtype == jnp.float32
            np.testing.assert_allclose(mean, slopes(proposal, scale * v), rtol=1e-6)
    x = 0.7 * np.abs(np.asarray(v, np.float64))
    assert float(moments(Box(0.7), v)[0]) == pytest.approx(np.sum(np.log(np.sinh(x) / x)), rel=1e-6)


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
