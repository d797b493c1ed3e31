"""The optimal learning rate of a network, and the report, against direct computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rxjax as rx
from rxjax.measure._optimal_learning_rate import step_moments
from rxjax.measure._units import Population

M = rx.measure
RNG = np.random.default_rng(1)
DIM = 6
CURVES = RNG.standard_normal((8, DIM, DIM)) / 3
CURVES = CURVES @ CURVES.transpose(0, 2, 1) + 0.3 * np.eye(DIM)
SLOPES = 0.6 + RNG.standard_normal((8, DIM))
RUN = rx.Hyperparameters(0.1, 2, 6)


def kinds(w, index):
    """Eight kinds of examples, each with a gradient and a Hessian of its own."""
    curve, slope = jnp.asarray(CURVES)[index], jnp.asarray(SLOPES)[index]
    return jnp.mean(jnp.einsum("nij,i,j->n", curve, w, w) / 2 + jnp.matmul(slope, w))


def test_the_optimal_rate_against_the_population():
    """Every moment unbiased over 3000 data sets, the error of the rate of the right size."""
    w = 0.2 * np.ones(DIM)
    each = SLOPES + CURVES @ w
    gradient, hessian, sigma = each.mean(0), CURVES.mean(0), np.cov(each.T, bias=True)
    exact = [gradient @ gradient, gradient @ hessian @ gradient, np.trace(hessian @ sigma)]

    def trial(key):
        data = jax.random.randint(key, (48,), 0, 8)
        found = M.optimal_learning_rate(kinds, jnp.asarray(w), data, batch_size=4, micro_batch_size=4)
        *moments, size = step_moments(kinds, jnp.asarray(w), data, Population(4, None))
        return [size**2 * m.value for m in moments], found

    moments, found = jax.jit(jax.vmap(trial))(jax.random.split(jax.random.key(0), 3000))
    for values, want in zip(moments, exact, strict=True):
        values = np.asarray(values)
        assert abs(values.mean() - want) < 4 * values.std() / 3000**0.5
    best = float(rx.optimal_learning_rate(gradient, hessian, sigma / 4))
    top = float(rx.maximal_learning_rate(gradient, hessian))
    assert float(jnp.median(found.optimal.value)) == pytest.approx(best, rel=0.05)
    assert float(jnp.median(found.maximal.value)) == pytest.approx(top, rel=0.1)
    batch = float(rx.noise_batch_size(gradient, hessian, sigma))
    assert float(jnp.median(found.noise_batch.value)) == pytest.approx(batch, rel=0.1)
    off = np.abs(np.asarray(found.optimal.value) - best) / np.asarray(found.optimal.standard_error)
    assert 0.55 < np.mean(off < 1) < 0.8 and np.mean(off < 2) > 0.85


def test_moments_out_of_a_finite_data_set():
    """48 of 60 examples: unbiased, with errors of the right size; all 60: the first two exact, without error."""
    w, data = 0.2 * np.ones(DIM), RNG.integers(0, 8, 60)
    each, curves = (SLOPES + CURVES @ w)[data], CURVES[data]
    gradient, hessian, sigma = each.mean(0), curves.mean(0), np.cov(each.T, bias=True)
    exact = [gradient @ gradient, gradient @ hessian @ gradient, np.trace(hessian @ sigma)]

    def moments(key, n):
        part = jax.random.permutation(key, jnp.asarray(data))[:n]
        *moments, size = step_moments(kinds, jnp.asarray(w), part, Population(4, jnp.asarray(60.0)))
        return [m.times(size**2) for m in moments]

    keys = jax.random.split(jax.random.key(0), 2000)
    some, whole = jax.jit(lambda: [jax.vmap(lambda k, n=n: moments(k, n))(keys) for n in (48, 60)])()
    for found, want in zip(some, exact, strict=True):
        values = np.asarray(found.value)
        assert abs(values.mean() - want) < 4 * values.std() / 2000**0.5
        error = np.sqrt(np.mean(np.sum(np.asarray(found.parts) ** 2, axis=1)) / (12 * 11))
        assert 0.8 < error / values.std() < 1.25
    for found, want in zip(whole[:2], exact[:2], strict=True):
        np.testing.assert_allclose(found.value, want, rtol=1e-9)
        assert np.max(np.abs(found.parts)) < 1e-6
    assert abs(np.mean(whole[2].value) - exact[2]) < 4 * np.std(whole[2].value) / 2000**0.5
    # Sorted data are shuffled first, or their micro-batches would hold one kind each.
    drawn = {"sampling": "without_replacement", "dataset_size": 60}
    found = M.optimal_learning_rate(kinds, jnp.asarray(w), jnp.sort(data), 1, micro_batch_size=4, **drawn).optimal
    assert abs(float(found.value) - rx.optimal_learning_rate(gradient, hessian, sigma)) < 3 * found.standard_error < 0.3


def test_the_report_is_the_sum_of_its_parts():
    w, data = {"w": 0.2 * jnp.ones(DIM), "steps": 3}, jnp.asarray(RNG.integers(0, 8, 50))
    loss = lambda p, batch: kinds(p["w"], batch)
    run = rx.Hyperparameters(0.3, 4, 50, 0.9, "without_replacement")
    found = M.report(loss, w, data, run, probes=4)
    drawn = {"sampling": "without_replacement", "dataset_size": 50}
    noise, top = M.gradient_noise(loss, w, data, **drawn), M.lambda_max(loss, w, data)
    covariance = float(rx.batch_covariance(noise.trace.value, run))
    rates = M.optimal_learning_rate(loss, w, data[:48], 4 * 49 / 46, micro_batch_size=3, **drawn)
    expected = {
        "noise_trace": noise.trace.value,
        "critical_batch_size": noise.ratio.value,
        "temperature": rx.effective_temperature(0.3, trace=covariance, momentum=0.9),
        "temperature_per_parameter": rx.effective_temperature(
            0.3, trace=covariance, momentum=0.9, per_parameter=True, dim=DIM
        ),
        "lambda_max": top.value,
        "critical_learning_rate": rx.critical_learning_rate(top.value, momentum=0.9),
        "edge": 0.3 / rx.critical_learning_rate(top.value, momentum=0.9),
        "hessian_trace": M.trace(loss, w, data, probes=4).value,
        "optimal_learning_rate": rates.optimal.value,
        "maximal_learning_rate": rates.maximal.value,
        "noise_batch_size": rates.noise_batch.value,
    }
    got = found.as_dict()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name].value, value, rtol=1e-6, err_msg=name)
    table = str(found).splitlines()
    assert [line.split()[0] for line in table] == list(got)
    for line, estimate in zip(table, got.values(), strict=True):
        assert float(line.split()[3]) == pytest.approx(float(estimate.standard_error), rel=0.01)
    # On all the data no noise is left, and the best rate is the largest.
    whole = M.report(loss, w, data, rx.Hyperparameters(0.3, 50, 50, 0.9, "without_replacement"), probes=4)
    assert float(whole.temperature.value) == 0
    assert float(whole.optimal_learning_rate.value) == pytest.approx(float(rates.maximal.value))


def test_gradients_whose_square_is_out_of_range(float32):
    """Too large or too small a square for float32: the rates are those of the gradient's direction and noise."""
    g, h, c = np.array([[1.0, -2.0], [2.0, 1.0], [0.5, 1.5]], np.float32)
    for scale in (np.float32(1e25), np.float32(1e-25)):
        assert rx.maximal_learning_rate(scale * g, h) == pytest.approx(5 / 6, rel=1e-6)
        assert rx.optimal_learning_rate(scale * g, h, 0.0) == pytest.approx(5 / 6, rel=1e-6)
    assert rx.optimal_learning_rate(np.float32(1e25) * g, h, c) == pytest.approx(5 / 6, rel=1e-6)
    assert rx.optimal_learning_rate(np.float32(1e-15) * g, h, c) == pytest.approx(2e-30, rel=1e-6)
    assert rx.noise_batch_size(np.float32(1e-15) * g, h, c) == pytest.approx(2.5 / 6e-30, rel=1e-6)
    eta = np.float32(1e-25)
    assert rx.expected_decrease(eta, np.float32(1e25) * g, h, c) == pytest.approx(5e25, rel=1e-6)


def test_refusals():
    data, w = jnp.arange(6), jnp.ones(DIM)
    for more, words in [
        ({"micro_batch_size": 4}, "`micro_batch_size` must divide the 6 examples"),
        ({"micro_batch_size": 3}, "`batch` must hold at least three units"),
        ({"micro_batch_size": 1, "batch_size": 0}, "`batch_size` must"),
        ({"micro_batch_size": 1, "batch_size": np.ones(2)}, "`batch_size` must be one number"),
    ]:
        with pytest.raises(ValueError, match=words):
            M.optimal_learning_rate(kinds, w, data, **{"batch_size": 2, **more})
    with pytest.raises(ValueError, match="`micro_batches` must be from 3 to the 6 examples"):
        M.report(kinds, w, data, RUN)
    with pytest.raises(ValueError, match=r"`hyperparameters` must be those of one run, but some have shape \(2,\)"):
        M.report(kinds, w, data, rx.Hyperparameters(np.array([0.1, 0.2]), 2, 6), micro_batches=3)
    # A network that is lost is said to be so by every number.
    lost = M.report(
        lambda w, x: jnp.mean(x**2) * jnp.sum(w**4), jnp.full(2, jnp.nan), jnp.arange(6.0), RUN, micro_batches=3
    )
    assert all(np.isnan(found.value) for found in lost.as_dict().values())
    # Downhill curvature: every larger step is better.
    found = M.optimal_learning_rate(
        lambda w, x: -jnp.mean((w - x) ** 2), jnp.ones(()), jnp.arange(6.0), 2, micro_batch_size=1
    )
    assert np.isinf(found.optimal.value) and np.isinf(found.optimal.standard_error)
