"""Temperature by hand: schedules, Langevin laws, batches that cool, and the greedy rate."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizers import RATE

import rxjax as rx


def sample(sampler, gradient, start, burn, snapshots, apart):
    """Snapshots `apart` steps from each other, after `burn` steps."""

    def step(carry, _):
        x, state = carry
        updates, state = sampler.update(gradient(x), state, x)
        return (optax.apply_updates(x, updates), state), None

    def block(carry, _):
        carry, _ = jax.lax.scan(step, carry, length=apart)
        return carry, carry[0]

    def run(start):
        carry, _ = jax.lax.scan(step, (start, sampler.init(start)), length=burn)
        return jax.lax.scan(block, carry, length=snapshots)[1]

    return jax.jit(run)(start)


def within_three_errors(values, exact):
    """Mean over everything, errors from independent columns."""
    columns = np.asarray(values).mean(0)
    error = columns.std() / np.sqrt(columns.size)
    assert abs(columns.mean() - exact) < 3 * error
    assert error < 0.02 * exact


def test_langevin_has_the_gibbs_law_on_a_quadratic():
    """Exact at any step size below the limit, for real and complex parameters; half the noise shared."""
    start = {"x": jnp.zeros(4000), "z": jnp.zeros(2000, complex)}
    gradient = lambda p: jax.tree.map(lambda x: 2 * x, p)
    xs = sample(RATE.langevin(0.3, 0.5, 1), gradient, start, 40, 10, 10)
    within_three_errors(xs["x"] ** 2, 0.25)
    within_three_errors(jnp.abs(xs["z"]) ** 2, 0.5)
    within_three_errors(xs["z"].real ** 2, 0.25)


def test_many_small_arrays_share_one_draw():
    """One generator for each dtype and each large array, all numbers independent and of variance one."""
    params = {f"w{i}": jnp.zeros((3, 5 + i % 2), jnp.float32 if i % 3 else float) for i in range(300)}
    params |= {"large": jnp.zeros(2**16 + 1), "scalar": jnp.zeros(()), "none": jnp.zeros(0)}
    noise = jax.jit(RATE.langevin(1.0, 1.0, 0).init)(params).noise
    assert str(jax.make_jaxpr(RATE.langevin(1.0, 1.0, 0).init)(params)).count("random_bits[") == 3
    assert jax.tree.map(jnp.shape, noise) == jax.tree.map(jnp.shape, params)
    rows = np.stack([np.asarray(noise[f"w{i}"], float)[:, :5].ravel() for i in range(300)])
    assert np.all(np.abs(rows @ rows.T / 15 - np.eye(300)) < 1.6) and abs(rows.var() - 1) < 3 * (2 / rows.size) ** 0.5
    assert np.unique(np.concatenate([np.ravel(x) for x in jax.tree.leaves(noise)])).size > 0.999 * 7e4


@pytest.mark.usefixtures("long_runs")
def test_langevin_has_the_gibbs_law_in_a_double_well():
    well = rx.landscapes.DoubleWell()
    kt, grid = 0.5, np.linspace(-4, 4, 4001)
    weight = np.exp(-((grid**2 - 1) ** 2) / kt)
    exact = (grid**2 * weight).sum() / weight.sum()
    slope = lambda x: jax.vmap(jax.grad(lambda y: well(y[None])))(x)
    start = jnp.where(jnp.arange(4000) % 2 == 0, 1.0, -1.0)
    xs = sample(RATE.langevin(0.01, kt, 2), slope, start, 300, 10, 100)
    within_three_errors(xs**2, exact)


def test_preconditioning_changes_the_speed_and_not_the_law():
    h = jnp.array([1.0, 25.0])[:, None]
    gradient = lambda x: h * x
    start = jax.random.normal(jax.random.key(0), (2, 2000)) / jnp.sqrt(h)
    adaptive = RATE.preconditioned_langevin(0.05, 1.0, 3, adapt_steps=300)
    fixed = RATE.langevin(0.5, 1.0, 4, preconditioner=1 / h)
    for sampler, burn in ((fixed, 30), (adaptive, 400)):
        xs = sample(sampler, gradient, start, burn, 10, 30)
        for row, curvature in enumerate((1.0, 25.0)):
            within_three_errors(xs[:, row] ** 2, 1 / curvature)


def test_schedules():
    t = np.arange(0, 201)
    linear, cosine, geometric = (
        jax.vmap(f(2.0, 0.5, 200))(t)
        for f in (RATE.linear_temperature, RATE.cosine_temperature, RATE.geometric_temperature)
    )
    np.testing.assert_allclose(linear, 2 - 1.5 * t / 200, rtol=1e-12)
    np.testing.assert_allclose(cosine, 1.25 + 0.75 * np.cos(np.pi * t / 200), rtol=1e-12)
    np.testing.assert_allclose(geometric, 2 * 0.25 ** (t / 200), rtol=1e-12)
    even = jax.vmap(RATE.constant_entropy_production(2.0, 0.5, 200))(t)
    np.testing.assert_allclose(even, geometric, rtol=1e-12)

    capacity, relaxation = (lambda T: 1 + T**2), (lambda T: jnp.exp(1 / T))
    slow = RATE.constant_entropy_production(2.0, 0.2, 200, heat_capacity=capacity, relaxation_time=relaxation)
    T = np.asarray(jax.vmap(slow)(t))
    middle, fall = np.sqrt(T[1:] * T[:-1]), np.diff(np.log(T))
    production = capacity(middle) * np.exp(1 / middle) * fall**2
    assert np.ptp(production) < 0.01 * production.mean()
    assert T[0] == pytest.approx(2) and T[-1] == pytest.approx(0.2) and slow(1000) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="`end` must be"):
        RATE.geometric_temperature(1.0, 0.0, 10)
    with pytest.raises(ValueError, match="`relaxation_time` must be non-negative and finite, .*divide it"):
        RATE.constant_entropy_production(1.0, 1e-3, 10, relaxation_time=lambda T: jnp.exp(1 / T))
    with pytest.raises(ValueError, match=r"`schedule\(0\)` must be a number in \(0, inf\)"):
        RATE.anneal_temperature(RATE.linear_temperature(0.0, 1.0, 10))


@pytest.mark.usefixtures("long_runs")
def test_an_annealed_batch_is_an_annealed_rate():
    """Equal temperatures along the way: the variance of many independent coordinates on one quadratic, eta = .03."""
    n, d, eta, k_max = 800, 10_000, 0.03, 8
    batch = RATE.batch_controller(optax.sgd(eta), 1, k_max=k_max, total_micro_batches=n)
    rate = optax.chain(optax.sgd(eta), RATE.anneal_temperature(RATE.linear_temperature(1.0, 0.0, n)))

    def run(optimizer, seed):
        start = jax.random.normal(jax.random.key(seed), (d,)) * (eta / (2 - eta)) ** 0.5

        def step(carry, key):
            x, state = carry
            updates, state = optimizer.update(x + jax.random.normal(key, x.shape), state, x)
            x: Any = optax.apply_updates(x, updates)
            k = optax.tree.get(state, "accumulation", jnp.int32(1))
            return (x, state), (jnp.mean(x**2), k)

        keys = jax.random.split(jax.random.key(seed + 1), n)
        return jax.lax.scan(step, (start, optimizer.init(start)), keys)

    (_, state), (hot, k) = jax.jit(lambda: run(batch, 10))()
    _, (cool, _) = jax.jit(lambda: run(rate, 20))()
    hot, k, cool = (np.asarray(x) for x in (hot, k, cool))
    for i in (399, 599, 679):
        assert abs(hot[i] / cool[i] - 1) < 0.08, i
        assert abs(k[i] * (1 - (i + 1) / n) - 1) < 0.5 * (1 - (i + 1) / n) + k_max / n
    assert hot[679] < 0.3 * hot[0]
    assert k[-1] == k_max and int(optax.tree.get(state, "optimizer_steps")) < 0.6 * n
    assert optax.tree.get(state, "recommended_batch") == k_max


@pytest.mark.usefixtures("long_runs")
def test_noise_is_measured_while_accumulating():
    """Case 26: eight micro-batches of eight, tr Sigma_1 = 52.5 and |G|^2 = .5, critical batch 105."""
    optimizer = RATE.batch_controller(optax.set_to_zero(), 8, k_max=8, k_min=8, rule="noise_scale", decay=0.9995)
    mean = jnp.full(105, (0.5 / 105) ** 0.5)

    def step(state, key):
        g = mean + jnp.sqrt(0.5 / 8) * jax.random.normal(key, mean.shape)
        return optimizer.update(g, state, mean)[1], None

    keys = jax.random.split(jax.random.key(5), 8 * 4000)
    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, keys))(optimizer.init(mean))
    assert state.estimates == 4000 and state.optimizer_steps == 4000
    np.testing.assert_allclose(state.trace_sigma, 52.5, rtol=0.005)
    np.testing.assert_allclose(state.gradient_square, 0.5, rtol=0.03)
    np.testing.assert_allclose(RATE.noise_scale_batch(state.trace_sigma, state.gradient_square), 105, rtol=0.03)
    assert state.recommended_batch == 64  # the rule asks for 105, k_max allows 8 x 8
    np.testing.assert_allclose(RATE.norm_test_batch(52.5, 0.5 + 52.5 / 64, 0.5), 159.05, rtol=1e-4)


def test_accumulation_is_the_mean_and_leaves_out_what_is_not_finite():
    params = jnp.zeros(2)
    ours = RATE.batch_controller(optax.sgd(1.0), 4, k_max=3, k_min=3, rule="noise_scale")
    step = jax.jit(ours.update)
    state: Any = ours.init(params)
    rows = [[1.0, 2.0], [np.nan, 0.0], [3.0, 0.0], [-1.0, 1.0]]
    moves = []
    for row in rows:
        updates, state = step(jnp.array(row), state, params)
        moves.append(np.asarray(updates))
    np.testing.assert_array_equal(moves[:3], np.zeros((3, 2)))
    np.testing.assert_allclose(moves[3], [-1.0, -1.0])
    good = np.array([rows[0], rows[2], rows[3]])
    np.testing.assert_allclose(state.trace_sigma, 4 * good.var(0, ddof=1).sum(), rtol=1e-12)
    np.testing.assert_allclose(state.gradient_square, 2 - good.var(0, ddof=1).sum() / 3, rtol=1e-12)
    assert state.skipped == 1 and state.micro_batches == 3

    for call, words in (
        (lambda: RATE.batch_controller(optax.sgd(1.0), 4, k_max=3), "`total_micro_batches` must be given"),
        (lambda: RATE.batch_controller(optax.sgd(1.0), 4, k_max=1, rule="norm_test"), "`k_max` must be at least"),
        (lambda: RATE.batch_controller(optax.sgd(1.0), 4, k_max=3, rule="x"), "`rule` must be one of"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_the_greedy_rate_is_the_optimal_one():
    """Averaged over independent batches: |G|^2/(G'HG + tr(HC)), not the larger rate of one batch used twice."""
    theta, h, c = jnp.array([1.0, -1.0, 0.5]), jnp.array([0.5, 1.0, 3.0]), jnp.array([0.4, 1.0, 0.2])
    optimizer = RATE.optimal_learning_rate(1, decay=0.9995, trust=10.0)

    def step(state, key):
        a, b = jnp.sqrt(c)[None] * jax.random.normal(key, (2, 3))
        other = lambda x: jnp.sum(h * x**2) / 2 + jnp.sum(b * x)
        return optimizer.update(h * theta + a, state, theta, value_fn=other)[1], None

    keys = jax.random.split(jax.random.key(7), 20_000)
    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, keys))(optimizer.init(theta))
    np.testing.assert_allclose(state.learning_rate, rx.optimal_learning_rate(h * theta, h, c), rtol=0.05)
    with pytest.raises(ValueError, match="`value_fn` must be given"):
        optimizer.update(theta, state, theta)
