"""One sweep back for many times: derivatives against dense exponentials, which times it serves, and which not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import rxjax_solvers as rxs
from rxjax_solvers._attempt import operator, transposed_operator
from rxjax_solvers._chebyshev import sweep
from rxjax_solvers._deflated import stationary_law

TIMES = jnp.linspace(0.1, 4.0, 8)


def wells(theta):
    return (theta[0] ** 2 - 1) ** 2 + 2 * jnp.sum(theta[1:] ** 2) + 0.2 * jnp.sum(theta)


def on_a_line(kT):
    return rxs.FokkerPlanck.from_potential(wells, rxs.Grid(-2.0, 2.0, 40), kT)


def on_a_plane(kT):
    return rxs.FokkerPlanck.from_potential(wells, rxs.Grid(-2.0, 2.0, (9, 6)), kT, jnp.array([[1.0, 0.3], [0.3, 0.8]]))


def leaking(kT):
    return rxs.FokkerPlanck.from_potential(wells, rxs.Grid(-1.5, 1.5, 30, boundary=[("reflecting", "absorbing")]), kT)


def states(kT):
    energy = jnp.sin(jnp.arange(12.0))
    return rxs.MasterEquation.from_matrix(_hops(jnp.exp((energy[None] - energy[:, None]) / 2 / kT)))


def turning(kT):
    return rxs.MasterEquation.from_matrix(_hops(jnp.ones((6, 6)) + jnp.roll(jnp.eye(6), 1, 0) / kT))


LONGER = pytest.param(on_a_plane, 0.3, marks=pytest.mark.slow)


def _hops(rates):
    rates = rates * (1 - jnp.eye(len(rates)))
    return rates - jnp.diag(jnp.sum(rates, axis=0))


def swept(make, kT, times, gs, tol):
    """What the sweep serves of `sum_j <gs_j, exp(times_j W) p0>`, and its derivatives in the start and in `kT`."""
    W, pull = eqx.filter_vjp(make, kT)
    p0 = start(W)
    law, result = stationary_law(W)
    law = jnp.where(result == rxs.RESULTS.successful, law * W.mass(p0), 0)
    factor = rxs.factorize(W, shift=jnp.asarray(20.0, times.dtype))
    found = sweep(W, law, factor, operator(factor, law, W)[0], transposed_operator(factor, law)[0], p0, gs, times, tol)
    return found.served, found.dp0, pull(found.slope)[0]


def start(W):
    return jnp.zeros(W.shape, W.outflow().dtype).at[(3,) * len(W.shape)].set(2.0)


def dense(make, kT, p0, times, gs):
    """The derivatives of the sum in `kT`, the start and the times, by exponentials of the whole matrix."""
    matrix = lambda kT: make(kT).as_matrix()
    W, dW = (np.asarray(x) for x in jax.jit(lambda kT: jax.jvp(matrix, (kT,), (jnp.ones_like(kT),)))(jnp.asarray(kT)))
    slope, dp0, dts = 0.0, np.zeros(p0.size), []
    for t, g in zip(np.asarray(times), np.asarray(gs).reshape(len(times), -1), strict=True):
        propagator, change = scipy.linalg.expm_frechet(t * W, t * dW)
        slope, dp0 = slope + g @ change @ np.ravel(p0), dp0 + g @ propagator
        dts.append(g @ W @ propagator @ np.ravel(p0))
    return slope, dp0.reshape(p0.shape), np.array(dts)


def weights(make, kT, times=TIMES):
    return np.random.default_rng(0).normal(size=(len(times), *make(kT).shape))


@pytest.mark.parametrize("make, kT", [(on_a_line, 0.05), LONGER, (leaking, 0.3), (states, 0.5)])
def test_derivatives(make, kT):
    """To far more than `tol`, of which the slopes are a part; in single precision to some roundings of the terms."""
    gs = weights(make, kT)
    slope, dp0, _ = dense(make, kT, start(make(kT)), TIMES, gs)
    served, *found = jax.jit(lambda kT: swept(make, kT, TIMES, jnp.asarray(gs), jnp.array(1e-9)))(kT)
    assert np.all(served)
    np.testing.assert_allclose(found[0], dp0, atol=1e-9)
    np.testing.assert_allclose(found[1], slope, rtol=1e-9)
    with jax.enable_x64(False):
        single = [jnp.asarray(x, jnp.float32) for x in (kT, TIMES, gs, 1e-4)]
        served, *found = jax.jit(lambda kT, *rest: swept(make, kT, *rest))(*single)
    assert np.all(served)
    np.testing.assert_allclose(found[0], dp0, atol=1e-3)
    np.testing.assert_allclose(found[1], slope, rtol=1e-4)


def test_left_to_others():
    """Currents, whose modes turn; times out of reach of one series; and fewer times than are worth it."""
    early = jnp.concatenate([jnp.array([1e-4]), TIMES, jnp.array([1e9])])
    cases = [
        (turning, TIMES, jnp.ones(8, bool)),
        (states, early, jnp.ones(10, bool)),
        (states, TIMES, jnp.arange(8.0) < 4),
    ]
    for (make, times, used), known in zip(cases, (0, 8, 0), strict=True):
        gs = jnp.where(used[:, None], weights(make, 0.5, times), 0)
        run = jax.jit(lambda kT, make=make, times=times, gs=gs: swept(make, kT, times, gs, jnp.array(1e-9)))
        served, dp0, slope = run(0.5)
        assert np.sum(served) == known and (known == 0 or np.all(served[1:-1]))
        if known == 0:
            assert not np.any(dp0) and slope == 0


def test_many_times_at_once():
    """Temperature, start and times through `ShiftInvert`, the last time for itself, two temperatures at once."""
    ts = jnp.concatenate([jnp.zeros(1), TIMES, jnp.array([1e3])])
    gs = jnp.asarray(weights(on_a_line, 0.1, ts[1:]))

    def total(kT, p0, ts):
        ps, _, stats = rxs.ShiftInvert().run(on_a_line(kT), p0, ts)
        return jnp.sum(gs * ps[1:]), stats["num_factors"]

    kTs, p0 = jnp.array([0.1, 0.3]), on_a_line(0.1).grid.gaussian(-1.0, 0.2)
    found = jax.jit(jax.vmap(jax.grad(total, argnums=(0, 1, 2), has_aux=True), (0, None, None)))(kTs, p0, ts)[0]
    for kT, *slopes in zip(kTs, *found, strict=True):
        slope, dp0, dts = dense(on_a_line, kT, p0, ts[1:], gs)
        for one, right in zip(slopes, (slope, dp0, np.array([-np.sum(dts), *dts])), strict=True):
            np.testing.assert_allclose(one, right, atol=1e-7)
