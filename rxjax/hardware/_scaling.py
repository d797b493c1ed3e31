"""How near a program comes to what the device can do."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from ._measure import measure
from ._timing import best_seconds


class StepRate(NamedTuple):
    """How fast a training step runs.

    - `updates_per_second`: the rate.
    - `bytes_per_update`: what a step must move at least: its arguments read once, its results written once.
    - `bandwidth_share`: the time that this takes at the device's bandwidth, over the time of the step.  Near 1 nothing
        can be gained but by moving less; a step that computes much on few parameters has a low share by its nature.
    """

    updates_per_second: float
    bytes_per_update: int
    bandwidth_share: float


def updates_per_second(step: Callable, *args: Any, bandwidth: float | int | None = None) -> StepRate:
    """The rate of a training step, and its share of the bandwidth limit.

    **Arguments:**

    - `step`: `step(*args)`, one update, jitted or not; its results are not fed back.
    - `args`: PyTrees of arrays, such as parameters, optimizer state and a batch.
    - `bandwidth`: of the device, bytes a second; measured if not given.

    **Returns:** a `StepRate`.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> rate = rx.hardware.updates_per_second(lambda w, g: w - 0.1 * g, jnp.ones(10**6), jnp.ones(10**6))
        >>> rate.bytes_per_update, rate.bandwidth_share > 0
        (12000000, True)

        ```
    """
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"Argument `bandwidth` must be positive, in bytes a second, but it is {bandwidth}.")
    compiled = jax.jit(step).lower(*args).compile()
    shapes = jax.tree.leaves((args, jax.eval_shape(step, *args)))
    moved = sum(int(np.prod(np.shape(x))) * jnp.result_type(x).itemsize for x in shapes)
    seconds = best_seconds(compiled, *jax.tree.map(jnp.asarray, args))
    bandwidth = measure(matrix=8).copy_bandwidth if bandwidth is None else bandwidth
    return StepRate(1 / seconds, moved, moved / bandwidth / seconds)


class Scaling(NamedTuple):
    """How a function gains from being computed at many points at once.

    - `batches`: numbers of points.
    - `points_per_second`: on all devices.
    - `speedup`: over single calls of the function, on one device.
    - `efficiency`: the speedup over one device at the same batch, divided by the number of devices; 1 for one device.
    """

    batches: Int[np.ndarray, "n"]
    points_per_second: Float[np.ndarray, "n"]
    speedup: Float[np.ndarray, "n"]
    efficiency: Float[np.ndarray, "n"]


def parallel_efficiency(
    fn: Callable, *args: Any, batches: Sequence[int] = (1, 8, 64, 512), devices: Sequence[jax.Device] | None = None
) -> Scaling:
    """Points a second of `vmap(fn)` as the batch grows, on one device or sharded over several.

    **Arguments:**

    - `fn`: a function of one point.
    - `args`: its arguments at one point; every point of a batch gets the same.
    - `batches`: numbers of points, each a multiple of the number of devices.
    - `devices`: over which to shard; the default device if not given.

    **Returns:** a `Scaling`.  On a CPU the virtual devices of one process share its cores, and so does one device's own
    program: an efficiency of 1 over more devices than cores is impossible.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> scaling = rx.hardware.parallel_efficiency(lambda x: jnp.sin(x), jnp.ones(()), batches=(1, 256))
        >>> bool(scaling.speedup[1] > 5), scaling.efficiency
        (True, array([1., 1.]))

        ```
    """
    chosen = list(jax.devices()[:1] if devices is None else devices)
    if not chosen:
        raise ValueError("Argument `devices` must hold at least one device, but it holds none.")
    uneven = [b for b in batches if b < 1 or b % len(chosen)]
    if uneven:
        raise ValueError(
            f"Argument `batches` must hold positive multiples of the devices, {len(chosen)}, but it holds {uneven}."
        )
    alone = jax.device_put(args, chosen[0])
    single = 1 / best_seconds(jax.jit(fn), *alone)
    ours = np.array([_rate(fn, args, b, chosen) for b in batches])
    first = ours if len(chosen) == 1 else np.array([_rate(fn, args, b, chosen[:1]) for b in batches])
    return Scaling(np.array(batches), ours, ours / single, ours / first / len(chosen))


def _rate(fn: Callable, args: Any, batch: int, devices: list[jax.Device]) -> float:
    mesh, spec = Mesh(np.array(devices), ("points",)), PartitionSpec("points")
    mapped = jax.vmap(fn)
    if len(devices) > 1:
        mapped = jax.shard_map(mapped, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    spread = lambda x: jax.device_put(jnp.broadcast_to(x, (batch, *jnp.shape(x))), NamedSharding(mesh, spec))
    return batch / best_seconds(jax.jit(mapped), *jax.tree.map(spread, args))
