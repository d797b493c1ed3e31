"""Landscapes: values, stationary points, derivatives and refusals of each, against the literature and closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rxjax.landscapes import (
    DoubleWell,
    GaussianWells,
    Himmelblau,
    MullerBrown,
    Quadratic,
    RandomField,
    Rastrigin,
    Rosenbrock,
    StyblinskiTang,
)

KEY = jax.random.key(7)


def known(points):
    """Stationary points that are known, as a NumPy array."""
    assert points is not None
    return np.asarray(points)


@pytest.mark.parametrize(
    "landscape",
    [
        Quadratic(jnp.array([[2.0, 0.5], [0.5, 1.0]]), center=1.0),
        DoubleWell(1.3, 0.4, 2),
        DoubleWell(dim=3),
        MullerBrown(),
        StyblinskiTang(1),
        StyblinskiTang(3),
        Himmelblau(),
        Rastrigin(2),
        *[Rosenbrock(d) for d in (3, 4, 7, 20)],
    ],
    ids=lambda x: f"{x.name}-{x.dim}",
)
def test_stationary_points(landscape):
    """Zero gradient to rounding, the right number of negative curvatures, inside the bounds, lowest first."""
    minima, saddles = known(landscape.minima), landscape.saddles
    saddles = np.zeros((0, landscape.dim)) if saddles is None else np.asarray(saddles)
    points, index = np.concatenate([minima, saddles]), np.repeat([0, 1], [len(minima), len(saddles)])
    study = jax.jit(jax.vmap(lambda x: (landscape(x), jax.grad(landscape)(x), jax.hessian(landscape)(x))))
    energy, gradient, hessian = (np.asarray(x) for x in study(points))
    curvature = np.linalg.eigvalsh(hessian)
    np.testing.assert_array_equal(np.sum(curvature < 0, axis=1), index)
    assert np.all(np.abs(gradient).max(axis=1) <= 4e-15 * np.maximum(10.0, np.abs(curvature).max(axis=1)))
    assert len(np.unique(np.round(points, 6), axis=0)) == len(points)
    low, high = np.asarray(landscape.bounds).T
    assert np.all((points >= low) & (points <= high))
    if not isinstance(landscape, DoubleWell):
        assert all(np.all(np.diff(energy[index == i]) >= -1e-9) for i in (0, 1))


def test_muller_brown_numbers():
    surface = MullerBrown()
    minima = [[-0.558223635, 1.441725842], [0.623499405, 0.028037759], [-0.050010823, 0.466694105]]
    saddles = [[0.212486582, 0.292988325], [-0.822001559, 0.624312803]]
    np.testing.assert_allclose(surface.minima, minima, rtol=0, atol=6e-10)
    np.testing.assert_allclose(surface.saddles, saddles, rtol=0, atol=6e-10)
    energies = [-146.699517210, -108.166724117, -80.767818130]
    np.testing.assert_allclose(jax.vmap(surface)(surface.minima), energies, rtol=0, atol=6e-10)
    np.testing.assert_allclose(jax.vmap(surface)(surface.saddles), [-72.248940112, -40.664843509], rtol=0, atol=6e-10)


def test_styblinski_tang_numbers():
    line = StyblinskiTang(1)
    np.testing.assert_allclose(known(line.minima)[:, 0], [-2.90353, 2.74680], rtol=0, atol=6e-6)
    np.testing.assert_allclose(known(line.saddles)[:, 0], [0.15673], rtol=0, atol=6e-6)
    np.testing.assert_allclose(jax.vmap(line)(known(line.minima)), [-39.16617, -25.02945], rtol=0, atol=6e-6)
    np.testing.assert_allclose(line(known(line.saddles)[0]), 0.19561, rtol=0, atol=6e-6)
    for dim in (2, 4):
        landscape = StyblinskiTang(dim)
        minima, saddles = known(landscape.minima), known(landscape.saddles)
        assert minima.shape == (2**dim, dim) and saddles.shape == (dim * 2 ** (dim - 1), dim)
        # Every saddle flips the one coordinate that is not in a well: 25.2251 from one side, 39.3618 from the other.
        flipped = [np.where(np.abs(saddles) < 1, x, saddles) for x in (2.74680, -2.90353)]
        top, right, left = jax.jit(jax.vmap(jax.vmap(landscape)))(np.stack([saddles, *flipped]))
        np.testing.assert_allclose(top - right, 25.2251, rtol=0, atol=6e-5)
        np.testing.assert_allclose(top - left, 39.3618, rtol=0, atol=6e-5)
    assert StyblinskiTang(11).minima is None and StyblinskiTang(11).saddles is None


def test_literature_values():
    himmelblau, rastrigin = Himmelblau(), Rastrigin(2)
    np.testing.assert_allclose(jax.vmap(himmelblau)(himmelblau.minima), 0.0, atol=1e-25)
    np.testing.assert_allclose(
        jax.vmap(himmelblau)(himmelblau.saddles), [13.31193, 67.71915, 104.01516, 178.33724], rtol=0, atol=6e-6
    )
    assert known(rastrigin.minima).shape == (121, 2) and known(rastrigin.saddles).shape == (220, 2)
    assert rastrigin(jnp.zeros(2)) == 0.0 and Rastrigin(5).minima is None and Rastrigin(5).saddles is None
    np.testing.assert_allclose(rastrigin(known(rastrigin.minima)[1]), 0.9949590571, atol=1e-9)
    # Kok and Sandrock (2009), four dimensions.
    valley = Rosenbrock(4)
    np.testing.assert_allclose(
        known(valley.minima)[1], [-0.77565923, 0.61309337, 0.38206285, 0.14597202], rtol=0, atol=6e-9
    )
    assert (
        known(Rosenbrock(2).saddles).shape == (0, 2)
        and Rosenbrock(8).saddles is None
        and Rosenbrock(101).minima is None
    )
    np.testing.assert_array_equal(himmelblau.bounds, [[-6, 6], [-6, 6]])
    np.testing.assert_array_equal(rastrigin.bounds, [[-5.12, 5.12], [-5.12, 5.12]])
    np.testing.assert_array_equal(MullerBrown().bounds, [[-1.8, 1.3], [-0.5, 2.2]])


@jax.jit
def _double_well_study(barrier, tilt):
    well = DoubleWell(barrier, tilt, dim=2)
    points = jnp.concatenate([well.minima, well.saddles])
    # d x*/d tilt = -1 / L''(x*) and d x*/d barrier = -4 x (x^2 - 1) / L''(x*): the implicit function theorem.
    position = lambda b, t: jnp.concatenate([DoubleWell(b, t).minima, DoubleWell(b, t).saddles])[:, 0]
    by_barrier, by_tilt = jax.jacobian(position, (0, 1))(barrier, tilt)
    return points, jax.vmap(jax.grad(well))(points), by_barrier, by_tilt


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 50.0), st.floats(-0.99, 0.99))
def test_double_well_cubic(barrier, fraction):
    tilt = fraction * 8.0 / (3.0 * math.sqrt(3.0)) * barrier
    points, gradient, by_barrier, by_tilt = (np.asarray(x) for x in _double_well_study(barrier, tilt))
    x = points[:, 0]
    assert x[0] < x[2] < x[1] and np.all(points[:, 1] == 0)
    assert np.max(np.abs(gradient)) <= 1e-13 * barrier
    curvature = barrier * (12.0 * x**2 - 4.0)
    np.testing.assert_array_equal(np.sign(curvature), [1, 1, -1])
    np.testing.assert_allclose(by_tilt, -1.0 / curvature, rtol=1e-9)
    np.testing.assert_allclose(by_barrier, -4.0 * x * (x**2 - 1.0) / curvature, rtol=1e-9, atol=1e-12 / barrier)


def test_double_well_parameters():
    well = DoubleWell()
    assert well.saddles[0, 0] == 0.0 and well(jnp.zeros(1)) == 1.0
    np.testing.assert_allclose(well.minima[:, 0], [-1, 1], rtol=1e-15)
    theta = jnp.array([0.5, 2.0])
    np.testing.assert_allclose(DoubleWell(2.0, 0.3, 2)(theta), 2.0 * 0.75**2 + 0.15 + 2.0, rtol=1e-15)
    tilts = jnp.linspace(-0.5, 0.5, 5)

    @jax.jit
    def study():
        wells = jax.vmap(lambda t: DoubleWell(tilt=t))(tilts)
        by_barrier_and_tilt = jax.grad(lambda b, t: DoubleWell(b, t, 2)(theta), (0, 1))(2.0, 1.0)
        return by_barrier_and_tilt, jax.vmap(lambda w: (w(jnp.ones(1)), w.minima))(wells)

    by_barrier_and_tilt, (values, minima) = study()
    np.testing.assert_allclose(by_barrier_and_tilt, (0.75**2, 0.5))
    np.testing.assert_allclose(values, tilts, atol=1e-15)
    np.testing.assert_allclose(minima, [DoubleWell(tilt=t).minima for t in tilts], rtol=1e-14)


def test_double_well_refusals():
    for tilt in (1.54, -1.54, 20.0):
        # The landscape is good; only its second well is not there.
        single = DoubleWell(tilt=tilt)
        assert jnp.isfinite(single(jnp.ones(1)))
        with pytest.raises(ValueError, match="Argument `tilt` must leave two wells, but it leaves one: got"):
            _ = single.minima
        with pytest.raises(ValueError, match="Keep its size below 1.539601 times the barrier"):
            _ = single.saddles
    assert DoubleWell(tilt=1.53).minima.shape == (2, 1)
    inside = jax.jit(lambda t: DoubleWell(tilt=t).minima)
    with pytest.raises(Exception, match="Argument `tilt` must leave two wells"):
        jax.block_until_ready(inside(2.0))
    with pytest.raises(ValueError, match="Argument `barrier` must be positive and finite, but it is negative: got -1"):
        DoubleWell(-1.0)
    with pytest.raises(Exception, match="Argument `barrier` must be positive"):
        jax.block_until_ready(jax.jit(lambda b: DoubleWell(b)(jnp.zeros(1)))(0.0))
    with pytest.raises(ValueError, match="Argument `tilt` must be finite"):
        DoubleWell(tilt=float("nan"))
    with pytest.raises(ValueError, match="Argument `barrier` must be a scalar.*jax.vmap over the constructor"):
        DoubleWell(jnp.ones(3))
    with pytest.raises(ValueError, match="Argument `dim` must be at least 1, but it is 0"):
        DoubleWell(dim=0)


@jax.jit
def _quadratic_study(hessian, center, theta):
    bowl = Quadratic(hessian, center)
    by_hessian = jax.grad(lambda h: Quadratic(h, center)(theta))(hessian)
    batch = jax.vmap(Quadratic)(jnp.stack([hessian, 2 * hessian]))
    return bowl(theta), jax.hessian(bowl)(theta), by_hessian, jax.vmap(lambda q: q(theta))(batch), bowl.minima


def test_quadratic():
    hessian, center, theta = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1.0, -1.0]), np.array([3.0, 1.0])
    value, curvature, by_hessian, batch, minima = _quadratic_study(hessian, center, theta)
    x = theta - center
    np.testing.assert_allclose(value, 0.5 * x @ hessian @ x)
    np.testing.assert_allclose(curvature, hessian)
    np.testing.assert_allclose(by_hessian, 0.5 * np.outer(x, x))
    np.testing.assert_allclose(batch, np.array([0.5, 1.0]) * (theta @ hessian @ theta))
    np.testing.assert_array_equal(minima, center[None])
    with pytest.raises(Exception, match="Argument `hessian` must be positive definite to have a minimum"):
        jax.block_until_ready(_quadratic_study(-hessian, center, theta))
    bowl = Quadratic(hessian, center)
    np.testing.assert_array_equal(known(bowl.minima), center[None])
    assert known(bowl.saddles).shape == (0, 2)
    assert Quadratic(2).dim == 1 and Quadratic(2)(np.array([3.0])) == 9.0
    np.testing.assert_allclose(Quadratic([0.5, 4.0])(theta), 0.25 * 9.0 + 2.0)
    saddle = Quadratic(jnp.array([1.0, -1.0]))
    assert saddle.minima is None and known(saddle.saddles).shape == (1, 2)
    assert known(Quadratic([1.0, 0.0]).saddles).shape == (0, 2)
    with pytest.raises(ValueError, match="Argument `hessian` must be symmetric, but it is not"):
        Quadratic(jnp.array([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"Argument `hessian` must have shape \(d, d\) or \(d,\)"):
        Quadratic(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"Argument `center` must have shape \(2,\)"):
        Quadratic(hessian, jnp.ones(3))


def test_gaussian_wells():
    centers = jnp.array([[-2.0, 0.0], [2.0, 1.0]])
    wells = GaussianWells(centers, jnp.array([1.0, 3.0]), jnp.array([[1.0, 0.5], [0.3, 2.0]]), confinement=0.2)
    theta = np.array([1.7, 0.2])
    exact = 0.1 * np.sum(theta**2)
    for c, a, w in zip(np.asarray(centers), [1.0, 3.0], [[1.0, 0.5], [0.3, 2.0]], strict=True):
        exact -= a * np.exp(-0.5 * np.sum(((theta - c) / w) ** 2))
    np.testing.assert_allclose(wells(theta), exact, rtol=1e-14)
    np.testing.assert_allclose(wells.bounds, [[-6.0, 3.2], [-7.0, 9.0]])
    assert wells.minima is None and wells.saddles is None
    by_depth = jax.grad(lambda a: GaussianWells(centers, a, 0.5)(centers[1]))(jnp.ones(2))
    np.testing.assert_allclose(by_depth, [-math.exp(-34.0), -1.0], rtol=1e-12)
    with pytest.raises(ValueError, match="Argument `widths` must be positive and finite, but it is zero"):
        GaussianWells(centers, 1.0, jnp.array([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"Argument `widths` must have shape \(\), \(2,\) or \(2, 2\)"):
        GaussianWells(centers, 1.0, jnp.ones(3))
    with pytest.raises(ValueError, match=r"Argument `depths` must have shape \(2,\)"):
        GaussianWells(centers, jnp.ones(3), 1.0)
    with pytest.raises(ValueError, match=r"Argument `centers` must have shape \(n, d\)"):
        GaussianWells(centers[0], 1.0, 1.0)


@pytest.mark.parametrize("dim", [2, 5])
def test_random_field_covariance(dim):
    """Over many draws E[L(x) L(y)] = std^2 exp(-|x-y|^2 / 2 l^2), within five standard errors of the mean."""
    draws, length, std = 4000, 0.6, 1.5
    points = jnp.concatenate([jnp.zeros((1, dim)), jax.random.normal(KEY, (5, dim)) * 0.5]) + 3.0

    @jax.jit
    def sample(keys):
        return jax.vmap(lambda k: jax.vmap(RandomField(k, dim, length, std, num_features=16))(points))(keys)

    values = np.asarray(sample(jax.random.split(KEY, draws)))
    distance = np.sum((points[:, None] - points[None]) ** 2, axis=-1)
    products = values[:, :, None] * values[:, None, :]
    error = np.abs(products.mean(axis=0) - std**2 * np.exp(-0.5 * distance / length**2))
    assert np.all(error < 5.0 * products.std(axis=0) / math.sqrt(draws))
    assert np.all(np.abs(values.mean(axis=0)) < 5.0 * std / math.sqrt(draws))


def test_random_field_one_draw():
    field, theta = RandomField(KEY, 1), jnp.array([0.4])
    # Given the wave numbers k the density of minima is sqrt(sum k^4 / sum k^2) / 2 pi, sqrt(3) / 2 pi in the limit.
    k = np.asarray(field.wave_vectors[:, 0])
    np.testing.assert_allclose(np.mean(np.cos(k)), math.exp(-0.5), atol=0.01)
    np.testing.assert_allclose(math.sqrt(np.sum(k**4) / np.sum(k**2)), math.sqrt(3.0), rtol=0.08)
    draw = lambda length, std: RandomField(KEY, 1, length, std)(theta)
    slope = lambda: jax.grad(field)(theta)[0]
    by_length_and_std, value, slope = jax.jit(lambda: (jax.grad(draw, (0, 1))(1.0, 1.0), field(theta), slope()))()
    # L(theta / l): d/dl = -theta L' at l = 1; and linear in the standard deviation.
    np.testing.assert_allclose(by_length_and_std, (-0.4 * slope, value), rtol=1e-12)
    again, other = RandomField(KEY, 1), RandomField(jax.random.key(8), 1)
    assert np.all(again.phases == field.phases) and not np.any(other.phases == field.phases)
    np.testing.assert_allclose(RandomField(KEY, 1, length_scale=3.0).bounds, [[-15, 15]])
    with pytest.raises(ValueError, match="Argument `length_scale` must be positive"):
        RandomField(KEY, 1, 0.0)
    with pytest.raises(ValueError, match="Argument `num_features` must be at least 1"):
        RandomField(KEY, 1, num_features=0)
