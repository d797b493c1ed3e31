"""Passage times, committors and rates: exact cases, order in space, low temperature, symmetry, outcomes, gradients."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import rxjax_solvers as rxs
from rxjax_solvers._region import region


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


def passage(D, cells, convention=None, upper=2.6):
    """From -1 to 1 over the quartic barrier; the target's edge lies on a face unless `upper` says otherwise."""
    grid = rxs.Grid(-2.6, upper, cells)
    if convention is None:
        W = rxs.FokkerPlanck.from_potential(quartic, grid, D)
    else:
        W = rxs.FokkerPlanck(lambda x: -x * (x**2 - 1), lambda x: D * (1 + x[0] ** 2), grid, convention)
    tau = rxs.mean_first_passage_time(W, lambda x: x[0] >= 1.0)
    return at(grid, tau, -1.0)


def test_known_times():
    """Cases 3 and 5: the limit of ever smaller cells, to 1e-7; the error falls like their square."""
    cold, conventions = jnp.array([0.1, 0.05, 0.025]), (rxs.Ito(), rxs.Stratonovich(), rxs.AntiIto())

    @jax.jit
    def run(cold):
        def one(n):
            wells = jax.lax.map(lambda D: passage(D, n), cold)
            return jnp.concatenate([wells, jnp.stack([passage(cold[1], n, c) for c in conventions])])

        return [one(n) for n in (208, 416, 832)]

    a, b, c = (np.asarray(x) for x in run(cold))
    exact = [66.26862636, 729.67069194, 102108.3655, 184.962239, 243.009653, 324.737478]
    coarse, fine = (4 * b - a) / 3, (4 * c - b) / 3
    np.testing.assert_allclose((16 * fine - coarse) / 15, exact, rtol=1e-7)
    order = np.log2((a - exact) / (b - exact))
    assert np.all((1.9 < order) & (order < 2.1))


def test_times_with_an_edge_inside_a_cell():
    """Second order too, and the derivative in the diffusion."""

    @jax.jit
    def run(D):
        slope = jax.grad(lambda D: passage(D, 500, rxs.Ito(), 2.63))(D)
        near = jax.lax.map(lambda D: passage(D, 500, rxs.Ito(), 2.63), D * jnp.array([0.998, 0.999, 1.0, 1.001, 1.002]))
        return slope, near, passage(D, 125, rxs.Ito(), 2.63)

    slope, near, coarse = run(0.05)
    errors = np.array([coarse, near[2]]) / 184.962239 - 1
    assert 1.5 < np.log2(np.abs(errors[0] / errors[1])) / 2 < 2.5 and abs(errors[1]) < 2e-4
    np.testing.assert_allclose(slope, (near[0] - 8 * near[1] + 8 * near[3] - near[4]) / (12e-3 * 0.05), rtol=1e-6)


def test_exit_from_an_interval():
    """Case 9: mean 1 and variance 2/3, at second order; absorbing sides and a predicate agree."""

    def exit(n):
        W = rxs.FokkerPlanck(jnp.zeros(1), 0.5, rxs.Grid(-1.0, 1.0, n, boundary="absorbing"))
        factor = rxs.factorize(W)
        mean = rxs.mean_first_passage_time(W, None, factor=factor)[n // 2]
        return jnp.stack([mean - 1, rxs.first_passage_variance(W, None, factor=factor)[n // 2] - 2 / 3])

    @jax.jit
    def run():
        wide = rxs.Grid(-1.37, 1.41, 80)
        W = rxs.FokkerPlanck(jnp.zeros(1), 0.5, wide)
        return [exit(n) for n in (15, 45)], wide.axes[0], rxs.mean_first_passage_time(W, lambda x: jnp.abs(x[0]) > 1)

    (coarse, fine), x, tau = run()
    order = np.log(np.abs(coarse / fine)) / np.log(3)
    assert np.all((1.9 < order) & (order < 2.1)) and np.all(np.abs(fine) < 1e-3)
    np.testing.assert_allclose(tau, np.where(np.abs(x) > 1, 0, 1 - x**2), atol=(2.78 / 80) ** 2 / 4)


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


@pytest.mark.parametrize("dim, barrier", [(1, 50.0), (2, 35.0)], ids=str)
def test_gradients_at_low_temperature(dim, barrier):
    """Slopes of logarithms of times, variances and rates in barrier and tilt; on one axis without a potential too."""
    grid = rxs.Grid(-1.7, 1.7, (48,)) if dim == 1 else rxs.Grid(-1.5, 1.5, (12, 5))
    target = jnp.broadcast_to((grid.axes[0] > 1).reshape(-1, *[1] * (dim - 1)), grid.shape)
    V = lambda x, a: a[0] * (x[0] ** 2 - 1) ** 2 + a[1] * x[0] + 2 * jnp.sum(x[1:] ** 2)
    gradient = lambda a: rxs.FokkerPlanck.from_potential(lambda x: V(x, a), grid, 1.0)
    drift = lambda a: rxs.FokkerPlanck(lambda x: -jax.grad(V)(x, a), 1.0, grid)

    def logs(a, make):
        W = make(a)
        factor = rxs.factorize(W, target=target)
        times = [verb(W, target, factor=factor) for verb in (rxs.mean_first_passage_time, rxs.first_passage_variance)]
        found = [*(t.ravel()[10] for t in times), rxs.quasi_stationary(W, factor=factor)[1]]
        return jnp.log(jnp.stack(found if make is drift else [*found, -rxs.spectrum(W, 2)[0][1]]))

    a, h = jnp.array([barrier, 1.0]), 1e-3
    for make in (gradient, drift)[: 3 - dim]:
        run = jax.jit(lambda a, make=make: (logs(a, make), jax.jacrev(logs)(a, make)))
        exact = [(run(a + step)[0] - run(a - step)[0]) / (2 * h) for step in h * jnp.eye(2)]
        np.testing.assert_allclose(run(a)[1].T, exact, rtol=1e-6)


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
    a, b = np.arange(40) < 5, (np.arange(40) >= 20) & (np.arange(40) < 25)

    @jax.jit
    def run():
        ring = rxs.Grid(0.0, 2 * jnp.pi, 40, boundary="periodic")
        W = rxs.FokkerPlanck(lambda x: 1.0 + 0.5 * jnp.sin(x), 0.3, ring)
        law = rxs.stationary(W)
        ends = jnp.asarray(a), jnp.asarray(b)
        chain = rxs.MasterEquation.from_edges([0, 1, 1, 2], [1, 0, 2, 1], jnp.array([1.0, 2.0, 3.0, 4.0]), size=3)
        first, last = jnp.arange(3) == 0, jnp.arange(3) == 2
        both = [rxs.reactive_flux(W, *e, law=law) for e in (ends, ends[::-1])]
        return both, rxs.reactive_flux(chain, first, last), rxs.transition_rate(chain, first, last)

    (there, back), flux, rate = run()
    np.testing.assert_allclose(there, back, rtol=1e-12)
    # pi = (8, 4, 3)/15, and the middle came from the first with chance 2/5: 3 (4/15)(2/5) over 8/15 + (4/15)(2/5).
    np.testing.assert_allclose([flux, rate], [0.32, 0.5], rtol=1e-12)


def test_a_factor_of_another_predicate(caplog):
    """It is refused where it is known, and a predicate that was asked before compiles nothing."""
    W = rxs.FokkerPlanck(jnp.zeros(1), 1.0, rxs.Grid(-1, 1, 8))
    right, left = lambda x: x[0] > 0.5, lambda x: x[0] < -0.5
    factor = rxs.factorize(W, target=right)
    for other in (left, (left, right)):
        with pytest.raises(ValueError, match="`factor` must be of the same `target`, but it is of another"):
            rxs.mean_first_passage_time(W, other, factor=factor)
    first = rxs.mean_first_passage_time(W, right, factor=factor)
    with jax.log_compiles():
        caplog.clear()
        again = rxs.mean_first_passage_time(W, right)
        np.testing.assert_array_equal(rxs.mean_first_passage_time(W, right, factor=factor), again)
    assert not [record for record in caplog.records if record.getMessage().startswith("Compiling ")]
    np.testing.assert_allclose(again, first, rtol=1e-12)


def test_outcomes():
    chain = rxs.MasterEquation.from_edges([0, 1, 2], [1, 0, 1], 1.0, size=3)
    mask = jnp.arange(3) == 2
    value, result = rxs.mean_first_passage_time(chain, mask, throw=False)
    assert result == rxs.RESULTS.unreachable and not jnp.all(jnp.isfinite(value))
    with pytest.raises(Exception, match="target is not reached from everywhere"):
        jax.block_until_ready(rxs.mean_first_passage_time(chain, mask))
    ends = rxs.factorize(chain, target=mask)
    with pytest.raises(ValueError, match=r"`factor` must be of the same `\(source, target\)`, but it is of another"):
        rxs.committor(chain, jnp.arange(3) == 0, mask, factor=ends)
    with pytest.raises(ValueError, match="`factor` must be of the same `target`, but it is of another"):
        rxs.mean_first_passage_time(chain, jnp.arange(3) == 0, factor=ends)
    with pytest.raises(ValueError, match="`factor` must be of the same `target`, but it is of another"):
        rxs.mean_first_passage_time(chain, None, factor=ends)
    pair = rxs.MasterEquation.from_edges([0, 1], [1, 0], 1.0, size=2)
    with pytest.raises(ValueError, match=r"`factor` must be of a generator of shape \(2,\), but that has shape \(3,\)"):
        rxs.mean_first_passage_time(pair, None, factor=ends)
    with pytest.raises(ValueError, match="`source` must be a Boolean mask .*, but it is None"):
        region(chain, None, "source")
    with pytest.raises(ValueError, match="`target` must hold cells of its own, but it shares one with `source`"):
        rxs.committor(chain, mask, mask)


def test_a_second_question_compiles_no_more_than_its_predicate(caplog):
    """Outside `jit` too a verb is one program, kept for the next generator of its shape."""
    grid = rxs.Grid(-2.0, 2.0, 12)
    low, high = grid.axes[0] < -1, grid.axes[0] > 1

    def ask(kT, target):
        W = rxs.FokkerPlanck(lambda x: -x * (x**2 - 1), kT, grid)
        with jax.log_compiles():
            caplog.clear()
            rxs.mean_first_passage_time(W, target)
            rxs.committor(W, low, target)
            rxs.transition_rate(W, low, target)
            rxs.stationary(W)
            rxs.spectrum(W, 3)
        return sum(record.getMessage().startswith("Compiling ") for record in caplog.records)

    ask(0.3, high)
    assert ask(0.2, high) == 0
    ask(0.3, lambda x: x[0] > 1)
    # One for all three that are given it.
    assert ask(0.2, lambda x: x[0] > 1) == 1


def test_a_predicate_means_what_it_means_now():
    grid, edge = rxs.Grid(-2.0, 2.0, 12), [0.5]
    W = rxs.FokkerPlanck(lambda x: -x * (x**2 - 1), 0.3, grid)
    target = lambda x: x[0] > edge[0]
    near = rxs.mean_first_passage_time(W, target)
    edge[0] = 1.5
    far = rxs.mean_first_passage_time(W, target)
    np.testing.assert_allclose(far, rxs.mean_first_passage_time(W, lambda x: x[0] > 1.5))
    assert jnp.max(far) > 1.5 * jnp.max(near)


def test_slope_by_a_rate_of_zero():
    """That of the direct way from source to target, which is not there yet: the law in the source."""
    first, last = jnp.arange(3) == 0, jnp.arange(3) == 2

    def flux(direct, law):
        W = rxs.MasterEquation.from_edges([0, 1, 2, 1, 0], [1, 2, 0, 0, 2], jnp.append(rates, direct), 3)
        return rxs.reactive_flux(W, first, last, law=law)

    rates = jnp.array([1.0, 2.0, 0.5, 0.3])
    law = rxs.stationary(rxs.MasterEquation.from_edges([0, 1, 2, 1], [1, 2, 0, 0], rates, 3))
    np.testing.assert_allclose(jax.grad(flux)(0.0, law), law[0], rtol=1e-12)


def test_second_derivative_where_nothing_drives():
    """The rate to a predicate's edge is a series there."""
    grid = rxs.Grid(-2.0, 2.0, 12)

    def time(a):
        W = rxs.FokkerPlanck(lambda x: a * x, 0.5, grid)
        return rxs.mean_first_passage_time(W, lambda x: x[0] > 0.9)[3]

    second = jax.jit(jax.jacfwd(jax.grad(time)))
    np.testing.assert_allclose(second(0.0), (second(1e-3) + second(-1e-3)) / 2, rtol=1e-5)


@pytest.mark.parametrize("dim, slope", [(1, jax.jacrev), (2, jax.jacfwd)], ids=["line", "plane"])
def test_slopes_by_the_bounds_with_an_edge_inside_a_cell(dim, slope):
    """The edge rests in space while the cells move past it, on a plane along its slope too."""
    ball = lambda x: jnp.sum((x - 0.9) ** 2) < 0.5

    def value(bounds):
        W = rxs.FokkerPlanck.from_potential(quartic, rxs.Grid(bounds[0], bounds[1], (12, 7)[:dim]), 0.3)
        into = jnp.stack([jnp.sum(jnp.cos(jnp.arange(W.size)) * region(W, ball, "target").into.ravel())])
        return jnp.append(into, rxs.mean_first_passage_time(W, ball)[3]) if dim == 1 else into

    bounds = jnp.array([[-2.03, -0.52], [1.97, 1.71]])[:, :dim]
    steps = 1e-5 * jnp.eye(2 * dim).reshape(-1, 2, dim)
    two_sided = jax.jit(lambda x: jax.lax.map(lambda step: (value(x + step) - value(x - step)) / 2e-5, steps))
    expected = np.moveaxis(np.asarray(two_sided(bounds)).reshape(2, dim, -1), -1, 0)
    np.testing.assert_allclose(jax.jit(slope(value))(bounds), expected, rtol=1e-6, atol=1e-7)


def test_an_edge_at_the_seam_of_a_ring():
    """A predicate that ends at the bounds is hit there; the place of its edge moves with them."""

    def times(bounds):
        W = rxs.FokkerPlanck(jnp.zeros(1), 0.5, rxs.Grid(bounds[0], bounds[1], 20, boundary="periodic"))
        return rxs.mean_first_passage_time(W, lambda x: x[0] > 0.9)

    bounds = jnp.array([-1.0, 1.0])
    x = rxs.Grid(-1.0, 1.0, 20).axes[0]
    tau, slope = jax.jit(lambda bounds: (times(bounds), jax.jacfwd(times)(bounds)[7]))(bounds)
    np.testing.assert_allclose(tau, jnp.where(x > 0.9, 0, (x + 1) * (0.9 - x)), atol=0.1**2 / 3)
    expected = [(times(bounds + h)[7] - times(bounds - h)[7]) / 2e-5 for h in 1e-5 * jnp.eye(2)]
    np.testing.assert_allclose(slope, expected, rtol=1e-6)
