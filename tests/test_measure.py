"""Measurements on networks against direct computation: noise, curvature, sharpness, equilibrium; refusals."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from refusals import assert_refused

import rxjax as rx
from rxjax.measure._lanczos import ritz_pairs

M = rx.measure
RNG = np.random.default_rng(0)


def linear(params, x):
    """A loss whose gradient of one example is the example itself."""
    return jnp.mean(jnp.matmul(x, params["w"]))


def direct(x, size=1, population=None):
    """tr Sigma_1, |G|^2 and their ratio from rows of unit gradients, by the textbook."""
    total = size * len(x)
    one, mean = size * x.var(0, ddof=1).sum(), x.mean(0)
    rest = 1 / total - (1 / population if population else 0)
    signal = mean @ mean - one * rest
    trace = one * (population - 1) / population if population else one
    return np.array([trace, signal, trace / signal])


def jackknife(x, **more):
    n = len(x)
    left = np.stack([direct(np.delete(x, i, 0), **more) for i in range(n)])
    return np.sqrt(((left - left.mean(0)) ** 2).sum(0) * (n - 1) / n)


@pytest.mark.parametrize("route", ["per_example", "micro_batches"])
def test_gradient_noise_against_the_textbook(route):
    x = RNG.standard_normal((40, 6)) + 0.8
    params = {"w": jnp.zeros((6,)), "steps": 3}
    data = jnp.asarray(x)
    size = 1 if route == "per_example" else 4
    units = x.reshape(-1, size, 6).mean(1)
    more = {"route": route, "diagonal": True, "rank": 2}
    more |= {"chunk_size": 7} if size == 1 else {"micro_batch_size": size}
    more["directions"] = [{"w": jnp.asarray(v), "steps": 0} for v in np.eye(6)[:3] + 0.1]
    found = M.gradient_noise(linear, params, data, **more)
    assert found.diagonal is not None
    got = (found.trace, found.squared_gradient, found.ratio)
    np.testing.assert_allclose([e.value for e in got], direct(units, size), rtol=1e-10)
    np.testing.assert_allclose([e.standard_error for e in got], jackknife(units, size=size), rtol=1e-9)
    np.testing.assert_allclose(found.diagonal["w"], size * units.var(0, ddof=1), rtol=1e-10)
    assert found.diagonal["steps"] is None and found.low_rank is not None and found.projected is not None
    sigma = size * np.cov(units.T)
    along = np.eye(6)[:3] + 0.1
    np.testing.assert_allclose(found.projected, along @ sigma @ along.T, rtol=1e-10)
    exact, modes = np.linalg.eigh(sigma)
    np.testing.assert_allclose(found.low_rank.values, exact[:-3:-1], rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(found.low_rank.vectors["w"] * modes.T[:-3:-1], axis=1)), 1, rtol=1e-10)
    assert float(found.low_rank.error) < 1e-12 and found.low_rank.vectors["steps"] is None
    critical = M.critical_batch_size(linear, params, data, **more)
    np.testing.assert_allclose(critical.value, direct(units, size)[2], rtol=1e-10)

    # Out of 60 examples; and all of them, where only the grouping into micro-batches is left to be uncertain about.
    part = M.gradient_noise(linear, params, data, sampling="without_replacement", dataset_size=60, **more)
    np.testing.assert_allclose(part.trace.value, direct(units, size, 60)[0], rtol=1e-10)
    np.testing.assert_allclose(part.squared_gradient.value, direct(units, size, 60)[1], rtol=1e-10)
    seen = jackknife(units, size=size, population=60)
    pairs = itertools.permutations(units, 4) if size > 1 else ()
    square = np.mean([((a - b) @ (c - d)) ** 2 / 4 for a, b, c, d in pairs]) if size > 1 else 0.0
    grouped = 2 * size * (size - 1) * square / (len(units) - 1)
    np.testing.assert_allclose(part.trace.standard_error, np.sqrt(seen[0] ** 2 / 3 + 2 / 3 * grouped * (59 / 60) ** 2))
    whole = M.gradient_noise(linear, params, data, sampling="without_replacement", dataset_size=40, **more)
    assert float(whole.squared_gradient.standard_error) < 1e-9
    np.testing.assert_allclose(whole.squared_gradient.value, x.mean(0) @ x.mean(0), rtol=1e-10)
    if route == "per_example":
        np.testing.assert_allclose(whole.trace.value, x.var(0).sum(), rtol=1e-10)
    np.testing.assert_allclose(whole.trace.standard_error, grouped**0.5 * 39 / 40, atol=1e-9)
    np.testing.assert_allclose(
        whole.ratio.standard_error * whole.squared_gradient.value, grouped**0.5 * 39 / 40, atol=1e-9
    )


def test_large_eigenvalues_in_bounded_memory():
    """12 rows kept of 60 directions: never off by more than the bound, on average by what is estimated; else exact."""
    x = RNG.standard_normal((30, 100, 60)) * np.geomspace(3, 0.1, 60)
    exact = np.stack([np.linalg.eigvalsh(np.cov(a.T))[:-3:-1] for a in x])
    find = lambda chunk: lambda a: M.gradient_noise(linear, {"w": jnp.zeros(60)}, a, chunk_size=chunk, rank=2).low_rank
    found, whole = jax.jit(lambda a: (jax.vmap(find(20))(a), find(100)(a[0])))(jnp.asarray(x))
    missed = exact - np.asarray(found.values)
    assert np.all(missed > -1e-10) and np.all(missed < np.asarray(found.error)[:, None]) and np.all(found.error < 4)
    np.testing.assert_allclose(found.values, exact, rtol=0.03)
    np.testing.assert_allclose(np.mean(found.missed, axis=0), missed.mean(0), rtol=0.25)
    np.testing.assert_allclose(whole.values, exact[0], rtol=1e-12)
    assert whole.error == 0 and np.max(whole.missed) < 1e-12


def test_the_trace_over_twenty_seeds():
    """A network's noise from 120 of 400 examples, within three standard errors of that of all 400, by both routes."""
    params, _ = chebyshev()
    x = jnp.linspace(-1.0, 1.0, 400)[:, None]
    data = (x, 8 * x**4 - 8 * x**2 + 1)
    single = lambda x, y: ravel_pytree(jax.grad(tanh_network)(params, (x[None], y[None])))[0]
    exact = np.var(jax.jit(jax.vmap(single))(*data), axis=0).sum()

    def trial(key):
        part = jax.tree.map(lambda a: a[jax.random.randint(key, (120,), 0, 400)], data)
        micro = M.gradient_noise(tanh_network, params, part, route="micro_batches", micro_batch_size=4)
        return M.gradient_noise(tanh_network, params, part, chunk_size=120).trace, micro.trace

    for found in jax.jit(jax.vmap(trial))(jax.random.split(jax.random.key(1), 20)):
        off = (np.asarray(found.value) - exact) / np.asarray(found.standard_error)
        assert np.all(np.abs(off) < 3) and 0.5 < np.sqrt(np.mean(off**2)) < 1.5


def test_all_the_data_in_micro_batches():
    """The error of the trace that is left covers the exact one: by the grouping alone, also of unlike examples."""
    x = RNG.standard_normal((240, 50)) * np.exp(RNG.standard_normal((240, 1))) + 0.1
    exact = x.var(0).sum()

    def trial(key):
        part = jax.random.permutation(key, jnp.asarray(x))
        more = {"sampling": "without_replacement", "dataset_size": 240, "micro_batch_size": 8}
        noise = lambda x: M.gradient_noise(linear, {"w": jnp.zeros(50)}, x, route="micro_batches", **more)
        return noise(part).trace, noise(part[:120]).trace

    trials = jax.jit(lambda keys: jax.lax.map(trial, keys, batch_size=100))
    for found in trials(jax.random.split(jax.random.key(0), 1000)):
        off = np.abs(np.asarray(found.value) - exact) / np.asarray(found.standard_error)
        assert 0.62 < np.mean(off < 1) < 0.75 and 0.9 < np.mean(off < 2) < 0.98


def test_known_noise_without_bias():
    """Case 26 from eight micro-batches of eight: means within four standard errors, and errors of the right size."""

    def trial(key):
        x = 0.1 + jax.random.normal(key, (64, 50)) * (52.5 / 50) ** 0.5
        return M.gradient_noise(linear, {"w": jnp.zeros(50)}, x, route="micro_batches", micro_batch_size=8)

    found = jax.jit(lambda keys: jax.lax.map(trial, keys, batch_size=250))(jax.random.split(jax.random.key(0), 2000))
    for estimate, exact in ((found.trace, 52.5), (found.squared_gradient, 0.5)):
        value, error = np.asarray(estimate.value), np.asarray(estimate.standard_error)
        assert abs(value.mean() - exact) < 4 * value.std() / 2000**0.5
        assert 0.9 < np.sqrt((error**2).mean()) / value.std() < 1.5
    assert np.mean(found.trace.value) / np.mean(found.squared_gradient.value) == pytest.approx(105.0, rel=0.05)
    # The sampling matters: 64 of 80 examples know the mean better than 64 independent draws.
    two = M.noise_from_two_batches(np.array([6.0, 9.0, 7.0]), np.array([2.0, 1.0, 3.0]), 8, 64)
    np.testing.assert_allclose(
        two.standard_errors, [np.std(e, ddof=1) / 3**0.5 for e in (two.squared_gradient, two.trace)]
    )
    assert np.isinf(M.noise_from_two_batches(6.0, 2.0, 8, 64).standard_errors[1])


def tanh_network(params, batch):
    """Case 22's network on the Chebyshev polynomial T4."""
    x, y = batch
    for w, b in params[:-1]:
        x = jnp.tanh(jnp.matmul(x, w) + b[None])
    return jnp.mean((jnp.matmul(x, params[-1][0]) + params[-1][1][None] - y) ** 2) / 2


def chebyshev():
    x = jnp.cos(jnp.pi * (jnp.arange(20.0) + 0.5) / 20)[:, None]
    sizes = (1, 24, 24, 1)
    keys = jax.random.split(jax.random.key(0), 3)
    params = [
        (jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    return params, (x, 8 * x**4 - 8 * x**2 + 1)


def test_the_largest_eigenvalue_of_a_network():
    params, batch = chebyshev()
    flat, unravel = ravel_pytree(params)
    dense = np.linalg.eigvalsh(jax.jit(jax.hessian(lambda v: tanh_network(unravel(v), batch)))(flat))
    top = M.lambda_max(tanh_network, params, batch)
    assert float(top.value) == pytest.approx(dense[-1], rel=1e-4) and top.value <= dense[-1] + 1e-9
    early = M.lambda_max(tanh_network, params, batch, steps=4)
    assert np.min(np.abs(dense - float(early.value))) < float(early.error)
    low = M.lambda_max(tanh_network, *jax.tree.map(lambda x: x.astype(jnp.float32), (params, batch)))
    assert low.value.dtype == jnp.float32 and float(low.value) == pytest.approx(dense[-1], rel=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_an_invariant_subspace_ends_the_iteration(dtype):
    """Few distinct eigenvalues: the residual vanishes early, and what follows is rounding."""
    diagonals = np.zeros((5, 30))
    diagonals[1], diagonals[2, 3], diagonals[3, :15], diagonals[4] = 2.0, 7.0, 3.0, -1.0
    curve = lambda p, h: jnp.sum(h * p["a"] ** 2) / 2
    find = lambda h: M.lambda_max(curve, {"a": jnp.ones(30, dtype)}, h)
    found = jax.jit(jax.vmap(find))(jnp.asarray(diagonals, dtype))
    np.testing.assert_allclose(found.value, [0, 2, 7, 3, -1], rtol=1e-5, atol=1e-6)
    assert np.all(np.asarray(found.error) < 1e-3)
    # What follows a vanished residual may look like the start again.
    two = jax.jit(lambda start: ritz_pairs(lambda v: v, start, 5))(jnp.ones(2, dtype))
    np.testing.assert_array_equal(two.known, [False, True])
    assert float(two.values[1]) == pytest.approx(1.0, rel=1e-6) and two.errors[1] < 1e-6


def test_batch_sharpness_and_every_kind_of_tree(float32):
    """Dicts, an Equinox module and Flax parameters of one network give the same numbers."""
    linen = pytest.importorskip("flax.linen")
    x = jnp.asarray(RNG.standard_normal((6, 8, 3)), jnp.float32)
    y = jnp.sum(x**2, axis=-1, keepdims=True)
    net = linen.Sequential([linen.Dense(4), jnp.tanh, linen.Dense(1)])
    flax = net.init(jax.random.key(0), x[0])["params"]
    layers = [flax["layers_0"], flax["layers_2"]]
    model = eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    where = lambda m: [m.layers[0].weight, m.layers[0].bias, m.layers[1].weight, m.layers[1].bias]
    model = eqx.tree_at(where, model, [v for k in layers for v in (k["kernel"].T, k["bias"])])
    pair = {"a": layers[0], "b": layers[1]}

    def plain(p, batch):
        hidden = jnp.tanh(batch[0] @ p["a"]["kernel"] + p["a"]["bias"])
        return jnp.mean((hidden @ p["b"]["kernel"] + p["b"]["bias"] - batch[1]) ** 2)

    losses = {
        "dict": (plain, pair),
        "flax": (lambda p, b: jnp.mean((net.apply({"params": p}, b[0]) - b[1]) ** 2), flax),
        "equinox": (lambda m, b: jnp.mean((jax.vmap(m)(b[0]) - b[1]) ** 2), model),
    }
    whole = (x.reshape(48, 3), y.reshape(48, 1))
    numbers = {}
    for name, (loss, params) in losses.items():
        sharp, noise = M.batch_sharpness(loss, params, (x, y)), M.gradient_noise(loss, params, whole)
        outer = M.spectrum(loss, params, whole, 2, steps=12, vectors=True)
        rate = M.optimal_learning_rate(loss, params, whole, 4, micro_batch_size=3).optimal
        numbers[name] = [sharp.value, sharp.standard_error, noise.trace.value, noise.ratio.value]
        numbers[name] += [rate.value, rate.standard_error, outer.values[0]]
        shapes = jax.tree.map(lambda v: (2, *v.shape), eqx.filter(params, eqx.is_inexact_array))
        assert jax.tree.map(jnp.shape, outer.vectors) == shapes
    np.testing.assert_allclose(numbers["flax"], numbers["dict"], rtol=5e-4)
    np.testing.assert_allclose(numbers["equinox"], numbers["dict"], rtol=5e-4)

    flat, unravel = ravel_pytree(pair)
    slope = jax.grad(lambda v, b: plain(unravel(v), b))
    rows = jax.jit(jax.vmap(lambda b: (slope(flat, b), jax.jvp(lambda v: slope(v, b), (flat,), (slope(flat, b),))[1])))
    g, hg = rows((x, y))
    assert numbers["dict"][0] == pytest.approx(float(rx.batch_sharpness(g, hg)), rel=1e-4)


def test_losses_in_large_or_small_units(float32):
    """A loss times 1e-15 or 1e12 has the same numbers and errors in its units: no square of a square is lost."""
    data = jnp.asarray(RNG.standard_normal((24, 5)), jnp.float32)
    params = {"w": jnp.asarray(RNG.standard_normal(4), jnp.float32)}
    loss = lambda s: lambda p, x: s * jnp.mean((jnp.tanh(x[:, :4] @ p["w"]) - x[:, 4]) ** 2)
    drawn = {"sampling": "without_replacement", "dataset_size": 30}

    @jax.jit
    def measured(s):
        noise = M.gradient_noise(loss(s), params, data)
        micro = M.gradient_noise(loss(s), params, data, route="micro_batches", micro_batch_size=3, **drawn)
        rates = M.optimal_learning_rate(loss(s), params, data, 8, micro_batch_size=3)
        squares = [(e.trace, e.squared_gradient) for e in (noise, micro)]
        slopes = [M.batch_sharpness(loss(s), params, data.reshape(6, 4, 5)), M.trace(loss(s), params, data)]
        return squares, slopes, [noise.ratio, micro.ratio, rates.noise_batch], [rates.optimal, rates.maximal]

    usual = jax.tree.leaves(measured(jnp.float32(1)))
    for scale in (1e-15, 1e12):
        found = measured(jnp.float32(scale))
        got = []
        for part, power in zip(found, (2, 1, 0, -1), strict=True):
            got += [np.float64(x) / scale**power for x in jax.tree.leaves(part)]
        np.testing.assert_allclose(got, usual, rtol=1e-3)
    spread = M.noise_from_two_batches(jnp.float32([6e-20, 9e-20]), jnp.float32([2e-20, 1e-20]), 8, 64).standard_errors
    np.testing.assert_allclose(spread, np.array([11, 256]) / 14 * 1e-20, rtol=1e-5)
    work, units = np.arange(1, 9, dtype=np.float32), (np.float32(1e-25), np.float32(1))
    errors = [M.fluctuation_dissipation(s * work, s * work**2, 0.1, blocks=8).standard_error for s in units]
    assert float(errors[0]) == pytest.approx(float(errors[1]), rel=1e-4) and errors[0] > 0
    lost = measured(jnp.float32(np.nan))[1]
    assert all(np.isnan(e.value) and np.isnan(e.standard_error) for e in lost)
    # The squares of the curvatures are out of range, which was taken for the end of Lanczos' space.
    curved = jax.jit(lambda s: (M.lambda_max(loss(s), params, data), M.spectrum(loss(s), params, data, 2)))
    top, outer = curved(jnp.float32(1))
    assert float(top.error) < 1e-4 * float(top.value)
    for scale in (1e-30, 1e-20, 1e-19, 1e19, 1e25):
        found, both = curved(jnp.float32(scale))
        np.testing.assert_allclose(np.float64(found.value) / scale, top.value, rtol=1e-5)
        np.testing.assert_allclose(np.float64(both.values) / scale, outer.values, rtol=1e-5)
        assert np.all(both.known) and float(found.error) < 1e-4 * float(found.value)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_fluctuation_and_dissipation_balance(momentum):
    """SGD with and without momentum on a quadratic: 1 at equilibrium, far from it before."""
    h, eta = jnp.array([0.5, 1.0, 2.0]), 0.2

    def step(carry, key):
        theta, d = carry
        g = h * theta + jax.random.normal(key, (3,))
        d = momentum * d + (1 - momentum) * g
        return (theta - eta * d, d), (jnp.sum(theta * g), jnp.sum(d * d))

    keys = jax.random.split(jax.random.key(2), 40_000)
    work, squares = jax.jit(lambda: jax.lax.scan(step, (jnp.full(3, 30.0), jnp.zeros(3)), keys)[1])()
    settled = M.fluctuation_dissipation(work[2000:], squares[2000:], eta, momentum=momentum)
    assert abs(settled.value - 1) < 3 * settled.standard_error < 0.2
    drifting = M.fluctuation_dissipation(work[:40], squares[:40], eta, momentum=momentum)
    assert abs(drifting.value - 1) > 0.5


def test_refusals():
    data, params = jnp.ones((6, 2)), {"w": jnp.ones(2)}
    cases = [
        (lambda: M.lambda_max(linear, {"w": 3}, data), "`params` must hold at least one floating array"),
        (lambda: M.lambda_max(linear, {"w": jnp.ones(2, complex)}, data), "`params` must be real"),
        (lambda: M.lambda_max(linear, params, data, steps=0), "`steps` must be at least 1"),
        (lambda: M.gradient_noise(linear, params, data, route="all"), "`route` must be one of"),
        (
            lambda: M.gradient_noise(linear, params, data, micro_batch_size=2),
            "`micro_batch_size` must come with route=",
        ),
        (lambda: M.gradient_noise(linear, params, data, sampling="epoch"), "`sampling` must be one of.*ONE reshuffled"),
        (lambda: M.gradient_noise(linear, params, data, dataset_size=60), "`dataset_size` must come with sampling="),
        (
            lambda: M.gradient_noise(linear, params, data, sampling="without_replacement"),
            "`dataset_size` must be given",
        ),
        (
            lambda: M.gradient_noise(linear, params, data, sampling="without_replacement", dataset_size=np.ones(2)),
            "`dataset_size` must be one number",
        ),
        (
            lambda: M.gradient_noise(linear, params, data, sampling="without_replacement", dataset_size=np.inf),
            "`dataset_size` must be a number of at least 6 examples, but it is not finite",
        ),
        (
            lambda: M.gradient_noise(lambda p, x: x @ p["w"], params, data),
            "`loss_fn` must return one number.* \\(1,\\)",
        ),
        (lambda: M.lambda_max(lambda p, x: x @ p["w"], params, data), "`loss_fn` must return one number.* \\(6,\\)"),
        (lambda: M.batch_sharpness(linear, params, jnp.ones(())), "`batches` must hold arrays with batches along"),
        (lambda: M.batch_sharpness(linear, params, (data, data[:2])), "`batches` must hold arrays with one leading"),
        (lambda: M.gradient_noise(linear, params, data[:1]), "`batch` must hold at least two units"),
        (lambda: M.gradient_noise(linear, params, (data, data[:2])), "`batch` must hold arrays with one leading axis"),
        (
            lambda: M.gradient_noise(linear, params, data, route="micro_batches", micro_batch_size=4),
            "`micro_batch_size` must divide the 6 examples",
        ),
        (lambda: M.gradient_noise(linear, params, data, chunk_size=0), "`chunk_size` must be at least 1"),
        (
            lambda: M.gradient_noise(linear, params, data, route="micro_batches", micro_batch_size=2, chunk_size=1),
            "`chunk_size` must come with route=.per_example",
        ),
        (lambda: M.gradient_noise(linear, params, data, rank=-1), "`rank` must not be negative"),
        (lambda: M.gradient_noise(linear, params, data, rank=3), "`rank` must be at most 2 for 6 units and 2"),
        (lambda: M.gradient_noise(linear, params, data, directions=[]), "`directions` must hold at least one"),
        (lambda: M.gradient_noise(linear, params, data, directions=[{}]), "`directions` must have a floating array"),
        (lambda: M.fluctuation_dissipation(np.ones(4), np.ones(3), 0.1), "`squared_step` must be a series as long"),
        (lambda: M.fluctuation_dissipation(np.ones(4), np.ones(4), 0.1), "`blocks` must be from 2 to 4"),
        (lambda: M.fluctuation_dissipation(np.ones(1), np.ones(1), 0.1), "`work` must hold at least two steps"),
        (lambda: M.fluctuation_dissipation(np.ones(4), np.ones(4), np.ones(2)), "`learning_rate` must be one number"),
        (
            lambda: M.fluctuation_dissipation(np.ones(3), np.eye(3)[0], 0.1, blocks=2),
            "`squared_step` must have a non",
        ),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()
    ratio = lambda **x: (
        M.fluctuation_dissipation(
            **{"work": np.ones(4), "squared_step": np.ones(4), "learning_rate": 0.1, "blocks": 2, **x}
        ).value
    )
    assert_refused(
        [
            (lambda x: ratio(work=x * jnp.ones(4)), np.nan, "Argument `work` must be finite", 1.0),
            (lambda x: ratio(squared_step=x * jnp.ones(4)), -1.0, "Argument `squared_step` must be non-neg", 1.0),
            (lambda x: ratio(squared_step=x * jnp.ones(4)), 0.0, "Argument `squared_step` must have a non-zero", 1.0),
            (lambda x: ratio(learning_rate=x), 0.0, "Argument `learning_rate` must be positive", 1.0),
            (lambda x: ratio(momentum=x), 1.0, "Argument `momentum` must lie in", 0.5),
        ]
    )
