"""Rates on a grid: equal to the rate density point by point, sums over updates, memory, gradients, refusals."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from jaxtyping import Array, ArrayLike
from refusals import assert_refused
from scipy.special import logsumexp

from rxjax import _grid_kernel
from rxjax._rate_on_grid import flow_on_grid, rate_on_grid, stencil, total_rate_on_grid
from rxjax._rates import energy_difference, log_rate_density
from rxjax.landscapes import DoubleWell, MullerBrown
from rxjax.solvers import Grid

GRID = Grid([-1.5, -0.5], [1.0, 2.0], (6, 5))
UPDATES = np.array([[0.1, 0.0], [-0.2, 0.1], [0.0, -0.3]])
SETTINGS: dict[str, Any] = {"tau0": 2.0, "k": 1.5}


class Ripple(eqx.Module):
    """A landscape that is not cheap arithmetic, in any dimension, with its height as a leaf."""

    height: Array

    def __call__(self, theta):
        return self.height * jnp.sum(jnp.sin(3 * theta)) + jnp.sum(theta**2) * theta[0]


RIPPLE = Ripple(jnp.asarray(2.0))


def polynomial(theta):
    return (theta[0] ** 2 - 1) ** 2 + 2 * theta[1] ** 2 + theta[0] * theta[1] / 2


def log_rates(landscape, grid, updates, temperature, energy="inner_product", entropy: ArrayLike = 0.0):
    """The loop over points that the grid replaces: `(m, *shape)`."""
    points = grid.points.reshape(-1, grid.dim)
    fields = [jnp.broadcast_to(jnp.asarray(x), grid.shape).reshape(-1) for x in (temperature, entropy)]

    def one(x, update, t, s):
        if energy == "inner_product":
            return log_rate_density(jax.grad(landscape)(x), update, t, entropy=s, **SETTINGS)
        change = energy_difference(landscape, x, update)
        return log_rate_density(change, jnp.ones_like(change), t, entropy=s, **SETTINGS)

    over_points = jax.vmap(one, (0, None, 0, 0))
    result = jax.jit(jax.vmap(over_points, (None, 0, None, None)))(points, jnp.asarray(updates), *fields)
    return np.asarray(result).reshape(len(updates), *grid.shape)


@pytest.mark.parametrize("landscape", [polynomial, RIPPLE, MullerBrown()], ids=["cheap", "dear", "mueller"])
@pytest.mark.parametrize("energy", ["inner_product", "difference"])
def test_equals_the_rate_density_at_every_point(landscape, energy):
    got = rate_on_grid(landscape, GRID, UPDATES, 0.7, energy=energy, **SETTINGS)
    expected = log_rates(landscape, GRID, UPDATES, 0.7, energy)
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("landscape", [polynomial, RIPPLE], ids=["cheap", "dear"])
def test_fields_and_the_limit_of_no_noise(landscape):
    """A temperature and an entropy of the grid's shape, zero temperature at some points."""
    rng = np.random.default_rng(0)
    entropy = rng.standard_normal(GRID.shape)
    temperature = rng.uniform(0.5, 2.0, GRID.shape) * (rng.uniform(size=GRID.shape) > 0.3)
    got = rate_on_grid(landscape, GRID, UPDATES, temperature, entropy=entropy, **SETTINGS)
    expected = log_rates(landscape, GRID, UPDATES, temperature, entropy=entropy)
    assert np.isinf(expected).any() and not np.isnan(expected).any()
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)
    # A zero update has the attempt frequency everywhere, and its gradients are finite.
    still = rate_on_grid(landscape, GRID, np.zeros(2), temperature, entropy=entropy, **SETTINGS)
    np.testing.assert_allclose(still, entropy / 1.5 - np.log(2), rtol=1e-12)
    slope = jax.jit(jax.grad(lambda t, d: jnp.sum(rate_on_grid(landscape, GRID, d, t, log=False)), (0, 1)))(
        jnp.asarray(temperature), jnp.zeros((1, 2))
    )
    assert all(np.isfinite(x).all() for x in slope)
    assert not np.any(np.asarray(slope[0])[temperature == 0])


@pytest.mark.parametrize("dim", [1, 3])
def test_other_dimensions_and_single_updates(dim):
    grid = Grid(np.full(dim, -1.0), np.full(dim, 1.5), (7, 4, 3)[:dim])
    update = np.linspace(0.1, 0.3, dim)
    one = rate_on_grid(RIPPLE, grid, update, 0.7, **SETTINGS)
    expected = log_rates(RIPPLE, grid, update[None], 0.7)
    np.testing.assert_allclose(one, expected[0], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(rate_on_grid(RIPPLE, grid, update, 0.7, log=False, **SETTINGS), np.exp(one), rtol=1e-12)
    if dim == 1:
        np.testing.assert_array_equal(rate_on_grid(RIPPLE, grid, 0.1, 0.7, **SETTINGS), one)


def test_stencil():
    grid = Grid([0.0, 0.0], [1.0, 1.0], (10, 5))  # spacings .1 and .2
    updates = np.asarray(stencil(grid, 0.2))
    expected = [(-0.2, 0), (-0.1, 0), (0, -0.2), (0, 0.2), (0.1, 0), (0.2, 0)]
    np.testing.assert_allclose(updates, expected, atol=1e-12)
    np.testing.assert_allclose(np.asarray(stencil(grid, 0.2, include_zero=True))[3], [0, 0], atol=0)
    # Half axes, and whole cells in spite of rounding: three of them make .1 + .1 + .1.
    wide = np.asarray(stencil(grid, [0.3, 0.2]))
    assert np.max(wide[:, 0]) == pytest.approx(0.3) and np.max(wide[:, 1]) == pytest.approx(0.2)
    assert (
        len(wide)
        == sum((i * 0.1 / 0.3) ** 2 + (j * 0.2 / 0.2) ** 2 <= 1 + 1e-9 for i in range(-3, 4) for j in range(-1, 2)) - 1
    )
    # It is symmetric, and every update leads from a centre to a centre.
    np.testing.assert_allclose(-wide[::-1], wide, atol=1e-12)
    np.testing.assert_allclose(wide / np.asarray(grid.spacing), np.rint(wide / np.asarray(grid.spacing)), atol=1e-12)


@pytest.mark.parametrize("energy, number", [("inner_product", 3), ("inner_product", 10), ("difference", 3)])
def test_sums_over_updates(energy, number):
    """Total rate and flow against direct sums, for fewer and for more updates than a group holds."""
    rng = np.random.default_rng(number)
    updates, weights = 0.2 * rng.standard_normal((number, 2)), rng.uniform(size=number)
    weights[0] = 0.0
    entropy, temperature = rng.standard_normal(GRID.shape), rng.uniform(0.1, 2.0, GRID.shape)
    terms = log_rates(RIPPLE, GRID, updates, temperature, energy, entropy)
    with np.errstate(divide="ignore"):
        terms = terms + np.log(weights)[:, None, None]
    flow = flow_on_grid(RIPPLE, GRID, updates, temperature, weights=weights, energy=energy, entropy=entropy, **SETTINGS)
    expected: Any = logsumexp(terms, axis=0)
    np.testing.assert_allclose(flow.log_total, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(flow.total, np.exp(expected), rtol=1e-10)
    velocity = np.einsum("m...,md->...d", np.exp(terms), updates)
    np.testing.assert_allclose(flow.flow, velocity, rtol=1e-9, atol=1e-10 * np.max(np.abs(velocity)))
    total = total_rate_on_grid(
        RIPPLE, GRID, updates, temperature, weights=weights, energy=energy, entropy=entropy, **SETTINGS
    )
    np.testing.assert_allclose(total, expected, rtol=1e-11, atol=1e-11)


def test_sums_where_the_rates_overflow():
    """The mean update stays finite, and points down the steepest of the updates."""
    flow = flow_on_grid(polynomial, GRID, UPDATES, 1e-4)
    assert np.isfinite(flow.log_total).all() and np.isfinite(flow.mean_update).all()
    assert np.isinf(flow.total).any()
    steepest = np.argmin([np.einsum("...d,d->...", slopes(polynomial, GRID), u) for u in UPDATES], axis=0)
    np.testing.assert_allclose(flow.mean_update, UPDATES[steepest], atol=1e-6)
    # Along an axis on which nothing moves there is no flow, however high the rate.
    endless = np.isinf(flow.total) & (np.asarray(flow.mean_update[..., 1]) == 0)
    assert endless.any() and not np.asarray(flow.flow[..., 1])[endless].any() and not np.isnan(flow.flow).any()


def slopes(landscape, grid):
    points = grid.points.reshape(-1, grid.dim)
    return np.asarray(jax.jit(jax.vmap(jax.grad(landscape)))(points)).reshape(*grid.shape, grid.dim)


def test_sum_over_a_stencil_is_the_closed_form():
    """A Gaussian proposal on a fine stencil: the total rate and flow of the theory's closed forms."""
    well, s, kt = DoubleWell(dim=2), 0.05, 0.8
    grid = Grid([-1.5, -1.0], [1.5, 1.0], (150, 100))
    updates = stencil(grid, 6 * s)
    weights = np.exp(-np.sum(np.asarray(updates) ** 2, 1) / (2 * s**2))
    zero = np.ones(1)  # the update that leads nowhere, left out by the stencil
    weights = np.append(weights, zero) * float(grid.cell_volume) / (2 * np.pi * s**2)
    updates = np.concatenate([updates, np.zeros((1, 2))])
    flow = flow_on_grid(well, grid, updates, kt, weights=weights)
    g = slopes(well, grid)
    expected = np.sum(g**2, -1) * s**2 / (2 * kt**2)
    # The stencil ends at six widths.
    inner = np.abs(g).max(-1) * s / kt < 1
    np.testing.assert_allclose(np.asarray(flow.log_total)[inner], expected[inner], atol=1e-5)
    np.testing.assert_allclose(np.asarray(flow.mean_update)[inner], (-(s**2) / kt * g)[inner], atol=1e-5)


class Wide(eqx.Module):
    """A network's loss: 2000 numbers in flight at every point."""

    weights: Array

    def __call__(self, theta):
        return jnp.sum(jnp.tanh(self.weights * theta[0]) * jnp.cos(self.weights * theta[1]))


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("energy", ["inner_product", "difference"])
@pytest.mark.parametrize("verb", [rate_on_grid, flow_on_grid])
def test_chunks_respect_the_memory_limit(verb, energy, monkeypatch):
    """The compiled program's own account of its scratch memory; the result does not depend on the limit."""
    monkeypatch.setattr(_grid_kernel, "_CACHED", 10**9)
    network, grid = Wide(jnp.linspace(-1, 1, 2000)), Grid([-1.0, -1.0], [1.0, 1.0], (16, 64))
    found, scratch = [], []
    for limit in (2**20, 2**26):
        run = lambda network, limit=limit: verb(network, grid, UPDATES, 1.0, energy=energy, memory_limit=limit)
        compiled = jax.jit(run).lower(network).compile()
        account: Any = compiled.memory_analysis()
        scratch.append(account.temp_size_in_bytes)
        found.append(compiled(network))
    assert scratch[0] < 2**20 + 2**18
    # All points at once would take sixteen times as much as the low limit.
    assert 2**22 < scratch[1] < 2**26
    for low, high in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(low, high, rtol=1e-12, atol=1e-12)


def test_gradients():
    """In the landscape's numbers, the grid's bounds, the updates, weights, temperature, entropy, tau0 and k at once."""
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((6, 3, 4)))

    def all_of_it(x):
        ripple, updates = Ripple(x), jnp.asarray(UPDATES) * x
        grid = Grid(jnp.array([-1.5, -0.5]) * x, jnp.array([1.0, 2.0]), (3, 4))
        options = {"entropy": x, "tau0": x, "k": 1 + x}
        logs = rate_on_grid(ripple, grid, updates, x, **options)
        flow = flow_on_grid(ripple, grid, updates, 0.5 + x, weights=jnp.stack([x, x**2, 1 + x]), **options)
        mean = jnp.moveaxis(flow.mean_update, -1, 0)
        return jnp.sum(weights * jnp.concatenate([logs, flow.log_total[None], mean]))

    def difference(x):
        return jnp.sum(rate_on_grid(lambda t: x * polynomial(t), GRID, UPDATES, 1.0, energy="difference", log=False))

    assert_gradients([(all_of_it, 0.8), (difference, 0.8)])


def test_slopes_by_weights_of_zero_and_in_forward_mode():
    """An update that is left out has the slope of one that is let in; `jax.hessian` takes forward mode over reverse."""
    terms = log_rates(RIPPLE, GRID, UPDATES, 0.7)
    weights = jnp.array([0.0, 0.5, 2.0])
    total = lambda w: total_rate_on_grid(RIPPLE, GRID, UPDATES, 0.7, weights=w, **SETTINGS)
    share = np.exp(terms) / np.einsum("m...,m->...", np.exp(terms), weights)
    np.testing.assert_allclose(jax.jacfwd(total)(weights), np.moveaxis(share, 0, -1), rtol=1e-10)
    curvature = jax.hessian(lambda w: jnp.sum(total(w)))(weights)
    np.testing.assert_allclose(curvature, -np.einsum("aij,bij->ab", share, share), rtol=1e-10)


def test_vmap_over_temperatures_equals_loop():
    temperatures = jnp.array([0.5, 1.0, 2.0])
    both = lambda t: (rate_on_grid(RIPPLE, GRID, UPDATES, t), flow_on_grid(RIPPLE, GRID, UPDATES, t).mean_update)
    single = jax.jit(both)
    loop = [single(t) for t in temperatures]
    for swept, each in zip(jax.jit(jax.vmap(both))(temperatures), zip(*loop, strict=True), strict=True):
        np.testing.assert_allclose(swept, np.stack(each), rtol=1e-12, atol=1e-12)


def test_float32(float32):
    grid = Grid([-1.5, -0.5], [1.0, 2.0], (6, 5))
    narrow = rate_on_grid(MullerBrown(), grid, UPDATES, 50.0)
    flow = flow_on_grid(MullerBrown(), grid, UPDATES, 50.0)
    assert narrow.dtype == flow.log_total.dtype == flow.mean_update.dtype == jnp.float32
    with jax.enable_x64(True):
        wide = rate_on_grid(MullerBrown(), GRID, UPDATES, 50.0)
        exact = flow_on_grid(MullerBrown(), GRID, UPDATES, 50.0)
        updates = stencil(GRID, 0.9)
    np.testing.assert_allclose(narrow, wide, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(flow.log_total, exact.log_total, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(flow.mean_update, exact.mean_update, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stencil(grid, 0.9), updates, rtol=1e-6, atol=1e-6)


def test_refusals():
    rate = lambda *xs, **kwargs: rate_on_grid(polynomial, GRID, *xs, **kwargs)
    total = lambda *xs, **kwargs: total_rate_on_grid(polynomial, GRID, *xs, **kwargs)
    assert_refused(
        [
            (lambda x: rate(x * (1 + jnp.asarray(UPDATES) ** 2), 1.0), np.inf, "Argument `delta` must be finite", 1.0),
            (lambda x: rate(UPDATES, x), -1.0, "Argument `temperature` must be non-negative", 0.0),
            (lambda x: rate(UPDATES, 1.0, entropy=x), np.inf, "Argument `entropy`", 1.0),
            (lambda x: rate(UPDATES, 1.0, tau0=x), 0.0, "Argument `tau0`", 1.0),
            (lambda x: rate(UPDATES, 1.0, k=x), 0.0, "Argument `k`", 1.0),
            (lambda x: total(UPDATES, x), 0.0, "Argument `temperature` must be positive.*rate_on_grid", 1.0),
            (lambda x: total(UPDATES, 1.0, weights=jnp.stack([x, 1.0, 1.0])), -1.0, "`weights` must be non-neg", 0.0),
            (lambda x: total(UPDATES, 1.0, weights=x * jnp.ones(3)), 0.0, "zero for every update", 1.0),
        ]
    )
    cases = [
        (lambda: rate(np.ones(3), 1.0), r"Argument `delta` must have shape \(m, 2\).*\(3,\)"),
        (lambda: rate(np.ones((2, 2, 2)), 1.0), r"Argument `delta` must have shape.*\(2, 2, 2\)"),
        (lambda: rate(np.ones((0, 2)), 1.0), r"Argument `delta` must have shape"),
        (lambda: rate(UPDATES, np.ones(3)), r"Argument `temperature` must be a number or have the grid's shape"),
        (lambda: rate(UPDATES, 1.0, entropy=np.ones((5, 6))), "Argument `entropy`.*grid's shape"),
        (lambda: rate(UPDATES, 1.0, energy="exact"), 'Argument `energy` must be one of "inner_product"'),
        (lambda: rate(UPDATES, 1.0, memory_limit=0), "Argument `memory_limit`"),
        (lambda: total(UPDATES, 1.0, weights=np.ones(2)), r"Argument `weights` must have shape \(3,\)"),
        (lambda: rate_on_grid(MullerBrown(), Grid(0.0, 1.0, 4), 0.1, 1.0), "Argument `landscape` must take 1"),
        (lambda: rate_on_grid(lambda t: t, GRID, UPDATES, 1.0), "Argument `landscape` must return one number"),
        (lambda: stencil(GRID, 0.1), "Argument `radius` must be at least the spacing"),
        (lambda: stencil(GRID, -1.0), "Argument `radius` must be positive"),
        (lambda: jax.jit(lambda r: stencil(GRID, r))(1.0), "Argument `radius` must be known.*outside `jit`"),
    ]
    for call, words in cases:
        with pytest.raises((ValueError, TypeError), match=words):
            call()
