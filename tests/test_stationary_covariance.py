"""The exact stationary covariance of SGD: known cases, an independent solver, a simulation, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from refusals import assert_refused
from scipy.linalg import solve_discrete_lyapunov

from rxjax._stationary_covariance import sgd_stationary_covariance

RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.standard_normal((3, 3)))[0]
H = BASIS @ np.diag([0.1, 0.5, 2.0]) @ BASIS.T
H = (H + H.T) / 2
C = np.cov(RNG.standard_normal((3, 5)))


def variance(h, c, eta, mu=0.0):
    return sgd_stationary_covariance(h, c, eta, mu)[0, 0]


@pytest.mark.parametrize(
    "eta, mu, expected",
    [(0.1, 0, 0.05263), (0.5, 0, 0.33333), (1.5, 0, 3.0), (0.1, 0.9, 0.51351), (1.0, 0.9, 6.7857)],
)
def test_one_dimension(eta, mu, expected):
    assert variance(1.0, 1.0, eta, mu) == pytest.approx(expected, rel=5e-5)
    h, c = 0.7, 2.3
    exact = eta * c * (1 + mu) / ((1 - mu) * h * (2 * (1 + mu) - eta * h))
    assert variance(h, c, eta, mu) == pytest.approx(exact, rel=1e-13)


def test_energy_balance():
    """Tr(HS) - (eta/2) Tr(HSH) = (eta/2) tr C."""
    h, c, eta = np.diag([0.1, 0.5, 2.0]), np.diag([3.0, 1.0, 0.2]), 0.1
    for hessian, covariance in ((h, c), (np.diagonal(h), np.diagonal(c))):
        s = np.asarray(sgd_stationary_covariance(hessian, covariance, eta))
        assert np.trace(h @ s) - eta / 2 * np.trace(h @ s @ h) == pytest.approx(0.21, rel=1e-12)
        assert np.trace(h @ s) / 2 == pytest.approx(0.10657, rel=5e-5)
    isotropic = sgd_stationary_covariance(h, 2, eta)
    np.testing.assert_allclose(isotropic, sgd_stationary_covariance(h, 2 * np.eye(3), eta), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
def test_against_the_lyapunov_equation_of_the_update(mu):
    """Hessian and noise that do not commute: the 2d-dimensional linear update, solved by SciPy."""
    eta = 0.6
    eye, zero = np.eye(3), np.zeros((3, 3))
    update = np.block([[(1 + mu) * eye - eta * H, -mu * eye], [eye, zero]])
    noise = np.block([[eta**2 * C, zero], [zero, zero]])
    expected = solve_discrete_lyapunov(update, noise)[:3, :3]
    s = np.asarray(jax.jit(sgd_stationary_covariance)(H, C, eta, mu))
    np.testing.assert_allclose(s, expected, rtol=1e-10, atol=1e-12)
    assert np.array_equal(s, s.T)
    # The equation of the docstring.
    left = (1 - mu) * (s @ H + H @ s) - eta * (1 - mu) / (1 + mu) * H @ s @ H
    left += eta * mu / (1 - mu**2) * (H @ H @ s + s @ H @ H - 2 * H @ s @ H)
    np.testing.assert_allclose(left, eta * C, rtol=1e-10, atol=1e-12)


def test_simulation():
    eta, mu = 0.5, 0.5
    factor = np.linalg.cholesky(C)
    theta, v = np.zeros((20_000, 3)), np.zeros((20_000, 3))
    for _ in range(150):
        v = mu * v + theta @ H + RNG.standard_normal((20_000, 3)) @ factor.T
        theta = theta - eta * v
    expected = np.asarray(sgd_stationary_covariance(H, C, eta, mu))
    np.testing.assert_allclose(np.cov(theta.T), expected, atol=0.03 * np.max(np.diagonal(expected)))


def test_vmap_and_precision():
    etas, curvatures = np.array([1e-4, 0.01, 0.5, 0.99]), np.array([0.5, 1.0])
    solve = lambda eta, scale: sgd_stationary_covariance(scale * H, C, eta, 0.9)
    grid = jax.jit(jax.vmap(jax.vmap(solve, (None, 0)), (0, None)))
    wide = np.asarray(grid(etas, curvatures))
    each = jax.jit(solve)
    for i, eta in enumerate(etas):
        for j, scale in enumerate(curvatures):
            np.testing.assert_allclose(wide[i, j], each(eta, scale), rtol=1e-10)
    narrow = sgd_stationary_covariance(H.astype(np.float32), C.astype(np.float32), np.float32(0.01), np.float32(0.9))
    assert narrow.dtype == jnp.float32
    exact = sgd_stationary_covariance(H, C, 0.01, 0.9)
    np.testing.assert_allclose(narrow, exact, atol=1e-4 * float(jnp.max(exact)))


def test_gradients():
    h, c = jnp.asarray(H), jnp.asarray(C)
    weights = jnp.asarray(RNG.standard_normal((3, 3)))
    value = lambda h, c, eta, mu: jnp.sum(weights * sgd_stationary_covariance(h, c, eta, mu))
    twins = jnp.diag(jnp.array([1.0, 1.0, 0.5]))  # eigenvectors of a double eigenvalue have no derivative
    off = jnp.zeros((3, 3)).at[0, 1].set(1.0).at[1, 0].set(1.0)
    assert_gradients(
        [
            (lambda eta: value(h, c, eta, 0.5), 0.6),
            (lambda mu: value(h, c, 0.6, mu), 0.5),
            (lambda mu: value(h, c, 0.6, mu), 0.0 + 1e-2),
            (lambda x: value(h + x * off, c, 0.6, 0.5), 0.02),
            (lambda x: value(twins + x * off, c, 0.6, 0.5), 0.0),
            (lambda x: value(h, c * x, 0.6, 0.5), 1.3),
            # The second derivative too.
            (jax.grad(lambda x: value(twins + x * off, c, 0.6, 0.5)), 0.0),
        ]
    )


def test_refusals():
    h, c = jnp.asarray(H), jnp.asarray(C)
    solve = sgd_stationary_covariance
    assert_refused(
        [
            (lambda x: solve(x, 1.0, 0.1), 0.0, "Argument `hessian` must be positive definite.*flat direction", 1.0),
            (lambda x: solve(x * h, c, 0.1), -1.0, "Argument `hessian` must be positive definite", 1.0),
            (lambda x: solve(h.at[0, 1].add(x), c, 0.1), 1.0, "Argument `hessian` must be symmetric", 0.0),
            (lambda x: solve(x * h, c, 0.1), np.nan, "Argument `hessian` must be finite", 1.0),
            (lambda x: solve(h, x, 0.1), -1.0, "Argument `covariance`", 1.0),
            (lambda x: solve(h, c, x), 1.01, "Argument `learning_rate` must be stable.*critical", 0.9),
            (lambda x: solve(h, c, x, 0.9), 1.91, "Argument `learning_rate` must be stable", 1.89),
            (lambda x: solve(h, c, x), 0.0, "Argument `learning_rate` must be positive", 0.9),
            (lambda x: solve(h, c, 0.1, x), 1.0, "Argument `momentum` must lie in", 0.9),
        ]
    )
    with pytest.raises(ValueError, match="Argument `covariance` must have shape"):
        solve(h, jnp.ones(2), 0.1)
    with pytest.raises(ValueError, match="Argument `hessian` must have shape"):
        solve(jnp.ones((2, 3)), 1.0, 0.1)
    with pytest.raises(ValueError, match="Argument `learning_rate` must be one number.*Vmap"):
        solve(h, c, jnp.ones(2))
