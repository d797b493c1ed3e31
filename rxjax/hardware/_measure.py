"""Rates of one device."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ._memory import available_memory
from ._timing import best_seconds

DTYPES = (
    "float64",
    "float32",
    "bfloat16",
    "float16",
    "float8_e4m3fn",
    "float8_e5m2",
    "complex128",
    "complex64",
    "int64",
    "int8",
    "int4",
)


@dataclass(frozen=True)
class Hardware:
    """What one device does.

    - `device`, `platform`: its name and kind, "cpu", "gpu" or "tpu".
    - `memory`: bytes that a program may plan with now.
    - `copy_bandwidth`: bytes a second, read and written together, for arrays far larger than any cache.
    - `matrix_rate`: floating-point operations a second of a float32 matrix product at full precision.
    - `dispatch_latency`: seconds from the call of a compiled program of one addition until its result is there.
    - `dtypes`: which of the dtypes a sum of squares compiles and runs in, 64-bit ones with x64 switched on.
    """

    device: str
    platform: str
    memory: int
    copy_bandwidth: float
    matrix_rate: float
    dispatch_latency: float
    dtypes: dict[str, bool]


def measure(device: jax.Device | None = None, *, megabytes: int = 64, matrix: int = 1024) -> Hardware:
    """Measure a device; a second or so on a CPU.

    **Arguments:**

    - `device`: one of `jax.devices()`; the default device if not given.
    - `megabytes`: size of the array that is copied.  Good values: four times the last cache and more.
    - `matrix`: rows of the square matrices.  Good values: 1024 on a CPU, 8192 on an accelerator.

    **Returns:** a `Hardware`.

    **How it fails:** other programs on the machine make every rate lower; the best of a few blocks is taken.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> mine = rx.hardware.measure(megabytes=8, matrix=128)
        >>> mine.copy_bandwidth > 1e8 and mine.dispatch_latency < 0.1 and mine.dtypes["float32"]
        True

        ```
    """
    for name, x in (("megabytes", megabytes), ("matrix", matrix)):
        if x < 1:
            raise ValueError(f"Argument `{name}` must be at least 1, but it is {x}.")
    chosen: Any = jax.devices()[0] if device is None else device
    put = lambda x: jax.device_put(x, chosen)
    array = put(jnp.ones(megabytes * 2**18, jnp.float32))
    negated = jax.jit(jnp.negative, donate_argnums=0)

    def turned() -> jax.Array:
        # In its own place: the pages of a new array cost a CPU ten times as much as the copy.
        nonlocal array
        array = negated(array)
        return array

    bandwidth = 2 * array.nbytes / best_seconds(turned)
    square = put(jnp.ones((matrix, matrix), jnp.float32))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    rate = 2 * matrix**3 / best_seconds(product, square)
    one = put(jnp.ones((), jnp.float32))
    added = jax.jit(lambda x: x + 1)
    latency = best_seconds(lambda: jax.block_until_ready(added(one)), least=0.02)
    supported = {name: _works(name, chosen) for name in DTYPES}
    return Hardware(chosen.device_kind, chosen.platform, available_memory(chosen), bandwidth, rate, latency, supported)


def _works(name: str, device: jax.Device) -> bool:
    """Whether a sum of squares in this dtype gives the right number."""
    try:
        with jax.enable_x64(True):
            x = jax.device_put(jnp.ones(4).astype(name), device)
            total = jax.jit(lambda x: jnp.sum((x * x).real.astype(jnp.float32)))(x)
            return bool(total == 4)
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        return False
