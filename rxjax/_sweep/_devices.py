"""Where a sweep runs: a mesh of this process's devices, and its share among processes."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh


def as_mesh(devices: Any) -> Mesh:
    """This process's part of the devices that the user named; all that it has if none are named."""
    if isinstance(devices, Mesh):
        mesh = devices.local_mesh
        return Mesh(mesh.devices.reshape(-1), ("points",))
    if devices is None:
        chosen = jax.local_devices()
    elif isinstance(devices, int):
        chosen = jax.local_devices()[:devices]
        if not 1 <= devices <= len(jax.local_devices()):
            raise ValueError(
                f"Argument `devices` must be from 1 to {len(jax.local_devices())}, the devices of this process, but it "
                f"is {devices}."
            )
    else:
        chosen = _local(devices)
    return Mesh(np.array(chosen), ("points",))


def _local(devices: Any) -> Sequence[jax.Device]:
    if not isinstance(devices, (list, tuple, np.ndarray)) or not all(isinstance(d, jax.Device) for d in devices):
        raise ValueError(
            "Argument `devices` must be a number, a list of `jax.devices()` or a `jax.sharding.Mesh`, but it is "
            f"{devices!r}."
        )
    chosen = [d for d in devices if d.process_index == jax.process_index()]
    if not chosen:
        raise ValueError("Argument `devices` must hold a device of every process, but it holds none of this one.")
    return chosen


def first_process() -> bool:
    """Whether this is the process that makes the store."""
    return jax.process_index() == 0


def meet(place: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def agreed(error: Exception | None) -> None:
    """Raise the error of the first process in all of them, so that none waits for ever."""
    if jax.process_count() > 1:
        fine = bool(multihost_utils.broadcast_one_to_all(np.array(error is None)))
        if not fine and error is None:
            raise RuntimeError("The first process could not open the store; its own message says why.")
    if error is not None:
        raise error


def share(work: list[Any]) -> list[Any]:
    """This process's part of a list that all of them hold."""
    return work[jax.process_index() :: jax.process_count()]
