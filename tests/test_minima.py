"""Minima of landscapes: known ones to rounding, counts, padding, motion with the parameters, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array

import rxjax as rx
from rxjax._maximise import maximise
from rxjax._minima import spread
from rxjax._stationary import Stationary

# Case 6.
MULLER_BROWN = np.array(
    [
        [-146.699517210, -0.558223635, 1.441725842],
        [-108.166724117, 0.623499405, 0.028037759],
        [-80.767818130, -0.050010823, 0.466694105],
    ]
)


class Family(rx.landscapes.AbstractLandscape):
    """Two wells, a circular valley, a well of fourth order, a point of inflection, a slope: one program serves all."""

    shares: Array
    batch_size: int = eqx.field(static=True)
    dim = 2
    name = "family"
    minima = saddles = None

    def __init__(self, i, batch_size=64):
        self.shares, self.batch_size = jnp.eye(5)[i], batch_size

    @property
    def bounds(self):
        return jnp.array([[-1.5, 2.0], [-1.5, 1.5]])

    def _value(self, theta):
        x, y = theta[0], theta[1]
        wells = [(x**2 - 1) ** 2 + y**2, (x**2 + y**2 - 1) ** 2, x**4 + y**4, x**3 + y**2, x + y]
        return self.shares @ jnp.stack(wells)


def member(i, **kwargs):
    return rx.find_minima(Family(i), starts=32, **kwargs)


def test_muller_brown():
    surface = rx.landscapes.MullerBrown()
    minima = rx.find_minima(surface)
    np.testing.assert_allclose(minima.energies, MULLER_BROWN[:, 0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(minima.points, MULLER_BROWN[:, 1:], rtol=0, atol=1e-9)
    np.testing.assert_allclose(minima.points, surface.minima, rtol=0, atol=1e-13)
    curvatures = np.linalg.eigvalsh(jax.jit(jax.vmap(jax.hessian(surface)))(surface.minima))
    np.testing.assert_allclose(minima.hessian_eigenvalues, curvatures, rtol=1e-10)
    assert not minima.degenerate.any() and minima.mask.all() and not minima.index.any()
    assert minima.counts.sum() == minima.stats["converged"] == minima.stats["starts"] == 256
    assert minima.stats["unseen"] == 0 and minima.size == pytest.approx(3.1)
    # Where there is room for two, the lowest two are kept, and the others are counted.
    two = rx.find_minima(surface, max_minima=2)
    np.testing.assert_array_equal(two.points, minima.points[:2])
    assert two.stats["dropped"] == minima.counts[2] > 0
    five = rx.find_minima(surface, max_minima=5)
    np.testing.assert_array_equal(five.mask, [True, True, True, False, False])
    np.testing.assert_array_equal(five.energies[3:], [np.inf, np.inf])
    np.testing.assert_array_equal(five.points[:3], minima.points)


def test_a_box_much_longer_than_wide(float32):
    """Minima a side apart are told apart on the short side too."""
    units = jnp.array([1000.0, 1.0])
    wells = lambda x: jnp.sum(((x / units) ** 2 - 1) ** 2) + x[0] / 10000
    minima = rx.find_minima(wells, starts=32, bounds=2 * jnp.stack([-units, units], axis=1))
    expected = [[-1.0123, -1], [-1.0123, 1], [0.9873, -1], [0.9873, 1]]
    found = np.asarray(minima.points / units[None])
    np.testing.assert_allclose(found[np.lexsort((found[:, 1], found[:, 0].round(3)))], expected, atol=1e-3)


def test_padding_and_motion_under_jit_and_vmap():
    """Minima that move with a parameter: found in a batch, and dx*/da = -H^-1 d(grad L)/da, dE/da = dL/da at rest."""

    def found(tilt):
        landscape = lambda x: (x[0] ** 2 - 1) ** 2 + tilt * x[0] + (x[1] - tilt * x[0]) ** 2
        minima = rx.find_minima(landscape, starts=16, bounds=jnp.array([[-2.0, 2.0]] * 2), max_minima=3)
        return (minima.points, minima.energies), minima

    # Beyond 8 / sqrt(27) = 1.54 one well is gone.
    tilts = np.array([0.3, 0.3 + 1e-5, 0.3 - 1e-5, 1.6])
    slopes, minima = jax.jit(jax.vmap(jax.jacrev(found, has_aux=True)))(tilts)
    np.testing.assert_array_equal(minima.mask, [[1, 1, 0]] * 3 + [[1, 0, 0]])
    assert np.all(np.isinf(minima.energies) == ~np.asarray(minima.mask))
    np.testing.assert_array_equal(minima.counts.sum(axis=1), minima.stats["converged"])
    for i, tilt in enumerate(tilts):
        n = int(minima.mask[i].sum())
        roots = np.roots([4, 0, -4, tilt])
        roots = np.sort(roots.real[(np.abs(roots.imag) < 1e-9) & (3 * roots.real**2 > 1)])
        np.testing.assert_allclose(minima.points[i, :n, 0], roots, atol=1e-10)
        np.testing.assert_allclose(minima.points[i, :n, 1], tilt * roots, atol=1e-10)
        assert not minima.counts[i, n:].any() and not minima.points[i, n:].any()
    moved = (minima.points[1] - minima.points[2]) / 2e-5
    np.testing.assert_allclose(slopes[0][0], moved, rtol=1e-6)
    np.testing.assert_allclose(slopes[1][0, :2], minima.points[0, :2, 0], rtol=1e-10)
    assert np.isfinite(slopes[0]).all()


def test_a_minimum_moves_with_two_derivatives():
    """4 x^3 - 4 x + t = 0 and y = t x, differentiated by hand."""
    tilt = 0.3
    x = np.sort(np.roots([4, 0, -4, tilt]).real)[-1]

    def landscape(tilt):
        return lambda x: (x[0] ** 2 - 1) ** 2 + tilt * x[0] + (x[1] - tilt * x[0]) ** 2

    point = jnp.array([x, tilt * x])
    eigenvalues, vectors = jnp.linalg.eigh(jax.hessian(landscape(tilt))(point))
    zero = jnp.zeros(())
    end = Stationary(point, zero, eigenvalues, vectors, zero, jnp.array(1e-12), jnp.array(True))
    moved = lambda tilt: end.moved(landscape(tilt))[0]
    first, second = jax.jit(lambda t: (jax.jacfwd(moved)(t), jax.jacfwd(jax.jacrev(moved))(t)))(tilt)
    slope = -1 / (12 * x**2 - 4)
    bend = 24 * x * slope**3
    np.testing.assert_allclose(first, [slope, x + tilt * slope], rtol=1e-9)
    np.testing.assert_allclose(second, [bend, 2 * slope + tilt * bend], rtol=1e-9)


def test_second_derivative_of_a_maximiser():
    """That of `p x - exp(x)` lies at `log p`; in float32 as well, where float64 is on."""

    def best(p):
        f = lambda x: p * x - jnp.exp(x)
        xs = jnp.linspace(-1.0, 2.0, 7, dtype=jnp.asarray(p).dtype)
        return maximise(f, xs, f(xs))[0]

    assert best(jnp.float32(1.7)).dtype == jnp.float32

    value, first, second = jax.jit(lambda p: (best(p), jax.grad(best)(p), jax.grad(jax.grad(best))(p)))(1.7)
    np.testing.assert_allclose([value, first, second], [np.log(1.7), 1 / 1.7, -(1.7**-2)], rtol=1e-7)


def test_degenerate_minima():
    quartic = member(2)
    assert quartic.points.shape == (1, 2) and quartic.degenerate.all()
    np.testing.assert_allclose(quartic.points, 0, atol=1e-3)
    # In a continuous valley every start ends elsewhere, and the list says that it is far from complete.
    valley = member(1)
    np.testing.assert_allclose(jnp.linalg.norm(valley.points, axis=1), 1, atol=1e-6)
    assert valley.degenerate.all() and len(valley.points) > 20 and valley.stats["unseen"] > 0.5
    once = int(jnp.sum(valley.counts == 1))
    assert valley.stats["unseen"] == pytest.approx(once / valley.stats["converged"])
    assert not member(0).degenerate.any()
    # A wider merge joins what is near.
    assert len(member(1, merge_distance=2.1).points) == 1


def test_what_is_no_minimum_is_counted():
    # x^3 has a point of inflection whose curvature vanishes; a slope has nothing at all.
    for i in (3, 4):
        with pytest.raises(ValueError, match="must have a minimum inside `bounds`, but none of 32 starts"):
            member(i)
    assert not member(3, max_minima=4).mask.any()
    # A well beyond the box is none, and neither is the saddle on which a start sits exactly.
    wells = Family(0)
    starts = jnp.concatenate([jnp.zeros((1, 2)), member(0).points, jnp.full((29, 2), 0.7)])
    half = rx.find_minima(wells, starts=starts, bounds=jnp.array([[-0.1, 2.0], [-1.0, 1.0]]))
    np.testing.assert_allclose(half.points, [[1.0, 0.0]], atol=1e-9)
    assert half.stats["outside"] == 1 and half.stats["not_minima"] == 1 and half.stats["converged"] == 30


def test_batches_of_starts():
    """A landscape that says how much memory holds gets so many starts at a time, and has the same minima."""
    few = rx.find_minima(Family(0, batch_size=8), starts=32)
    np.testing.assert_allclose(few.points, member(0).points, atol=1e-14)
    np.testing.assert_array_equal(few.counts, member(0).counts)


def test_starts_are_spread_evenly():
    points = np.asarray(spread(1024, 2, None, jnp.float64))
    assert points.min() >= 0 and points.max() < 1
    cells = np.histogram2d(*points.T, bins=16, range=[[0, 1]] * 2)[0]
    assert cells.min() >= 2 and cells.max() <= 6
    shifted = np.asarray(spread(1024, 2, jr.key(1), jnp.float64))
    move = (shifted - points) % 1
    np.testing.assert_allclose(move, move[:1].repeat(1024, 0), atol=1e-12)
    assert not np.allclose(move, 0)


WELL = rx.landscapes.DoubleWell()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rx.find_minima(lambda x: jnp.sum(x**2)), "Argument `bounds` must be given"),
        (lambda: rx.find_minima(WELL, bounds=jnp.array([[1.0, -1.0]])), "Argument `bounds` must be finite, lower end"),
        (lambda: rx.find_minima(WELL, bounds=jnp.zeros((2, 2))), r"Argument `bounds` must have shape \(1, 2\)"),
        (lambda: rx.find_minima(WELL, starts=0), "Argument `starts` must be at least 1"),
        (lambda: rx.find_minima(WELL, starts=jnp.zeros((3, 2))), r"Argument `starts` .*\(starts, 1\).*\(3, 2\)"),
        (lambda: rx.find_minima(WELL, starts=jnp.full((3, 1), jnp.nan)), "Argument `starts` must be finite"),
        (lambda: rx.find_minima(WELL, max_minima=0), "Argument `max_minima` must be at least 1"),
        (lambda: rx.find_minima(WELL, max_steps=0), "Argument `max_steps` must be at least 1"),
        (lambda: rx.find_minima(WELL, merge_distance=0.0), "Argument `merge_distance` must be positive"),
        (lambda: rx.find_minima(WELL, merge_distance=jnp.nan), "Argument `merge_distance` must be positive"),
        (lambda: jax.jit(lambda t: rx.find_minima(rx.landscapes.DoubleWell(tilt=t)))(0.1), "`max_minima` must be"),
        (lambda: jax.jit(lambda s: rx.find_minima(WELL, starts=s))(jnp.zeros((2, 1))), "`max_minima` must be given"),
        (
            lambda: rx.find_minima(lambda x: jnp.log(x[0]), bounds=jnp.array([[-1.0, 1.0]]), starts=4),
            "Argument `landscape` must return finite values",
        ),
        (lambda: rx.find_minima(lambda x: x, bounds=jnp.array([[-1.0, 1.0]])), "must return one number"),
    ],
)
def test_bad_calls(call, words):
    with pytest.raises(Exception, match=words):
        call()
