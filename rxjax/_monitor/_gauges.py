"""What is followed at every step: the log-rate and its gauge, and the balance of work and fluctuation."""

import jax
import jax.numpy as jnp

from ..optim._controller import control, make_settings, window_length
from ..optim._wide import select
from ._state import MonitorState
from ._step import Step


def gauged(state: MonitorState, step: Step, decay: float) -> MonitorState:
    """The state after this step, or the state before it where the step is not finite."""
    before, xi, finite = state.gauges, state.displacement, step.finite
    # The update is the step itself, so its rate is 1: log_rate is -<g, xi> / (|g||u|/2).
    settings = make_settings(None, None, learning_rate=1.0)
    keep = jnp.where(finite, 1 - 1 / window_length(settings, before), 1)
    follow = lambda x, d: keep.astype(x.dtype) * x + jnp.where(finite, d, 0).astype(x.dtype)
    average = lambda old, x: jnp.where(finite, decay * old + (1 - decay) * x, old)
    return state._replace(
        gauges=select(finite, control(settings, before, step.sums), before),
        nonfinite=state.nonfinite + jnp.where(finite, 0, 1).astype(jnp.int32),
        displacement=jax.tree.map(follow, xi, step.update),
        step_work=average(state.step_work, step.work),
        step_square=average(state.step_square, step.sums.update),
        gradient_square=average(state.gradient_square, step.sums.gradient),
    )
