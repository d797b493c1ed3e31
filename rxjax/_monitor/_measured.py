"""The expensive entries, under one `lax.cond`: curvature, the way back to the last snapshot, what a format loses."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PyTree

from ..measure._curvature import flat_loss, flat_values
from ..measure._lambda_max import largest_eigenvalue
from ..optim._wide import cast_like, square, widened
from ..quantization import report
from . import _noise
from ._state import MonitorState
from ._step import Step


def measured(state: MonitorState, step: Step, monitor: Any) -> MonitorState:
    """The state after the measurement that is due, and the same state where none is."""
    dtype: Any = state.noise.trace_c.dtype
    from_batch = step.source == "batch"
    asked = (state.held, state.noise, state.snapshot)

    def measure():
        held, noise = dict(state.held), state.noise
        if step.measurable:
            held |= _curvature(step, monitor.lanczos_steps) | _way_back(step, state.snapshot, monitor.path_points)
        if monitor.number_format is not None:
            held |= _survival(step, monitor.number_format)
        if from_batch:
            noise = _noise.from_batch(noise, step, monitor.micro_batches)
        return {name: x.astype(dtype) for name, x in held.items()}, noise, step.theta

    held, noise, snapshot = jax.lax.cond(step.due, measure, lambda: asked)
    return _grown(state, step, monitor.every)._replace(held=held, noise=noise, snapshot=snapshot)


def _grown(state: MonitorState, step: Step, every: int) -> MonitorState:
    """The exponent of the squared displacement since the snapshot, from its values at half and at full age."""
    dtype: Any = state.noise.trace_c.dtype
    age, half = state.gauges.steps % every, every // 2
    reads = step.finite & ((age == 0) | (age == half))

    def distance():
        return square(jax.tree.map(jnp.subtract, widened(step.theta), widened(state.snapshot)), dtype)

    now = jax.lax.cond(reads, distance, lambda: jnp.zeros((), dtype))
    both = (now > 0) & (state.half_distance > 0) & step.due
    ratio = jnp.where(both, now, 1) / jnp.where(both, state.half_distance, 1)
    growth = jnp.where(both, jnp.log(ratio) / jnp.log(jnp.asarray(every / half, dtype)), state.growth)
    return state._replace(growth=growth, half_distance=jnp.where(step.finite & (age == half), now, state.half_distance))


def _curvature(step: Step, lanczos_steps: int) -> dict[str, Array]:
    """Sharpness of the batch: its largest eigenvalue, along its gradient, and along the step."""
    assert step.loss_fn is not None
    g, product = flat_loss(step.loss_fn, step.params, step.batch).expand()
    top = largest_eigenvalue(product, g, lanczos_steps, jr.key(0))
    along = flat_values(step.loss_fn, step.params, step.batch)[2](step.update)
    bent, turned = jax.vmap(product)(jnp.stack([g, along]))
    return {
        "lambda_max": top.value,
        "lambda_max_error": top.error,
        "batch_sharpness": _ratio(jnp.sum(g * bent), jnp.sum(g * g)),
        "step_edge": _ratio(jnp.sum(along * turned), -2 * jnp.sum(g * along)),
    }


def _ratio(top: Array, bottom: Array) -> Array:
    """Zero where no step is taken."""
    return jnp.where(bottom == 0, 0, top / jnp.where(bottom == 0, 1, bottom))


def _way_back(step: Step, start: PyTree, points: int) -> dict[str, Array]:
    """Highest loss on the segment from the snapshot, above its end and above the higher of its two ends."""
    loss_fn = step.loss_fn
    assert loss_fn is not None
    fixed = eqx.filter(step.params, eqx.is_inexact_array, inverse=True)
    origin = widened(start)
    along = jax.tree.map(jnp.subtract, widened(step.theta), origin)

    def loss(t):
        between = jax.tree.map(lambda a, d: a + t.astype(a.real.dtype) * d, origin, along)
        return loss_fn(eqx.combine(cast_like(between, step.theta), fixed), step.batch)

    losses = jax.lax.map(loss, jnp.linspace(0.0, 1.0, points, dtype=jnp.float32))
    highest = jnp.max(losses)
    return {"barrier": highest - losses[-1], "ridge": highest - jnp.maximum(losses[0], losses[-1])}


def _survival(step: Step, form: str) -> dict[str, Array]:
    """The share of the update that a number format keeps."""
    # A complex number is kept as two.
    parts = lambda x: jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x
    theta, update = (jax.tree.map(parts, tree) for tree in (step.theta, step.update))
    found = report(theta, update, form)
    return {
        "survival": found.fraction,
        "survival_abs": found.fraction_abs,
        "survival_squared": found.fraction_squared,
    }
