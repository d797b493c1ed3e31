"""Strang splitting: order, mass, positivity, Gibbs, elimination orders, plain diffrax."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import rxjax_solvers as rxs
from rxjax_solvers import _sweeps as sweeps
from rxjax_solvers._face_rates import AxisRates
from rxjax_solvers._steppers.strang import _relaxed

# Where rounding is the subject, compile as users do.
rounding = pytest.mark.usefixtures("optimized")


def steps(W, p0, h, n):
    """`n` constant steps by hand, compiled once for any `n`; also the largest error estimate."""
    solver, term = rxs.Strang(), rxs.GeneratorTerm(W)
    state = solver.init(term, 0.0, h, p0, None)

    def step(i, carry):
        p, state, largest = carry
        t = jnp.asarray(i, p.dtype) * h
        p, error, _, state, _ = solver.step(term, t, t + h, p, None, state, False)
        return p, state, jnp.maximum(largest, jnp.sum(jnp.abs(error)))

    return jax.lax.fori_loop(0, n, step, (p0, state, jnp.zeros((), p0.dtype)))


def rotating(grid, kT=0.3):
    """Neither separable nor reversible, so no part of the error vanishes."""
    drift = lambda x: jnp.array([-4 * x[0] * (x[0] ** 2 - 1) - x[1], -2 * x[1] + x[0] ** 2])
    return rxs.FokkerPlanck(drift, jnp.array([kT, kT / 2]), grid)


SYSTEMS = {
    "1d": lambda: (rxs.Grid(-2, 2, 64), lambda g: rxs.FokkerPlanck(lambda x: -4 * x**3 + 4 * x, 0.3, g)),
    "2d": lambda: (rxs.Grid(-2, 2, (24, 20)), rotating),
    "ring": lambda: (
        rxs.Grid(0, 6, (16, 18), boundary="periodic"),
        lambda g: rxs.FokkerPlanck(lambda x: jnp.array([1 + jnp.sin(x[1]), jnp.cos(x[0])]), 0.5, g),
    ),
    "3d": lambda: (
        rxs.Grid(-2, 2, (12, 10, 8)),
        lambda g: rxs.FokkerPlanck(lambda x: jnp.array([x[1] - x[0], x[2] - x[1], -x[0] - x[2]]), 0.4, g),
    ),
    "time": lambda: (
        rxs.Grid(-2, 2, (20, 16)),
        lambda g: rxs.FokkerPlanck(
            rxs.TimeDependent(lambda t, x: jnp.array([jnp.cos(3 * t) - x[0] + x[1], -x[1] - x[0]])),
            rxs.TimeDependent(lambda t, x: 0.3 + 0.2 * jnp.sin(2 * t)),
            g,
            rxs.Ito(),
        ),
    ),
}


@functools.cache
def many_steps(name):
    """`n` steps of `h` on a system, compiled once for all tests."""
    grid, make = SYSTEMS[name]()
    return jax.jit(lambda h, n: steps(make(grid), grid.gaussian(0.5, 0.4), h, n))


@pytest.mark.parametrize("name", SYSTEMS)
def test_third_order_in_time_and_its_error_estimate(name):
    run = many_steps(name)
    ps = [run(0.4 / n, n)[0] for n in (32, 64, 128, 256)]
    estimates = np.array([run(0.4 / n, 1)[2] for n in (16, 32)])
    gaps = [float(jnp.sum(jnp.abs(a - b))) for a, b in zip(ps[:-1], ps[1:], strict=True)]
    orders = np.log2(np.array(gaps[:-1]) / np.array(gaps[1:]))
    assert np.all((2.8 < orders) & (orders < 3.2)), (gaps, orders)
    # Approached from below: at large steps the stiff modes reduce it.
    assert 2.3 < np.log2(estimates[0] / estimates[1]) < 3.3


def test_the_estimate_is_the_error_of_two_halves_and_bounds_that_of_the_step():
    run = many_steps("2d")
    p, _, estimate = run(0.02, 1)
    exact = run(0.02 / 16, 16)[0]
    assert jnp.sum(jnp.abs(p - exact)) < 0.1 * estimate


SPIKY = {
    "uniform": lambda shape, random: np.ones(shape),
    "spike": lambda shape, random: np.arange(np.prod(shape)).reshape(shape) == 0,
    "comb": lambda shape, random: (random.random(shape) < 0.1) + 1e-30,
}


def guarantee(shape, boundary):
    """25 steps of 8 on a random potential: rate x step up to 4e5."""

    @jax.jit
    def run(c, kT, start):
        grid = rxs.Grid(-2.0, 2.0, shape, boundary=boundary)
        V = lambda x: c[0] * jnp.sin(jnp.pi / 2 * x[0]) + c[1] * jnp.cos(jnp.pi * x[-1]) + c[2] * jnp.sum(x**2)
        W = rxs.FokkerPlanck.from_potential(V, grid, kT)
        p0 = grid.normalize(start)
        p, state, _ = steps(W, p0, jnp.asarray(8.0, p0.dtype), 25)
        fastest = 8.0 * jnp.max(jnp.stack([jnp.max(r.up + r.down) for r in W.rates]))
        return grid.integrate(p) - grid.integrate(p0), jnp.min(p), fastest, state.limited

    def drawn(seed, log_kT, kind):
        random, dtype = np.random.default_rng(seed), jnp.result_type(float)
        numbers = random.normal(size=3), 10.0**log_kT, list(SPIKY.values())[kind](shape, random)
        return run(*(jnp.asarray(np.asarray(x, dtype)) for x in numbers))

    return drawn


CASES = [((64,), "reflecting"), ((24, 20), "reflecting"), ((20, 16), "periodic")]
RUNS = {case: guarantee(*case) for case in CASES}
DRAWS = dict(seed=st.integers(0, 10**6), log_kT=st.floats(-2, 2), kind=st.integers(0, 2))


@rounding
@pytest.mark.parametrize("case", CASES, ids=str)
def test_mass_is_exact_and_nothing_is_negative(case):
    seen = []

    @settings(max_examples=15, deadline=None)
    @given(**DRAWS)
    def check(seed, log_kT, kind):
        lost, lowest, fastest, limited = RUNS[case](seed, log_kT, kind)
        seen.append((float(fastest), int(limited)))
        assert abs(lost) <= 1e-13
        assert lowest >= 0

    check()
    # Whatever is drawn: of this potential steps are limited on every grid.
    for log_kT in (-2.0, -1.0, 2.0):
        for kind in range(3):
            check.hypothesis.inner_test(0, log_kT, kind)
    fastest, limited = np.max(seen, axis=0)
    assert fastest > (4e5 if case[0] == (64,) else 3e4)
    assert limited > 0, "the guarantee was not put to the test"


@rounding
def test_mass_and_positivity_in_float32(float32):
    for case in CASES[:2]:
        run = guarantee(*case)
        for seed, log_kT, kind in ((0, 2.0, 1), (1, -2.0, 0), (2, 0.0, 2)):
            lost, lowest, _, _ = run(seed, log_kT, kind)
            assert abs(lost) <= 3e-5 and lowest >= 0


@rounding
def test_lifting_changes_no_more_than_the_error():
    """What is moved to keep a density above its floor is bounded by the error that took it below."""
    from rxjax_solvers._steppers.strang import _lift

    p, none = jnp.array([0.5, -1e-3, 0.5, 1e-3]), jnp.zeros(4)
    lifted, moved = _lift(p, none, jnp.sum(p))
    assert jnp.min(lifted) == 0 and abs(float(jnp.sum(lifted - p))) < 1e-15
    np.testing.assert_allclose(moved, 1e-3)
    np.testing.assert_allclose(jnp.sum(jnp.abs(lifted - p)), 2e-3, rtol=1e-2)
    same, nothing = _lift(jnp.abs(p), jnp.abs(p) / 2, jnp.sum(jnp.abs(p)))
    assert nothing == 0 and jnp.all(same == jnp.abs(p))
    half, moved = _lift(p, none.at[3].set(2e-3), jnp.sum(p))
    np.testing.assert_allclose([half[3] / half[0], moved], [4e-3, 2e-3])
    left, _ = _lift(-jnp.abs(p), none, jnp.zeros(()))
    assert jnp.all(left == 0)


@rounding
def test_gibbs_law_stays_at_any_step():
    grid = rxs.Grid(-2, 2, (30, 20))
    V = lambda x: (x[0] ** 2 - 1) ** 2 + 2 * x[1] ** 2 + x[0] * x[1] / 2

    @jax.jit
    def run(h):
        W = rxs.FokkerPlanck.from_potential(V, grid, 0.1)
        assert W.log_gibbs is not None
        pi = grid.normalize(jnp.exp(W.log_gibbs - jnp.max(W.log_gibbs)))
        p, _, errors = steps(W, pi, h, 5)
        return jnp.sum(jnp.abs(p - pi)) * grid.cell_volume, errors

    for h in (1e-3, 1.0, 1e5):
        change, errors = run(h)
        assert change < 1e-12 and errors < 1e-9


@pytest.mark.parametrize("n", [2, 3, 12])
@pytest.mark.parametrize("lanes", [3, 40])
def test_both_orders_of_elimination_solve_the_system(n, lanes, request):
    if n == 12:  # where rounding adds up
        request.getfixturevalue("optimized")
    random = np.random.default_rng(n)
    up, down = (jnp.asarray(10 ** random.uniform(-3, 4, (n, lanes))) for _ in range(2))
    d, g = (jnp.asarray(random.normal(size=(n, lanes))) for _ in range(2))
    loss = jnp.asarray(1 + random.random((n, lanes)))
    tau = jnp.array(0.7)

    @jax.jit
    def run():
        rests = []
        for periodic in (False, True):
            rates = AxisRates(up, down, periodic)
            solve = sweeps.implicit(rates, tau, sweeps.step_factor(rates, tau))
            x = solve(d)
            (xt,) = jax.linear_transpose(solve, d)(g)
            rests += [x - tau * rates.apply(x) - d, xt - tau * rates.adjoint(xt) - g]
        pivots, a = sweeps._scan_pivots(up, down, loss), jnp.stack([tau, tau / 2])
        pairs = [
            (sweeps._reduction_solve(up, down, loss, d), sweeps._scan_solve(up, down, pivots, d)),
            (sweeps._reduction_transpose(up, down, loss, d), sweeps._scan_transpose(up, down, pivots, d)),
            (
                sweeps._reduction_sums(up, down, loss, a, -a / 3, g, *sweeps._parts(d))[0],
                sweeps._scan_sums(up, down, pivots, a, -a / 3, g, *sweeps._parts(d))[0],
            ),
        ]
        return rests, pairs

    rests, pairs = run()
    size = 1 + 0.7 * np.max(np.asarray(up) + np.asarray(down))
    assert np.max(np.abs(rests)) < 1e-14 * size
    for reduction, scan in pairs:
        np.testing.assert_allclose(reduction, scan, rtol=1e-9, atol=1e-12)


@rounding
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_step_of_no_length_changes_nothing(dtype):
    """Members of a batch that are done go on taking such steps, and what is not finite there spoils gradients."""
    random = np.random.default_rng(0)
    up, down = (jnp.asarray(10 ** random.uniform(-3, 4, (5, 40)), dtype) for _ in range(2))
    d = jnp.asarray(random.normal(size=(5, 40)), dtype)
    rates = AxisRates(up, down, False)
    step = lambda d, tau: sweeps.implicit(rates, tau, sweeps.step_factor(rates, tau))(d)

    @jax.jit
    def run(tau):
        x, pull = jax.vjp(step, d, tau)
        return x, *pull(d), jnp.sum(d * rates.apply(d))

    x, back, slope, expected = run(jnp.zeros((), dtype))
    eps = 16 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(x, d, rtol=eps)
    np.testing.assert_allclose(back, d, rtol=eps)
    np.testing.assert_allclose(slope, expected, rtol=1e3 * eps)


def relaxation(periodic):
    def relax(v):
        rates = AxisRates(v["up"], v["down"], periodic)
        factor = sweeps.step_factor(rates, v["tau"])
        # Nothing comes of what was in the place that it writes to.
        room = jax.tree.map(lambda a: a + 1, factor.room(v["p"], ()))
        return _relaxed(v["p"], room, rates, v["tau"], factor)[0]

    return relax


def two_sweeps(periodic):
    """The same written out."""
    share = 1 + np.sqrt(2)

    def relax(v):
        rates = AxisRates(v["up"], v["down"], periodic)
        sweep = sweeps.implicit(rates, v["tau"], sweeps.step_factor(rates, v["tau"]))
        return sweep(share * sweep(v["p"]) + (1 - share) * v["p"])

    return relax


@pytest.mark.parametrize("periodic", [False, True])
def test_a_relaxation_of_a_batch_is_the_two_sweeps_of_its_members(periodic):
    """Where only the length of the step differs, and where all does."""
    random = np.random.default_rng(6)
    values = {name: jnp.asarray(random.uniform(0.1, 3.0, (3, 7, 40))) for name in ("p", "up", "down")}
    values["tau"] = jnp.array([0.3, 0.7, 2.0])
    moving = [("tau",), tuple(values)]
    first = {name: value[0] for name, value in values.items()}

    @jax.jit
    def run():
        batches, members = [], []
        for names in moving:
            some = {name: values[name] for name in names}
            batches.append(jax.vmap(lambda member: relaxation(periodic)(first | member))(some))
            members.append({n: jnp.broadcast_to(v[None], values[n].shape) for n, v in first.items()} | some)
        written_out = jax.lax.map(two_sweeps(periodic), jax.tree.map(lambda *x: jnp.concatenate(x), *members))
        return jnp.concatenate(batches), written_out

    np.testing.assert_allclose(*run(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("periodic", [False, True])
def test_the_derivative_of_a_relaxation_is_that_of_its_two_sweeps(periodic):
    """Forwards and backwards, for each argument alone and for all."""
    random = np.random.default_rng(5)
    up, down, p, g = (jnp.asarray(random.uniform(0.1, 3.0, (7, 40))) for _ in range(4))
    values = dict(p=p, up=up, down=down, tau=jnp.array(0.7))
    tangents = jax.tree.map(jnp.sin, values)
    moving = [("p",), ("up",), ("tau",), tuple(values)]
    pick = lambda tree, names: {name: tree[name] for name in names}

    @jax.jit
    def run():
        ours = []
        for names in moving:
            of = lambda some: relaxation(periodic)(values | some)
            value, pull = jax.vjp(of, pick(values, names))
            ours.append((value, pull(g)[0], jax.jvp(of, (pick(values, names),), (pick(tangents, names),))[1]))
        # Written out, each argument alone is a part of all.
        value, pull = jax.vjp(two_sweeps(periodic), values)
        share = {name: jnp.array([float(name in names) for names in moving]) for name in values}
        along = jax.tree.map(lambda s, t: s.reshape(-1, *[1] * t.ndim) * t[None], share, tangents)
        slopes = jax.lax.map(lambda t: jax.jvp(two_sweeps(periodic), (values,), (t,))[1], along)
        return ours, (value, pull(g)[0], slopes)

    ours, (value, back, slopes) = run()
    for names, found, slope in zip(moving, ours, slopes, strict=True):
        plain = (value, pick(back, names), slope)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), found, plain)


def test_gradients_of_a_batch_are_those_of_its_members():
    """Those that are done first go on taking steps of no length."""
    grid = rxs.Grid(-2, 2, 16)

    def moment(kT):
        W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, kT)
        p = rxs.solve(W, grid.gaussian(-1, 0.3), [0.0, 0.5], method=rxs.Strang()).ps[-1]
        return grid.integrate(p * grid.points[..., 0])

    slopes = jax.jit(jax.vmap(jax.grad(moment)))
    alone = [slopes(jnp.full(2, kT))[0] for kT in (0.1, 2.0)]
    np.testing.assert_allclose(slopes(jnp.array([0.1, 2.0])), alone, rtol=1e-9)


def test_plain_diffeqsolve_with_constant_and_adaptive_steps():
    grid, make = SYSTEMS["2d"]()

    def run(controller, dt0):
        p0 = grid.gaussian(0.5, 0.4)
        return diffrax.diffeqsolve(
            rxs.GeneratorTerm(make(grid)),
            rxs.Strang(),
            0.0,
            0.5,
            dt0,
            p0,
            saveat=diffrax.SaveAt(ts=jnp.array([0.1, 0.5])),
            stepsize_controller=controller,
        )

    norm = lambda e: jnp.sum(jnp.abs(e)) * grid.cell_volume
    adaptive = jax.jit(lambda: run(diffrax.PIDController(rtol=0, atol=1e-6, norm=norm), None))()
    constant = jax.jit(lambda: run(diffrax.ConstantStepSize(), 0.005))()
    assert 5 < int(adaptive.stats["num_steps"]) < 300
    np.testing.assert_allclose(adaptive.ys, constant.ys, atol=3e-4)
    np.testing.assert_allclose(grid.integrate(adaptive.ys), 1, atol=1e-12)
    assert jnp.min(adaptive.ys) >= 0


def test_time_does_not_run_backwards():
    grid = rxs.Grid(-2.0, 2.0, 8)
    term, p0 = rxs.GeneratorTerm(rxs.FokkerPlanck(jnp.zeros(1), 1.0, grid)), grid.gaussian(0.5, 0.4)
    with pytest.raises(Exception, match=r"`t1` must lie after `t0` for Strang\(\), but it lies before it"):
        diffrax.diffeqsolve(term, rxs.Strang(), 1.0, 0.0, -0.1, p0)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    grid = rxs.Grid(jnp.float32(-2), jnp.float32(2), (8, 6), boundary=["reflecting", "periodic"])

    def f(kT, p):
        W = rxs.FokkerPlanck(lambda x: -x, kT, grid)
        return steps(W, p, jnp.asarray(0.1, p.dtype), 2)[0]

    p0 = jnp.ones((8, 6), jnp.float32)
    with rxs.checks_off():
        text = jax.jit(f).trace(jnp.float32(1), p0).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo" in text
