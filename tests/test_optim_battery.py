"""The plug-in contract: every optimizer through one battery."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizers import FOREIGN, OPTIMIZERS, RATE, compiled, every_leaf, extras, gradient, loss, small

from rxjax_solvers._checks import checks_off


@pytest.fixture(autouse=True)
def promotion():
    """optax itself leans on the default promotion rules for complex and half-precision parameters."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def types(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_kind_of_leaf(name):
    """dtypes kept, accumulators wide, one compilation, buffers donated, unfit gradients skipped, lowered elsewhere."""
    params = every_leaf()
    optimizer = OPTIMIZERS[name](params)

    def step(params, state, last, factor):
        grads = jax.tree.map(lambda g: g * factor.astype(g.real.dtype), gradient(params))
        updates, state = optimizer.update(grads, state, params, **extras(grads, last))
        return optax.apply_updates(params, updates), state, updates

    program: Any = compiled(step, donate_argnums=(0, 1))
    expected = jax.eval_shape(optimizer.init, params)
    state = optimizer.init(params)
    assert types(expected) == types(state)
    if name not in FOREIGN:
        floating = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
        assert all(jnp.finfo(x.dtype).bits >= 32 for x in floating)
    last = jax.tree.map(jnp.zeros_like, params)
    one, unfit = jnp.float32(1), jnp.float32(jnp.nan)
    before = float(loss(params))
    for _ in range(4):
        params, state, last = program(params, state, last, one)
    assert program._cache_size() == 1
    assert types(last) == types(params) == types(every_leaf())
    assert types(state) == types(expected)
    assert float(loss(params)) < before

    old = jax.tree.map(np.asarray, (params, state))
    params, state, last = program(params, state, last, unfit)
    if name not in FOREIGN:
        new = jax.tree.map(np.asarray, (params, state))
        assert optax.tree.get(state, "skipped", filtering=ours) == 1
        changed = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (old, new)), strict=True)]
        assert sum(changed) == 1
    elif name != "anneal_temperature":
        own = [value for _, value in optax.tree.get_all_with_path(state, "ControllerState")]
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(own))
        assert optax.tree.get(state, "skipped") == 1

    with checks_off():
        lowered = program.trace(params, state, last, one).lower(lowering_platforms=("cuda", "tpu"))
    assert "stablehlo" in lowered.as_text()


def ours(path, value):
    """The outermost count of skips: a batch controller has one, and so has the optimizer inside."""
    return not any(getattr(key, "name", None) == "base" for key in path[:-1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scan_cond_and_vmap(name):
    """A batch of seeds in one program, some steps left out, equals a seed by itself."""

    @jax.jit  # traced once for both
    def run(seed):
        params = jax.tree.map(lambda p: p * (1 + seed.astype(p.dtype) / 4), small())
        optimizer = OPTIMIZERS[name](params)

        def taken(params, state, last):
            grads = gradient(params)
            updates, state = optimizer.update(grads, state, params, **extras(grads, last))
            return optax.apply_updates(params, updates), state, updates

        def body(carry, i):
            return jax.lax.cond(i % 3 == 1, lambda *c: c, taken, *carry), None

        start = (params, optimizer.init(params), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(body, start, jnp.arange(6))[0]

    many, one = compiled(lambda seeds: (jax.vmap(run)(seeds), run(seeds[1])))(jnp.arange(3))
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_inside_the_combinators_of_optax(name):
    """chain, masked, partition, MultiSteps; and a tree without leaves."""
    params = small()
    make = OPTIMIZERS[name]
    half = {"a": params["a"], "b": optax.MaskedNode()}
    # The same mask for gradients and updates given as extra arguments.
    kept = {"mask_compatible_extra_args": True}
    wrapped = {
        "chain": optax.chain(optax.clip_by_global_norm(10.0), make(params)),
        "masked": optax.masked(make(half), {"a": True, "b": False}, **kept),
        "partition": optax.partition(
            {"ours": make(half), "theirs": optax.sgd(1.0)}, {"a": "ours", "b": "theirs"}, **kept
        ),
        "first": optax.MultiSteps(make(params), 2),
    }

    def run(params):
        grads = gradient(params)
        more = extras(grads, jax.tree.map(jnp.zeros_like, params))
        out = {}
        for key, optimizer in wrapped.items():
            # The loss of the visible parameters: a mask hides the others.
            out[key], state = optimizer.update(grads, optimizer.init(params), params, **more)
        out["second"], _ = wrapped["first"].update(grads, state, params, **more)
        return out, grads

    out, grads = compiled(run)(params)
    for tree in out.values():
        assert types(tree) == types(params)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))
    np.testing.assert_array_equal(out["masked"]["b"], grads["b"])
    np.testing.assert_array_equal(out["partition"]["b"], -grads["b"])
    assert jnp.any(out["masked"]["a"] != grads["a"])
    np.testing.assert_array_equal(out["masked"]["a"], out["partition"]["a"])
    assert all(bool(jnp.all(x == 0)) for x in jax.tree.leaves(out["first"]))
    if name != "batch_controller":
        np.testing.assert_allclose(out["second"]["a"], out["chain"]["a"], rtol=1e-6)

    for nothing in ({}, {"none": None}):
        optimizer: Any = make(nothing)
        updates, state = optimizer.update(nothing, optimizer.init(nothing), nothing, **extras(nothing, nothing))
        assert updates == nothing
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(state) if x.dtype != jnp.uint32)


NUMERIC = {
    "rate_adamw": (RATE.rate_adamw, {"total_steps": 100, "b1": 0.8, "target": -0.4}, ()),
    "rate_sgd": (RATE.rate_sgd, {"total_steps": 100, "momentum": 0.9}, ()),
    "scale_by_reaction_rate": (RATE.scale_by_reaction_rate, {"decay": 0.8, "trust": 0.2}, ()),
    "langevin": (lambda learning_rate, temperature: RATE.langevin(learning_rate, temperature, 0), {}, (0.1, 0.2)),
    "preconditioned_langevin": (
        lambda learning_rate, temperature: RATE.preconditioned_langevin(learning_rate, temperature, 0, adapt_steps=9),
        {},
        (0.1, 0.2),
    ),
    "optimal_learning_rate": (lambda fraction: RATE.optimal_learning_rate(2, fraction=fraction), {}, (0.5,)),
    "batch_controller": (lambda target: RATE.batch_controller(optax.sgd(0.1), 8, k_max=2, target=target), {}, (0.5,)),
}


@pytest.mark.parametrize("name", NUMERIC)
def test_hyperparameters_are_injected(name):
    factory, keywords, positional = NUMERIC[name]
    if name == "batch_controller":
        factory = lambda target: RATE.batch_controller(optax.sgd(0.1), 8, k_max=2, rule="norm_test", target=target)
    params = small()
    grads = gradient(params)
    plain, injected = factory(*positional, **keywords), optax.inject_hyperparams(factory)(*positional, **keywords)

    def both(params):
        a, b = plain.init(params), injected.init(params)
        for _ in range(2):
            u, a = plain.update(grads, a, params, value_fn=loss)
            v, b = injected.update(grads, b, params, value_fn=loss)
        return u, v

    for u, v in zip(*map(jax.tree.leaves, compiled(both)(params)), strict=True):
        np.testing.assert_allclose(u, v, rtol=1e-5)


def test_states_survive_a_checkpoint(tmp_path):
    """All of them through orbax."""
    checkpoint = pytest.importorskip("orbax.checkpoint")
    params = small()
    states = {name: make(params).init(params) for name, make in OPTIMIZERS.items()}
    states = jax.tree.map(lambda x: x + jnp.ones((), x.dtype), states)
    with checkpoint.StandardCheckpointer() as writer:
        writer.save(tmp_path / "states", states)
        writer.wait_until_finished()
        back = writer.restore(tmp_path / "states", jax.eval_shape(lambda: states))
    assert jax.tree.structure(back) == jax.tree.structure(states)
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(back), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_sharded_over_eight_devices():
    """Explicit sharding in a process of its own: eight devices on one CPU."""
    script = Path(__file__).parent / "sharded_optimizers.py"
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr[-3000:]
    assert out.stdout.split() == [*OPTIMIZERS, "monitor"]


def fit(step, carry, steps=60):
    return jax.lax.scan(lambda c, _: (step(c), None), carry, length=steps)[0]


def test_equinox_flax_and_nnx_loops(float32):
    """Two lines in the loops of others."""
    linen, nnx = pytest.importorskip("flax.linen"), pytest.importorskip("flax.nnx")
    from flax.training.train_state import TrainState

    x = jnp.linspace(-1, 1, 16)[:, None]
    y = 2 * x + 1

    model = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    optimizer = RATE.rate_adamw(total_steps=300)
    arrays = eqx.filter(model, eqx.is_inexact_array)

    @eqx.filter_jit
    def train(model, state):
        def one(carry):
            arrays, state = carry
            full = eqx.combine(arrays, model)
            grads = eqx.filter_grad(lambda m: jnp.mean((jax.vmap(m)(x) - y) ** 2))(full)
            updates, state = optimizer.update(grads, state, arrays)
            return eqx.apply_updates(arrays, updates), state

        return fit(one, (eqx.filter(model, eqx.is_inexact_array), state), 300)

    arrays, state = train(model, optimizer.init(arrays))
    np.testing.assert_allclose(jnp.ravel(arrays.weight), 2, atol=0.02)

    net = linen.Dense(1)
    train_state = TrainState.create(apply_fn=net.apply, params=net.init(jax.random.key(0), x), tx=RATE.rate_adamw(300))

    def one(s):
        grads = jax.grad(lambda p: jnp.mean((s.apply_fn(p, x) - y) ** 2))(s.params)
        return s.apply_gradients(grads=grads)

    train_state = jax.jit(lambda s: fit(one, s, 300))(train_state)
    np.testing.assert_allclose(jnp.ravel(train_state.params["params"]["kernel"]), 2, atol=0.02)
    assert optax.tree.get(train_state.opt_state, "steps") == 300

    layer = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    held = nnx.Optimizer(layer, RATE.rate_adamw(300), wrt=nnx.Param)

    @nnx.jit
    def many(layer, held):
        for _ in range(2):
            grads = nnx.grad(lambda m: jnp.mean((m(x) - y) ** 2))(layer)
            held.update(layer, grads)

    before = float(jnp.mean((layer(x) - y) ** 2))
    for _ in range(30):
        many(layer, held)
    assert float(jnp.mean((layer(x) - y) ** 2)) < before
