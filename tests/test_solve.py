"""The front door: what it returns, refuses, passes on; jit, vmap and derivatives."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import rxjax_solvers as rxs
from rxjax_solvers import _results, _solve
from rxjax_solvers._sweeps import factor

GRID = rxs.Grid(-2.0, 2.0, (20, 16))
TS = jnp.array([0.0, 0.2, 0.7])


def wells(a, theta):
    return (theta[0] ** 2 - 1) ** 2 + 2 * theta[1] ** 2 + a * theta[0] * theta[1]


@jax.jit
def run(kT, rtol, atol):
    """The split step on a plane, and one time only."""
    W = rxs.FokkerPlanck.from_potential(lambda x: wells(0.5, x), GRID, kT)
    p0 = GRID.gaussian(jnp.array([-1.0, 0.0]), 0.3)
    return p0, rxs.solve(W, p0, TS, rtol=rtol, atol=atol, method=rxs.Strang()), rxs.solve(W, p0, TS[2:])


def test_returns_the_times_and_the_start():
    p0, sol, one = run(0.3, 1e-2, 1e-6)
    np.testing.assert_array_equal(sol.ts, TS)
    np.testing.assert_allclose(sol.ps[0], p0, rtol=1e-12)
    assert sol.ps.shape == (3, 20, 16) and sol.result == rxs.RESULTS.successful
    assert int(sol.stats["num_accepted_steps"]) + int(sol.stats["num_rejected_steps"]) == int(sol.stats["num_steps"])
    np.testing.assert_allclose(sol.stats["mass"], 1, atol=1e-13)
    assert sol.stats["min"] >= 0 and sol.method == "Strang"
    np.testing.assert_array_equal(one.ps[0], p0)


def test_reaches_the_error_it_promises():
    final = lambda rtol, atol: np.asarray(run(0.3, rtol, atol)[1].ps[-1])
    fine = final(1e-5, 1e-9)
    error = lambda rtol, atol: np.sum(np.abs(final(rtol, atol) - fine)) * 0.05
    assert error(1e-2, 1e-6) < 2e-3
    assert error(0.0, 1e-6) < 3e-5


def test_jit_equals_eager_and_passes_options_on():
    small = rxs.Grid(-2.0, 2.0, 12)
    W = rxs.FokkerPlanck.from_potential(lambda x: x[0] ** 2, small, 0.5)
    p0 = small.gaussian(-1, 0.4)
    eager = rxs.solve(W, p0, TS, progress_meter=diffrax.NoProgressMeter())
    dense = diffrax.SaveAt(t1=True, steps=True)
    mean = diffrax.SaveAt(ts=TS[1:], fn=lambda t, p, args: small.integrate(small.axes[0] * p))
    plain = diffrax.SaveAt(ts=TS[1:])
    compiled, dense, few, means, saved = jax.jit(
        lambda W, p0: (
            rxs.solve(W, p0, TS, method=rxs.Strang()),
            rxs.solve(W, p0, TS, saveat=dense),
            rxs.solve(W, p0, TS, method=rxs.Strang(), max_steps=2, throw=False),
            rxs.solve(W, p0, TS, saveat=mean),
            rxs.solve(W, p0, TS, saveat=plain),
        )
    )(W, p0)
    np.testing.assert_array_equal(eager.ps[0], p0)
    np.testing.assert_allclose(eager.ps, compiled.ps, rtol=1e-11)
    assert dense.ts is not None and dense.ps.ndim == 2 and jnp.all(dense.ts[0] > 0)
    assert few.result == rxs.RESULTS.max_steps_reached
    np.testing.assert_allclose(means.ps, small.integrate(small.axes[0][None] * saved.ps), rtol=1e-12)
    assert "mass" in dense.stats and "mass" not in means.stats
    with pytest.raises(Exception, match="maximum number of solver steps"):
        rxs.solve(W, p0, TS, method=rxs.Strang(), max_steps=2)


def test_vmap_over_64_temperatures_equals_the_loop():
    grid = rxs.Grid(-2.0, 2.0, 24)

    def one(kT):
        W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, kT)
        return rxs.solve(W, grid.gaussian(-1.0, 0.3), TS, method=rxs.Strang()).ps

    temperatures = jnp.geomspace(0.05, 5.0, 64)
    loop, together = jax.jit(lambda t: (jax.lax.map(one, t), jax.vmap(one)(t)))(temperatures)
    np.testing.assert_allclose(together, loop, rtol=1e-10, atol=1e-13)


def test_the_method_is_chosen_by_the_problem():
    """Detailed balance on one axis; else the horizon, which inside `jit` is known at run time only."""
    line, ring = rxs.Grid(-2.0, 2.0, 32), rxs.Grid(0.0, 2 * jnp.pi, 12, "periodic")

    @jax.jit
    def balanced():
        W = rxs.FokkerPlanck(lambda x: -x, 0.5, line)
        return rxs.solve(W, line.gaussian(-1.0, 0.3), [0.0, 1e6]), rxs.stationary(W)

    sol, law = balanced()
    assert sol.method == "Rational" and sol.stats["min"] >= 0
    np.testing.assert_allclose(sol.stats["mass"], 1, rtol=1e-14)
    np.testing.assert_allclose(sol.ps[-1], law, rtol=1e-11)

    def driven(t):
        W = rxs.FokkerPlanck(jnp.array([0.7]), 0.2, ring)
        sol = rxs.solve(W, ring.gaussian(1.0, 0.5), jnp.stack([jnp.zeros(()), t]))
        return sol, sol.stats["far"]

    near, far = 0.5, 1e6
    (a, was_far), (b, is_far) = (jax.jit(driven)(t) for t in (near, far))
    assert a.method == b.method == "Strang or ShiftInvert" and not was_far and is_far
    assert a.stats["min"] >= 0 and a.result == b.result == rxs.RESULTS.successful
    np.testing.assert_allclose(b.ps[-1], 1 / (2 * np.pi), rtol=1e-9)
    # One decision for all members: a batch of decisions would run both methods for each.
    assert jax.vmap(_solve._largest, out_axes=None)(jnp.array([1.0, 3.0])) == 3
    chain = rxs.MasterEquation.from_edges([0, 1], [1, 0], [1.0, 3.0], size=2)
    near, far = (rxs.solve(chain, jnp.array([1.0, 0.0]), [0.0, t]) for t in (0.5, 1e6))
    assert near.method == "Uniformization" and far.method == "ShiftInvert"
    np.testing.assert_allclose(near.ps[-1][1], (1 - np.exp(-2)) / 4, rtol=1e-9)
    np.testing.assert_allclose(far.ps[-1], [0.75, 0.25], rtol=1e-12)


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


def test_gradient_through_the_choice_made_inside_jit():
    source, target = np.array([(i, (i + k) % 8) for i in range(8) for k in (1, 7, 5)]).T
    rates = 0.2 + jax.random.uniform(jax.random.key(0), source.shape)
    start = jnp.zeros(8).at[0].set(1.0)

    @jax.jit
    @jax.value_and_grad
    def value(a, horizon):
        W = rxs.MasterEquation.from_edges(source, target, rates**a, 8)
        ps = rxs.solve(W, start, jnp.stack([jnp.zeros(()), horizon])).ps
        return ps[-1] @ jnp.arange(8.0)

    for horizon in (0.5, 1e5):
        slope = value(1.0, horizon)[1]
        difference = (value(1 + 1e-5, horizon)[0] - value(1 - 1e-5, horizon)[0]) / 2e-5
        np.testing.assert_allclose(slope, difference, rtol=1e-6)


@pytest.mark.slow
def test_forward_mode_equals_reverse_mode():
    def run(a, adjoint):
        grid = rxs.Grid(-2.0, 2.0, 12)
        W = rxs.FokkerPlanck.from_potential(lambda x: a * (x[0] ** 2 - 1) ** 2, grid, 0.3)
        return jnp.sum(rxs.solve(W, grid.gaussian(-1.0, 0.3), TS, adjoint=adjoint).ps[-1] ** 2)

    forward = jax.jit(jax.jacfwd(lambda a: run(a, diffrax.ForwardMode())))(0.5)
    reverse = jax.jit(jax.grad(lambda a: run(a, diffrax.RecursiveCheckpointAdjoint())))(0.5)
    np.testing.assert_allclose(forward, reverse, rtol=1e-9)


CHAIN = rxs.Grid(-2.0, 2.0, 12)


def mean_of(a, method):
    W = rxs.FokkerPlanck.from_potential(lambda x: a[0] * (x[0] ** 2 - 1) ** 2, CHAIN, a[1])
    ps = rxs.solve(W, CHAIN.gaussian(-0.5, 0.4), jnp.array([0.0, 0.5]), method=method).ps
    return jnp.vdot(jnp.arange(12.0), ps[-1])


@pytest.mark.slow
def test_hessian_on_one_axis():
    """Against differences of gradients; compiling it takes ten seconds."""
    both = jax.jit(lambda a: (jax.grad(mean_of)(a, None), jax.hessian(mean_of)(a, None)))
    a, step = jnp.array([0.5, 0.4]), 1e-5 * jnp.eye(2)
    differences = [(both(a + h)[0] - both(a - h)[0]) / 2e-5 for h in step]
    np.testing.assert_allclose(both(a)[1], jnp.stack(differences), rtol=1e-6)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_batch_of_tangents_at_one_place(periodic):
    """As a Hessian has them: `vmap` around `jvp`, where only the tangents are a batch."""
    up, down = jnp.linspace(0.5, 1, 6)[:, None], jnp.linspace(1, 0.4, 6)[:, None]
    chain = factor(up, down, jnp.full((6, 1), 0.3), periodic)
    at, directions = jnp.arange(6.0)[:, None], jnp.eye(6)[:, :, None]
    for solve in (lambda d: chain.solve(d), lambda d: chain.transpose_solve(d)):
        pushed = jax.vmap(lambda v, solve=solve: jax.jvp(solve, (at,), (v,))[1])(directions)
        np.testing.assert_allclose(pushed, jax.vmap(solve)(directions), rtol=1e-14)


@pytest.mark.parametrize("method", [rxs.ShiftInvert(), rxs.Uniformization(), rxs.Strang()])
def test_second_derivatives_are_not_wrong_in_silence(method):
    with pytest.raises(ValueError, match="second derivative must not"):
        jax.eval_shape(jax.hessian(lambda a: mean_of(a, method)), jnp.array([0.5, 0.4]))


def test_float32(float32):
    @jax.jit
    def short():
        grid = rxs.Grid(-2.0, 2.0, 20)
        W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, 0.3)
        return W.as_matrix(), rxs.solve(W, grid.gaussian(-1.0, 0.3), [0.0, 0.2, 0.7], method=rxs.Strang())

    matrix, sol = short()
    assert sol.ps.dtype == jnp.float32
    np.testing.assert_allclose(sol.stats["mass"], 1, atol=3e-5)
    assert sol.stats["min"] >= 0
    ps = np.asarray(sol.ps, np.float64)
    exact = scipy.linalg.expm(0.7 * np.asarray(matrix, np.float64)) @ ps[0]
    assert np.sum(np.abs(ps[-1] - exact)) * 0.2 < 1e-3


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


def test_a_method_is_an_object_and_tolerances_have_a_sign():
    with pytest.raises(ValueError, match="`rtol` must be non-negative and finite, but it is negative"):
        rxs.solve(FREE, FLAT, TS, method=rxs.Strang(), rtol=-1e-3)
    with pytest.raises(ValueError, match="`atol` must be non-negative and finite, but it is negative"):
        rxs.solve(FREE, FLAT, TS, method=rxs.Strang(), atol=-1e-3)
    with pytest.raises(ValueError, match="`p0` must have the generator's dtype float64, but it is float32"):
        rxs.solve(FREE, FLAT.astype(jnp.float32), TS)
    with pytest.raises(ValueError, match="`max_krylov` must be at least 1, but it is 0"):
        rxs.ShiftInvert(max_krylov=0)
    with pytest.raises(ValueError, match="`max_factors` must be at least 1, but it is 0"):
        rxs.ShiftInvert(max_factors=0)
    for rtol, atol, words in ((-1e-3, 1e-5, "`rtol` must be .* is negative"), (0.0, jnp.nan, "`atol` must .* finite")):
        with pytest.raises(ValueError, match=words):
            rxs.DensityController(rtol=rtol, atol=atol)
    for method in ("strang", rxs.Strang):
        with pytest.raises(ValueError, match=r"`method` must be Strang\(\), .*, an object, but it is .*[sS]trang"):
            rxs.solve(FREE, FLAT, TS, method=method)
    with pytest.raises(ValueError, match=r"`adjoint` must not be BacksolveAdjoint\(\), which carries the density back"):
        rxs.solve(FREE, FLAT, TS, adjoint=diffrax.BacksolveAdjoint())


def test_refusals_inside_jit():
    small = rxs.Grid(-2.0, 2.0, 8)
    W = rxs.FokkerPlanck(jnp.zeros(1), 1.0, small)
    flat = jnp.full(8, 0.25)
    late = jax.jit(lambda p0, ts: rxs.solve(W, p0, ts).ps)
    assert late(flat, TS).shape == (3, 8)
    with pytest.raises(Exception, match="`p0` must be non-negative and finite, but it is negative"):
        late(flat.at[0].set(-0.1), TS)
    with pytest.raises(Exception, match="`p0` must have mass 1 within 1e-3, but it has another mass"):
        late(flat * 1.1, TS)
    with pytest.raises(Exception, match="`ts` must be finite and strictly ascending"):
        late(flat, TS[::-1])


@pytest.mark.parametrize("method", [None, rxs.ShiftInvert(), rxs.Uniformization()])
def test_without_checks_a_solve_calls_nothing_on_the_host(method):
    """As `jax.export` needs it."""
    small = rxs.Grid(-2.0, 2.0, 8)

    def late(kT, p0):
        W = rxs.FokkerPlanck.from_potential(lambda x: x[0] ** 2, small, kT)
        return rxs.solve(W, p0, TS, method=method).ps

    lowered = lambda: jax.jit(lambda *args: late(*args)).lower(0.5, jnp.full(8, 0.25)).as_text()
    with rxs.checks_off():
        assert "callback" not in lowered()
    assert "callback" in lowered()


def test_integer_lists_and_off_by_one_mass_are_accepted():
    small = rxs.Grid(-2, 2, 8)
    W = rxs.FokkerPlanck(jnp.zeros(1), 1.0, small)
    sol = rxs.solve(W, jnp.full(8, 0.25 * 1.0005), [0, 1])
    np.testing.assert_allclose(sol.stats["mass"], 1.0005, rtol=1e-12)


@pytest.mark.parametrize("method", [None, rxs.ShiftInvert(), rxs.Uniformization(), rxs.Strang()])
def test_a_second_solve_compiles_nothing(method, caplog):
    """Outside `jit` too a solve is one program, kept for the next generator of its shape."""
    grid = rxs.Grid(-2.0, 2.0, 14)

    def ask(kT):
        W = rxs.FokkerPlanck(lambda x: -x * (x**2 - 1), kT, grid)
        with jax.log_compiles():
            caplog.clear()
            rxs.solve(W, grid.gaussian(0.1, 0.5 + kT), [0.0, kT], method=method)
        return sum(record.getMessage().startswith("Compiling ") for record in caplog.records)

    ask(0.3)
    assert ask(0.2) == 0


def test_large_answers_are_refused_in_parts(monkeypatch):
    """Whichever part is read; and nothing else is done to them or to their derivatives."""
    monkeypatch.setattr(_results, "_LARGE", 1)
    x = jnp.arange(12.0).reshape(3, 2, 2)

    def refused(x, failed):
        result = rxs.RESULTS.where(failed, rxs.RESULTS.not_converged, rxs.RESULTS.successful)
        return _results.answer(x, result, True)

    part = jax.jit(lambda x, failed: refused(x, failed)[-1, 1:])
    np.testing.assert_array_equal(part(x, jnp.array(False)), x[-1, 1:])
    with pytest.raises(Exception, match="did not reach its tolerance"):
        part(x, jnp.array(True)).block_until_ready()
    # Outside of `jit` in words alone, as small ones are.
    with pytest.raises(eqx.EquinoxRuntimeError, match="An iteration did not reach its tolerance"):
        refused(x, jnp.array(True))
    cubes = lambda x, failed: jnp.sum(refused(x, failed) ** 3)
    slope, (_, bend) = jax.jit(
        jax.vmap(
            lambda x, failed: (jax.grad(cubes)(x, failed), jax.jvp(lambda x: jax.grad(cubes)(x, failed), [x], [x]))
        )
    )(x[None], jnp.array([False]))
    np.testing.assert_allclose(slope[0], 3 * x**2)
    np.testing.assert_allclose(bend[0], 6 * x**2)


@pytest.mark.parametrize("t0, t1", [(0.0, 1.0), (1.0, 0.0)])
def test_another_solver_lands_on_times_in_both_directions(t0, t1):
    """Densities flow forwards alone, but a solver of diffrax's with this controller may go back."""
    landing = jnp.array([0.3, 0.7])
    controller = rxs.DensityController(rtol=1e-2, atol=1e-4, step_ts=landing)
    decay = diffrax.ODETerm(lambda t, y, args: -y)

    @jax.jit
    def solve(y):
        steps = diffrax.SaveAt(steps=True)
        return diffrax.diffeqsolve(
            decay, diffrax.Heun(), t0, t1, None, y, saveat=steps, stepsize_controller=controller, max_steps=500
        )

    found = solve(jnp.array([0.25, 0.75]))
    assert all(jnp.any(found.ts == t) for t in landing)
    last = found.ys[jnp.argmax(found.ts == t1)]
    np.testing.assert_allclose(last, np.exp(t0 - t1) * np.array([0.25, 0.75]), rtol=1e-4)
