"""Settings of optimizers: checked where the value is known, passed on where `inject_hyperparams` traces them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ArrayLike, PyTree

from rxjax_solvers._checks import is_traced, require


def check_setting(
    x: ArrayLike, name: str, low: float = 0.0, high: float = float("inf"), *, closed: bool = False
) -> None:
    """Refuse a known number outside (low, high), or [low, high) if `closed`; a traced one is taken as it is."""
    if is_traced(x):
        return
    bracket = "[" if closed else "("
    with jax.ensure_compile_time_eval():
        value = jnp.asarray(x)
        below = (value < low) if closed else (value <= low)
        faults = [(~(jnp.isfinite(value)), "is not finite"), (below | (value >= high), "is not")]
        require(value, name, f"be a number in {bracket}{low:g}, {high:g})", faults)


def need_base(base: Any, who: str) -> optax.GradientTransformationExtraArgs:
    """An optimizer that takes extra arguments, or the sentence that asks for one."""
    if not (hasattr(base, "init") and hasattr(base, "update")):
        raise ValueError(
            f"Argument `base` of `{who}` must be an optax optimizer, like `optax.adamw(1.0)`, but it is {base!r}."
        )
    return optax.with_extra_args_support(base)


def need_params(params: PyTree | None, who: str) -> PyTree:
    """`params`, or the sentence that asks for them."""
    if params is None:
        raise ValueError(
            f"Argument `params` must be given to the `update` of `{who}`, but it is None. Write "
            "`updates, state = optimizer.update(grads, state, params)`."
        )
    return params
