"""Passage times, committors and rates: exact cases, order in space, low temperature, symmetry, outcomes, gradients."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import rxjax_solvers as rxs


def at(grid, values, x):
    """Cubic interpolation between cell centres."""
    (axis,) = grid.axes
    k = jnp.clip(jnp.searchsorted(axis, x) - 2, 0, axis.size - 4)
    nodes, f = (jax.lax.dynamic_slice(v, (k,), (4,)) for v in (axis, values))
    others = lambda i: [j for j in range(4) if j != i]
    weights = [jnp.prod(jnp.stack([(x - nodes[j]) / (nodes[i] - nodes[j]) for j in others(i)])) for i in range(4)]
    return sum(w * f[i] for i, w in enumerate(weights))


def quartic(theta):
    return (theta[0] ** 2 - 1) ** 2 / 4


def passage(D, cells, convention=None):
    """From -1 to 1 over the quartic barrier; the target's edge lies inside a cell."""
    grid = rxs.Grid(-2.6, 2.63, cells)
    if convention is None:
        W = rxs.FokkerPlanck.from_potential(quartic, grid, D)
    else:
        W = rxs.FokkerPlanck(lambda x: -x * (x**2 - 1), lambda x: D * (1 + x[0] ** 2), grid, convention)
    tau = rxs.mean_first_passage_time(W, lambda x: x[0] >= 1.0)
    return at(grid, tau, -1.0)


@pytest.mark.parametrize(
    "convention, exact",
    [
        (None, {0.1: 66.26862636, 0.05: 729.67069194, 0.025: 102108.3655}),
        (rxs.Ito(), {0.05: 184.962239}),
        (rxs.Stratonovich(), {0.05: 243.009653}),
        (rxs.AntiIto(), {0.05: 324.737478}),
    ],
    ids=str,
)
def test_known_times(convention, exact):
    """Cases 3 and 5 to 2e-4 after extrapolation, an error that falls with the cells, and the derivative in D."""
    runs = [jax.jit(jax.value_and_grad(lambda D, n=n: passage(D, n, convention))) for n in (500, 1000)]
    for D, value in exact.items():
        (coarse, _), (fine, slope) = (run(D) for run in runs)
        np.testing.assert_allclose((4 * fine - coarse) / 3, value, rtol=2e-4)
        assert abs(fine - value) < 0.35 * abs(coarse - value)
        near = [float(runs[1](D * (1 + s))[0]) for s in (-2e-3, -1e-3, 1e-3, 2e-3)]
        np.testing.assert_allclose(slope, (near[0] - 8 * near[1] + 8 * near[2] - near[3]) / (12e-3 * D), rtol=1e-6)


@pytest.mark.slow
def test_exit_from_an_interval():
    """Case 9: mean 1 and variance 2/3, at second order; absorbing sides and a predicate agree."""
    means = []
    for n in (25, 51):
        grid = rxs.Grid(-1.0, 1.0, n, boundary="absorbing")
        W = rxs.FokkerPlanck(jnp.zeros(1), 0.5, grid)
        factor = rxs.factorize(W)
        mean = rxs.mean_first_passage_time(W, None, factor=factor)[n // 2]
        variance = rxs.first_passage_variance(W, None, factor=factor)[n // 2]
        means.append((float(mean) - 1, float(variance) - 2 / 3))
    assert np.all(np.abs(means[1]) < 1e-3)
    wide = rxs.Grid(-1.37, 1.41, 80)
    W = rxs.FokkerPlanck(jnp.zeros(1), 0.5, wide)
    tau = rxs.mean_first_passage_time(W, lambda x: jnp.abs(x[0]) > 1)
    x = wide.axes[0]
    np.testing.assert_allclose(tau, jnp.where(jnp.abs(x) > 1, 0, 1 - x**2), atol=(2.78 / 80) ** 2 / 4)


def test_double_well_transitions():
    """Case 4: committor, reactive flux and rate; symmetry; the flux against the passage time."""

    @jax.jit
    def run():
        grid = rxs.Grid(-2.2, 2.2, 440)
        W = rxs.FokkerPlanck.from_potential(quartic, grid, 0.05)
        a, b = (lambda x: x[0] <= -1.0), (lambda x: x[0] >= 1.0)
        factor = rxs.factorize(W, target=(a, b))
        q = rxs.committor(W, a, b, factor=factor)
        back = rxs.committor(W, b, a)
        flux, rate = rxs.reactive_flux(W, a, b, factor=factor), rxs.transition_rate(W, a, b, factor=factor)
        return grid, q, q + back, at(grid, q, -0.2), flux, rate

    _, q, total, middle, flux, rate = run()
    np.testing.assert_allclose(total, 1, atol=1e-13)
    np.testing.assert_allclose(q + q[::-1], 1, atol=1e-12)
    np.testing.assert_allclose(middle, 0.2005882144, rtol=1e-4)
    np.testing.assert_allclose(flux, 6.852406236e-4, rtol=3e-4)
    np.testing.assert_allclose(rate, 1.370481e-3, rtol=3e-4)


def exact_times(matrix, keep):
    """Passage times and their sums in 90 digits; the diagonal from the columns, as the elimination takes it."""
    with mpmath.workdps(90):
        n = matrix.shape[0]
        rates = [[mpmath.mpf(float(matrix[i, j])) if i != j else mpmath.mpf(0) for j in range(n)] for i in range(n)]
        inside = np.nonzero(keep)[0]
        a = mpmath.matrix(len(inside))
        for row, i in enumerate(inside):
            for column, j in enumerate(inside):
                a[row, column] = -rates[j][i] if i != j else sum(rates[k][i] for k in range(n))
        tau = mpmath.lu_solve(a, mpmath.matrix([1] * len(inside)))
        into = [sum(rates[k][i] for k in range(n) if k == n - 1) for i in inside]
        return np.array([float(t) for t in tau]), inside, a, into


@pytest.mark.parametrize("shape, depth", [((40,), 60.0), ((8, 5), 35.0)], ids=str)
def test_low_temperature_against_mpmath(shape, depth):
    """Barriers of 60 kT on a line and 35 kT on a plane: every time to rounding, the issue asks for 1e-6."""
    grid = rxs.Grid(-1.3, 1.3, shape)
    V = lambda x: (x[0] ** 2 - 1) ** 2 + 0.3 * jnp.sum(x[1:] ** 2) - 0.1 * x[0] * jnp.sum(x)

    @jax.jit
    def run():
        W = rxs.FokkerPlanck.from_potential(V, grid, 1 / depth)
        mask = jnp.arange(W.size).reshape(shape) == W.size - 1
        return W.as_matrix(), rxs.mean_first_passage_time(W, mask), mask

    matrix, tau, mask = run()
    exact, inside, *_ = exact_times(np.asarray(matrix), ~np.asarray(mask).ravel())
    assert exact.max() > np.exp(0.75 * depth)
    np.testing.assert_allclose(tau.ravel()[inside], exact, rtol=1e-12)


def test_low_temperature_committor():
    """60 kT: the nested sums of a chain in logarithms, whose terms are all positive."""
    grid = rxs.Grid(-1.3, 1.3, 41)
    W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, 1 / 60)
    source, target = jnp.arange(41) == 4, jnp.arange(41) == 36
    q = np.asarray(rxs.committor(W, source, target))
    up, down = (np.asarray(r, np.longdouble) for r in (W.rates[0].up, W.rates[0].down))
    # The flux is the same through every face: q[k+1] - q[k] grows by down[k]/up[k].
    steps = np.cumprod(np.concatenate([[np.longdouble(1)], down[5:36] / up[5:36]]))
    exact = np.concatenate([[0], np.cumsum(steps) / np.sum(steps)])
    assert 0 < exact[1] < 1e-20
    np.testing.assert_allclose(q[4:37], exact.astype(float), rtol=1e-12)


def test_driven_flux_balances():
    """On a driven ring the reactive flux out of A is that into B, and masks on a chain give textbook numbers."""
    ring = rxs.Grid(0.0, 2 * jnp.pi, 40, boundary="periodic")
    W = rxs.FokkerPlanck(lambda x: 1.0 + 0.5 * jnp.sin(x), 0.3, ring)
    a, b = jnp.arange(40) < 5, (jnp.arange(40) >= 20) & (jnp.arange(40) < 25)
    law = rxs.stationary(W)
    there, back = rxs.reactive_flux(W, a, b, law=law), rxs.reactive_flux(W, b, a, law=law)
    np.testing.assert_allclose(there, back, rtol=1e-12)


def test_outcomes():
    chain = rxs.MasterEquation.from_edges([0, 1, 2], [1, 0, 1], 1.0, size=3)
    mask = jnp.arange(3) == 2
    value, result = rxs.mean_first_passage_time(chain, mask, throw=False)
    assert result == rxs.RESULTS.unreachable and not jnp.all(jnp.isfinite(value))
    with pytest.raises(Exception, match="target is not reached from everywhere"):
        jax.block_until_ready(rxs.mean_first_passage_time(chain, mask))
    with pytest.raises(ValueError, match="`target` must hold cells of its own, but it shares one with `source`"):
        rxs.committor(chain, mask, mask)
