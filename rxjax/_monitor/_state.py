"""What the monitor carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..optim._controller import ControllerState, initial_state
from ..optim._wide import scalar_dtype, zeros

# Entries that are measured every so many steps and kept in between.
HELD = (
    "lambda_max",
    "lambda_max_error",
    "batch_sharpness",
    "step_edge",
    "barrier",
    "ridge",
    "survival",
    "survival_abs",
    "survival_squared",
)


class Noise(NamedTuple):
    """Averages of unbiased estimates of the noise and of the gradient below it."""

    trace_c: Array  # tr C, of the mini-batch gradient
    signal: Array  # |G|^2 of the mean gradient; single estimates may be negative
    estimates: Array  # dtype=int32: how many


class MonitorState(NamedTuple):
    """State of [`Monitor`][].  Scalars have shape=() and, unless said, dtype=float32 or wider."""

    gauges: ControllerState  # log_rate, gauge and their averages; its `steps` are the finite steps seen
    nonfinite: Array  # dtype=int32: steps left out because a number was not finite
    displacement: PyTree  # like the parameters, float32 or wider: from their running mean
    previous: PyTree  # the last gradient, float32 or wider; () where differences are not asked for
    snapshot: PyTree  # the parameters at the last measurement
    step_work: Array  # moving average of <displacement, update>
    step_square: Array  # moving average of |update|^2
    gradient_square: Array  # moving average of |gradient|^2
    noise: Noise
    half_distance: Array  # |theta - snapshot|^2 halfway between two measurements
    growth: Array  # exponent of |theta(t + tau) - theta(t)|^2 in tau, at the last measurement
    held: dict[str, Array]  # the entries of HELD


def initial(params: PyTree, differences: bool) -> MonitorState:
    """The state before the first step, each number in a buffer of its own so that it can be donated."""
    dtype: Any = scalar_dtype(params)
    zero, none = (lambda: jnp.zeros((), dtype)), (lambda: jnp.zeros((), jnp.int32))
    return MonitorState(
        gauges=initial_state(dtype),
        nonfinite=none(),
        displacement=zeros(params),
        previous=zeros(params) if differences else (),
        snapshot=jax.tree.map(lambda x: x + jnp.zeros((), x.dtype), params),
        step_work=zero(),
        step_square=zero(),
        gradient_square=zero(),
        noise=Noise(zero(), zero(), none()),
        half_distance=zero(),
        growth=zero(),
        held={name: zero() for name in HELD},
    )
