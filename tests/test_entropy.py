"""Local entropies: closed forms of quadratics, quadrature of what has none, Monte Carlo within its error, refusals."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from jaxtyping import Array
from refusals import assert_refused
from scipy.integrate import quad

from rxjax._entropy import free_entropy, gaussian_entropy

H = jnp.array([[2.0, 0.5, 0.1], [0.5, 1.0, -0.2], [0.1, -0.2, 4.0]])
X = jnp.array([1.0, -0.5, 0.3])


class Quadratic(eqx.Module):
    """A loss with its numbers as leaves, so that one compiled program serves all."""

    hessian: Array

    def __call__(self, x):
        return jnp.sum(x * (self.hessian @ x)) / 2


def double_well(x):
    return jnp.sum((x**2 - 1) ** 2) / 4


def closed_form(hessian, x, kt, gamma):
    """log of the integral of exp(-(y'Hy - x'Hx)/2kT - gamma |y - x|^2/2)."""
    hessian, x = np.asarray(hessian) / kt, np.asarray(x)
    precision = hessian + gamma * np.eye(len(x))
    spread = x @ hessian @ x / 2 - gamma / 2 * x @ hessian @ np.linalg.solve(precision, x)
    return spread - np.linalg.slogdet(precision)[1] / 2 + len(x) / 2 * np.log(2 * np.pi)


def test_gaussian_entropy():
    expected = 1.5 * np.log(2 * np.pi * np.e * 0.6) - np.linalg.slogdet(np.asarray(H) + 0.3 * 0.6 * np.eye(3))[1] / 2
    assert gaussian_entropy(H, 0.3, gamma=0.3, k=2) == pytest.approx(2 * expected, rel=1e-12)
    diagonal = jnp.array([1, 4])
    assert gaussian_entropy(diagonal, 0.5) == pytest.approx(float(gaussian_entropy(jnp.diag(diagonal), 0.5)))
    # An open direction is held by the spring.
    assert gaussian_entropy(jnp.zeros(1), 0.5, gamma=2.0) == pytest.approx(np.log(2 * np.pi * np.e / 2) / 2)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_free_entropy_of_a_quadratic(dim):
    hessian, x, kt = H[:dim, :dim], X[:dim], 0.4
    for gamma in (0.0, 0.7):
        value, error = free_entropy(Quadratic(hessian), x, kt, gamma, order=8, return_error=True)
        assert value == pytest.approx(closed_form(hessian, x, kt, gamma), rel=1e-12)
        assert error < 1e-12
        # At the minimum the Gaussian entropy exceeds it by the mean of L/kT + gamma |x|^2/2, which is d/2.
        at_minimum = free_entropy(Quadratic(hessian), 0 * x, kt, gamma, order=8)
        assert gaussian_entropy(hessian, kt, gamma=gamma) - at_minimum == pytest.approx(dim / 2, rel=1e-12)


def test_closed_form_of_the_theory():
    """For k = T = 1: L(x) - gamma x'H(H + gamma)^-1 x/2 - log det(H + gamma)/2 + (d/2) log 2 pi."""
    x, gamma, h = np.asarray(X), 0.5, np.asarray(H)
    shifted = h + gamma * np.eye(3)
    expected = x @ h @ x / 2 - gamma * x @ h @ np.linalg.solve(shifted, x) / 2
    expected += 1.5 * np.log(2 * np.pi) - np.linalg.slogdet(shifted)[1] / 2
    assert closed_form(h, x, 1.0, gamma) == pytest.approx(expected, rel=1e-12)
    got = free_entropy(Quadratic(H), X, 1.0, gamma, order=8)
    assert got == pytest.approx(expected, rel=1e-10)
    # Without the loss subtracted it is lower by L(theta)/kT.
    raw = free_entropy(Quadratic(H), X, 1.0, gamma, order=8, subtract_loss=False)
    assert got - raw == pytest.approx(float(x @ h @ x / 2))


def test_units():
    one, well = (free_entropy(double_well, jnp.ones(1), t, 3.0, k=k) for t, k in ((0.6, 1.0), (0.3, 2.0)))
    assert well == pytest.approx(2 * float(one))
    # A PyTree of parameters is the vector of its entries.
    tree = {"a": 1.0, "b": jnp.ones((1, 1))}
    tree = free_entropy(lambda p: double_well(p["a"]) + double_well(p["b"]), tree, 0.6, 3.0)
    assert tree == pytest.approx(2 * float(one), rel=1e-8)


@pytest.mark.parametrize("around", ["maximum", "theta"])
def test_free_entropy_of_a_double_well(around):
    """Against adaptive quadrature, also from the top of the barrier, where the gradient vanishes."""
    for start, kt in itertools.product((0.0, 0.5, 1.0), (1.0, 0.3, 0.1)):

        def integrand(x, start=start, kt=kt):
            change = (x * x - 1) ** 2 / 4 - (start * start - 1) ** 2 / 4
            return np.exp(-change / kt - 3.0 / 2 * (x - start) ** 2)

        exact = np.log(quad(integrand, -6, 6, epsabs=1e-13, epsrel=1e-12, limit=200, points=[-1, 0, 1])[0])
        value, error = free_entropy(
            double_well, jnp.array([start]), kt, 3.0, order=96, around=around, return_error=True
        )
        assert abs(value - exact) < 1e-3
        assert abs(value - exact) <= max(3 * error, 1e-12)


def rough(x):
    return jnp.sum(jnp.cos(40 * x))


def test_an_error_beyond_the_tolerance_is_an_error():
    with pytest.raises(ValueError, match="`order` must bring the error below 0.001"):
        free_entropy(rough, jnp.zeros(1), 0.1, 1.0, around="theta")
    _, error = free_entropy(rough, jnp.zeros(1), 0.1, 1.0, around="theta", return_error=True)
    assert error > 1e-3
    with pytest.raises(ValueError, match="num_samples"):
        free_entropy(rough, jnp.zeros(1), 0.1, 1.0, method="monte_carlo", key=jax.random.key(0), num_samples=16)


@pytest.mark.parametrize("around", ["theta", "maximum"])
def test_monte_carlo_is_within_its_error(around):
    dim = 20
    hessian = jnp.diag(jnp.linspace(0.1, 1.0, dim)) + 0.02
    x = 0.3 * jnp.cos(jnp.arange(dim))
    options = {"method": "monte_carlo", "around": around, "num_samples": 1000, "chunk": 300, "return_error": True}
    keys = jax.random.split(jax.random.key(0), 16)
    results = [free_entropy(Quadratic(hessian), x, 1.0, 10.0, key=key, **options) for key in keys]
    values, errors = zip(*results, strict=True)
    difference = jnp.stack(values) - closed_form(hessian, x, 1.0, 10.0)
    if around == "maximum":
        # The samples follow the integrand itself, all with one weight.
        assert jnp.max(jnp.abs(difference)) < 1e-10
    else:
        scores = difference / jnp.stack(errors)
        assert jnp.max(jnp.abs(scores)) < 4
        assert 0.5 < jnp.std(scores) < 1.7


def test_gradients():
    def free(x, **kwargs):
        return free_entropy(lambda y: x * double_well(y) + 0.1 * y[0], X[:1] * x, x, 2 + x, k=1 + x, **kwargs)

    samples = {"method": "monte_carlo", "key": jax.random.key(1), "num_samples": 64, "tolerance": 9.0}
    assert_gradients(
        [
            (lambda x: gaussian_entropy(H * x, x, gamma=x, k=x), 0.7),
            (lambda x: gaussian_entropy(jnp.diagonal(H) * x, x**2, gamma=x, k=x), 0.7),
            (lambda x: free(x, order=64, subtract_loss=False), 0.7),
            (lambda x: free(x, **samples), 0.7),
        ]
    )


def test_vmap_equals_loop():
    points, temperatures = jnp.array([[0.2], [1.1]]), jnp.array([0.5, 1.0, 2.0])

    def f(x, t):
        return free_entropy(double_well, x, t, 2.0, order=24, chunk=7) + gaussian_entropy(1 + x**2, t)

    single = jax.jit(f)
    grid = jax.jit(jax.vmap(jax.vmap(f, (None, 0)), (0, None)))(points, temperatures)
    np.testing.assert_allclose(grid, [[single(x, t) for t in temperatures] for x in points], rtol=1e-12)


def test_float32(float32):
    h = np.asarray(H, np.float32)
    x = np.asarray(X, np.float32)
    expected = 1.5 * np.log(2 * np.pi * np.e * 0.3) - np.linalg.slogdet(np.asarray(H))[1] / 2
    got = gaussian_entropy(h, 0.3)
    assert got.dtype == jnp.float32
    assert float(got) == pytest.approx(expected, rel=1e-5)
    got = free_entropy(Quadratic(jnp.asarray(h)), x, 0.4, 0.7, order=8)
    assert got.dtype == jnp.float32
    assert float(got) == pytest.approx(closed_form(H, X, 0.4, 0.7), rel=1e-4)
    # Fewer bits are no precision for a determinant or an integral.
    half = lambda x: jnp.asarray(x, jnp.bfloat16)
    got = gaussian_entropy(half(np.eye(3)), half(0.25), gamma=half(0.5)), gaussian_entropy(half(np.ones(3)), half(0.25))
    wide = gaussian_entropy(np.eye(3), 0.25, gamma=0.5), gaussian_entropy(np.ones(3), 0.25)
    np.testing.assert_allclose(got, wide, rtol=1e-6)
    got = free_entropy(lambda x: jnp.sum(x**2) / 2, half(np.ones(3)), half(0.5), half(1.0), order=8)
    assert got.dtype == jnp.float32
    assert float(got) == pytest.approx(closed_form(np.eye(3), np.ones(3), 0.5, 1.0), rel=1e-5)


def test_bad_numbers():
    def free(x=1.0, kt=1.0, gamma=1.0, **kwargs):
        loss = Quadratic(jnp.full((1, 1), jnp.asarray(x, jnp.float64)))
        return free_entropy(loss, jnp.ones(1), kt, gamma, order=4, tolerance=1.0, **kwargs)

    assert_refused(
        [
            (lambda x: gaussian_entropy(x * H, 0.3), -1.0, "hessian", 1.0),
            (lambda x: gaussian_entropy(H + x, 0.3), jnp.nan, "hessian", 0.0),
            (lambda x: gaussian_entropy(x * jnp.ones(2), 0.3, gamma=1.0), -0.3, "gamma", -0.29),
            (lambda x: gaussian_entropy(H, x), 0.0, "temperature", 1e-9),
            (lambda x: gaussian_entropy(H, 0.3, gamma=x), -1.0, "gamma", 0.0),
            (lambda x: gaussian_entropy(H, 0.3, k=x), 0.0, "`k`", 1.0),
            (lambda x: free(x, gamma=0.0), 0.0, "finite integral", 1.0),
        ]
    )

    for f, bad, words, good in (
        (lambda x: free(kt=x), -1.0, "temperature", 1.0),
        (lambda x: free(gamma=x), -1.0, "gamma", 0.0),
        (lambda x: free(gamma=x, around="theta"), 0.0, "gamma", 1.0),
        (lambda x: free(x), jnp.nan, "finite integral", 1.0),
    ):
        f(good)
        with pytest.raises(ValueError, match=words):
            f(bad)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gaussian_entropy(1.0, 0.3), r"shape \(d,\)"),
        (lambda: gaussian_entropy(H[:2], 0.3), "shape"),
        (lambda: gaussian_entropy(H.at[0, 1].set(0.0), 0.3), "symmetric"),
        (lambda: gaussian_entropy(H, jnp.ones(2)), "scalar"),
        (lambda: free_entropy(lambda x: x, jnp.ones(2), 1.0, 1.0), "scalar"),
        (lambda: free_entropy(Quadratic(jnp.eye(4)), jnp.ones(4), 1.0, 1.0), "monte_carlo"),
        (lambda: free_entropy(double_well, jnp.ones(1), 1.0, 1.0, order=1), "order"),
        (lambda: free_entropy(double_well, jnp.ones(1), 1.0, 1.0, method="exact"), "quadrature"),
        (lambda: free_entropy(double_well, jnp.ones(1), 1.0, 1.0, around="origin"), "maximum"),
        (lambda: free_entropy(double_well, jnp.ones(1), 1.0, 1.0, method="monte_carlo"), "key"),
        (lambda: free_entropy(double_well, jnp.ones(0), 1.0, 1.0), "theta"),
        (lambda: free_entropy(double_well, jnp.ones(1), 1.0, 1.0, chunk=0), "chunk"),
    ],
)
def test_bad_calls(call, words):
    with pytest.raises(ValueError, match=words):
        call()
