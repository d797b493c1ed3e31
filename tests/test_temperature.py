"""Temperatures, noise scales and covariances of mini-batches: exact values, gradients, sweeps and refusals."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from refusals import assert_refused

from rxjax._hyperparameters import Hyperparameters
from rxjax._temperature import adam_temperature, batch_covariance, effective_temperature, noise_scale

C = jnp.array([[3.0, 0.5, 0.0], [0.5, 1.0, -0.1], [0.0, -0.1, 0.2]])
P = jnp.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 0.5]])
V = jnp.array([1.0, -2.0, 0.5])


def test_trace_and_per_parameter():
    assert effective_temperature(0.1, trace=4.2) == pytest.approx(0.21)
    for covariance in (C, jnp.diagonal(C)):
        assert effective_temperature(0.1, covariance=covariance) == pytest.approx(0.21)
        assert effective_temperature(0.1, covariance=covariance, per_parameter=True) == pytest.approx(0.07)
    assert effective_temperature(0.1, trace=4.2, per_parameter=True, dim=3) == pytest.approx(0.07)
    assert effective_temperature(0.1, covariance=2.0, per_parameter=True) == pytest.approx(0.1)
    assert effective_temperature(0.1, covariance=2, dim=5) == pytest.approx(0.5)
    assert effective_temperature(0.1, covariance=2.0 * np.eye(5)) == pytest.approx(0.5)
    assert effective_temperature(0, trace=1) == 0.0


def test_direction():
    expected = 0.05 * float(V @ C @ V) / float(V @ V)
    assert effective_temperature(0.1, covariance=C, direction=V) == pytest.approx(expected)
    assert effective_temperature(0.1, covariance=C, direction=-1e200 * V) == pytest.approx(expected)
    assert effective_temperature(0.1, covariance=2.0, direction=V) == pytest.approx(0.1)
    # The mean over an orthonormal basis is the temperature per parameter.
    basis = jnp.asarray(np.linalg.qr(np.asarray(C))[0])
    each = jax.vmap(lambda v: effective_temperature(0.1, covariance=C, direction=v))(basis)
    assert jnp.mean(each) == pytest.approx(float(effective_temperature(0.1, covariance=C, per_parameter=True)))


def test_momentum_and_preconditioner():
    assert effective_temperature(0.1, covariance=C, momentum=0.9) == pytest.approx(2.1)
    assert effective_temperature(0.1, covariance=C, preconditioner=P) == pytest.approx(0.05 * float(jnp.trace(P @ C)))
    expected = 0.05 * float(V @ P @ C @ P @ V) / float(V @ P @ V)
    assert effective_temperature(0.1, covariance=C, preconditioner=P, direction=V) == pytest.approx(expected)
    diagonal = jnp.diagonal(P)
    expected = 0.05 * float(jnp.trace(jnp.diag(diagonal) @ C))
    assert effective_temperature(0.1, covariance=C, preconditioner=diagonal) == pytest.approx(expected)
    # The preconditioner C^-1 gives every direction the same temperature eta / 2.
    inverse = np.linalg.inv(np.asarray(C))
    assert effective_temperature(0.1, covariance=C, preconditioner=inverse, direction=V) == pytest.approx(0.05)


def test_temperature_matches_the_discrete_process():
    """Preconditioned descent on a quadratic: where the noise is P^-1, the Gibbs law at the directional temperature."""
    h, eta, c, p = 1.5, 1e-3, 0.7, 0.4
    exact = (eta * p) ** 2 * c / (1 - (1 - eta * p * h) ** 2)  # stationary variance of x <- x - eta p (h x + noise)
    temperature = effective_temperature(eta, covariance=c, preconditioner=p, per_parameter=True)
    assert h * exact == pytest.approx(float(temperature), rel=1e-3)


def test_adam():
    got = adam_temperature(0.1, {"w": jnp.array([[4.0, 0.0]]), "b": 9})
    np.testing.assert_allclose(got["w"], [[0.1, 0.0]])
    assert got["b"] == pytest.approx(0.15)
    assert adam_temperature(0.1, 4.0, gradient=jnp.sqrt(5.0), eps=1.0) == pytest.approx(0.05)
    assert jax.grad(lambda c: adam_temperature(0.1, c))(0.0) == 0.0


def test_noise_scales():
    assert noise_scale(0.1, 1000, 10) == pytest.approx(10.0)
    assert noise_scale(0.1, 1000, 10, form="smith_le", momentum=0.5) == pytest.approx(19.8)
    assert noise_scale(0.1, 64, 64, form="smith_le") == 0.0


@pytest.mark.parametrize("sigma1", [2.0, jnp.diagonal(C), C], ids=["number", "diagonal", "matrix"])
def test_batch_covariance(sigma1):
    with_replacement = batch_covariance(sigma1, Hyperparameters(0.1, 8, 64))
    np.testing.assert_allclose(with_replacement, jnp.asarray(sigma1) / 8)
    without = batch_covariance(sigma1, Hyperparameters(0.1, 8, 64, sampling="without_replacement"))
    np.testing.assert_allclose(without, with_replacement * 56 / 63)
    full = batch_covariance(sigma1, Hyperparameters(0.1, 64, 64, sampling="without_replacement"))
    np.testing.assert_allclose(full, 0 * with_replacement)
    one = batch_covariance(sigma1, Hyperparameters(0.1, 1, 1, sampling="without_replacement"))
    np.testing.assert_allclose(one, 0 * with_replacement)


def test_batch_covariance_is_that_of_every_possible_batch():
    gradients = np.array([0.3, -1.0, 2.5, 0.1, 4.0])
    with_replacement = list(itertools.product(gradients, repeat=2))
    without_replacement = list(itertools.permutations(gradients, 2))
    for sampling, batches in (("with_replacement", with_replacement), ("without_replacement", without_replacement)):
        expected = np.var(np.mean(batches, axis=1))
        got = batch_covariance(np.var(gradients), Hyperparameters(0.1, 2, 5, sampling=sampling))
        assert got == pytest.approx(expected, rel=1e-12)


def test_gradients():
    run = Hyperparameters(0.1, 8.0, 64.0, sampling="without_replacement")
    functions = [
        (lambda x: effective_temperature(x, covariance=C, direction=V, momentum=0.3), 0.1),
        (lambda x: effective_temperature(0.1, covariance=C, momentum=x), 0.3),
        (lambda x: effective_temperature(0.1, covariance=C * x, preconditioner=P, direction=V), 1.3),
        (lambda x: effective_temperature(0.1, covariance=C, direction=V + x), 0.3),
        (lambda x: effective_temperature(0.1, trace=x), 2.0),
        (lambda x: adam_temperature(0.1, x, gradient=0.2, eps=0.1), 0.7),
        (lambda x: noise_scale(0.1, 1000, x, form="smith_le", momentum=0.2), 10.0),
        (lambda x: batch_covariance(x, run), 2.0),
        (lambda x: batch_covariance(2.0, eqx.tree_at(lambda r: r.batch_size, run, x)), 8.0),
    ]
    assert_gradients(functions)


def test_vmap_equals_loop():
    etas, batches = jnp.array([0.01, 0.1, 0.5]), jnp.array([1, 4, 16])

    def f(eta, batch):
        run = Hyperparameters(eta, batch, 64, sampling="without_replacement")
        c = batch_covariance(C, run)
        temperature = effective_temperature(run.learning_rate, covariance=c, direction=V)
        return temperature + noise_scale(eta, 64, batch)

    grid = jax.jit(jax.vmap(jax.vmap(f, (None, 0)), (0, None)))(etas, batches)
    single = jax.jit(f)
    loop = [[single(eta, batch) for batch in batches] for eta in etas]
    np.testing.assert_allclose(grid, loop, rtol=1e-12)
    # A PyTree of settings sweeps by its own axes, and arrays broadcast without vmap.
    runs = Hyperparameters(etas, batches, 64)
    swept = jax.vmap(lambda run: batch_covariance(C, run), in_axes=(runs.axes,))(runs)
    np.testing.assert_allclose(swept, C[None] / runs.batch_size[:, None, None])
    traces = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(effective_temperature(etas, trace=traces), etas * traces / 2)


def test_float32(float32):
    c = jnp.asarray(np.asarray(C), jnp.float32)
    run = Hyperparameters(0.1, 8, 64, sampling="without_replacement")
    got = effective_temperature(0.1, covariance=batch_covariance(c, run), momentum=0.9)
    assert got.dtype == jnp.float32
    assert float(got) == pytest.approx(2.1 * 56 / 63 / 8, rel=1e-6)
    # A covariance estimated from fewer examples than parameters is singular; rounding must not refuse it.
    x = np.random.default_rng(0).normal(size=(5, 60)).astype(np.float32)
    assert jnp.isfinite(jax.jit(effective_temperature)(0.1, covariance=x.T @ x))


def test_float32_inputs_stay_float32_with_x64_on():
    c = jnp.asarray(C, jnp.float32)
    assert effective_temperature(0.1, covariance=c).dtype == jnp.float32
    assert batch_covariance(c, Hyperparameters(0.1, 8, 64)).dtype == jnp.float32
    assert Hyperparameters(jnp.float32(0.1), np.arange(1, 3), 64).batch_size.dtype == jnp.float32


BAD = [
    (lambda x: effective_temperature(x, trace=1.0), -0.1, "learning_rate", 0.1),
    (lambda x: effective_temperature(x, trace=1.0), jnp.nan, "learning_rate", 0.1),
    (lambda x: effective_temperature(0.1, trace=x), -1.0, "trace", 1.0),
    (lambda x: effective_temperature(0.1, trace=1.0, momentum=x), 1.0, "momentum", 0.99),
    (lambda x: effective_temperature(0.1, trace=1.0, momentum=x), -0.1, "momentum", 0.0),
    (lambda x: effective_temperature(0.1, covariance=x * C), -1.0, "covariance", 1.0),
    (lambda x: effective_temperature(0.1, covariance=C + x), jnp.inf, "covariance", 0.0),
    (lambda x: effective_temperature(0.1, covariance=jnp.array([[1.0, x], [x, 1.0]])), 1.01, "semi-definite", 1.0),
    (lambda x: effective_temperature(0.1, covariance=jnp.array([[1.0, x], [0.0, 1.0]])), 0.1, "symmetric", 0.0),
    (lambda x: effective_temperature(0.1, covariance=C, direction=x * V), 0.0, "direction", 1e-300),
    (lambda x: adam_temperature(0.1, x), -1.0, "variance", 0.0),
    (lambda x: noise_scale(0.1, 10, x), 0.0, "batch_size", 1.0),
    (lambda x: noise_scale(0.1, 10, x), 0.5, "batch_size", 1.0),
    (lambda x: noise_scale(0.1, 10, x, form="smith_le"), 11.0, "batch_size", 10.0),
    (lambda x: batch_covariance(x, Hyperparameters(0.1, 8, 64)), -1.0, "sigma1", 0.0),
    (lambda x: Hyperparameters(x, 8, 64).learning_rate, 0.0, "learning_rate", 1e-9),
    (lambda x: Hyperparameters(0.1, x, 64, sampling="epoch").batch_size, 65.0, "batch_size", 64.0),
    (lambda x: Hyperparameters(0.1, 8, x).dataset_size, jnp.inf, "dataset_size", 8.0),
    (lambda x: Hyperparameters(0.1, 8, 64, x).momentum, 1.0, "momentum", 0.0),
]


def test_bad_numbers():
    assert_refused(BAD)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: effective_temperature(0.1), "neither"),
        (lambda: effective_temperature(0.1, trace=1.0, covariance=1.0), "both"),
        (lambda: effective_temperature(0.1, covariance=1.0), "dim"),
        (lambda: effective_temperature(0.1, trace=1.0, per_parameter=True), "dim"),
        (lambda: effective_temperature(0.1, trace=1.0, direction=V), "direction"),
        (lambda: effective_temperature(0.1, covariance=C, direction=V, per_parameter=True), "direction"),
        (lambda: effective_temperature(0.1, covariance=C, direction=V[:2]), r"shape \(3,\)"),
        (lambda: effective_temperature(0.1, covariance=C[:2]), "shape"),
        (lambda: effective_temperature(0.1, covariance=C, dim=4), "shape"),
        (lambda: effective_temperature(0.1, covariance=C, preconditioner=jnp.eye(2)), "preconditioner"),
        (lambda: effective_temperature(0.1, covariance=C.astype(complex)), "real"),
        (lambda: effective_temperature("hot", trace=1.0), "learning_rate"),  # pyright: ignore
        (lambda: adam_temperature(0.1, [1.0], gradient=(1.0,)), "structure"),
        (lambda: adam_temperature(0.1, jnp.ones(3), gradient=jnp.ones(2)), "shape"),
        (lambda: noise_scale(0.1, 10, 1, form="smith"), "smith_le"),
        (lambda: Hyperparameters(0.1, 8, 64, sampling="shuffled"), "without_replacement"),
        (lambda: batch_covariance(1.0, Hyperparameters(0.1, 8, 64, sampling="epoch")), "epoch"),
        (lambda: batch_covariance(C, Hyperparameters(0.1, jnp.array([1, 2, 4]), 64)), "vmap"),
    ],
)
def test_bad_calls(call, words):
    with pytest.raises(Exception, match=words):
        call()
