"""The generator: conservation, stationarity, adjoints, conventions, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import rxjax_solvers as rxs
from rxjax_solvers._convention import check_convention
from rxjax_solvers._face_rates import fitted

SHAPE = (12, 9)
BOUNDARIES = {
    "closed": "reflecting",
    "ring": ["periodic", "reflecting"],
    "open": [("absorbing", "reflecting"), "absorbing"],
}


def random_potential(seed):
    c = jax.random.normal(jax.random.key(seed), (3, 3)) * 3
    k = jnp.arange(3.0)
    return lambda x: jnp.sum(c * jnp.outer(jnp.cos(k * x[0]), jnp.sin(1 + k * x[1])))


def gibbs(W):
    return jnp.exp(W.log_gibbs - jnp.max(W.log_gibbs))


@jax.jit
def gibbs_defect(seed, kT):
    grid = rxs.Grid(0, 2 * jnp.pi, SHAPE, boundary=["periodic", "reflecting"])
    W = rxs.FokkerPlanck.from_potential(random_potential(seed), grid, kT)
    pi = gibbs(W)
    exit_rate = sum(jnp.moveaxis(r.up + r.down, 0, i) for i, r in enumerate(W.rates))
    return jnp.sum(jnp.abs(W.apply(pi))) / jnp.sum(jnp.abs(exit_rate * pi))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), log_kT=st.floats(-2, 2))
def test_gibbs_law_is_stationary_across_the_seam_too(seed, log_kT):
    assert gibbs_defect(seed, 10.0**log_kT) <= 1e-12


def generator(boundary, seed=0):
    grid = rxs.Grid(0, 2 * jnp.pi, SHAPE, boundary=BOUNDARIES[boundary])
    drift = lambda x: jnp.array([1 + jnp.sin(x[1] + seed), jnp.cos(x[0])])
    diffusion = lambda x: jnp.array([0.5 + 0.3 * jnp.sin(x[0]) ** 2, 0.2 + 0.1 * jnp.cos(x[1]) ** 2])
    return rxs.FokkerPlanck(drift, diffusion, grid, rxs.Ito())


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_adjoint_matrix_and_columns(boundary):
    p, u = jax.random.normal(jax.random.key(1), (2, *SHAPE))

    @jax.jit
    def parts():
        W = generator(boundary)
        return W.as_matrix(), W.apply(p), W.adjoint(u)

    matrix, forward, backward = parts()
    np.testing.assert_allclose(matrix @ p.ravel(), forward.ravel(), atol=1e-11)
    np.testing.assert_allclose(jnp.vdot(u, forward), jnp.vdot(backward, p), rtol=1e-11)
    off = matrix - jnp.diag(jnp.diag(matrix))
    assert jnp.min(off) >= 0
    columns = jnp.sum(matrix, axis=0).reshape(SHAPE)
    if boundary == "open":
        assert jnp.all(columns < 1e-11) and jnp.all(columns[0] < -1e-3) and jnp.all(columns[:, [0, -1]] < -1e-3)
        np.testing.assert_allclose(columns[1:, 1:-1], 0, atol=1e-11)
    else:
        np.testing.assert_allclose(columns, 0, atol=1e-11)


def test_absorbing_rate_is_half_a_cell_away():
    W = rxs.FokkerPlanck(jnp.zeros(1), 0.7, rxs.Grid(0, 1, 10, boundary="absorbing"))
    np.testing.assert_allclose(W.rates[0].down[0], 2 * 0.7 / 0.1**2)
    np.testing.assert_allclose(W.rates[0].up[-1], 2 * 0.7 / 0.1**2)


def stationary(W):
    """Null vector of a small closed generator, one row replaced by the normalisation."""
    a = W.as_matrix().at[0].set(W.grid.cell_volume)
    return jnp.linalg.solve(a, jnp.zeros(W.grid.size).at[0].set(1))


@pytest.mark.parametrize("convention, power", [(rxs.Ito(), 1.0), (rxs.Stratonovich(), 0.5), (rxs.AntiIto(), 0.0)])
def test_conventions_differ_by_powers_of_the_diffusion(convention, power):
    """Zero drift: the stationary law is `D^-a` for the convention's share `a`."""
    grid = rxs.Grid(-1, 1, 80)
    D = lambda x: 0.05 * (1 + x[0] ** 2)
    p = jax.jit(lambda: stationary(rxs.FokkerPlanck(jnp.zeros(1), D, grid, convention)))()
    exact = (1 + grid.axes[0] ** 2) ** -power
    np.testing.assert_allclose(p, exact / grid.integrate(exact), atol=1e-3 * power + 1e-12)


def test_zero_force_changes_nothing_and_force_equals_potential():
    grid = rxs.Grid(-1, 1, 30)
    free = rxs.FokkerPlanck(jnp.zeros(1), 0.3, grid)
    flat = rxs.FokkerPlanck.from_potential(lambda x: 0 * x[0], grid, 0.3)
    np.testing.assert_allclose(free.as_matrix(), flat.as_matrix(), rtol=1e-12)
    linear = rxs.FokkerPlanck.from_potential(lambda x: 2 * x[0], grid, 0.3)
    force = rxs.FokkerPlanck(jnp.array([-2.0]), 0.3, grid)
    np.testing.assert_allclose(linear.as_matrix(), force.as_matrix(), rtol=1e-9)


def test_extreme_steps_neither_overflow_nor_clip():
    """Energy steps of thousands of kT: rates stay finite, and so do their derivatives."""
    grid = rxs.Grid(-1, 1, 6)
    rates = lambda kT: rxs.FokkerPlanck.from_potential(lambda x: 1e4 * x[0] ** 2, grid, kT).rates[0].up
    assert jnp.all(jnp.isfinite(rates(1e-2))) and jnp.all(jnp.isfinite(jax.jacobian(rates)(1e-2)))
    np.testing.assert_allclose(rates(1e-2)[0], (1e4 * (25 - 9) / 36) / (1 / 3) ** 2, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_of_rates_where_hardly_anything_diffuses(dtype):
    """By a diffusion of zero and by ones whose square is none; without drift a rate is D/h^2."""
    slopes = jax.jit(jax.vmap(lambda m, D: jax.jacfwd(lambda *x: jnp.stack(fitted(*x)), (0, 1))(m, D)))
    tiny = float(np.finfo(dtype).tiny) ** 0.7
    m, D = np.array([[0, 0], [0, tiny], [2, 0], [2, tiny], [-2, tiny], [0, 1]], dtype).T
    by_drift, by_diffusion = slopes(m, D)
    np.testing.assert_allclose(by_drift, [[0.5, -0.5], [0.5, -0.5], [1, 0], [1, 0], [0, -1], [0.5, -0.5]])
    np.testing.assert_allclose(by_diffusion, [[1, 1], [1, 1], [0, 0], [0, 0], [0, 0], [1, 1]])


def test_slope_by_a_diffusion_that_is_zero():
    rates = lambda D: rxs.FokkerPlanck(jnp.zeros(1), D, rxs.Grid(0, 1, 4)).as_matrix()
    np.testing.assert_allclose(jax.jacfwd(rates)(0.0), rates(1.0), rtol=1e-14)


def test_pure_drift_is_upwinded():
    grid = rxs.Grid(0, 1, 10, boundary="periodic")
    W = rxs.FokkerPlanck(jnp.array([3.0]), 0.0, grid)
    np.testing.assert_allclose(W.rates[0].up, 30.0)
    np.testing.assert_allclose(W.rates[0].down, 0.0)


def test_array_potential_and_time_dependence():
    grid = rxs.Grid(-1, 1, (8, 8))
    V = lambda x: x[0] ** 2 + x[0] * x[1]
    values = jax.vmap(jax.vmap(V))(grid.points)
    a = rxs.FokkerPlanck.from_potential(V, grid, 0.2)
    b = rxs.FokkerPlanck.from_potential(values, grid, 0.2)
    c = rxs.FokkerPlanck.from_potential(rxs.TimeDependent(lambda t, x: t * V(x)), grid, 0.2)
    d = rxs.FokkerPlanck.from_potential(V, grid, rxs.TimeDependent(lambda t, x: 0.4 / t))
    np.testing.assert_allclose(a.as_matrix(), b.as_matrix(), rtol=1e-13)
    np.testing.assert_allclose(a.as_matrix(), c.at(1.0).as_matrix(), rtol=1e-13)
    np.testing.assert_allclose(a.as_matrix(), d.at(2.0).as_matrix(), rtol=1e-13)
    assert c.time_dependent and not a.time_dependent
    with pytest.raises(ValueError, match="frozen before use"):
        c.apply(values)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda g: rxs.FokkerPlanck(lambda x: x, lambda x: 1.0 + x[0] ** 2, g), "`convention` must be Ito"),
        (lambda g: check_convention(rxs.Ito), "`convention` must be Ito.*, an object, but it is <class"),
        (lambda g: rxs.FokkerPlanck.from_potential(lambda x: x[0], g, jnp.ones(2)), r"`temperature` .* shape \(2,\)"),
        (lambda g: rxs.FokkerPlanck(lambda x: x[0], 1.0, g), r"`drift` must return an array of shape \(1,\)"),
        (lambda g: rxs.FokkerPlanck(lambda x: None, 1.0, g), "returns NoneType"),
        (lambda g: rxs.FokkerPlanck(lambda x: x, jnp.ones(3), g), "`diffusion` must be a scalar or have shape"),
        (lambda g: rxs.FokkerPlanck(lambda x: x, -1.0, g), "`diffusion` must be non-negative and finite, .* -1"),
        (lambda g: rxs.FokkerPlanck(lambda x: x / 0, 1.0, g), "`drift` must be finite"),
        (lambda g: rxs.FokkerPlanck.from_potential(lambda x: x, g, 1.0), r"`potential` must return .* \(\)"),
        (lambda g: rxs.FokkerPlanck.from_potential(lambda x: jnp.nan * x[0], g, 1.0), "`potential` must be finite"),
        (lambda g: rxs.FokkerPlanck.from_potential(lambda x: 1, g, 1.0), "`potential` must return"),
        (lambda g: rxs.FokkerPlanck.from_potential(lambda x: jnp.int32(1), g, 1.0), "floating-point numbers"),
        (lambda g: rxs.FokkerPlanck.from_potential(jnp.ones(3), g, 1.0), "the grid's shape"),
        (lambda g: rxs.FokkerPlanck.from_potential(lambda x: x[0], g, 0.0), "`temperature` .* is zero"),
        (lambda g: rxs.FokkerPlanck.from_potential(lambda x: x[0], g, jnp.nan), "`temperature` .* is not finite"),
        (lambda g: rxs.FokkerPlanck.from_potential(lambda x: x[0], g, 1.0, -2.0), "`mobility` .* is negative"),
        (
            lambda g: rxs.FokkerPlanck(rxs.NegativeGradient(lambda x: x[0], jnp.ones(2)), 1.0, g),
            r"`mobility` .* \(2,\)",
        ),
        (lambda g: rxs.FokkerPlanck(rxs.NegativeGradient(lambda x: x[0], jnp.ones((1, 1))), 1.0, g), r"beside a `diff"),
        (
            lambda g: rxs.FokkerPlanck(rxs.NegativeGradient(lambda x: x[0], jnp.nan), 1.0, g),
            "`mobility` must be finite",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make(rxs.Grid(-1, 1, 5))


def test_refusals_inside_jit():
    grid = rxs.Grid(-1, 1, 5)
    make = jax.jit(lambda kT, s: rxs.FokkerPlanck.from_potential(lambda x: s * x[0], grid, kT).rates[0].up)
    assert jnp.all(make(1.0, 1.0)[:-1] > 0)
    with pytest.raises(Exception, match="`temperature` must be positive and finite, but it is negative"):
        make(-1.0, 1.0)
    with pytest.raises(Exception, match="`potential` must be finite, but it is not finite"):
        make(1.0, jnp.nan)


def test_a_dense_matrix_has_a_limit():
    with pytest.raises(ValueError, match="must stay below 10000 cells"):
        rxs.FokkerPlanck(jnp.zeros(2), 1.0, rxs.Grid(0, 1, (101, 101))).as_matrix()


def test_a_potential_is_evaluated_once():
    class Counted:
        calls = 0

        def __call__(self, theta):
            return theta[0] ** 2

        def evaluate(self, points):
            self.calls += 1
            return points[..., 0] ** 2

    counted, grid = Counted(), rxs.Grid(-2, 2, 16)
    W = rxs.FokkerPlanck.from_potential(counted, grid, 0.5)
    assert counted.calls == 1
    np.testing.assert_array_equal(W.log_gibbs, -(grid.axes[0] ** 2) / 0.5)


def test_a_generator_is_made_by_few_programs(caplog):
    """Outside `jit` too; the next ones of their shapes, whose functions are made of the same operations, by no more."""
    grid = rxs.Grid(-2, 2, (11, 9), boundary=["absorbing", "periodic"])
    tensor = jnp.array([[0.4, 0.1], [0.1, 0.3]])

    def make(kT):
        with jax.log_compiles():
            caplog.clear()
            rxs.FokkerPlanck.from_potential(lambda x: x[0] ** 2 + kT, grid, kT)
            rxs.FokkerPlanck(lambda x: -x, lambda x: kT * (1 + x**2), grid, rxs.Ito())
            rxs.FokkerPlanck(jnp.zeros(2), lambda x: kT * tensor, grid, rxs.AntiIto())
            rxs.MasterEquation.from_rates(lambda x, delta: kT * x[0] ** 2, grid, 0.5)
            grid.normalize(grid.gaussian(0.1, 1.0))
        return sum(record.getMessage().startswith("Compiling ") for record in caplog.records)

    assert make(0.3) < 60
    assert make(0.4) == 0


def test_a_drift_means_what_it_means_now():
    grid, factor = rxs.Grid(-2, 2, 8), [1.0]
    drift = lambda x: factor[0] * x
    first = rxs.FokkerPlanck(drift, 0.3, grid)
    factor[0] = 2.0
    second = rxs.FokkerPlanck(drift, 0.3, grid)
    np.testing.assert_array_equal(second.as_matrix(), rxs.FokkerPlanck(lambda x: 2.0 * x, 0.3, grid).as_matrix())
    assert jnp.max(jnp.abs(first.as_matrix() - second.as_matrix())) > 1
