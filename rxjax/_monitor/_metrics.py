"""The flat dictionary of metrics, from the state and the step."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ..optim._batch_rules import noise_scale_batch, norm_test_batch
from ._state import MonitorState
from ._step import Step, read

# The gauge at which the controller of `rx.optim.rate_control` holds the rate, and the diffusion picture's limit.
_TARGET, _VALID = -0.5, 0.2
_CURVATURE = ("lambda_max", "lambda_max_error", "batch_sharpness", "step_edge", "barrier", "ridge")
_SURVIVAL = ("survival", "survival_abs", "survival_squared")
_FROM_OPTIMIZER = ("log_rate", "gauge", "phase", "skipped")


def metrics(state: MonitorState, step: Step, monitor: Any) -> dict[str, Array]:
    """All that is known of this step, by name."""
    sums = step.sums
    steps, dtype = state.gauges.steps, state.step_square.dtype
    rate = _safe_root(state.step_square, state.gradient_square)
    work, square = state.step_work, state.step_square
    # The averages start at zero; ratios of two need no correction.
    mean_square = square / jnp.maximum(1 - monitor.decay ** steps.astype(dtype), jnp.finfo(dtype).tiny)
    found: dict[str, Any] = {
        "steps": steps,
        "nonfinite": state.nonfinite,
        "grad_norm": jnp.sqrt(sums.gradient),
        "update_norm": jnp.sqrt(sums.update),
        "param_norm": jnp.sqrt(sums.params),
        "update_ratio": _safe_root(mean_square, sums.params),
        "rate": rate,
        "log_rate": state.gauges.log_rate,
        "gauge": state.gauges.gauge,
        "fluctuation_dissipation": jnp.where(square > 0, -2 * work / jnp.where(square > 0, square, 1), 0),
        "growth_exponent": state.growth,
    }
    if step.loss is not None:
        found["loss"] = step.loss
    for name in _FROM_OPTIMIZER:
        value = read(step.opt_state, name)
        if value is not None:
            found[name] = value
    found |= _rates(step, rate, found["gauge"])
    if step.source is not None:
        found |= _noises(state, step, rate)
    if monitor.dataset_size is not None and step.batch_size is not None:
        found["noise_scale"] = rate * (monitor.dataset_size / step.batch_size)
    if step.measurable:
        found |= {name: state.held[name] for name in _CURVATURE}
        edge = rate * state.held["lambda_max"]
        found |= {"edge": edge / 2, "sde_valid": edge <= _VALID}
    if monitor.number_format is not None:
        found |= {name: state.held[name] for name in _SURVIVAL}
    return {name: jnp.asarray(x).astype(dtype) for name, x in found.items()}


def _safe_root(top: Array, bottom: Array) -> Array:
    """The root of a ratio of squares, zero where nothing has moved."""
    return jnp.where(bottom > 0, jnp.sqrt(top / jnp.where(bottom > 0, bottom, 1)), 0)


def _rates(step: Step, rate: Array, gauge: Array) -> dict[str, Any]:
    """The learning rate, if anyone says it, and the one that the gauge asks for."""
    known = step.learning_rate if step.learning_rate is not None else read(step.opt_state, "learning_rate")
    used = rate if known is None else jnp.asarray(known, rate.dtype)
    found = {} if known is None else {"learning_rate": used}
    turn = jnp.exp(jnp.clip(gauge.astype(rate.dtype) - _TARGET, -1, 1))
    return {**found, "recommended_learning_rate": used * turn}


def _noises(state: MonitorState, step: Step, rate: Array) -> dict[str, Any]:
    """Noise, temperature and the batch sizes that follow."""
    trace, signal = state.noise.trace_c, state.noise.signal
    temperature = rate / 2 * trace
    found = {
        "trace_c": trace,
        "squared_gradient": signal,
        "noise_to_signal": noise_scale_batch(trace, signal),
        "temperature": temperature,
        "temperature_per_parameter": temperature / max(step.sums.size, 1),
    }
    if step.batch_size is None:
        return found
    one = trace * step.batch_size
    said = read(step.opt_state, "recommended_batch")
    asked = norm_test_batch(one, signal + trace) if said is None else said
    return found | {
        "trace_sigma": one,
        "critical_batch": noise_scale_batch(one, signal),
        "recommended_batch": asked,
    }
