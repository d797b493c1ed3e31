"""Spectrum, trace and local entropy of networks against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from test_measure import chebyshev, tanh_network

import rxjax as rx

M = rx.measure
ORDERS = ("largest", "smallest", "magnitude")


@pytest.fixture(scope="module")
def dense():
    """Case 22's network: gradient and Hessian in full."""
    params, batch = chebyshev()
    flat, unravel = ravel_pytree(params)
    loss = lambda v: tanh_network(unravel(v), batch)
    gradient, hessian = jax.jit(lambda v: (jax.grad(loss)(v), jax.hessian(loss)(v)))(flat)
    return params, batch, np.asarray(gradient), np.asarray(hessian)


def test_the_outer_eigenvalues_of_a_network(dense):
    params, batch, _, hessian = dense
    exact = np.linalg.eigvalsh(hessian)
    by_size = exact[np.argsort(-np.abs(exact))]
    find = jax.jit(
        lambda: [M.spectrum(tanh_network, params, batch, 6, which=w, steps=60, vectors=True) for w in ORDERS]
    )
    for found, want in zip(find(), (exact[::-1], exact, by_size), strict=True):
        assert np.all(found.known)
        off = np.abs(np.asarray(found.values) - want[:6])
        np.testing.assert_allclose(off[:3], 0, atol=1e-6 * exact[-1])
        assert np.all(np.abs(exact[:, None] - np.asarray(found.values)).min(0) <= np.asarray(found.errors) + 1e-12)
        rows = np.stack([ravel_pytree(jax.tree.map(lambda x, i=i: x[i], found.vectors))[0] for i in range(6)])
        np.testing.assert_allclose(rows @ rows.T, np.eye(6), atol=1e-9)
        residual = np.linalg.norm(rows @ hessian - np.asarray(found.values)[:, None] * rows, axis=1)
        np.testing.assert_allclose(residual, found.errors, atol=1e-9)
        assert found.vectors[0][0].shape == (6, 1, 24)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_space_that_ends_early_is_said(dtype):
    """Three different eigenvalues of thirty, one of them zero: the rest is unknown and not invented."""
    h = jnp.asarray(np.repeat([4.0, 0.0, -2.0], 10), dtype)
    curve = lambda p, h: jnp.sum(h * p["a"] ** 2) / 2
    find = lambda h, which: M.spectrum(curve, {"a": jnp.ones(30, dtype)}, h, 5, which=which, vectors=True)
    found = jax.jit(lambda h: [find(s * h, w) for s in (1, 0) for w in ORDERS])(h)
    for f, want in zip(found, [[4, 0, -2], [-2, 0, 4], [4, -2, 0], [0], [0], [0]], strict=True):
        n = len(want)
        np.testing.assert_array_equal(f.known, np.arange(5) < n)
        np.testing.assert_allclose(f.values, want + [0] * (5 - n), atol=1e-5)
        assert np.all(np.asarray(f.errors[:n]) < 1e-3) and np.all(np.isinf(f.errors[n:]))
        assert np.all(np.isfinite(f.vectors["a"])) and f.values.dtype == dtype


def test_the_trace_is_unbiased_with_an_error_of_the_right_size(dense):
    """Hutchinson and Hutch++ over 200 seeds: the mean within four standard errors, the spread as they say."""
    hessian = dense[3]
    quadratic = lambda v, h: jnp.sum(v * jnp.matmul(h, v)) / 2
    flat, h = jnp.ones(len(hessian)), jnp.asarray(hessian)
    seeds = jax.random.split(jax.random.key(0), 200)
    find = lambda key, m: M.trace(quadratic, flat, h, probes=10, deflate=m, key=key)
    plain, deflated = jax.jit(lambda keys: [jax.vmap(lambda k, m=m: find(k, m))(keys) for m in (0, 5)])(seeds)
    for found in (plain, deflated):
        value, error = np.asarray(found.value), np.asarray(found.standard_error)
        assert abs(value.mean() - np.trace(hessian)) < 4 * value.std() / 200**0.5
        assert 0.85 < np.sqrt((error**2).mean()) / value.std() < 1.15
    assert np.std(deflated.value) < np.std(plain.value) / 2


def test_local_entropy_against_the_determinant(dense):
    """A network with springs that hold it, over 20 seeds: mean and error; on a quadratic it is the free entropy."""
    params, batch, gradient, hessian = dense
    values, modes = np.linalg.eigh(hessian)
    kt, gamma = 0.5, 1.2 * -values[0] / 0.5
    shifted = values / kt + gamma
    work = modes.T @ gradient / kt
    exact = (len(values) * np.log(2 * np.pi) - np.sum(np.log(shifted)) + np.sum(work**2 / shifted)) / 2
    find = lambda key: M.local_entropy(tanh_network, params, batch, 0.25, gamma, key=key, steps=25, k=2.0)
    found = jax.jit(jax.vmap(find))(jax.random.split(jax.random.key(3), 20))
    value, error = np.asarray(found.value) / 2, np.asarray(found.standard_error) / 2
    logarithm = (modes * np.log(shifted)) @ modes.T
    spread = np.sqrt(np.sum(np.tril(logarithm, -1) ** 2) / 10)
    assert abs(value.mean() - exact) < 4 * spread / 20**0.5
    assert 0.85 < np.sqrt((error**2).mean()) / spread < 1.15

    h, x = jnp.array([3.0, 1.0, 0.0]), jnp.array([1.0, -2.0, 0.5])
    curve = lambda x, h: jnp.sum(h * x**2) / 2
    small = M.local_entropy(curve, x, h, 0.7, 2.0)
    assert float(small.value) == pytest.approx(float(rx.free_entropy(lambda x: curve(x, h), x, 0.7, 2.0)), rel=1e-6)
    assert float(small.standard_error) < 1e-9
    cold = M.local_entropy(curve, 0 * x, 0 * h, 1e-200, 2.0)
    assert float(cold.value) == pytest.approx(1.5 * np.log(np.pi))
    with pytest.raises(ValueError, match="`gamma` must make `H . gamma . k . temperature` positive definite"):
        M.local_entropy(curve, x, -h, 0.7, 2.0)


def test_refusals(dense):
    params, batch = dense[:2]
    cases = [
        (lambda: M.spectrum(tanh_network, params, batch, 0), "`k` must be from 1 to `steps`, here 20"),
        (lambda: M.spectrum(tanh_network, params, batch, 3, steps=2), "`k` must be from 1 to `steps`, here 2"),
        (lambda: M.spectrum(tanh_network, params, batch, 1000), "`k` must be at most the number of parameters, 673"),
        (lambda: M.spectrum(tanh_network, params, batch, which="all"), "`which` must be one of"),
        (lambda: M.trace(tanh_network, params, batch, probes=1), "`probes` must be at least 2"),
        (lambda: M.local_entropy(tanh_network, params, batch, 1.0, 1.0, probes=1), "`probes` must be at least 2"),
        (lambda: M.local_entropy(tanh_network, params, batch, 1.0, 1.0, steps=0), "`steps` must be at least 1"),
        (lambda: M.local_entropy(tanh_network, params, batch, 0.0, 1.0), "`temperature` must be positive"),
        (lambda: M.local_entropy(tanh_network, params, batch, 1.0, np.ones(2)), "`gamma` must be a scalar"),
        (lambda: M.trace(tanh_network, params, batch, deflate=-1), "`deflate` must be from 0 to"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()
