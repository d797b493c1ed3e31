"""Basins on a grid, and a positive function between the points where it was measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rxjax as rx
from rxjax._basins import basins, shares
from rxjax._interpolation import LogCubic


def test_basins_of_wells():
    grid = rx.solvers.Grid(-2.0, 2.0, (40, 40))
    x, y = np.meshgrid(*(np.asarray(a) for a in grid.axes), indexing="ij")
    energy = (x**2 - 1) ** 2 + (y**2 - 1) ** 2 + 0.1 * x
    found = basins(energy, grid)
    assert len(np.unique(found)) == 4
    # By symmetry the edges between basins are the axes, up to the tilt along x.
    away = np.abs(x) > 0.11
    quadrant = 2 * (x > 0) + (y > 0)
    for i in range(4):
        (label,) = np.unique(found[away & (quadrant == i)])
        assert energy.flat[label] == energy[quadrant == i].min()
    # A depth above the shallower wells joins them to deeper ones: from right to left, and level ones with each other.
    assert len(np.unique(basins(energy, grid, depth=0.95))) == 2
    assert len(np.unique(basins(energy, grid, depth=1.05))) == 1
    np.testing.assert_allclose(shares(np.ones(grid.shape), found).sum(), 1)
    np.testing.assert_allclose(shares((x > 0.11).astype(float), found), [0, 0, 0.5, 0.5])


def test_periodic_axes_and_plateaus():
    ring = rx.solvers.Grid(0.0, 2 * np.pi, 32, boundary="periodic")
    energy = np.cos(np.asarray(ring.axes[0]) - np.pi + 0.1)
    assert len(np.unique(basins(energy, ring))) == 1
    assert len(np.unique(basins(energy, rx.solvers.Grid(0.0, 2 * np.pi, 32)))) == 2
    # Of a plateau the cell of lowest index is the minimum.
    line = rx.solvers.Grid(0.0, 1.0, 6)
    np.testing.assert_array_equal(basins(np.array([2.0, 1.0, 1.0, 1.0, 2.0, 0.0]), line), [1, 1, 1, 1, 5, 5])


@pytest.mark.parametrize(
    ("energy", "depth", "words"),
    [
        (np.zeros(3), 0.0, "`energy` must have the grid's shape"),
        (np.full(4, np.nan), 0.0, "`energy` must be finite"),
        (np.zeros(4), -1.0, "`depth` must be non-negative"),
        (np.zeros(4), np.inf, "`depth` must be non-negative"),
    ],
)
def test_bad_basins(energy, depth, words):
    with pytest.raises(ValueError, match=words):
        basins(energy, rx.solvers.Grid(0.0, 1.0, 4), depth)


def test_log_cubic():
    """Exact for the exponential of a quadratic, away from the edge; third order; positive; at the edge beyond it."""
    ends = jnp.array([0.0, -1.0]), jnp.array([2.0, 1.0])

    def lattice(n, fn):
        x, y = jnp.meshgrid(*(jnp.linspace(a, b, n) for a, b in zip(*ends, strict=True)), indexing="ij")
        return LogCubic(fn(x, y)[..., None], *ends)

    bell = lambda x, y: jnp.exp(-((x - 0.7) ** 2) + x * y)
    points = np.random.default_rng(0).uniform([0.4, -0.6], [1.6, 0.6], (50, 2))
    evaluate = jax.jit(lambda f, at: jax.vmap(f)(at))
    np.testing.assert_allclose(evaluate(lattice(9, bell), points)[:, 0], bell(*points.T), rtol=1e-12)
    wave = lambda x, y: jnp.exp(jnp.sin(3 * x + y))
    errors = [float(jnp.max(jnp.abs(evaluate(lattice(n, wave), points)[:, 0] - wave(*points.T)))) for n in (17, 33, 65)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all((orders > 2.6) & (orders < 3.6))
    f = lattice(9, wave)
    at = np.array([[5.0, 0.0], [2.0, 0.0], [0.0, -1.0], [0.25, -1.0], [2.0, -1.0]])
    beyond, edge, *knots = evaluate(f, np.tile(at, (10, 1)))[:5, 0]
    assert beyond == edge
    np.testing.assert_allclose(knots, wave(*at[2:].T), rtol=1e-12)
