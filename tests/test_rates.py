"""The rate density and its factors: exact values, limits, gradients, sweeps, precision and refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from hypothesis import given, settings, strategies as st
from kernels import longest_kernel
from refusals import assert_refused

from rxjax._rates import (
    activation_energy,
    attempt_frequency,
    batch_modified_rate,
    energy_difference,
    log_rate_density,
    quantized_rate,
    rate_density,
    transition_probability,
    update_angle,
)

G = jnp.array([1.0, -2.0, 0.5])
U = jnp.array([0.3, 0.1, -0.7])
TREE_G = {"w": jnp.array([[1.0, -2.0]]), "b": (jnp.array(0.5), None)}
TREE_U = {"w": jnp.array([[0.3, 0.1]]), "b": (jnp.array(-0.7), None)}
E = float(G @ U)  # -0.25

log_rate = jax.jit(log_rate_density)


def test_energy_is_the_inner_product():
    assert activation_energy(G, U) == pytest.approx(E)
    assert activation_energy(TREE_G, TREE_U) == pytest.approx(E)
    assert activation_energy(G, -G) < 0
    cosine = jnp.linalg.norm(G) * jnp.linalg.norm(U) * jnp.cos(update_angle(G, U))
    assert cosine == pytest.approx(E)
    assert update_angle(TREE_G, TREE_U) == pytest.approx(float(update_angle(G, U)))


def test_complex_energy_is_the_derivative_of_the_loss():
    """JAX's gradient of a real loss of complex parameters: no conjugate in the energy, one in the angle."""
    w, u = jnp.array([0.3 + 1.0j, -0.5 + 0.2j]), jnp.array([0.1 - 0.4j, 0.7 + 0.3j])

    def loss(w):
        return jnp.sum(jnp.abs(w) ** 4) + jnp.sum((w**2).imag) + jnp.sum(w[0].real * w[1].imag)

    g = jax.grad(loss)(w)
    h = 1e-5
    assert activation_energy(g, u) == pytest.approx(float(loss(w + h * u) - loss(w - h * u)) / (2 * h), rel=1e-8)
    assert activation_energy(g, -g.conj()) == pytest.approx(-float(jnp.sum(jnp.abs(g) ** 2)))
    assert update_angle(g, -g.conj()) == pytest.approx(np.pi)
    assert activation_energy(g.conj(), u.real) == pytest.approx(float(jnp.sum(g.real * u.real)))


def test_low_precision_leaves_are_summed_in_float32():
    ones = jnp.ones(4096, jnp.bfloat16)
    energy = activation_energy(ones, ones)
    assert energy.dtype == jnp.float32
    assert energy == 4096.0
    assert activation_energy({"a": ones, "b": jnp.ones(2, jnp.float32)}, {"a": ones, "b": 2.0 * jnp.ones(2)}) == 4100.0
    assert activation_energy(1, 2) == 2.0


@pytest.mark.parametrize(
    ("gradient", "update", "angle"),
    [
        (G, G, 0.0),
        (G, -3 * G, np.pi),
        (jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0]), np.pi / 2),
        (1e300 * G, 1e-300 * G, 0.0),
        (jnp.array([1.0, 0.0]), jnp.array([1.0, 1e-12]), 1e-12),
        (0 * G, U, np.pi / 2),
        (G, 0 * U, np.pi / 2),
        (0 * G, 0 * U, np.pi / 2),
    ],
)
def test_angle(gradient, update, angle):
    value, slopes = jax.jit(jax.value_and_grad(update_angle, (0, 1)))(gradient, update)
    assert value == pytest.approx(angle, rel=1e-14, abs=2e-16)
    assert jnp.all(jnp.isfinite(jnp.stack(slopes)))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6), st.floats(1e-2, 1e3))
def test_rate_is_antisymmetric_and_scale_free(values, scale):
    gradient, update = jnp.array(values[:3]), jnp.array(values[3:])
    forward, backward = log_rate(gradient, update, 0.7), log_rate(gradient, -update, 0.7)
    assert forward == -backward
    assert log_rate(scale * gradient, update, 0.7 * scale) == pytest.approx(float(forward), rel=1e-12, abs=1e-12)


def test_energy_difference():
    def loss(x):
        return jnp.sum(x**4)

    x = jnp.array([1.0, -0.5])
    u = jnp.array([0.2, 0.1])
    assert energy_difference(loss, x, u) == pytest.approx(float(1.2**4 + 0.4**4 - 1 - 0.5**4))
    # To first order it is the activation energy.
    small = energy_difference(loss, x, 1e-5 * u) / 1e-5
    assert small == pytest.approx(float(activation_energy(jax.grad(loss)(x), u)), rel=1e-4)
    assert energy_difference(lambda p: p["a"] ** 2, {"a": 3}, {"a": -1}) == -5.0


def test_rate_density():
    assert attempt_frequency() == 1.0
    assert attempt_frequency(1.5, tau0=2, k=3) == pytest.approx(np.exp(0.5) / 2)
    expected = 1.5 / 3 - np.log(2) - E / (3 * 0.2)
    assert log_rate(G, U, 0.2, entropy=1.5, tau0=2.0, k=3) == pytest.approx(expected)
    assert rate_density(TREE_G, TREE_U, 0.2, entropy=1.5, tau0=2.0, k=3) == pytest.approx(np.exp(expected))
    # Logarithm first: it is finite where the rate is not.
    assert log_rate(G, -1e6 * G, 1e-3) == pytest.approx(5.25e9)


@pytest.mark.parametrize(("update", "log_limit"), [(G, -np.inf), (-G, np.inf), (0 * G, 0.3), (U.at[:].set(0.0), 0.3)])
def test_zero_temperature_limit(update, log_limit):
    def log(gradient, update, temperature):
        return log_rate_density(gradient, update, temperature, entropy=0.3)

    for f, limit in ((log, log_limit), (lambda *xs: jnp.log(rate_density(*xs, entropy=0.3)), log_limit)):
        assert f(G, update, 0.0) == pytest.approx(limit)
    rate = jax.jit(jax.value_and_grad(lambda *xs: rate_density(*xs, entropy=0.3), (0, 1, 2)))
    value, slopes = rate(G, update, 0.0)
    assert value == pytest.approx(np.exp(log_limit))
    for slope in slopes:
        np.testing.assert_array_equal(slope, jnp.zeros_like(slope))
    # Close to zero the same limits are reached without NaN, also where the exponential or its slope overflows.
    for temperature in (1e-320, 1e-200, 1e-3):
        value, slopes = rate(1e3 * G, update, temperature)
        assert value == pytest.approx(np.exp(log_limit))
        assert all(not jnp.any(jnp.isnan(slope)) for slope in slopes)


def test_gradients_at_zero_gradient_and_update():
    zero = jnp.zeros(3)
    f = jax.jit(jax.grad(lambda g, u: rate_density(g, u, 0.5), (0, 1)))
    np.testing.assert_allclose(f(zero, U)[0], -U / 0.5)
    np.testing.assert_allclose(f(zero, U)[1], zero)
    np.testing.assert_allclose(f(G, zero)[1], -G / 0.5)
    # An overflowing rate has an infinite value and a slope without NaN, zero where an entry of the update is zero.
    slope = f(jnp.array([-1e4, 1.0]), jnp.array([1.0, 0.0]))[0]
    assert slope[0] < -1e100 and slope[1] == 0


def test_transition_probability():
    assert transition_probability(2.0, 0.1) == pytest.approx(0.2)
    assert transition_probability(2, 0.1, exact=True) == pytest.approx(-np.expm1(-0.2))
    assert transition_probability(1e-20, 1.0, exact=True) == pytest.approx(1e-20)
    assert transition_probability(jnp.inf, 1.0, exact=True) == 1.0
    assert transition_probability(jnp.inf, 0.0) == 0.0
    assert transition_probability(10.0, 0.1) == pytest.approx(1.0)
    # The slopes by time are the rate at no time at all, and nothing where the probability is 1.
    slopes = jax.jit(jax.vmap(jax.grad(lambda dt, rate: transition_probability(rate, dt, exact=True))))
    np.testing.assert_array_equal(slopes(jnp.array([0.0, 0.0, 0.1]), jnp.array([2.0, jnp.inf, jnp.inf])), [2, 0, 0])
    assert jax.grad(lambda dt: transition_probability(2.0, dt))(0.0) == 2.0


def test_modified_rates():
    assert batch_modified_rate(3.0, 16, 64) == pytest.approx(1.5)
    assert batch_modified_rate(3.0, 64, 64) == 3.0
    assert quantized_rate(3.0, 0.5) == 1.5
    assert quantized_rate(3.0, 0) == 0.0


def test_gradients():
    def quartic(x):
        return jnp.sum(x**4)

    assert_gradients(
        [
            (lambda x: activation_energy(G + x, U * x), 0.4),
            (lambda x: update_angle(G + x, U * x), 0.4),
            (lambda x: update_angle(TREE_G, jax.tree.map(lambda u: u + x, TREE_U)), 0.4),
            (lambda x: energy_difference(quartic, G * x, U), 0.7),
            (lambda x: attempt_frequency(x, tau0=x, k=x + 1), 0.7),
            (lambda x: log_rate_density(G + x, U, x, entropy=x, tau0=x, k=x), 0.7),
            (lambda x: rate_density(G, U + x, x**2, entropy=x, tau0=x, k=x), 0.7),
            (lambda x: transition_probability(x, 0.1), 0.7),
            (lambda x: transition_probability(0.3, x, exact=True), 0.7),
            (lambda x: batch_modified_rate(x, 10 * x, 20), 0.7),
            (lambda x: quantized_rate(x, x), 0.7),
        ]
    )


def test_second_derivatives_exist():
    hessian = jax.jit(jax.hessian(lambda x: rate_density(x * G, U, x)))(0.7)
    assert jnp.isfinite(hessian)


def test_vmap_over_learning_rates_and_batches_equals_loop():
    etas, batches = jnp.array([0.01, 0.1, 1.0]), jnp.array([1.0, 8.0, 64.0])

    def f(eta, batch):
        temperature = eta * 3.0 / (2 * batch)
        rate = rate_density(G, -eta * G, temperature, entropy=0.3, tau0=eta)
        return batch_modified_rate(transition_probability(rate, eta, exact=True), batch, 64)

    single = jax.jit(f)
    grid = jax.jit(jax.vmap(jax.vmap(f, (None, 0)), (0, None)))(etas, batches)
    np.testing.assert_allclose(grid, [[single(e, b) for b in batches] for e in etas], rtol=1e-13)
    # Temperatures broadcast without vmap.
    np.testing.assert_allclose(log_rate(G, U, etas), [log_rate(G, U, e) for e in etas], rtol=1e-14)


def test_float32(float32):
    g, u = np.asarray(G, np.float32), np.asarray(U, np.float32)
    for temperature in (0.25 / 30, 0.1, 10.0):
        got = log_rate_density(g, u, temperature, entropy=2)
        assert got.dtype == jnp.float32
        assert float(got) == pytest.approx(2 - E / temperature, rel=1e-5)
        rate = float(rate_density(g, u, temperature, entropy=2))
        assert rate == pytest.approx(np.exp(2 - E / temperature), rel=1e-4)
    assert rate_density(g, g, 0.0) == 0.0
    slope = jax.grad(lambda t: rate_density(g, u, t))(jnp.float32(1e-30))
    assert not jnp.isnan(slope)


def test_filtered_gradients_of_a_module():
    model = eqx.nn.Linear(2, 1, use_bias=False, key=jax.random.key(0))
    gradient = eqx.filter_grad(lambda m: jnp.sum(m(jnp.ones(2)) ** 2))(model)
    update = jax.tree.map(lambda g: -0.1 * g, gradient)
    assert activation_energy(gradient, update) < 0
    assert update_angle(gradient, update) == pytest.approx(np.pi)


def test_bad_numbers():
    assert_refused(
        [
            (lambda x: activation_energy(x * G, U), jnp.nan, "gradient", 0.0),
            (lambda x: activation_energy(G, x + U), jnp.inf, "update", 0.0),
            (lambda x: update_angle(G, x + U), jnp.nan, "update", 0.0),
            (lambda x: energy_difference(lambda y: jnp.sum(jnp.sqrt(y)), G * 0 + 1, x + 0 * U), -2.0, "loss", -1.0),
            (lambda x: attempt_frequency(x), jnp.inf, "entropy", -1e9),
            (lambda x: attempt_frequency(0.0, tau0=x), 0.0, "tau0", 1e-300),
            (lambda x: attempt_frequency(0.0, k=x), -1.0, "`k`", 1e-300),
            (lambda x: log_rate_density(G, U, x), -1e-9, "temperature", 0.0),
            (lambda x: rate_density(G, U, x), jnp.nan, "temperature", 1e300),
            (lambda x: transition_probability(x, 0.1), -1.0, "rate", 0.0),
            (lambda x: transition_probability(x, 0.1), jnp.nan, "rate", 10.0),
            (lambda x: transition_probability(1.0, x), -1.0, "dt", 0.0),
            (lambda x: transition_probability(1.0, x), 1.01, "exact=True", 1.0),
            (lambda x: transition_probability(1.0, x, exact=True), jnp.inf, "dt", 1e9),
            (lambda x: batch_modified_rate(x, 1, 2), -1.0, "rate", 0.0),
            (lambda x: batch_modified_rate(1.0, x, 2), 0.5, "batch_size", 1.0),
            (lambda x: batch_modified_rate(1.0, x, 2), 3.0, "dataset_size", 2.0),
            (lambda x: quantized_rate(1.0, x), 1.1, "survival", 1.0),
            (lambda x: quantized_rate(1.0, x), -0.1, "survival", 0.0),
            (lambda x: quantized_rate(x, 1.0), jnp.inf, "rate", 0.0),
        ]
    )


def test_no_kernel_grows_with_the_number_of_leaves():
    """The time to compile one would grow faster still: it was a minute for the 144 arrays of a transformer."""

    def longest(leaves):
        x = [jnp.ones((8, 16), jnp.float32)] * leaves
        return longest_kernel(lambda g, u: (update_angle(g, u), activation_energy(g, u)), x, x)

    assert longest(32) < 1.2 * longest(8)


def test_many_leaves_give_what_one_does():
    g, u = (np.random.default_rng(seed).normal(size=(73, 5)) for seed in (0, 1))
    for call in (activation_energy, update_angle):
        assert call(list(g), list(u)) == pytest.approx(float(call(jnp.asarray(g), jnp.asarray(u))), rel=1e-12)
    assert_refused([(lambda x: activation_energy([*g[1:], x * g[0]], list(u)), jnp.nan, "gradient", 1.0)])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: activation_energy(TREE_G, G), "structure"),
        (lambda: activation_energy(G, U[:2]), r"shapes of `gradient`, but it has \(2,\)"),
        (lambda: update_angle({"a": G}, {"a": U[:2]}), r"at \['a'\]"),
        (lambda: activation_energy({}, {}), "at least one array"),
        (lambda: energy_difference(lambda x: x, G, U), "scalar"),
        (lambda: log_rate_density(G, U, 1j), "temperature"),
    ],
)
def test_bad_calls(call, words):
    with pytest.raises(Exception, match=words):
        call()
