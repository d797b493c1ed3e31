"""The front door: what it returns, refuses, passes on; jit, vmap and derivatives."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rxjax_solvers as rxs

GRID = rxs.Grid(-2.0, 2.0, (20, 16))
TS = jnp.array([0.0, 0.2, 0.7])


def wells(a, theta):
    return (theta[0] ** 2 - 1) ** 2 + 2 * theta[1] ** 2 + a * theta[0] * theta[1]


def final(kT, **options):
    W = rxs.FokkerPlanck.from_potential(lambda x: wells(0.5, x), GRID, kT)
    return rxs.solve(W, GRID.gaussian(jnp.array([-1.0, 0.0]), 0.3), TS, **options)


def test_returns_the_times_and_the_start():
    sol = jax.jit(lambda kT: final(kT))(0.3)
    np.testing.assert_array_equal(sol.ts, TS)
    np.testing.assert_allclose(sol.ps[0], GRID.gaussian(jnp.array([-1.0, 0.0]), 0.3), rtol=1e-12)
    assert sol.ps.shape == (3, 20, 16) and sol.result == rxs.RESULTS.successful
    assert int(sol.stats["num_accepted_steps"]) + int(sol.stats["num_rejected_steps"]) == int(sol.stats["num_steps"])
    np.testing.assert_allclose(sol.stats["mass"], 1, atol=1e-13)
    assert sol.stats["min"] >= 0
    one = rxs.solve(rxs.FokkerPlanck(jnp.zeros(2), 1.0, GRID), sol.ps[0], jnp.array([3.0]))
    np.testing.assert_array_equal(one.ps[0], sol.ps[0])


def test_reaches_the_error_it_promises():
    run = jax.jit(lambda rtol, atol: final(0.3, rtol=rtol, atol=atol).ps[-1])
    fine = run(1e-5, 1e-9)
    error = lambda rtol, atol: GRID.integrate(jnp.abs(run(rtol, atol) - fine))
    assert error(1e-2, 1e-6) < 2e-3
    assert error(0.0, 1e-6) < 3e-5


def test_jit_equals_eager_and_passes_options_on():
    small = rxs.Grid(-2.0, 2.0, 12)
    W = rxs.FokkerPlanck.from_potential(lambda x: x[0] ** 2, small, 0.5)
    p0 = small.gaussian(-1, 0.4)
    eager = rxs.solve(W, p0, TS, progress_meter=diffrax.NoProgressMeter())
    compiled = jax.jit(lambda W, p0: rxs.solve(W, p0, TS))(W, p0)
    np.testing.assert_array_equal(eager.ps[0], p0)
    np.testing.assert_allclose(eager.ps, compiled.ps, rtol=1e-11)
    dense = rxs.solve(W, p0, TS, saveat=diffrax.SaveAt(t1=True, steps=True))
    assert dense.ts is not None and dense.ps.ndim == 2 and jnp.all(dense.ts[0] > 0)
    few = rxs.solve(W, p0, TS, max_steps=2, throw=False)
    assert few.result == rxs.RESULTS.max_steps_reached
    with pytest.raises(Exception, match="maximum number of solver steps"):
        rxs.solve(W, p0, TS, max_steps=2)


def test_vmap_over_64_temperatures_equals_the_loop():
    grid = rxs.Grid(-2.0, 2.0, 24)
    run = lambda kT: (
        rxs.solve(
            rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, kT), grid.gaussian(-1.0, 0.3), TS
        ).ps
    )
    temperatures = jnp.geomspace(0.05, 5.0, 64)
    one = jax.jit(run)
    loop = jnp.stack([one(kT) for kT in temperatures])
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(temperatures), loop, rtol=1e-10, atol=1e-13)


def observable(x):
    """All kinds of parameters at once: temperature, drift, start, bounds."""
    grid = rxs.Grid(-2.0, x[4] * jnp.array([2.0, 2.0]), (12, 10))
    W = rxs.FokkerPlanck(lambda q: -x[1] * q + jnp.array([q[1], 0.0]), jnp.array([x[0], 0.4]), grid)
    p0 = grid.gaussian(jnp.array([x[2], 0.0]), x[3])
    # Constant steps: an adaptive run's step sizes move with the parameters, in jumps.
    p = rxs.solve(W, p0, TS, stepsize_controller=diffrax.ConstantStepSize(), dt0=0.1).ps[-1]
    return grid.integrate(p * grid.points[..., 0] ** 3)


POINT = jnp.array([0.3, 1.2, -0.7, 0.4, 1.1])


def test_gradient_equals_finite_differences():
    both = jax.jit(jax.value_and_grad(observable))
    f, gradient = lambda x: both(x)[0], both(POINT)[1]
    h = 1e-4
    for i in range(5):
        e = jnp.zeros(5).at[i].set(h)
        slope = (f(POINT - 2 * e) - 8 * f(POINT - e) + 8 * f(POINT + e) - f(POINT + 2 * e)) / (12 * h)
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_forward_mode_equals_reverse_mode():
    def run(a, adjoint):
        grid = rxs.Grid(-2.0, 2.0, 12)
        W = rxs.FokkerPlanck.from_potential(lambda x: a * (x[0] ** 2 - 1) ** 2, grid, 0.3)
        return jnp.sum(rxs.solve(W, grid.gaussian(-1.0, 0.3), TS, adjoint=adjoint).ps[-1] ** 2)

    forward = jax.jit(jax.jacfwd(lambda a: run(a, diffrax.ForwardMode())))(0.5)
    reverse = jax.jit(jax.grad(lambda a: run(a, diffrax.RecursiveCheckpointAdjoint())))(0.5)
    np.testing.assert_allclose(forward, reverse, rtol=1e-9)


def test_float32(float32):
    def run():
        grid = rxs.Grid(-2.0, 2.0, 20)
        W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, 0.3)
        return rxs.solve(W, grid.gaussian(-1.0, 0.3), [0.0, 0.2, 0.7])

    sol = jax.jit(run)()
    assert sol.ps.dtype == jnp.float32
    np.testing.assert_allclose(sol.stats["mass"], 1, atol=3e-5)
    assert sol.stats["min"] >= 0
    with jax.enable_x64(True):
        exact = jax.jit(lambda: run())()
    assert np.sum(np.abs(np.asarray(sol.ps[-1], np.float64) - np.asarray(exact.ps[-1]))) * 0.2 < 1e-3


FREE = rxs.FokkerPlanck(jnp.zeros(2), 1.0, GRID)
FLAT = jnp.full((20, 16), 1 / 16.0)


@pytest.mark.parametrize(
    "p0, ts, words",
    [
        (jnp.ones((16, 20)), TS, r"`p0` must have the grid's shape \(20, 16\), but it has shape \(16, 20\)"),
        (FLAT.at[0, 0].set(-1.0), TS, "`p0` must be non-negative and finite, but it is negative"),
        (FLAT.at[0, 0].set(jnp.nan), TS, "`p0` must be non-negative and finite, but it is not finite"),
        (0 * FLAT, TS, "`p0` must have mass 1 within 1e-3, but it has zero mass: got mass 0.*grid.normalize"),
        (2 * FLAT, TS, "`p0` must have mass 1 within 1e-3, but it has another mass: got mass 2"),
        (FLAT, jnp.array([0.0, 0.0]), "`ts` must be finite and strictly ascending, but it is not"),
        (FLAT, jnp.array([1.0, 0.0]), "`ts` must be finite and strictly ascending"),
        (FLAT, jnp.array([0.0, jnp.inf]), "`ts` must be finite and strictly ascending, but it is not finite"),
        (FLAT, jnp.array([]), "`ts` must be a vector of at least one time"),
    ],
)
def test_refusals(p0, ts, words):
    with pytest.raises(ValueError, match=words):
        rxs.solve(FREE, p0, ts)


def test_refusals_inside_jit():
    small = rxs.Grid(-2.0, 2.0, 8)
    W = rxs.FokkerPlanck(jnp.zeros(1), 1.0, small)
    flat = jnp.full(8, 0.25)
    run = jax.jit(lambda p0, ts: rxs.solve(W, p0, ts).ps)
    assert run(flat, TS).shape == (3, 8)
    with pytest.raises(Exception, match="`p0` must be non-negative and finite, but it is negative"):
        run(flat.at[0].set(-0.1), TS)
    with pytest.raises(Exception, match="`p0` must have mass 1 within 1e-3, but it has another mass"):
        run(flat * 1.1, TS)
    with pytest.raises(Exception, match="`ts` must be finite and strictly ascending"):
        run(flat, TS[::-1])


def test_integer_lists_and_off_by_one_mass_are_accepted():
    small = rxs.Grid(-2, 2, 8)
    W = rxs.FokkerPlanck(jnp.zeros(1), 1.0, small)
    sol = rxs.solve(W, jnp.full(8, 0.25 * 1.0005), [0, 1])
    np.testing.assert_allclose(sol.stats["mass"], 1.0005, rtol=1e-12)
