"""Run by the tests in a process of its own: a sweep and one large density on eight devices, and the same on one."""

import os
from typing import Any

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import quick

import rxjax as rx
from rxjax_solvers._checks import positive

quick.freeze()
jax.config.update("jax_enable_x64", True)
assert len(jax.devices()) == 8
jax.config.update("jax_disable_most_optimizations", True)
GRID = rx.solvers.Grid(-2.0, 2.0, 32)


def escape(learning_rate, batch_size):
    """A loop of unknown length, a failing result and a check that raises, beside the escape time."""
    well = lambda x: (x[0] ** 2 - 1) ** 2
    W = rx.solvers.FokkerPlanck.from_potential(well, GRID, 20 * positive(learning_rate, "learning_rate") / batch_size)
    tau, result = rx.solvers.mean_first_passage_time(W, lambda x: x[0] >= 1, throw=False)
    halvings = jax.lax.while_loop(lambda c: c[0] > 0.01, lambda c: (c[0] / 2, c[1] + 1), (learning_rate, 0))[1]
    return {"time": tau[8], "result": result, "halvings": halvings}


axes: dict[str, Any] = dict(learning_rate=np.append(np.geomspace(1e-4, 0.1, 6), -1.0), batch_size=np.arange(1.0, 6.0))
one = rx.sweep(escape, devices=1, chunk=16, **axes)
mesh = jax.make_mesh((4, 2), ("a", "b"))
for devices in (8, mesh):
    many = rx.sweep(escape, devices=devices, chunk=16, **axes)
    assert many.attrs["devices"].startswith("8 x") and np.array_equal(many.status, one.status)
    np.testing.assert_allclose(many.time, one.time, rtol=1e-12)
    np.testing.assert_array_equal(many.halvings, one.halvings)
assert len(set(one.status.values.ravel())) == 3, set(one.status.values.ravel())
print("sweep")

plane = rx.solvers.Grid(-2.0, 2.0, (64, 48))
W = rx.solvers.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2 + x[1] ** 2 + x[0] * x[1], plane, 0.3)
p0 = plane.gaussian(jnp.array([-1.0, 0.5]), 0.3)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
rows = jax.NamedSharding(mesh, jax.P("x", None))
spread = jax.device_put(p0, rows)
hop = jax.jit(lambda p: W.apply(p), out_shardings=rows).lower(spread).compile()
text = hop.as_text() or ""
assert "collective-permute" in text and "all-gather" not in text
np.testing.assert_allclose(hop(spread), W.apply(p0), rtol=1e-12, atol=1e-12)
solve = lambda p: rx.solvers.solve(W, p, jnp.array([0.0, 0.05]), method=rx.solvers.Uniformization()).ps[-1]
whole, parts = jax.jit(solve)(p0), jax.jit(solve, out_shardings=rows)(spread)
assert parts.sharding.spec == jax.P("x", None) and len(parts.addressable_shards) == 8
assert parts.addressable_shards[0].data.shape == (8, 48)
np.testing.assert_allclose(parts, whole, rtol=1e-11, atol=1e-14)
assert float(jnp.abs(whole - p0).max()) > 0.05
print("density")

scaling = rx.hardware.parallel_efficiency(jnp.sin, jnp.ones(()), batches=(8, 64), devices=jax.devices())
assert np.all(scaling.efficiency > 0) and scaling.points_per_second.shape == (2,)
print("efficiency")
