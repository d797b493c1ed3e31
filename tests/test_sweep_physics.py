"""Sweeps over learning rate and batch size: time depends on eta/B, and its logarithm on 1/eta by the barrier."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rxjax as rx

SIGMA1, WALKERS = 200.0, 600
WELL = rx.landscapes.DoubleWell()


def escape(learning_rate, batch_size):
    """Mean time from one minimum of the double well to the other, by the diffusion."""
    run = rx.Hyperparameters(learning_rate, batch_size, 1e6)
    grid = rx.solvers.Grid(-2.0, 2.0, 200)
    temperature = run.learning_rate / 2 * rx.batch_covariance(SIGMA1, run)
    W = rx.solvers.FokkerPlanck.from_potential(WELL, grid, temperature)
    tau, result = rx.solvers.mean_first_passage_time(W, lambda x: x[0] >= 1, throw=False)
    return {"time": jnp.interp(-1.0, grid.axes[0], tau), "result": result, "eta_h": 8 * learning_rate}


def simulated(learning_rate, batch_size, key):
    """The same by SGD itself: steps of the learning rate with the noise of a batch, until a walker arrives."""
    std = learning_rate * jnp.sqrt(SIGMA1 / batch_size)

    def step(carry):
        x, steps, i = carry
        kick = std * jax.random.normal(jax.random.fold_in(key, i), x.shape)
        moved = x - learning_rate * 4 * x * (x**2 - 1) + kick
        there = x >= 1
        return jnp.where(there, x, moved), steps + (~there).astype(steps.dtype), i + 1

    start = -jnp.ones(WALKERS), jnp.zeros(WALKERS, jnp.int64), 0
    _, steps, _ = jax.lax.while_loop(lambda c: jnp.any(c[0] < 1), step, start)
    return {"time": learning_rate * jnp.mean(steps.astype(float))}


@pytest.mark.slow
def test_time_is_constant_along_lines_of_constant_noise_scale():
    ratio, batches = 0.0035, np.array([2.0, 4.0, 5.0, 30.0])
    axes: dict[str, Any] = dict(learning_rate=ratio * batches, batch_size=batches)
    diffusion = rx.sweep(escape, zipped=True, **axes)
    sgd = rx.sweep(simulated, zipped=True, seed=0, **axes).time.values
    np.testing.assert_allclose(diffusion.time, diffusion.time[0], rtol=1e-12)
    valid = diffusion.eta_h.values <= 0.2
    assert list(valid) == [True, True, True, False]
    # The standard error of the mean of 600 exponential times is 4 %.
    np.testing.assert_allclose(sgd[valid], diffusion.time.values[valid], rtol=0.15)
    # Beyond the flag SGD leaves earlier: the check above could fail.
    assert sgd[3] < 0.8 * float(diffusion.time[3])


def test_slope_of_the_logarithm_is_the_barrier():
    rates = np.geomspace(2e-4, 4e-4, 6)
    data = rx.sweep(escape, learning_rate=rates, batch_size=[1.0, 2.0])
    assert np.all(data.status == "ok")
    for i, batch in enumerate((1.0, 2.0)):
        fit = rx.fit_rate_scaling(jnp.asarray(rates), 1 / jnp.asarray(data.time.values[:, i]))
        # kT = eta Sigma_1 / 2B, so that log time = barrier / kT = (2B barrier / Sigma_1) / eta.
        np.testing.assert_allclose(fit.c * SIGMA1 / (2 * batch), 1.0, rtol=0.01)
