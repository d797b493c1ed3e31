"""Run by the tests in two processes: each computes its share of a sweep into one store."""

import sys
from typing import Any

import jax

port, count, number, store, log = sys.argv[1:]
jax.config.update("jax_enable_x64", True)
jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(number), initialization_timeout=60)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import rxjax as rx  # noqa: E402

assert jax.process_count() == int(count) and len(jax.local_devices()) == 1
finished = []


def wave(a, b):
    return {"wave": jnp.sin(a * jnp.arange(4.0) + b), "root": jnp.sqrt(b - 1.5)}


axes: dict[str, Any] = dict(a=np.linspace(0.1, 1.0, 7), b=np.arange(1.0, 5.0))
try:
    rx.sweep(wave, progress=False, **axes)
except ValueError as error:
    assert "Argument `store` must be given when several processes share a sweep" in str(error)
else:
    raise AssertionError
from rxjax._sweep import _store  # noqa: E402

write = _store.Store.write
noting: Any = lambda self, region, *rest: (finished.append(region[0].start), write(self, region, *rest))[1]
_store.Store.write = noting
data = rx.sweep(wave, store=store, chunk=4, **axes)
alone = np.sin(axes["a"][:, None, None] * np.arange(4.0) + axes["b"][:, None])
good = (data.status.values == "ok")[..., None]
np.testing.assert_allclose(data.wave, np.where(good, alone, np.nan), rtol=1e-12)
assert np.array_equal(data.status == "ok", np.broadcast_to(axes["b"] > 1.5, (7, 4)))
with open(f"{log}{number}", "w") as file:
    file.write(" ".join(map(str, finished)))
jax.distributed.shutdown()
