"""The controller as a stateful schedule, for those who keep their optimizer."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree

from ._controller import ControllerState, Sums, control, initial_state, make_settings, window_length
from ._wide import check_floating, inner, scalar_dtype, select, size, square, widened, zeros


class RateScheduleState(NamedTuple):
    """State of [`RateSchedule`][]."""

    position: PyTree  # like the parameters, float32 or wider: theta, followed by adding updates
    displacement: PyTree  # like the parameters, float32 or wider: xi
    controller: ControllerState  # scalars, among them log_rate, gauge, learning_rate and phase
    skipped: Array  # shape=(), dtype=int32: calls without effect because a number was not finite


class RateSchedule:
    r"""The controller of [`rate_control`][] as a stateful schedule for `optax.inject_hyperparams`.

    The optimizer stays as it is; its learning rate becomes this object.  A schedule sees neither gradients nor
    parameters, so that `update` must be given two things more: `grad`, the gradient of this step, and `update`, the
    updates that the PREVIOUS call returned (zeros before the first).  The length of the base update, which
    [`rate_control`][] knows before it steps, is taken from the previous step here, and steps are shortened one later
    too.  The first step is a probe, no longer than the first step of [`rate_control`][] for SGD and for Adam, and the
    second one starts the rate.

    **Arguments:**

    - `params`: the parameters at the start, arrays; they set the scale of the first step.
    - the others as in [`scale_by_reaction_rate`][].

    It keeps two trees like the parameters, one more than [`rate_control`][].  Calls with numbers that are not finite
    have no effect but are counted in `skipped`; the optimizer around it must be guarded by `optax.apply_if_finite`.

    The rate has the accumulators' dtype, float32 or wider, and optax multiplies in that dtype: for parameters of half
    precision end the chain with `optax.stateless_with_tree_map(lambda u, p: u.astype(p.dtype))`.

    **Raises:** `ValueError` naming `grad` and `update` where they are missing, and for a setting out of its range.

    ```python
    >>> import jax, jax.numpy as jnp, optax, rxjax as rx
    >>> params = jnp.array([3.0, -1.0])
    >>> optimizer = optax.inject_hyperparams(optax.sgd)(rx.optim.RateSchedule(params, total_steps=200))
    >>> def step(carry, _):
    ...     params, state, updates = carry
    ...     grads = 2 * params
    ...     updates, state = optimizer.update(grads, state, params, grad=grads, update=updates)
    ...     return (optax.apply_updates(params, updates), state, updates), None
    >>> start = (params, optimizer.init(params), jnp.zeros(2))
    >>> (params, state, _), _ = jax.lax.scan(step, start, length=200)
    >>> print(bool(jnp.abs(params).max() < 1e-2))
    True

    ```
    """

    def __init__(
        self,
        params: PyTree,
        total_steps: ArrayLike | None = None,
        *,
        target: ArrayLike | None = None,
        learning_rate: ArrayLike | Callable | None = None,
        window: ArrayLike | None = None,
        decay: ArrayLike = 0.9,
        growth: ArrayLike = 0.08,
        backoff: ArrayLike = 0.7,
        trust: ArrayLike = 0.1,
        initial_step: ArrayLike = 1e-2,
        leap: ArrayLike | None = None,
        clip: ArrayLike | None = None,
        scale_floor: ArrayLike = 1e-2,
    ):
        check_floating(params, "params")
        self._params = params
        self._settings = make_settings(
            total_steps,
            target,
            learning_rate=learning_rate,
            window=window,
            decay=decay,
            growth=growth,
            backoff=backoff,
            trust=trust,
            initial_step=initial_step,
            leap=leap,
            clip=clip,
            scale_floor=scale_floor,
        )

    def init(self) -> RateScheduleState:
        """The state before the first step; its learning rate is zero."""
        scalars = initial_state(scalar_dtype(self._params))
        # A copy: the optimizer's buffers may be donated together with the parameters themselves.
        position = jax.tree.map(lambda x: x + 0, widened(self._params))
        return RateScheduleState(position, zeros(self._params), scalars, jnp.zeros((), jnp.int32))

    def __call__(
        self, state: RateScheduleState, *, grad: PyTree | None = None, update: PyTree | None = None, **extra_args
    ) -> Array:
        """The learning rate of this step; without the two extra arguments that of the last one."""
        del extra_args
        if grad is None or update is None:
            return state.controller.learning_rate
        return self.update(state, grad=grad, update=update).controller.learning_rate

    def update(
        self, state: RateScheduleState, *, grad: PyTree | None = None, update: PyTree | None = None, **extra_args
    ) -> RateScheduleState:
        """The state after this step."""
        del extra_args
        if grad is None or update is None:
            missing = [f"`{n}`" for n, x in (("grad", grad), ("update", update)) if x is None]
            raise ValueError(
                "Arguments `grad` and `update` must both be given to `RateSchedule`, but "
                f"{' and '.join(missing)} {'was' if len(missing) == 1 else 'were'} not. Write "
                "`optimizer.update(grads, state, params, grad=grads, update=previous_updates)`, with zeros as the "
                "updates before the first step."
            )
        before = state.controller
        dtype = before.drift.dtype
        g, last = widened(grad), widened(update)
        started = before.steps > 0
        keep = jnp.where(started, 1 - 1 / window_length(self._settings, _back(before)), 1)
        # Before the first step there is no last one, whatever was passed for it.
        add = lambda x, y, k: k.astype(x.dtype) * x + jnp.where(started, y, 0).astype(x.dtype)
        xi = jax.tree.map(lambda x, y: add(x, y, keep), state.displacement, last)
        theta = jax.tree.map(lambda x, y: add(x, y, jnp.ones((), dtype)), state.position, last)

        gradient, moved = square(g, dtype), square(last, dtype)
        known = started & (moved > 0) & (before.learning_rate > 0)
        rate = jnp.where(known, before.learning_rate, 1)
        # |u| from the last step; before it, an upper bound on that of SGD and that of Adam.
        length = jnp.where(known, moved / rate**2, jnp.maximum(gradient, 1.0 * size(xi)))
        sums = Sums(inner(g, xi, dtype), gradient, square(xi, dtype), length, square(theta, dtype), size(xi))
        fresh = before._replace(controlled_rate=jnp.where(before.steps <= 1, 0, before.controlled_rate))
        after = control(self._settings, fresh, sums)
        finite = jnp.isfinite(gradient) & jnp.isfinite(moved)
        new = RateScheduleState(theta, xi, after, state.skipped)
        new = select(finite, new, state)
        return new._replace(skipped=state.skipped + jnp.where(finite, 0, 1).astype(jnp.int32))


def _back(state: ControllerState) -> ControllerState:
    """The controller as it was when the last step was made."""
    return state._replace(steps=jnp.maximum(state.steps - 1, 0))
