"""Where the gradient noise comes from: four sources, of which the best one at hand is taken."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..measure._curvature import sharded
from ..measure._gradient_noise import micro_gradients, moments_of
from ..optim._wide import is_sharded, square, widened
from ._state import MonitorState, Noise
from ._step import Step, alike, examples, moving, read

# Of the averages over measurements; those over steps have the decay that the user gave.
_MEASURED_DECAY = 0.8


def source(
    micro_grads: PyTree | None, opt_state: Any, batch_size: float | int | None, batch: PyTree | None, differences: bool
) -> str | None:
    """The name of the source, known while compiling; `batch` is `None` where there is no loss to measure on it."""
    if micro_grads is not None:
        return "micro_grads"
    if batch_size is not None and read(opt_state, "trace_sigma") is not None:
        return "opt_state"
    count = examples(batch)
    if count is not None and count > 1:
        return "batch"
    return "differences" if differences else None


def at_every_step(state: MonitorState, step: Step, differences: bool, decay: float) -> MonitorState:
    """The noise by all sources but the batch, which is measured now and then."""
    noise = state.noise
    if step.source == "micro_grads":
        noise = _from_stack(noise, step, decay)
    elif step.source == "opt_state":
        trace, signal, count = (read(step.opt_state, n) for n in ("trace_sigma", "gradient_square", "estimates"))
        assert trace is not None and signal is not None and count is not None and step.batch_size is not None
        dtype = noise.trace_c.dtype
        noise = Noise(trace.astype(dtype) / step.batch_size, signal.astype(dtype), count.astype(jnp.int32))
    elif step.source == "differences":
        onward, apart = step.successive
        noise = _averaged(noise, apart / 2, onward, decay, step.finite & (state.gauges.steps > 0))
    if differences:
        keep = lambda old, g: jnp.where(step.finite, g, old)
        state = state._replace(previous=jax.tree.map(keep, state.previous, step.gradient))
    return state._replace(noise=noise)


def from_batch(noise: Noise, step: Step, parts: int) -> Noise:
    """One more gradient of the batch, taken in `parts` micro-batches; a rest of examples is left out.

    Examples are dealt out in turns: where they are sharded, each device then has its share of every micro-batch.
    """
    count = examples(step.batch)
    assert count is not None and step.loss_fn is not None
    parts = min(parts, count)
    size = count // parts

    def deal(x: Array) -> Array:
        # Shares that do not go into micro-batches evenly cannot be dealt out where they lie.
        if is_sharded(x) and jax.typeof(x).sharding.shard_shape(x.shape)[0] % parts:
            x = sharded(x, None)
        return jnp.swapaxes(x[: size * parts].reshape(size, parts, *x.shape[1:]), 0, 1)

    moments = moments_of(micro_gradients(step.loss_fn, step.params, jax.tree.map(deal, step.batch)))
    one = jnp.sum(moments.squares) / (parts - 1)  # the trace, of the gradient of a micro-batch
    of_batch = one * (size / count)
    return _averaged(noise, of_batch, moments.mean_square - one / parts, _MEASURED_DECAY, jnp.isfinite(one))


def _from_stack(noise: Noise, step: Step, decay: float) -> Noise:
    """`k` micro-batch gradients with a leading axis."""
    k = max([x.shape[0] for x in jax.tree.leaves(moving(step.micro_grads)) if x.ndim], default=0)
    stack = widened(alike(step.micro_grads, step.theta, "micro_grads", (k,)))
    dtype: Any = noise.trace_c.dtype
    if k < 2:
        raise ValueError(f"Argument `micro_grads` must hold at least two gradients, but it holds {k}.")
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), stack)
    scatter = square(jax.tree.map(lambda x, m: x - m[None], stack, mean), dtype)
    trace_c = scatter / (k * (k - 1))
    return _averaged(noise, trace_c, square(mean, dtype) - trace_c, decay, step.finite & jnp.isfinite(scatter))


def _averaged(noise: Noise, trace_c: Array, signal: Array, decay: float, new: Array) -> Noise:
    """The estimates averaged in, without bias from the start, where there is a `new` one."""
    dtype = noise.trace_c.dtype
    count = noise.estimates + 1
    weight = (1 - decay) / (1 - decay ** count.astype(dtype))
    # Where there is none, nothing may spread.
    step = lambda old, x: old + weight * jnp.where(new, x.astype(dtype) - old, 0)
    return Noise(step(noise.trace_c, trace_c), step(noise.signal, signal), jnp.where(new, count, noise.estimates))
