"""The greedy learning rate: best for one step, from one Hessian-vector product every few steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, PyTree

from ._arguments import check_setting, need_params
from ._wide import cast_like, check_floating, inner, safe_root, scalar_dtype, select, size, square, widened


class OptimalLearningRateState(NamedTuple):
    """State of [`optimal_learning_rate`][].  Scalars have shape=() and, unless said, dtype=float32 or wider."""

    rate_steps: Array  # dtype=int32: steps taken
    skipped: Array  # dtype=int32: steps skipped because a number was not finite
    slope: Array  # moving average of -<G, u>
    curvature: Array  # moving average of u'Hu
    learning_rate: Array  # of the last step


def optimal_learning_rate(
    every: int = 10,
    *,
    decay: ArrayLike = 0.9,
    fraction: ArrayLike = 1.0,
    trust: ArrayLike = 0.1,
    initial_step: ArrayLike = 1e-3,
    scale_floor: ArrayLike = 1e-2,
    flip_sign: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Scale updates by the rate that decreases the loss most in ONE step, $\eta = -\langle G, u\rangle / u^\top H u$.

    Stands where `optax.scale_by_learning_rate` stands.  Slope and curvature along the incoming update $u$ come from one
    Hessian-vector product of `value_fn` every `every` steps, are averaged, then divided.  With `value_fn` on a batch
    of its own this is $\eta_{opt} = |G|^2/(G^\top H G + \mathrm{tr}(HC))$ for SGD, see `rx.optimal_learning_rate`.

    It is short-sighted, and offered for study.  The best single step is limited by the steepest directions: it shuns
    the progress along flat ones that pays later.  As the rate of whole runs it scored .44 to .67 in trials where tuned
    AdamW scores 1 and [`rate_control`][] 1.025.  Take [`rate_control`][] to train.

    **Arguments:**

    - `every`: steps between measurements.
    - `decay`: of the averages of slope and curvature, in $[0, 1)$.
    - `fraction`: multiplies the optimal rate; twice the optimal rate gains nothing.
    - `trust`, `initial_step`, `scale_floor`: as in [`scale_by_reaction_rate`][].  The first is used until a
      measurement finds positive curvature, the second always.
    - `flip_sign`: the incoming updates point uphill.

    `update` needs `params` and `value_fn=`, the loss as a function of the parameters; inside `optax.masked` and
    `optax.partition`, of those that the mask leaves, with `optax.MaskedNode` in place of the others.  With the batch of
    the gradient itself the slope is too large by the noise, and so is the rate.

    **Returns:** a transformation with an [`OptimalLearningRateState`][].

    **Raises:** `ValueError` for missing `value_fn` or `params`, or a setting out of its range.

    ```python
    >>> import jax, jax.numpy as jnp, optax, rxjax as rx
    >>> optimizer = rx.optim.optimal_learning_rate(every=1, trust=10.0)
    >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * x**2)
    >>> x = jnp.array([1.0, 1.0])
    >>> updates, state = optimizer.update(jax.grad(loss)(x), optimizer.init(x), x, value_fn=loss)
    >>> closed_form = rx.optimal_learning_rate(jax.grad(loss)(x), jnp.array([1.0, 3.0]), 0.0)
    >>> print(f"{state.learning_rate:.4f} {closed_form:.4f}")
    0.3571 0.3571

    ```

    Source: Wu et al., "Understanding short-horizon bias in stochastic meta-optimization" (2018).
    """
    if every < 1:
        raise ValueError(f"Argument `every` must be at least 1, but it is {every}.")
    check_setting(decay, "decay", 0.0, 1.0, closed=True)
    for x, name in ((fraction, "fraction"), (trust, "trust"), (initial_step, "initial_step")):
        check_setting(x, name)
    check_setting(scale_floor, "scale_floor")

    def init(params: PyTree) -> OptimalLearningRateState:
        check_floating(params, "params")
        none, zero = (lambda: jnp.zeros((), jnp.int32)), (lambda: jnp.zeros((), scalar_dtype(params)))
        return OptimalLearningRateState(none(), none(), zero(), zero(), zero())

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value_fn: Callable | None = None,
        **extra_args,
    ) -> tuple[PyTree, OptimalLearningRateState]:
        del extra_args
        params = need_params(params, "optimal_learning_rate")
        if value_fn is None:
            raise ValueError(
                "Argument `value_fn` must be given to the `update` of `optimal_learning_rate`, but it is None. Write "
                "`optimizer.update(grads, state, params, value_fn=lambda p: loss(p, batch))`."
            )
        dtype = state.slope.dtype
        u = widened(updates)
        u = jax.tree.map(jnp.negative, u) if flip_sign else u

        def measured() -> tuple[Array, Array]:
            along = cast_like(u, params)
            gradient, bend = jax.jvp(jax.grad(value_fn), (params,), (along,))
            # `jax.grad` of a real function of complex parameters is the conjugate of the direction of ascent.
            gradient, bend = (jax.tree.map(lambda x: widened(x).conj(), tree) for tree in (gradient, bend))
            along = widened(along)
            b = jnp.asarray(decay).astype(dtype)
            slope = b * state.slope - (1 - b) * inner(gradient, along, dtype)
            return slope, b * state.curvature + (1 - b) * inner(bend, along, dtype)

        kept = lambda: (state.slope, state.curvature)
        slope, curvature = jax.lax.cond(state.rate_steps % every == 0, measured, kept)
        length = square(u, dtype)
        moves = length > 0
        floor = jnp.asarray(scale_floor).astype(dtype) * size(u) ** 0.5
        radius = jnp.maximum(safe_root(square(widened(params), dtype)), floor)
        whole = radius / jnp.where(moves, safe_root(length), 1)
        known = (curvature > 0) & (slope > 0)
        best = jnp.asarray(fraction).astype(dtype) * slope / jnp.where(known, curvature, 1)
        rate = jnp.where(known, best, jnp.asarray(initial_step).astype(dtype) * whole)
        rate = jnp.where(moves, jnp.minimum(rate, jnp.asarray(trust).astype(dtype) * whole), 0)
        finite = jnp.isfinite(length) & jnp.isfinite(slope) & jnp.isfinite(curvature)
        moved = jax.tree.map(lambda x: jnp.where(finite, rate.astype(x.dtype) * x, 0), u)
        new = OptimalLearningRateState(state.rate_steps + 1, state.skipped, slope, curvature, rate)
        new = select(finite, new, state)
        return cast_like(moved, params), new._replace(skipped=state.skipped + jnp.where(finite, 0, 1).astype(jnp.int32))

    return optax.GradientTransformationExtraArgs(init, update)
