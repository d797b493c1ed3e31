"""The log-rate as a gauge: its identities, its equilibrium, its zero, its invariance; and the controller on top."""

import copy
import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizers import RATE, compiled

import rxjax as rx
from rxjax.optim._adam import scale_by_adam
from rxjax.optim._arguments import need_base


def noisy_run(optimizer, start, hessian, steps, noise=1.0, dtype=jnp.float64, scale=1.0):
    """Steps on a quadratic with additive noise; xi before each step, g, state after it, and the last parameters."""
    start, hessian = jnp.asarray(start, dtype), jnp.asarray(hessian, dtype)

    def step(scale, carry, key):
        params, state = carry
        grads = hessian * params + jnp.asarray(noise, dtype) * jax.random.normal(key, params.shape, dtype)
        grads = grads * scale
        updates, new = optimizer.update(grads, state, params)
        seen = optax.tree.get(state, "displacement"), grads, optax.tree.get(new, "ControllerState")
        return (optax.apply_updates(params, updates), new), seen

    def run(start, scale):
        keys = jax.random.split(jax.random.key(1), steps)
        (params, _), seen = jax.lax.scan(functools.partial(step, scale), (start, optimizer.init(start)), keys)
        return params, seen

    # As an argument: a scale of 1 known to the compiler would vanish, and with it a rounding.
    return jax.jit(run)(start, jnp.asarray(scale, dtype))


def test_the_identities_of_sgd_and_of_the_gauge():
    """|xi+d|^2 - |xi|^2 = 2 eta T (log_rate+1), and gauge = log_rate eta |u| sqrt(w/2)/|xi| with the averages off."""
    optimizer = RATE.rate_control(optax.sgd(1.0), 80, decay=0.0)
    _, (xi, g, state) = noisy_run(optimizer, np.ones(6), np.linspace(0.1, 2, 6), 60)
    xi, g, eta, log_rate = (np.asarray(x) for x in (xi, g, state.learning_rate, state.log_rate))
    grad_square = (g**2).sum(1)
    temperature = eta / 2 * grad_square
    np.testing.assert_allclose(state.temperature, temperature, rtol=1e-12)
    moved = xi - eta[:, None] * g
    left = (moved**2).sum(1) - (xi**2).sum(1)
    np.testing.assert_allclose(left, 2 * eta * temperature * (log_rate + 1), rtol=1e-9, atol=1e-15)

    w = np.maximum(8, np.arange(60))
    np.testing.assert_allclose(xi[1:], (1 - 1 / w[:-1, None]) * xi[:-1] - (eta[:, None] * g)[:-1], rtol=1e-10)
    size = np.sqrt((xi**2).sum(1))
    expected = log_rate[1:] * eta[1:] * np.sqrt(grad_square[1:] * w[1:] / 2) / size[1:]
    np.testing.assert_allclose(state.gauge[1:], expected, rtol=1e-9)


def test_the_algorithm_of_the_theory_step_by_step():
    """The controller against a transcription in NumPy, with leap, growth, back-off, trust region and shortening."""
    total, steps, h = 300, 250, np.linspace(0.2, 3, 5)
    _, (_, gradients, state) = noisy_run(RATE.rate_sgd(total), 3 * np.ones(5), h, steps, noise=0.5)
    theta, xi, m, v, eta, hit = 3 * np.ones(5), np.zeros(5), 0.0, 0.0, None, False
    average, short = None, 1.0
    for t, g in enumerate(np.asarray(gradients)):
        u, w, scale = -g, max(8, t), max(np.sqrt(np.mean(theta**2)), 1e-2) * np.sqrt(5)
        m, v = 0.9 * m - 0.1 * g @ xi, 0.9 * v + 0.1 * np.linalg.norm(g) * np.linalg.norm(xi)
        gauge = np.sqrt(2 * w) * m / max(v, 1e-300)
        was, hit = hit, hit or (gauge < 0 and t > 4)
        eta = 1e-2 * scale / np.linalg.norm(u) if eta is None else eta
        if t >= 2:
            gain = np.log(100) - 0.08 * total / 10 if t == 2 else min(0.08, 2 / (t + 1)) if hit else 0.08
            eta *= np.exp(gain * np.clip(gauge + 0.5, -1, 1))
        eta = min(eta, 0.1 * scale / np.linalg.norm(u)) * (0.7 if hit and not was else 1)
        applied = max(0, 1 - t / total) * eta * short
        delta = applied * u
        ratio = 1.0 if average is None else np.linalg.norm(u) / average
        average, short = np.linalg.norm(u) if average is None else average * ratio**0.1, min(1, 1 / ratio)
        theta, xi = theta + delta, (1 - 1 / w) * xi + delta
        np.testing.assert_allclose(state.gauge[t], gauge, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(state.controlled_rate[t], eta, rtol=1e-8)
        np.testing.assert_allclose(state.learning_rate[t], applied, rtol=1e-8)
        assert bool(state.phase[t]) == hit
    assert hit


@pytest.mark.usefixtures("long_runs")
def test_equilibrium_reads_minus_one():
    """At a fixed rate the log-rate settles at -1: fluctuation and dissipation balance."""
    optimizer = RATE.rate_control(optax.sgd(1.0), learning_rate=0.2)
    _, (_, _, state) = noisy_run(optimizer, np.zeros(400), np.ones(400), 10_000)
    assert np.all(np.asarray(state.learning_rate) == 0.2)
    assert abs(np.mean(state.log_rate[5000:]) + 1) < 0.03
    assert np.mean(state.gauge[9000:]) < -20  # the gauge itself falls like the root of the window


def test_free_diffusion_reads_zero():
    """No force: a random walk, whose work against the next gradient is zero on average."""
    optimizer = RATE.rate_control(optax.sgd(1.0), learning_rate=0.1, window=50, decay=0.0)
    _, (xi, g, state) = noisy_run(optimizer, np.zeros(400), np.zeros(400), 2000)
    error = np.std(state.log_rate[200:]) / np.sqrt(1800)
    assert abs(np.mean(state.log_rate[200:])) < 4 * error
    # There the gauge is the log-rate but for the fluctuation of |xi|.
    ratio = np.asarray(state.gauge[200:]) / np.asarray(state.log_rate[200:])
    assert abs(np.median(ratio) - 1) < 0.05


def test_one_step_reads_zero_at_the_optimal_rate():
    """Window 1: the work of a step against the next gradient vanishes at eta_opt, and changes sign there."""
    theta, h, c = jnp.array([1.0, -1.0, 0.5]), jnp.array([0.5, 1.0, 3.0]), jnp.array([0.4, 1.0, 0.2])
    best = rx.optimal_learning_rate(h * theta, h, c)

    def work(key, eta):
        optimizer = RATE.rate_control(optax.sgd(1.0), learning_rate=eta, window=1)
        params: Any = theta
        state = optimizer.init(theta)
        for k in jax.random.split(key):
            grads = h * params + jnp.sqrt(c) * jax.random.normal(k, (3,))
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return optax.tree.get(state, "log_rate") * optax.tree.get(state, "temperature")

    keys = jax.random.split(jax.random.key(3), 40_000)
    rates = best * jnp.array([0.5, 1.0, 1.5])
    values = jax.jit(lambda r: jax.vmap(lambda eta: jax.vmap(lambda k: work(k, eta))(keys))(r))(rates)
    score = np.mean(values, 1) / (np.std(values, 1) / 200)
    assert score[0] > 10 and abs(score[1]) < 3 and score[2] < -10


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_the_size_of_the_loss_changes_no_bit(momentum):
    optimizer = RATE.rate_sgd(100, momentum=momentum)
    run = lambda scale: noisy_run(optimizer, np.ones(8), np.linspace(0.1, 2, 8), 100, dtype=jnp.float32, scale=scale)
    (one, (_, _, a)), (two, (_, _, b)) = run(1.0), run(1024.0)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(a.gauge, b.gauge)
    np.testing.assert_array_equal(a.log_rate, b.log_rate)
    np.testing.assert_array_equal(a.learning_rate, 1024 * b.learning_rate)
    assert not np.array_equal(one, np.ones(8))


def test_the_size_of_the_loss_hardly_changes_adam():
    optimizer = RATE.rate_adamw(200)
    run = lambda scale: noisy_run(optimizer, np.ones(8), np.linspace(0.1, 2, 8), 100, dtype=jnp.float32, scale=scale)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam counts its steps in integers
        (one, (_, _, a)), (two, (_, _, b)) = run(1.0), run(1024.0)
    np.testing.assert_allclose(one, two, rtol=1e-4)
    np.testing.assert_allclose(a.log_rate, b.log_rate, rtol=1e-2, atol=1e-3)


def test_rate_adamw_looks_ahead_unless_told_not_to():
    """The rate controller over the AdamW of optax, with Nesterov momentum by default, started as told."""
    run = lambda optimizer: noisy_run(optimizer, np.ones(8), np.linspace(0.1, 2, 8), 40)[0]
    base = functools.partial(optax.adamw, 1.0, weight_decay=1e-4)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam counts its steps in integers
        ahead, plain = (run(RATE.rate_control(base(nesterov=x), 100)) for x in (True, False))
        np.testing.assert_allclose(run(RATE.rate_adamw(100)), ahead, rtol=1e-10)
        np.testing.assert_allclose(run(RATE.rate_adamw(100, nesterov=False)), plain, rtol=1e-10)
        slow: dict[str, Any] = {"growth": 0.04, "leap": 1.0}
        started = run(RATE.rate_control(base(nesterov=True), 100, **slow))
        np.testing.assert_allclose(run(RATE.rate_adamw(100, **slow)), started, rtol=1e-10)
    assert not np.allclose(ahead, plain, rtol=1e-3) and not np.allclose(ahead, started, rtol=1e-3)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_the_direction_of_adam_is_that_of_optax(dtype, nesterov):
    """To a few roundings, small and large numbers and zeros among them; the state is the same to the bit."""
    random = np.random.default_rng(0)
    params, settings = np.zeros(40, dtype), (0.8, 0.99, 1e-7)
    ours, theirs = scale_by_adam(*settings, nesterov), optax.scale_by_adam(*settings, nesterov=nesterov)
    state: Any = ours.init(params)
    other: Any = state
    one: Any
    two: Any
    scale = np.where(np.arange(40) % 5, np.logspace(-12, 8, 40), 0)
    for _ in range(30):
        parts = random.standard_normal((2, 40)) * scale
        gradient = jnp.asarray(parts[0] + 1j * parts[1] if np.iscomplexobj(params) else parts[0], dtype)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam counts its steps in integers
            one, state = ours.update(gradient, state)
            two, other = theirs.update(gradient, other)
        assert one.dtype == dtype
        # The sum of momentum and gradient may cancel.
        np.testing.assert_allclose(one, two, rtol=8 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)
        jax.tree.map(np.testing.assert_array_equal, state, other)


def test_the_schedule_is_the_same_controller():
    """Over updates of constant length, which is all that the schedule cannot know in advance."""
    params, h = jnp.array([2.0, -1.0, 0.5]), jnp.array([0.1, 0.2, 0.3])
    steps = 80
    whole = RATE.rate_control(optax.sign_sgd(1.0), 100, initial_step=1e-3)
    schedule = RATE.RateSchedule(params, 100, initial_step=1e-3)
    parts = optax.inject_hyperparams(optax.sign_sgd)(schedule)

    def step(carry, _):
        r: Any
        (p, s), (q, r, last) = carry
        u, s = whole.update(h * p, s, p)
        v, r = parts.update(h * q, r, q, grad=h * q, update=last)
        rates = optax.tree.get(s, "learning_rate"), r.hyperparams["learning_rate"]
        return ((optax.apply_updates(p, u), s), (optax.apply_updates(q, v), r, v)), rates

    start = ((params, whole.init(params)), (params, parts.init(params), jnp.zeros(3)))
    _, (a, b) = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(start)
    # The schedule starts from the scale of the parameters after its probe.
    np.testing.assert_allclose(a, b, rtol=2e-3)
    assert jnp.max(a) > 5 * a[0]

    state = parts.init(params)
    for more, missing in (({}, "`grad` and `update` were not"), ({"grad": params}, "`update` was not")):
        with pytest.raises(ValueError, match=f"`grad` and `update` must both be given.*{missing}"):
            parts.update(params, state, params, **more)


def test_complex_parameters_fall_like_pairs_of_real_ones():
    optimizer = RATE.rate_sgd(60)
    target = jnp.array([1.0 + 2.0j, -1.0j])
    h = jnp.array([1.0, 0.3])

    def pair(z):
        return jnp.stack([z.real, z.imag])

    def run(start, weight, goal):
        def step(carry, _):
            x, s = carry
            u, s = optimizer.update(weight * (x - goal), s, x)
            return (optax.apply_updates(x, u), s), None

        return jax.lax.scan(step, (start, optimizer.init(start)), length=60)[0]

    (z, s), (x, r) = jax.jit(
        lambda: (
            run(jnp.ones(2, complex), h.astype(complex), target),
            run(pair(jnp.ones(2, complex)), h[None], pair(target)),
        )
    )()
    np.testing.assert_allclose(pair(z), x, rtol=1e-10)
    np.testing.assert_allclose(optax.tree.get(s, "gauge"), optax.tree.get(r, "gauge"), rtol=1e-9)


def test_settings_out_of_range_are_refused():
    x = jnp.ones(2)
    cases = [
        (lambda: RATE.rate_adamw(total_steps=0), "`total_steps` must be a number in"),
        (lambda: RATE.rate_control(optax.sgd(1.0), trust=-1.0), "`trust` must be"),
        (lambda: RATE.rate_control(optax.sgd(1.0), leap=0.5), "`leap` must be"),
        (lambda: RATE.rate_control(optax.sgd(1.0), clip=0.5), "`clip` must be"),
        (lambda: RATE.rate_control(optax.sgd(1.0), decay=1.0), "`decay` must be"),
        (lambda: RATE.rate_control(optax.sgd(1.0), window=0.5), "`window` must be"),
        (lambda: RATE.rate_control(optax.sgd(1.0), 10, learning_rate=0.1), "must come without `total_steps`"),
        (lambda: need_base(optax.adamw, "rate_control"), "`base` of `rate_control` must be an optax optimizer, like"),
        (lambda: RATE.rate_sgd().init(jnp.ones(2, int)), "floating-point arrays, but it has dtype int"),
        (lambda: RATE.rate_sgd().update(x, RATE.rate_sgd().init(x)), "`params` must be given"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("base", [optax.adamw(1.0), optax.sgd(1.0, 0.9)], ids=["adamw", "momentum"])
def test_a_base_evaluated_twice_moves_as_one_evaluated_once(base):
    """Through a step without finite gradient too, after which nothing but the count of skips has changed."""
    start = jnp.linspace(1.0, 2.0, 6)

    def run(recompute) -> Any:
        optimizer = RATE.rate_control(base, 40, recompute=recompute)

        def step(carry, t):
            params, state = carry
            grads = jnp.where(t == 7, jnp.nan, 1.0) * params
            updates, new = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), new), new

        return jax.jit(lambda: jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(20)))()

    with jax.numpy_dtype_promotion("standard"):
        (params, _), states = run(True)
        (expected, _), others = run(False)
    np.testing.assert_allclose(params, expected, rtol=1e-12)
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    assert states.rate.skipped[-1] == 1
    for x in jax.tree.leaves((states.rate.controller, states.base)):
        np.testing.assert_array_equal(x[7], x[6])


def test_a_scanned_step_writes_the_base_state_in_place():
    """The new state goes over the old one; evaluated once, both are kept, and copied back at each step."""
    params = jnp.ones((256, 200), jnp.float32)

    def copies(optimizer):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jnp.sin(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=50)[0])
        text = str(run.lower((params, optimizer.init(params))).compile().as_text())
        return text[: text.index("ENTRY")].count("f32[256,200]{1,0} copy(")

    with jax.numpy_dtype_promotion("standard"):
        once, twice = copies(RATE.rate_control(optax.adamw(1.0), 100)), copies(RATE.rate_adamw(100))
    assert twice <= once - 2  # both moments


def test_the_scalars_of_a_controller_go_by_name():
    """Two arrays that read as a named tuple: by optax, in batches, in the abstract, in copies, as anything at all."""
    optimizer = RATE.rate_adamw(10)
    params = jnp.ones(3)
    with jax.numpy_dtype_promotion("standard"):
        state: Any = optimizer.update(params, optimizer.init(params), params)[1]
    controller = state.rate.controller
    assert len(jax.tree.leaves(controller)) == 2
    assert len(controller) == len(controller._fields) == 11
    assert tuple(controller) == tuple(optax.tree.get(state, name) for name in controller._fields)
    assert controller[0] == controller.steps == 1
    assert controller.steps.dtype == controller.phase.dtype == jnp.int32
    assert controller.learning_rate > 0
    assert "steps=1" in repr(controller)

    altered: Any = optax.tree.set(state, controlled_rate=0.25)
    changed = altered.rate.controller
    assert changed.controlled_rate == 0.25
    assert changed.learning_rate == controller.learning_rate
    assert changed.steps == 1
    abstract: Any = jax.eval_shape(lambda: state)
    assert abstract.rate.controller.gauge == jax.ShapeDtypeStruct((), controller.gauge.dtype)
    assert jax.tree.map(lambda _: None, controller).phase is None
    many: Any = jax.vmap(lambda p: optimizer.init(p))(jnp.ones((4, 3)))
    assert many.rate.controller.gauge.shape == (4,)
    for other in (copy.deepcopy(controller), pickle.loads(pickle.dumps(controller))):
        assert type(other) is type(controller)
        assert tuple(other) == tuple(controller)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(controller)]
    assert paths == [".counts", ".numbers"]


@pytest.mark.parametrize("make", [RATE.rate_sgd, RATE.rate_adamw])
def test_a_run_is_differentiable_twice_in_what_starts_it(make):
    """The loss after some steps by `total_steps` and the start, of which the first step has moved nothing yet.

    One parameter has no gradient at all, so that an average of squares is zero throughout.  The second array is large
    enough to be summed on its own.
    """
    slopes = [jnp.array([1.0, 3.0, 0.0]), jnp.linspace(0.5, 2.0, 1024).reshape(16, 64)]

    def final(x):
        optimizer = make(20 * x)

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.tree.map(jnp.multiply, slopes, params), state, params)
            return (optax.apply_updates(params, updates), state), None

        params = [x * jnp.array([1.0, -2.0, 1.0]), x * jnp.full((16, 64), 0.1)]
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=5)
        return optax.tree.norm(params, squared=True)

    @compiled
    def derivatives(x):
        return jax.jvp(jax.value_and_grad(final), (x,), (jnp.ones_like(x),))

    h = 1e-4
    ((_, reverse), (forward, second)), (above, _), (below, _) = map(derivatives, (1.5, 1.5 + h, 1.5 - h))
    np.testing.assert_allclose(reverse, (above[0] - below[0]) / (2 * h), rtol=1e-7)
    np.testing.assert_allclose(forward, reverse, rtol=1e-12)
    np.testing.assert_allclose(second, (above[1] - below[1]) / (2 * h), rtol=1e-6)
