"""Uniformisation: exact systems with gradients, its bound, its guarantees."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from refusals import assert_refused
from systems import JUMP_SYSTEMS

import rxjax_solvers as rxs


@pytest.mark.parametrize("system", JUMP_SYSTEMS, ids=lambda s: type(s).__name__)
def test_exact_states_and_gradients(system):
    """Probabilities, and the gradient of a scalar of them in the rates and in the times."""
    params, ts = jnp.array(system.params), jnp.array([0.0, *system.ts])
    shape = jax.eval_shape(system.exact, params).shape
    p0 = system.p0(shape[1])
    weights = np.cos(np.arange(np.prod(shape), dtype=float)).reshape(shape)

    def scalar(params, ts):
        ps, result, stats = rxs.Uniformization(tol=1e-12).run(system.generator(params), p0, ts)
        return jnp.sum(weights * ps[1:]), (ps, result, stats)

    @jax.jit
    def solved(params, ts):
        (_, (ps, result, stats)), slopes = jax.value_and_grad(scalar, (0, 1), has_aux=True)(params, ts)
        W = system.generator(params)
        slope = jax.grad(lambda q: jnp.sum(weights * system.exact(q)))(params)
        return ps, result, stats, slopes, jax.vmap(W.apply)(ps[1:]), system.exact(params), slope

    ps, result, stats, (by_params, by_time), changes, exact, slope = solved(params, ts)
    np.testing.assert_allclose(ps[1:], exact, atol=1e-12)
    np.testing.assert_array_equal(ps[0], p0)
    assert jnp.min(ps) >= 0 and result == diffrax.RESULTS.successful and stats["error_bound"] == 1e-12
    np.testing.assert_allclose(jnp.sum(ps, axis=1), 1, atol=1e-13)
    np.testing.assert_allclose(by_params, slope, atol=1e-10)
    np.testing.assert_allclose(by_time[1:], np.sum(weights * changes, axis=1), atol=1e-10)


def test_the_bound_bounds_and_is_not_wasteful():
    """Errors against the matrix exponential stay below any `tol`, at q t from 1 to 3000."""
    grid = rxs.Grid(-2, 2, 30)
    W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, 0.3)
    p0 = jnp.zeros(30).at[3].set(7.5)
    matrix = np.asarray(W.as_matrix())
    run = jax.jit(lambda ts, tol: rxs.uniformization(W, p0, ts, tol, differentiate="forward"))
    for t in (0.01, 1.0, 20.0):
        exact = scipy.linalg.expm(t * matrix) @ p0
        for tol in (1e-2, 1e-5, 1e-11):
            ps, stats = run(jnp.array([0.0, t]), tol)
            assert np.sum(np.abs(ps[1] - exact)) * 4 / 30 <= tol + 1e-13
            mean = float(stats["rate"]) * t
            assert int(stats["num_steps"]) <= mean + 4 * np.sqrt(mean * np.log(8 / tol)) + np.log(8 / tol) + 4


def test_mass_and_positivity_for_every_generator():
    """Spiky starts, absorbing sides, all at once in one program; batched over the temperature."""

    def runs(kT):
        closed = rxs.FokkerPlanck.from_potential(
            lambda x: (x[0] ** 2 - 1) ** 2 + x[1] ** 2, rxs.Grid(-2, 2, (12, 9)), kT
        )
        opened = rxs.FokkerPlanck(lambda x: -x / kT, 0.1, rxs.Grid(-1, 1, 30, boundary="absorbing"))
        jump = rxs.MasterEquation.from_rates(
            lambda x, d: jnp.exp(-(d[0] ** 2) - 3 * x[0]) * kT, rxs.Grid(-1, 1, 20, boundary="periodic"), reach=5
        )
        out = []
        for W in (closed, opened, jump):
            assert W.grid is not None
            p0 = W.grid.normalize(jnp.zeros(W.shape).at[(0,) * W.grid.dim].set(1.0))
            ps = rxs.uniformization(W, p0, jnp.array([0.0, 0.01, 0.5]), differentiate="forward")[0]
            # What an absorbing side has taken is the integral of the exit rate: its derivative is checked instead.
            lost = W.grid.integrate(W.apply(ps[2])) + W.grid.integrate(W.exit_rates() * ps[2])
            out.append((W.grid.integrate(ps), jnp.min(ps), lost))
        return out

    with rxs.checks_off():
        closed, opened, jump = jax.jit(jax.vmap(runs))(jnp.array([0.05, 1.0]))
    for mass, lowest, lost in (closed, jump):
        np.testing.assert_allclose(mass, 1, atol=1e-12)
        assert np.all(lowest >= 0) and np.all(np.abs(lost) < 1e-10)
    assert np.all(np.diff(opened[0]) < 0) and np.all(opened[1] >= 0) and np.all(np.abs(opened[2]) < 1e-10)


def test_forward_mode_equals_finite_differences():
    ts = jnp.array([0.0, 0.4])
    p0 = jnp.array([1.0, 0.0, 0.0])
    method = rxs.Uniformization(differentiate="forward", tol=1e-13)

    def last(rate):
        W = rxs.MasterEquation.from_edges(
            [0, 1, 2, 0], [1, 2, 0, 2], jnp.stack([rate, rate**2, 1 / rate, 0.3 * rate]), 3
        )
        return method.run(W, p0, ts)[0][1]

    value = jax.jit(last)
    slope = jax.jit(lambda r: jax.jvp(last, (r,), (jnp.ones(()),))[1])(1.3)
    difference = (value(1.3 + 1e-5) - value(1.3 - 1e-5)) / 2e-5
    np.testing.assert_allclose(slope, difference, atol=1e-9)


def test_too_few_terms_are_reported():
    W = rxs.MasterEquation.from_edges([0, 1], [1, 0], [1.0, 3.0], 2)
    p0, ts = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0, 50.0])
    short, long = (rxs.Uniformization(max_terms=n) for n in (100, 1000))
    ps, result, stats = short.run(W, p0, ts)
    assert result == diffrax.RESULTS.max_steps_reached and stats["error_bound"] == jnp.inf
    np.testing.assert_allclose(jnp.sum(ps, axis=1), 1, atol=1e-12)
    exact = long.run(W, p0, ts)
    assert exact[1] == diffrax.RESULTS.successful and exact[2]["num_steps"] <= 1000
    np.testing.assert_allclose(ps[1], exact[0][1], atol=1e-12)
    # Nothing moves, and nothing divides by the rate zero.
    still = rxs.MasterEquation.from_edges([0, 1], [1, 0], [0.0, 0.0], 2)
    np.testing.assert_allclose(short.run(still, p0, ts)[0], jnp.stack([p0] * 3), atol=1e-15)


def test_in_float32(float32):
    W = rxs.MasterEquation.from_edges([0, 1], [1, 0], [10.0, 30.0], 2)
    ps, _, stats = rxs.Uniformization().run(W, jnp.array([1.0, 0.0]), jnp.array([0.0, 0.05, 100.0]))
    assert ps.dtype == jnp.float32 and stats["num_steps"] > 3000
    np.testing.assert_allclose(ps[1:, 1], (1 - np.exp(-40 * np.array([0.05, 100.0]))) / 4, atol=1e-5)
    np.testing.assert_allclose(jnp.sum(ps, axis=1), 1, atol=1e-5)


def test_refusals():
    W = rxs.MasterEquation.from_edges([0, 1], [1, 0], [1.0, 3.0], 2)
    p0, ts = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    with pytest.raises(ValueError, match="`differentiate` must be one of"):
        rxs.Uniformization(differentiate="both")
    with pytest.raises(ValueError, match="`max_terms` must be at least 1"):
        rxs.Uniformization(max_terms=0)
    moving = rxs.FokkerPlanck(rxs.TimeDependent(lambda t, x: -t * x), 0.1, rxs.Grid(-1, 1, 8))
    with pytest.raises(ValueError, match="`generator` must not depend on time"):
        rxs.Uniformization().run(moving, jnp.ones(8) / 2, ts)
    with pytest.raises(ValueError, match=r"`p0` must have the generator's shape \(2,\), but it has shape \(3,\)"):
        rxs.uniformization(W, jnp.ones(3) / 3, ts)
    assert_refused(
        [
            (lambda tol: rxs.uniformization(W, p0, ts, tol)[0], -1.0, "`tol` must be positive", 1e-3),
            (lambda t: rxs.uniformization(W, p0, jnp.stack([ts[1], t]))[0], 0.5, "`ts` must be .* ascending", 2.0),
        ]
    )
