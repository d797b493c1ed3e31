"""From a loss and hyperparameters to a density: units, noise, refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rxjax as rx

GRID = rx.solvers.Grid(-3.0, 3.0, 60)
BOWL = rx.landscapes.Quadratic(jnp.array([[2.0]]))
TS = jnp.array([0.0, 0.5, 6.0])


def run(hyperparameters, covariance, landscape: Any = BOWL, grid=GRID, ts=TS, **options):
    p0 = grid.gaussian(0.5, 0.4)
    return rx.probability_flow(landscape, hyperparameters, covariance, grid, p0, ts, **options)


def variance(flow):
    x = flow.grid.axes[0]
    mean = flow.grid.integrate(x * flow.ps[-1])
    return flow.grid.integrate((x - mean) ** 2 * flow.ps[-1])


@pytest.mark.parametrize(
    "momentum, sampling, noise",
    [(0.0, "with_replacement", 1 / 10), (0.9, "with_replacement", 1 / 10), (0.0, "without_replacement", 0.09)],
)
def test_stationary_variance_and_units(momentum, sampling, noise):
    """A bowl of curvature h: variance `(eta/2) C / h`, and time is learning rate x steps, over 1 - momentum."""
    settings = rx.Hyperparameters(0.02, 10, 91, momentum, sampling)
    flow = jax.jit(lambda s: run(settings, s))(200.0)
    rate = 0.02 / (1 - momentum)
    kT = rate / 2 * 200 * noise
    np.testing.assert_allclose(flow.temperature, kT, rtol=1e-12)
    np.testing.assert_allclose(flow.steps, TS / rate, rtol=1e-12)
    # The truncated bowl at high kT is not Gaussian: compare with the Gibbs law on the grid.
    gibbs = GRID.normalize(jnp.exp(-(GRID.axes[0] ** 2) / kT))
    x = GRID.axes[0]
    np.testing.assert_allclose(variance(flow), GRID.integrate(gibbs * x**2), rtol=1e-3)
    np.testing.assert_allclose(flow.eta_h, rate * 2, rtol=1e-2)
    assert bool(flow.valid) == (rate * 2 <= 0.2)
    np.testing.assert_allclose(flow.loss, flow.grid.integrate(flow.ps * flow.energy[None]), rtol=1e-12)


def test_noise_that_depends_on_place_follows_ito():
    flat = lambda theta: 0 * theta[0]
    settings = rx.Hyperparameters(0.1, 1, 10)
    flow = jax.jit(lambda a: run(settings, lambda theta: a * (1 + theta[0] ** 2), flat, ts=jnp.array([0.0, 60.0])))(
        20.0
    )
    exact = GRID.normalize(1 / (1 + GRID.axes[0] ** 2))
    np.testing.assert_allclose(flow.ps[-1], exact, atol=2e-3)
    mean = GRID.integrate(GRID.gaussian(0.5, 0.4) * (1 + GRID.axes[0] ** 2))
    np.testing.assert_allclose(flow.temperature, 0.05 * 20 * mean, rtol=1e-9)


def test_anisotropic_noise_on_a_plane():
    grid = rx.solvers.Grid(-2.0, 2.0, (32, 32))
    bowl = rx.landscapes.Quadratic(jnp.diag(jnp.array([2.0, 4.0])))
    settings = rx.Hyperparameters(0.02, 1, 10)
    flow = jax.jit(lambda c: run(settings, c, bowl, grid, jnp.array([0.0, 8.0])))(jnp.array([20.0, 10.0]))
    x, y = jnp.moveaxis(grid.points, -1, 0)
    exact = grid.normalize(jnp.exp(-(x**2) / 0.2 - 2 * y**2 / 0.1))
    assert grid.integrate(jnp.abs(flow.ps[-1] - exact)) < 1e-4


def test_absorbing_sides_lose_mass():
    grid = rx.solvers.Grid(-1.0, 1.0, 40, boundary="absorbing")
    flow = run(rx.Hyperparameters(0.1, 1, 10), 10.0, grid=grid)
    assert flow.stats["mass"][-1] < 0.2


def test_the_loss_of_a_plane_is_a_landscape():
    loss = lambda params: jnp.sum((params["w"] ** 2 - 1) ** 2)
    params = {"w": jnp.zeros(3)}
    directions = [{"w": jnp.array([1.0, 0.0, 0.0])}]
    flow = run(rx.Hyperparameters(0.01, 1, 10), 10.0, rx.landscapes.plane(loss, params, directions))
    np.testing.assert_allclose(flow.energy, (GRID.axes[0] ** 2 - 1) ** 2 + 2, rtol=1e-12)


SETTINGS = rx.Hyperparameters(0.1, 1, 10)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: run(SETTINGS, -1.0), "`covariance` must be finite and positive semi-definite, but it is negative"),
        (lambda: run(SETTINGS, jnp.nan), "`covariance` .* is not finite"),
        (lambda: run(SETTINGS, jnp.ones((1, 1))), "`covariance` must be a scalar, have shape"),
        (lambda: run(SETTINGS, lambda theta: theta - 1), "`covariance` .* is negative"),
        (lambda: run(SETTINGS, 1.0, lambda theta: theta), r"`landscape` must return an array of shape \(\)"),
        (lambda: run(SETTINGS, 1.0, lambda theta: jnp.int32(1)), "`landscape` must return floating-point"),
        (lambda: run(SETTINGS, 1.0, lambda theta: theta[0] / 0), "`landscape` must be finite on the grid"),
        (lambda: run(SETTINGS, 1.0, ts=TS[::-1]), "`ts` must be finite and strictly ascending"),
        (lambda: run(rx.Hyperparameters(0.1, 1, 10, sampling="epoch"), 1.0), "epoch"),
        (lambda: rx.Hyperparameters(-0.1, 1, 10), "`learning_rate` must be positive"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_refusals_inside_jit():
    flow = jax.jit(lambda c, s: run(SETTINGS, c, lambda theta: s * theta[0] ** 2).loss)
    assert jnp.all(jnp.isfinite(flow(1.0, 1.0)))
    with pytest.raises(Exception, match="`covariance` must be finite and positive semi-definite, but it is negative"):
        flow(-1.0, 1.0)
    with pytest.raises(Exception, match="`landscape` must be finite on the grid, but it is not finite there"):
        flow(1.0, jnp.inf)
