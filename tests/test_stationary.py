"""Stationary laws, currents, entropy production, quasi-stationary laws: exact cases, low temperature, outcomes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import rxjax_solvers as rxs

RESULTS = rxs.RESULTS


def ring(V0, F, D, cells=240):
    grid = rxs.Grid(0.0, 2 * jnp.pi, cells, boundary="periodic")
    return rxs.FokkerPlanck(lambda x: V0 * jnp.sin(x) + F, D, grid)


def velocity(V0, F, D, cells=240):
    W = ring(V0, F, D, cells)
    p = rxs.stationary(W)
    (j,) = rxs.probability_current(W, p)
    return 2 * jnp.pi * jnp.mean(j), (p, j, rxs.entropy_production(W, p))


def test_tilted_ring():
    """Cases 7 and 8: mean velocities, a current that is the same through every face, derivatives."""
    run = jax.jit(jax.value_and_grad(velocity, argnums=(0, 1, 2), has_aux=True))
    for args, exact in (((1.0, 0.5, 0.5), 0.1755934060), ((1.0, 1.0, 0.1), 0.3689532458), ((0.0, 0.7, 0.3), 0.7)):
        (v, (p, j, production)), slope = run(*args)
        np.testing.assert_allclose(v, exact, rtol=1e-5)
        # The work of the force, turned into heat.
        np.testing.assert_allclose(production, args[1] * v / args[2], rtol=1e-9)
        assert np.ptp(j) < 1e-12 and jnp.min(p) > 0
        np.testing.assert_allclose(jnp.mean(p), 1 / (2 * np.pi), rtol=1e-13)
        h = 1e-5
        for i in range(3):
            up, down = (run(*(a + s * h * (k == i) for k, a in enumerate(args)))[0][0] for s in (1, -1))
            np.testing.assert_allclose(slope[i], (up - down) / (2 * h), rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_rotation():
    """Case 2: covariance and entropy production 12.5 of the rotational Ornstein-Uhlenbeck process."""

    @jax.jit
    def run():
        grid = rxs.Grid(-4.2, 4.2, (56, 52))
        W = rxs.FokkerPlanck(lambda x: jnp.array([-x[0] - 2 * x[1], 2 * x[0] - x[1]]), jnp.array([1.0, 0.25]), grid)
        p = rxs.stationary(W)
        x, y = jnp.moveaxis(grid.points, -1, 0)
        moments = jnp.stack([grid.integrate(f * p) for f in (x * x, x * y, y * y)])
        return moments, rxs.entropy_production(W, p), jnp.sum(jnp.abs(W.apply(p))) / jnp.sum(W.outflow() * p)

    moments, production, defect = run()
    np.testing.assert_allclose(moments, [0.7, 0.15, 0.55], atol=0.02)
    np.testing.assert_allclose(production, 12.5, rtol=0.05)
    assert defect < 1e-14


def test_low_temperature_against_mpmath():
    """A driven chain over 60 kT, no detailed balance to lean on: every entry to 1e-6, in fact to rounding."""
    n = 24
    grid = rxs.Grid(0.0, 2 * jnp.pi, n, boundary="periodic")
    W = rxs.FokkerPlanck(lambda x: 30 * jnp.sin(x) + 2.0, 1.0, grid)
    p = np.asarray(jax.jit(rxs.stationary)(W))
    up, down = (np.asarray(r) for r in (W.rates[0].up, W.rates[0].down))
    with mpmath.workdps(80):
        a = mpmath.zeros(n)
        for i in range(n):
            u, d = mpmath.mpf(float(up[i])), mpmath.mpf(float(down[i]))
            a[(i + 1) % n, i] += u
            a[(i - 1) % n, i] += d
            a[i, i] -= u + d
        for k in range(n):
            a[0, k] = 1
        exact = mpmath.lu_solve(a, mpmath.matrix([1] + [0] * (n - 1)))
        exact = np.array([float(v / mpmath.mpf(float(grid.spacing[0]))) for v in exact])
    assert exact.max() / exact.min() > np.exp(50)
    np.testing.assert_allclose(p, exact, rtol=1e-12)


def test_low_temperature_in_two_dimensions():
    """Elimination against the Gibbs law: a range of 35 kT between wells and barrier, far more in the corners."""
    grid = rxs.Grid(-1.6, 1.6, (16, 12))
    V = lambda x: (x[0] ** 2 - 1) ** 2 + x[1] ** 2 + 0.2 * x[0] * x[1]

    @jax.jit
    def run():
        W = rxs.FokkerPlanck.from_potential(V, grid, 1 / 35)
        return rxs.stationary(W), rxs.stationary(eqx.tree_at(lambda g: g.log_gibbs, W, None))

    gibbs, law = run()
    np.testing.assert_allclose(law, gibbs, rtol=1e-9)


def cycle(k):
    rates = jnp.concatenate([jnp.full(3, k), jnp.ones(3)])
    return rxs.MasterEquation.from_edges([0, 1, 2, 1, 2, 0], [1, 2, 0, 0, 1, 2], rates, 3)


def test_three_state_cycle():
    """Case 15: current 1/3, entropy production ln 2."""

    def run(k):
        W = cycle(k)
        p = rxs.stationary(W)
        return rxs.entropy_production(W, p), (p, W.as_matrix())

    (production, (p, matrix)), slope = jax.jit(jax.value_and_grad(run, has_aux=True))(jnp.array(2.0))
    np.testing.assert_allclose(p, 1 / 3, rtol=1e-14)
    np.testing.assert_allclose(matrix[1, 0] * p[0] - matrix[0, 1] * p[1], 1 / 3, rtol=1e-13)
    np.testing.assert_allclose(production, np.log(2), rtol=1e-13)
    # (k - 1) log k
    np.testing.assert_allclose(slope, np.log(2) + 0.5, rtol=1e-12)


def tasep(n=10):
    """Case 16: particles enter on the left, hop right into empty sites, leave on the right; all rates 1."""
    source, target = [], []
    for state in range(2**n):
        moves = [] if state & 1 else [state | 1]
        if state >> (n - 1) & 1:
            moves.append(state & ~(1 << (n - 1)))
        moves += [state ^ (3 << i) for i in range(n - 1) if (state >> i & 3) == 1]
        source += [state] * len(moves)
        target += moves
    return rxs.MasterEquation.from_edges(source, target, 1.0, size=2**n)


def test_exclusion_process():
    """Case 16: the current (n + 2)/(2 (2 n + 1)) = 2/7 at n = 10."""
    p = jax.jit(rxs.stationary)(tasep())
    occupied = jnp.arange(1024) >= 512
    np.testing.assert_allclose(jnp.sum(jnp.where(occupied, p, 0)), 2 / 7, rtol=1e-12)


def test_rare_states_of_a_chain():
    """Detailed balance far below the rate at which the process is started anew, and a state that is left for good."""
    up, down, n = 1e-45, 2.0, 6
    low, high = np.arange(n - 1), np.arange(1, n)
    ends = np.r_[low, high, n], np.r_[high, low, 0]
    W = rxs.MasterEquation.from_edges(*ends, np.r_[np.full(n - 1, up), np.full(n, down)], size=n + 1)
    np.testing.assert_allclose(rxs.stationary(W), np.r_[(up / down) ** np.arange(n), 0], rtol=1e-13)


def test_outcomes_are_named():
    two = lambda: rxs.MasterEquation.from_edges([0, 1, 2, 3], [1, 0, 3, 2], 1.0, size=4)
    leaking = lambda: rxs.FokkerPlanck(jnp.zeros(1), 1.0, rxs.Grid(-1.0, 1.0, 8, boundary="absorbing"))

    @jax.jit
    def run():
        one_way = rxs.MasterEquation.from_edges([0, 1, 2], [1, 2, 1], 1.0, size=3)
        kept = rxs.stationary(one_way), rxs.entropy_production(one_way, jnp.full(3, 1 / 3))
        return rxs.stationary(two(), throw=False), rxs.stationary(leaking(), throw=False)[1], *kept

    (value, result), leaks, law, production = run()
    assert result == RESULTS.not_unique
    np.testing.assert_allclose(value, 1 / 4)
    assert leaks == RESULTS.no_stationary_law
    np.testing.assert_allclose(law, [0, 0.5, 0.5], atol=1e-15)
    assert np.isinf(production)
    for make, words in ((two, "splits into 2 or more closed classes"), (leaking, "quasi_stationary")):
        with pytest.raises(Exception, match=words):
            jax.block_until_ready(jax.jit(lambda make=make: rxs.stationary(make()))())


def test_quasi_stationary_law():
    """A drift b between absorbing sides: the lowest sine times `e^(b x/2D)`, rate `D (pi/2)^2 + b^2/4D`, its slope."""
    b = 0.8

    def run(D):
        grid = rxs.Grid(-1.0, 1.0, 60, boundary="absorbing")
        law, rate = rxs.quasi_stationary(rxs.FokkerPlanck(jnp.array([b]), D, grid))
        exact = jnp.exp(b * grid.axes[0] / (2 * D)) * jnp.cos(jnp.pi / 2 * grid.axes[0])
        return rate, (law, grid.normalize(exact))

    with rxs.checks_off():
        (rate, (law, exact)), slope = jax.jit(jax.value_and_grad(run, has_aux=True))(0.5)
    np.testing.assert_allclose(rate, np.pi**2 / 8 + b**2 / 2, rtol=5e-4)
    np.testing.assert_allclose(slope, np.pi**2 / 4 - b**2, rtol=2e-3)
    np.testing.assert_allclose(law, exact, rtol=2e-3)


def test_current_closes_the_balance():
    @jax.jit
    def run():
        grid = rxs.Grid(-1.0, 1.0, (7, 6), boundary=["periodic", ("absorbing", "reflecting")])
        W = rxs.FokkerPlanck(lambda x: jnp.array([1.0 + x[1], jnp.cos(x[0])]), 0.4, grid)
        p = grid.gaussian(0.2, 0.5)
        return rxs.probability_current(W, p), W.apply(p), grid.spacing

    (a, b), expected, (h, k) = jax.tree.map(np.asarray, run())
    assert a.shape == (7, 6) and b.shape == (7, 7)
    change = -(np.roll(a, -1, 0) - a) / h - np.diff(b, axis=1) / k
    np.testing.assert_allclose(change, expected, atol=1e-12)
    assert np.all(b[:, 0] < 0) and np.all(b[:, -1] == 0)
    W = rxs.FokkerPlanck(jnp.zeros(1), 1.0, rxs.Grid(0, 1, 4))
    for bad, words in ((jnp.ones(3), r"`p` must have the generator's shape \(4,\)"), (jnp.full(4, jnp.nan), "finite")):
        with pytest.raises(ValueError, match=words):
            rxs.entropy_production(W, bad)
    sides = rxs.FokkerPlanck(jnp.zeros(1), 1.0, rxs.Grid(0, 1, 4, boundary=[("reflecting", "absorbing")]))
    for W_open in (sides, _six_edges(1.0, exits=jnp.array([0.0, 0.1, 0.0]))):
        with pytest.raises(ValueError, match="`generator` must be closed, but it loses mass for good"):
            rxs.entropy_production(W_open, jnp.ones(W_open.shape))
        with pytest.raises(Exception, match="`generator` must be closed, but it loses mass for good"):
            jax.block_until_ready(jax.jit(rxs.entropy_production)(W_open, jnp.ones(W_open.shape)))
    with pytest.raises(ValueError, match="`factor` must be `deflate"):
        rxs.stationary(W, factor=rxs.factorize(W, shift=1.0))
    with pytest.raises(ValueError, match="`generator` must be a `FokkerPlanck`"):
        rxs.probability_current(cycle(jnp.array(2.0)), jnp.full(3, 1 / 3))


def _six_edges(rate, exits: Any = 0.0):
    return rxs.MasterEquation.from_edges([0, 1, 2, 1, 2, 0], [1, 2, 0, 0, 1, 2], rate, 3, exits=exits)


def test_second_derivatives():
    """Of the law and of what is left without it, against differences of first ones; of a decay rate none in silence."""
    rates, weights = jnp.array([1.0, 2.0, 0.5, 0.3, 0.2, 0.7]), jnp.array([0.3, 1.0, 2.0])
    way = jnp.linspace(0.5, 1.0, 6) * rates

    def value(rates):
        parts = rxs.deflate(_six_edges(rates))
        return jnp.sum(weights * (parts.law + parts.solve(weights) + parts.transpose_solve(weights)))

    @jax.jit
    def both(rates):
        return jax.grad(value)(rates), jax.grad(lambda x: jnp.vdot(jax.grad(value)(x), way))(rates)

    (above, _), (_, second), (below, _) = (both(rates + s * way) for s in (1e-5, 0.0, -1e-5))
    np.testing.assert_allclose(second, (above - below) / 2e-5, rtol=1e-6)

    def decay(rates):
        return rxs.quasi_stationary(_six_edges(rates, jnp.array([0.1, 0.2, 0.3])))[1]

    with pytest.raises(ValueError, match="second derivative must not"):
        jax.eval_shape(jax.hessian(decay), rates)


def test_slopes_by_the_bounds():
    """The cells' volume moves with the bounds: mass stays 1.  A law given survival is a constant."""
    weights = jnp.cos(jnp.arange(8.0))

    def laws(bounds):
        open_side = [("reflecting", "absorbing")]
        grids = rxs.Grid(bounds[0], bounds[1], 8), rxs.Grid(bounds[0], bounds[1], 8, boundary=open_side)
        driven, lost = (rxs.FokkerPlanck(lambda x: -x + jnp.sin(3 * x), 0.5, grid) for grid in grids)
        return jnp.stack([weights @ rxs.stationary(driven), weights @ rxs.quasi_stationary(lost)[0]])

    both = jax.jit(lambda x: (laws(x), jax.jacrev(laws)(x)))
    bounds = jnp.array([-1.3, 1.7])
    slopes = [(both(bounds + h)[0][0] - both(bounds - h)[0][0]) / 2e-5 for h in 1e-5 * jnp.eye(2)]
    np.testing.assert_allclose(both(bounds)[1], [slopes, [0, 0]], rtol=1e-7, atol=1e-12)


def test_slope_of_a_law_by_iteration():
    """On edges the state that is held has a share in the transposed solve, which did not converge."""
    rates, weights = jnp.array([1.0, 2.0, 0.5, 0.3, 0.2, 0.7]), jnp.array([0.3, 1.0, 2.0])

    def mean(method, rates):
        return jnp.sum(weights * rxs.deflate(_six_edges(rates), method=method).law)

    ours, exact = (jax.jit(jax.grad(lambda x, m=m: mean(m, x)))(rates) for m in (rxs.Iteration(), rxs.Elimination()))
    np.testing.assert_allclose(ours, exact, rtol=1e-8)


def test_the_slope_of_a_rate_near_the_end_of_float32(float32):
    """Against differences of the logarithm: the rate times a small share, and all of a life, lie beyond its numbers."""
    grid = rxs.Grid(-1.5, 1, 60, boundary=[("reflecting", "absorbing")])

    @jax.jit
    def log_rate(temperature):
        W = rxs.FokkerPlanck.from_potential(lambda x: 2.25 * (x[0] + 0.5) ** 2, grid, temperature)
        return jnp.log(rxs.quasi_stationary(W, throw=False)[0][1])

    slope = (log_rate(0.0585) - log_rate(0.0575)) / 0.001
    np.testing.assert_allclose(jax.grad(log_rate)(0.058), slope, rtol=1e-3)
