"""Shift-and-invert Arnoldi: exact systems, horizons, mass, uphill starts, outcomes, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from systems import AbsorbingInterval, ForcedRing, OrnsteinUhlenbeck

import rxjax_solvers as rxs
from rxjax_solvers import _krylov as krylov


def wells(a, theta):
    return (theta[0] ** 2 - 1) ** 2 + 2 * jnp.sum(theta[1:] ** 2) + a * theta[0] * jnp.sum(theta) / 2


@pytest.mark.parametrize(
    "system", [OrnsteinUhlenbeck(), ForcedRing(), AbsorbingInterval()], ids=lambda s: type(s).__name__
)
def test_exact_systems(system):
    @jax.jit
    def run(params):
        def total(state):
            return jnp.sum(jnp.linspace(1, 2, state.size).reshape(state.shape) * state), state

        found = lambda q: total(system.solved(q, system.cells, method=rxs.ShiftInvert()))
        exact = lambda q: total(system.exact(q))
        return [jax.value_and_grad(f, has_aux=True)(params) for f in (found, exact)]

    ((_, state), gradient), ((_, exact), slope) = run(jnp.array(system.params))
    np.testing.assert_allclose(state, exact, atol=system.tolerance)
    np.testing.assert_allclose(gradient, slope, atol=8 * system.tolerance * (np.max(np.abs(slope)) + 1))


@pytest.mark.parametrize("drift", [False, True])
def test_products_by_iteration_are_as_good_as_the_error_needs(drift):
    """The error that is said, products and all, is not less than the error there is; the slope in kT of the one with a
    potential is as good."""
    grid, ts = rxs.Grid(-2.0, 2.0, (16, 12)), np.array([0.0, 0.05, 0.4, 3.0])
    p0 = grid.gaussian(jnp.array([0.9, 1.2]), 0.2)
    swirl = lambda x: -jax.grad(wells, 1)(0.3, x) + jnp.array([x[1], -x[0]])

    def generator(kT):
        if drift:
            return rxs.FokkerPlanck(swirl, kT, grid)
        return rxs.FokkerPlanck.from_potential(lambda x: wells(0.3, x), grid, kT)

    def mean(kT, tol):
        ps, _, stats = rxs.ShiftInvert(tol=tol, factorization=rxs.Iteration()).run(generator(kT), p0, ts)
        return jnp.sum(grid.integrate(ps[1:] * observed)), (ps, stats["error"])

    observed = jnp.sin(grid.points[None, ..., 0])
    matrix = lambda kT: generator(kT).as_matrix()
    W, dW = (np.asarray(m) for m in jax.jit(lambda kT: jax.jvp(matrix, (kT,), (1.0,)))(0.2))
    row, start = grid.cell_volume * np.ravel(observed), np.ravel(p0)
    exact, value = [start], 0.0
    for t in ts[1:]:
        propagator, change = scipy.linalg.expm_frechet(t * W, t * dW)
        exact.append(propagator @ start)
        value += row @ (propagator if drift else change) @ start
    # Slopes of the one are made as those of the other, and take as long to compile again.
    run = jax.jit(mean if drift else jax.grad(mean, has_aux=True))
    for tol in (1e-4, 1e-6, 1e-9):
        found, (ps, said) = run(0.2, jnp.asarray(tol))
        error = np.sum(np.abs(ps.reshape(ts.size, -1) - np.array(exact)), axis=1) * grid.cell_volume
        assert jnp.all(error <= said + 1e-12) and jnp.all(said <= tol), (tol, error, said)
        np.testing.assert_allclose(found, value, rtol=30 * tol)


TS = jnp.array([0.0, 0.3, 1.0, 5.0, 1e3, 1e5])
LINE = rxs.Grid(-2.0, 2.0, 60)


@jax.jit
def on_a_line(kT, mean):
    W = rxs.FokkerPlanck.from_potential(lambda x: wells(0.3, x), LINE, kT)
    p0 = LINE.gaussian(mean, 0.1)
    ps, result, stats = rxs.ShiftInvert().run(W, p0, TS)
    return ps, (p0, W.as_matrix()), stats, result == rxs.RESULTS.successful, LINE.integrate(ps)


@pytest.mark.parametrize("kT", [0.3, 0.1, 0.03])
def test_any_horizon(kT):
    """From the well, from between and from far uphill: the error promised, mass to rounding at t = 1e5."""
    for mean in (-1.0, 0.0, 1.8):
        ps, problem, stats, good, mass = on_a_line(kT, mean)
        assert good, (mean, stats)
        p0, W = map(np.asarray, problem)
        exact = np.stack([scipy.linalg.expm(t * W) @ p0 for t in np.asarray(TS)])
        error = jnp.sum(jnp.abs(ps - exact), axis=1) * LINE.spacing[0]
        assert jnp.max(error) < 2e-9, (mean, error, stats)
        np.testing.assert_allclose(mass, 1, atol=1e-12)
        assert jnp.min(ps) > -1e-8


def plane(kT, a, b):
    grid = rxs.Grid(-2.0, 2.0 * b, (9, 7))
    W = rxs.FokkerPlanck.from_potential(lambda x: wells(a, x), grid, kT)
    ts = jnp.array([0.0, 0.4, 3.0 * b])
    ps = rxs.solve(W, grid.gaussian(jnp.array([-1.0, 0.2 * a]), 0.4), ts, method=rxs.ShiftInvert()).ps
    weights = jnp.sin(grid.points[None, ..., 0] + jnp.arange(3.0)[:, None, None])
    return grid.integrate(jnp.sum(weights * ps, axis=0)), ps


@pytest.mark.slow
def test_gradient_on_a_plane():
    """Temperature, potential, start, bounds and a save time, against differences; two save times at once."""
    point = jnp.array([0.2, 0.5, 1.1])
    h = 2e-4
    shifts = h * jnp.array([[0.0] * 3, *(s * e for e in jnp.eye(3) for s in (-2.0, -1.0, 1.0, 2.0))])

    @jax.jit
    def run():
        slope = jax.grad(lambda q: plane(*q)[0])(point)
        return slope, jax.lax.map(lambda s: plane(*(point + s))[0], shifts)

    slope, near = run()
    near = near[1:].reshape(3, 4)
    exact = (near[:, 0] - 8 * near[:, 1] + 8 * near[:, 2] - near[:, 3]) / (12 * h)
    np.testing.assert_allclose(slope, exact, rtol=2e-5, atol=2e-6)


def test_small_exponentials():
    """Of any norm and any spread, from the inverse: oscillating, nearly standing, and of no size at all."""
    rng = np.random.default_rng(0)
    a = 4 * rng.normal(size=(12, 12))
    a = a - a.T - 3 * np.eye(12)
    at = lambda a, rate: np.linalg.inv(np.eye(len(a)) - a / rate)
    f = jax.jit(krylov.exponential)
    change, row = f(at(a, 5.0), 5.0 * 0.7, 4)
    np.testing.assert_allclose(change, scipy.linalg.expm(0.7 * a) - np.eye(12), atol=1e-12)
    np.testing.assert_allclose(row, (np.eye(12) - a / 5)[4] @ scipy.linalg.expm(0.7 * a), atol=1e-11)
    for time in (0.4, 12.0, 1e4):
        rates = np.array([1e-9, 1e-4, 0.1, 1.0, 30.0, 1e12, np.inf])
        change, _ = f(np.diag(1 / (1 + rates)), time, 0)
        np.testing.assert_allclose(jnp.diag(change), np.expm1(-rates * time), rtol=1e-6, atol=1e-12)
    x, y, b = rng.normal(size=4), rng.normal(size=12), -np.diag(np.arange(4.0))
    out = jax.jit(krylov.inner_integral)(at(b, 5.0), at(a, 5.0), x, y, jnp.array(5.0), jnp.array(0.7))
    nodes, weights = np.polynomial.legendre.leggauss(60)
    s = 0.35 * (nodes + 1)
    parts = [
        w * np.outer(np.diag(np.exp(np.diag(b) * (0.7 - t))) @ x, scipy.linalg.expm(t * a) @ y)
        for t, w in zip(s, 0.35 * weights, strict=True)
    ]
    np.testing.assert_allclose(out, sum(parts), atol=1e-11)


def test_late_in_float32():
    """A single precision as good as the law's, whether the wells have mixed or not, at one time and at many."""
    many = (0.1, 10.0, 300.0, 300.1, 1e5, 1e7)
    times = [(0.0, t) for t in (1.0, 1e3, 1e5, 1e7, 1e9)] + [(0.0, *many)]

    def late(kT, ts, method):
        dtype = kT.dtype
        grid = rxs.Grid(jnp.asarray(-2, dtype), jnp.asarray(2, dtype), 64)
        W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, temperature=kT)
        ps, result, stats = method.run(W, grid.gaussian(-1, 0.2), ts)
        return ps[1:], stats["error"][1:], result == rxs.RESULTS.successful

    cases = [(kT, ts) for kT in (0.3, 0.05) for ts in times]
    every = sorted({t for ts in times for t in ts})
    law = jax.jit(lambda kT: late(kT, jnp.array(every), rxs.Rational())[0])
    exact = {kT: np.asarray(law(jnp.array(kT))) for kT in (0.3, 0.05)}
    with jax.enable_x64(False):
        run = jax.jit(lambda kT, ts: late(kT, ts, rxs.ShiftInvert()))
        found = [run(jnp.asarray(kT, jnp.float32), jnp.asarray(ts, jnp.float32)) for kT, ts in cases]
    for (ps, said, good), (kT, ts) in zip(found, cases, strict=True):
        right = exact[kT][[every.index(t) - 1 for t in ts[1:]]]
        error = np.sum(np.abs(np.asarray(ps, float) - right), axis=1) / 16
        assert good and np.all(error < 2e-5) and np.all(error < 2 * np.asarray(said, float) + 1e-6), (error, said)


@pytest.mark.slow
def test_the_error_that_is_said_is_not_less_than_that_there_is():
    """Of 400 densities in potentials and on rings with a drift, at any temperature, start, times and `tol`."""
    rng = np.random.default_rng(0)
    line, ring = rxs.Grid(-2.0, 2.0, 80), rxs.Grid(-2.0, 2.0, 80, boundary="periodic")

    def run(grid, generator):
        def solved(kT, c, mean, width, ts, tol):
            W = generator(kT, c)
            ps, _, stats = rxs.ShiftInvert(tol=tol).run(W, grid.gaussian(mean, width), ts)
            return ps, stats["error"], W.as_matrix()

        return jax.jit(solved)

    bumps = lambda c, x: c[0] * (x[0] ** 2 - 1) ** 2 + c[1] * x[0] / 2 + c[2] * jnp.cos(7 * x[0]) / 10
    waves = lambda c, x: c[1] / 2 * jnp.sin(np.pi / 2 * x[0]) + c[2] / 10 * jnp.cos(np.pi * x[0])
    pull = lambda c: lambda x: c[0] - jax.grad(waves, 1)(c, x)
    still = run(line, lambda kT, c: rxs.FokkerPlanck.from_potential(lambda x: bumps(c, x), line, kT))
    driven = run(ring, lambda kT, c: rxs.FokkerPlanck(pull(c), kT, ring))
    for i in range(400):
        kT, width, tol = 10 ** rng.uniform([-1.5, -1.2, -8], [0, -0.3, -3])
        ts = np.append(0, np.sort(10 ** rng.uniform(-3, 3, 4)))
        ps, said, W = (still if i % 3 else driven)(kT, rng.uniform(0.2, 3, 3), rng.uniform(-1.9, 1.9), width, ts, tol)
        exact = np.stack([scipy.linalg.expm(t * np.asarray(W)) @ ps[0] for t in ts[1:]])
        error = np.sum(np.abs(ps[1:] - exact), axis=1) * 4 / 80
        # Dense exponentials are right to about 1e-10 at these times.
        assert np.all(error <= said[1:] + 1e-10), (i, kT, ts, tol, error, said)


def test_what_leaves_the_space_is_missed():
    """A packet on its way around a long ring: too far for so many vectors, which the error says at every time."""
    n, ts = 200, np.array([0.0, 1.0, 100.0, 1e3, 1e5])
    at = np.arange(n)
    W = rxs.MasterEquation.from_edges(at, (at + 1) % n, np.ones(n), size=n)
    p0 = jnp.zeros(n).at[0].set(1)
    # At last it is everywhere, to 21 digits; a dense exponential of that is right to 1e-11 only.
    exact = np.stack([scipy.linalg.expm(t * np.asarray(W.as_matrix()))[:, 0] for t in ts[:-1]] + [np.full(n, 1 / n)])
    ps, result, stats = jax.jit(lambda: rxs.ShiftInvert(max_krylov=40).run(W, p0, ts))()
    error = np.sum(np.abs(ps - exact), axis=1)
    assert result == rxs.RESULTS.not_converged and np.max(error) > 1e-8
    assert np.all(error <= stats["error"] + 1e-12), (error, stats["error"])


def test_gradient_of_times_that_need_several_factors():
    """Each time by a factor near it: the last, made for the latest time, knows nothing of the earliest."""
    grid = rxs.Grid(-2.0, 2.0, 60)

    def means(kT, ts, method):
        W = rxs.FokkerPlanck.from_potential(lambda x: wells(-0.1, x), grid, kT)
        ps, _, stats = method.run(W, grid.gaussian(1.6, 0.1), ts)
        return grid.integrate(jnp.sin(grid.points[None, ..., 0]) * ps[1:]), stats

    @jax.jit
    def both(kT, ts):
        slopes = lambda method: jax.jacrev(means, has_aux=True)(kT, ts, method)
        return *slopes(rxs.ShiftInvert()), slopes(rxs.Rational())[0]

    for kT, ts, off in (0.1, [1e-3, 0.1, 1e3], 3e-8), (0.03, [1e5, 1e11, 1e13], [1e-5, 0.3, 0.3]):
        slopes, stats, exact = both(kT, np.array([0.0, *ts]))
        assert stats["num_factors"] > 1
        np.testing.assert_array_less(np.abs(slopes / exact - 1), off)


def test_fewer_states_than_vectors():
    """Four and five states fill the space after three and four vectors; states and slopes are still those of `expm`."""
    at = np.concatenate([np.arange(5), np.arange(5)])
    rates, ts = np.random.default_rng(0).random(10), jnp.array([0.0, 0.25, 0.5, 1e5])

    def make(n, s):
        used = at < n
        source, hops = at[used], np.repeat([1, n - 1], n)
        return rxs.MasterEquation.from_edges(source, (source + hops) % n, rates[used] * s, size=n)

    @jax.jit
    def run(s):
        out = []
        for n in (4, 5):
            p0 = jnp.zeros(n).at[n // 2].set(1)

            def value(s, n=n, p0=p0):
                ps, result, _ = rxs.ShiftInvert().run(make(n, s), p0, ts)
                return ps[2, 0], (ps, result == rxs.RESULTS.successful)

            ((_, (ps, good)), slope), matrix = jax.value_and_grad(value, has_aux=True)(s), make(n, s).as_matrix()
            out.append((ps, good, slope, matrix))
        return out

    for ps, good, slope, matrix in run(1.0):
        n, matrix = len(matrix), np.asarray(matrix)
        exact = np.stack([scipy.linalg.expm(min(t, 1e3) * matrix)[:, n // 2] for t in np.asarray(ts)])
        assert good
        np.testing.assert_allclose(ps, exact, atol=1e-10)
        np.testing.assert_allclose(slope, 0.5 * (matrix @ exact[2])[0], rtol=1e-9)


def test_outcomes():
    W = rxs.FokkerPlanck.from_potential(lambda x: wells(0.3, x), LINE, 0.05)
    p0 = LINE.gaussian(1.8, 0.1)
    few = rxs.ShiftInvert(max_krylov=16, max_factors=1)
    poor = rxs.solve(W, p0, TS[:3], method=few, throw=False)
    assert poor.result == rxs.RESULTS.not_converged and poor.stats["error"][1] > 1e-9
    with pytest.raises(Exception, match="An iteration did not reach its tolerance"):
        jax.block_until_ready(rxs.solve(W, p0, TS[:3], method=few).ps)
    moving = rxs.FokkerPlanck(rxs.TimeDependent(lambda t, x: t * x), 1.0, LINE)
    with pytest.raises(ValueError, match="must not be ShiftInvert"):
        rxs.solve(moving, p0, TS, method=rxs.ShiftInvert())
    with pytest.raises(ValueError, match="must be a diffrax solver when steps"):
        rxs.solve(W, p0, TS, method=rxs.ShiftInvert(), dt0=0.1)


def test_a_combination_reads_every_vector_there_is(monkeypatch):
    """Up to the last one, wherever blocks of them and columns end, and the same of what lies beside the space."""
    monkeypatch.setattr(krylov, "_COLUMNS", 12)
    rng = np.random.default_rng(0)
    b, beside, scales = rng.normal(size=40), jnp.asarray(rng.normal(size=40)), jnp.linspace(1, 2, 40)
    onto = jnp.asarray(rng.normal(size=(3, 40)))

    @jax.jit
    def both(used, ys):
        space = krylov.extend(krylov.start(jnp.asarray(b), 20), lambda v: scales * v, used)
        ys = jnp.where(jnp.arange(20, dtype=jnp.int32) <= used, ys, 0)
        merged = krylov.combine(space, ys, onto, lambda made, onto, cut: 2 * onto + made * cut(beside)[None])
        return merged, 2 * onto + beside[None] * (ys @ space.basis[:20])

    for used in (0, 1, 7, 8, 9, 15, 16, 19):
        found, expected = both(jnp.asarray(used, jnp.int32), jnp.asarray(rng.normal(size=(3, 20))))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
