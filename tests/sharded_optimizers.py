"""Run by the battery in a process of its own: every optimizer and the monitor on eight devices, and the same on one."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import optax
import quick
from optimizers import OPTIMIZERS, WITH_RATE, compiled, extras, gradient

import rxjax as rx

quick.freeze()
mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
whole = {"w": np.linspace(-1, 1, 8 * 256, dtype=np.float32).reshape(8, 256), "b": np.ones(8, np.float32)}


def run(params):
    """Three steps of every optimizer, in one program; no type and no sharding may change on the way."""
    out = {}
    for name, make in OPTIMIZERS.items():
        optimizer = make(params)
        carry = (params, optimizer.init(params), jax.tree.map(jnp.zeros_like, params))
        kinds = jax.tree.map(lambda x: str(jax.typeof(x)), carry)

        def step(carry, _, optimizer=optimizer):
            params, state, last = carry
            grads = gradient(params)
            updates, state = optimizer.update(grads, state, params, **extras(grads, last))
            return (optax.apply_updates(params, updates), state, updates), None

        out[name] = jax.lax.scan(step, carry, length=3)[0]
        changed = [
            f"{name}{jax.tree_util.keystr(path)}: {old} became {jax.typeof(new)}"
            for (path, new), old in zip(jax.tree.leaves_with_path(out[name]), jax.tree.leaves(kinds), strict=True)
            if str(jax.typeof(new)) != old
        ]
        assert not changed, changed
    return out


alone = compiled(run)(jax.tree.map(jnp.asarray, whole))
with jax.set_mesh(mesh):
    spread = jax.tree.map(lambda x: jax.device_put(x, jax.NamedSharding(mesh, jax.P("x"))), whole)
    divided = compiled(run)(spread)
for name in OPTIMIZERS:
    assert "x" in str(jax.typeof(divided[name][0]["w"]).sharding.spec), name
    for a, b in zip(*map(jax.tree.leaves, (alone[name], divided[name])), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-6, err_msg=name)
    if name in WITH_RATE:
        one, eight = (float(optax.tree.get(s[name][1], "log_rate")) for s in (alone, divided))
        assert one != 0 and abs(one - eight) < 1e-4 * abs(one), (name, one, eight)
    print(name)


def squares(params, batch):
    """A small network; its parameters are whole on every device while it is at work."""
    if not jax.sharding.get_abstract_mesh().empty:
        params = jax.tree.map(lambda p: jax.sharding.reshard(p, jax.P()), params)
    return jnp.mean((jnp.tanh(jnp.matmul(batch, params["a"])) @ params["b"] - batch[:, 0]) ** 2)


def watched(params, batch):
    """Four steps of SGD, the first and the third of them measured with everything that the monitor has."""
    monitor, optimizer = rx.Monitor(every=2, lanczos_steps=4, path_points=3), optax.sgd(0.1)

    def step(carry, _):
        params, state, seen = carry
        loss, grads = jax.value_and_grad(squares)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        more = {"loss": loss, "learning_rate": 0.1, "loss_fn": squares, "batch": batch}
        seen, metrics = monitor.update(seen, params=params, grads=grads, updates=updates, **more)
        return (optax.apply_updates(params, updates), state, seen), metrics

    return jax.lax.scan(step, (params, optimizer.init(params), monitor.init(params)), length=4)[1]


draw = np.random.default_rng(0).standard_normal
network, batch = {"a": draw((4, 16)), "b": draw(16)}, draw((64, 4))
network, batch = jax.tree.map(lambda x: x.astype(np.float32), (network, batch))
# Eight examples on each device, a whole micro-batch's worth, and five.
both = compiled(lambda params, batch: [watched(params, batch), watched(params, batch[:40])])
alone = both(*jax.tree.map(jnp.asarray, (network, batch)))
with jax.set_mesh(mesh):
    put = lambda x, *spec: jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec)))
    whole, spread = jax.tree.map(put, network), {"a": put(network["a"], None, "x"), "b": put(network["b"], "x")}
    divided = compiled(lambda *all: [watched(*all[:2]), watched(*all[2:])])(
        whole, put(batch, "x"), spread, put(batch[:40], "x")
    )
for found, one in zip(divided, alone, strict=True):
    assert found.keys() == one.keys() and len(found) > 30
    for name, value in one.items():
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(value), rtol=1e-4, atol=1e-6, err_msg=name)
print("monitor")
