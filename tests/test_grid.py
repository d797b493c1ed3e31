"""Grids: geometry, cell averages, refusals."""

import inspect

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.scipy.stats import norm

import rxjax_solvers as rxs
from rxjax import _rate_on_grid
from rxjax_solvers import _committor, _deflated


def test_geometry():
    grid = rxs.Grid(jnp.array([-1.0, 0.0]), jnp.array([1.0, 3.0]), (4, 6))
    assert grid.dim == 2 and grid.shape == (4, 6) and grid.size == 24
    np.testing.assert_allclose(grid.spacing, [0.5, 0.5])
    np.testing.assert_allclose(grid.cell_volume, 0.25)
    np.testing.assert_allclose(grid.axes[0], [-0.75, -0.25, 0.25, 0.75])
    np.testing.assert_allclose(grid.points[1, 2], [-0.25, 1.25])
    assert grid.boundary == (("reflecting", "reflecting"),) * 2
    assert rxs.Grid(0, 1, np.int64(4)).shape == (4,)


def test_integrate_and_normalize():
    grid = rxs.Grid(0, 1, (5, 4, 3))
    f = jnp.arange(60.0).reshape(5, 4, 3)
    np.testing.assert_allclose(grid.integrate(f), f.sum() / 60)
    np.testing.assert_allclose(grid.integrate(jnp.stack([f, 2 * f])), [f.sum() / 60, f.sum() / 30])
    np.testing.assert_allclose(grid.integrate(grid.normalize(f)), 1)
    counts = jnp.arange(60).reshape(5, 4, 3)
    np.testing.assert_allclose(grid.integrate(counts), f.sum() / 60)
    np.testing.assert_allclose(grid.integrate(counts < 15), 0.25)
    np.testing.assert_allclose(grid.normalize(counts), grid.normalize(f))
    with pytest.raises(ValueError, match=r"Argument `f` must end in the grid's shape \(5, 4, 3\)"):
        grid.integrate(jnp.ones((5, 4)))


def test_gaussian_holds_cell_averages():
    grid = rxs.Grid(-3, 5, 16)
    edges = np.linspace(-3, 5, 17)
    cdf = norm.cdf(edges, 0.7, 0.9)
    np.testing.assert_allclose(grid.gaussian(0.7, 0.9), np.diff(cdf) / (cdf[-1] - cdf[0]) / 0.5, rtol=1e-12, atol=1e-15)
    far = rxs.Grid(0, 40, 40).gaussian(0.0, 1.0)
    assert float(far[36]) > 0, "tails keep their relative accuracy on both sides"
    np.testing.assert_allclose(far[30], 2 * (norm.sf(30.0) - norm.sf(31.0)), rtol=1e-9)


@pytest.mark.parametrize("mean", [0.0, 0.1, -1.0])
def test_gaussian_is_differentiable(mean):
    """With the mean on a face between cells and on a side too."""
    grid = rxs.Grid(-1, 1, 4)
    slope = jax.jacfwd(lambda x: grid.gaussian(x[0], x[1]))(jnp.array([mean, 0.4]))
    for k, step in enumerate(1e-5 * np.eye(2)):
        high, low = grid.gaussian(mean + step[0], 0.4 + step[1]), grid.gaussian(mean - step[0], 0.4 - step[1])
        np.testing.assert_allclose(slope[:, k], (high - low) / 2e-5, atol=1e-8)


def test_gaussian_wraps():
    grid = rxs.Grid(0, 1, 50, boundary="periodic")
    p = grid.gaussian(0.02, 0.1)
    np.testing.assert_allclose(p, jnp.roll(grid.gaussian(0.52, 0.1), -25), rtol=1e-12)
    np.testing.assert_allclose(rxs.Grid(0, 1, 50, boundary="periodic").gaussian(0.3, 1.0), 1, atol=1e-7)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(lower=0, upper=1, shape=1), "`shape` must have at least 2 cells"),
        (dict(lower=0, upper=0, shape=4), "`upper` must be finite and above `lower`.*but it is not above"),
        (dict(lower=0, upper=jnp.inf, shape=4), "`upper` .* is not finite"),
        (dict(lower=jnp.nan, upper=1, shape=4), "`lower` must be finite, .* not finite"),
        (dict(lower=0, upper=1, shape=(4.5,)), r"`shape` must be a whole number, .* \(4.5,\)"),
        (dict(lower=0, upper=1, shape=4, boundary=[("absorbing",) * 3]), r"a name or a pair \(low, high\) of names"),
        (dict(lower=jnp.zeros(3), upper=1, shape=(4, 4)), r"`lower` must be a scalar or have shape \(2,\)"),
        (dict(lower=0, upper=1, shape=4, boundary="reflective"), '`boundary` must be one of "reflecting"'),
        (dict(lower=0, upper=1, shape=4, boundary=[("periodic", "absorbing")]), "periodic on both sides"),
        (dict(lower=0, upper=1, shape=(4, 4), boundary=["periodic"]), "one entry for each of the 2 axes"),
    ],
)
def test_refusals(arguments, words):
    with pytest.raises(ValueError, match=words):
        rxs.Grid(**arguments)


def test_refusals_of_densities():
    grid = rxs.Grid(0, 1, 4)
    with pytest.raises(ValueError, match="`std` must be positive and finite, but it is negative: got -1"):
        grid.gaussian(0.5, -1)
    with pytest.raises(ValueError, match=r"`mean` must be a scalar or have shape \(1,\)"):
        grid.gaussian([0.5, 0.5], 1)
    with pytest.raises(ValueError, match="`mean` must lie on the grid"):
        grid.gaussian(1e6, 0.1)
    with pytest.raises(ValueError, match="`f` must be positive and finite, but it is zero"):
        grid.normalize(jnp.zeros(4))
    with pytest.raises(Exception, match="`std` must be positive and finite, but it is negative"):
        jax.jit(lambda s: grid.gaussian(0.5, s))(-1.0)


def test_bounds_are_differentiable():
    mass = lambda upper: rxs.Grid(0.0, upper, 20).integrate(jnp.ones(20))
    np.testing.assert_allclose(jax.grad(mass)(2.0), 1.0)


def test_float32(float32):
    grid = rxs.Grid(-2, 2, 64)
    p = grid.gaussian(-1, 0.2)
    assert p.dtype == jnp.float32
    np.testing.assert_allclose(grid.integrate(p), 1, rtol=1e-6)


def test_a_wrong_rank_is_refused():
    """jaxtyping is active for this package while testing."""
    W = rxs.FokkerPlanck(jnp.zeros(1), 1.0, rxs.Grid(0, 1, 4))
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'ts'"):
        rxs.solve(W, jnp.ones(4), jnp.ones((2, 2)))


def test_a_python_number_does_not_widen_a_bound():
    assert rxs.Grid(jnp.float32(-1), 1.2, 8).lower.dtype == jnp.float32


@pytest.mark.parametrize(
    "call",
    [
        lambda plain: plain(rxs.FokkerPlanck.__init__)(None, lambda x: -x, rxs.Grid(-1, 1, 4), 0.5),
        lambda plain: plain(rxs.FokkerPlanck.from_potential)(rxs.FokkerPlanck, lambda x: x[0], 0.5, rxs.Grid(-1, 1, 4)),
        lambda plain: plain(rxs.MasterEquation.from_rates)(rxs.MasterEquation, lambda x, delta: 1.0, 0.5, 0.3),
        lambda plain: plain(_rate_on_grid._check)(lambda x: x[0], 0.5, "difference", 1),
    ],
)
def test_what_is_no_grid_is_refused_by_name(call):
    """Arguments in another order, without the type checks that only tests have."""
    with pytest.raises(ValueError, match="Argument `grid` must be a Grid, but it is of type float"):
        call(lambda f: inspect.unwrap(getattr(f, "__func__", f)))


@pytest.mark.parametrize(
    "verb, arguments",
    [
        (rxs.solve, (jnp.ones(4) / 2, [0.0, 1.0])),
        (rxs.uniformization, (jnp.ones(4) / 2, jnp.array([0.0, 1.0]))),
        (rxs.spectrum, (2,)),
        (rxs.factorize, ()),
        (rxs.entropy_production, (jnp.ones(4) / 2,)),
        (_deflated.stationary_law, ()),
        (_committor._ends, (lambda x: x[0] < 0, lambda x: x[0] > 0, None)),
    ],
)
def test_what_is_no_generator_is_refused_by_name(verb, arguments):
    with pytest.raises(ValueError, match="Argument `generator` must be a FokkerPlanck.* but it is of type Grid"):
        inspect.unwrap(verb)(rxs.Grid(-1, 1, 4), *arguments)
