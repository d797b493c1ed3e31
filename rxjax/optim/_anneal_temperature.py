"""Annealing of the effective temperature over any optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ._arguments import check_setting


class AnnealTemperatureState(NamedTuple):
    """State of [`anneal_temperature`][]."""

    annealed_steps: Array  # shape=(), dtype=int32: calls of update so far
    temperature_factor: Array  # shape=(), dtype=float32 or wider: T(t)/T(0) of the last step


def anneal_temperature(schedule: Callable) -> optax.GradientTransformationExtraArgs:
    r"""Let the effective temperature of any optimizer follow a schedule, relative to its start.

    $T_{eff} = (\eta/2)\,\mathrm{tr}\,C$ is proportional to the learning rate, so that updates are multiplied by
    $T(t)/T(0)$.  Put it at the end of a chain: `optax.chain(optax.sgd(0.1), anneal_temperature(schedule))`.  The rate
    of the optimizer is the one at the start of the schedule.

    **Arguments:**

    - `schedule`: $T(t)$, a function of the step count in any unit, $T(0) > 0$: see [`linear_temperature`][],
      [`cosine_temperature`][], [`geometric_temperature`][], [`constant_entropy_production`][].

    **Returns:** a transformation with an [`AnnealTemperatureState`][].

    **Raises:** `ValueError` for a schedule that does not start above zero.

    The temperature follows as long as the gradient noise itself does not change: as the loss falls it usually falls
    too.  Larger batches do the same at a constant rate, see [`batch_controller`][].

    ```python
    >>> import jax.numpy as jnp, optax, rxjax as rx
    >>> cooling = rx.optim.anneal_temperature(rx.optim.linear_temperature(1.0, 0.0, 10))
    >>> optimizer = optax.chain(optax.sgd(0.1), cooling)
    >>> params = jnp.array(1.0)
    >>> state = optimizer.init(params)
    >>> for _ in range(6):
    ...     updates, state = optimizer.update(params, state, params)
    >>> print(updates, optax.tree.get(state, "temperature_factor"))
    -0.05 0.5

    ```
    """
    check_setting(schedule(jnp.zeros((), jnp.int32)), "schedule(0)")

    def init(params: PyTree) -> AnnealTemperatureState:
        del params
        return AnnealTemperatureState(jnp.zeros((), jnp.int32), jnp.ones((), float))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args
    ) -> tuple[PyTree, AnnealTemperatureState]:
        del params, extra_args
        count = state.annealed_steps
        factor = jnp.asarray(schedule(count), float) / jnp.asarray(schedule(jnp.zeros_like(count)), float)
        updates = jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)
        return updates, AnnealTemperatureState(count + 1, factor)

    return optax.GradientTransformationExtraArgs(init, update)
