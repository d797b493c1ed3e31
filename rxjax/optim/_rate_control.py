"""A learning rate for any optimizer, found while training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import ArrayLike, PyTree

from ._arguments import need_base, need_params
from ._scale_by_reaction_rate import ReactionRateState, scale_by_reaction_rate
from ._wide import check_floating, in_turns, replace_unless, select, widened


class RateControlState(NamedTuple):
    """State of [`rate_control`][]."""

    rate: ReactionRateState  # the controller's; read its scalars with `optax.tree.get(state, "log_rate")`
    base: Any  # the base optimizer's, with accumulators of float32 or wider


def rate_control(
    base: optax.GradientTransformation,
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
    recompute: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Wrap any optimizer of unit learning rate so that it needs none.

    `rate_control(optax.adamw(1.0), total_steps=T)` multiplies the base update $u$ by a rate $\eta$ that grows from a
    small first step until the run turns back on itself (the gauge of [`scale_by_reaction_rate`][] becomes negative), is
    then held where the gauge is at `target`, and is annealed linearly to zero over `total_steps`:

    $$\log\eta \leftarrow \log\eta + \kappa\,\mathrm{clip}(\text{gauge} - \text{target}, -1, 1), \qquad
      \eta \leq 0.1 \max(\mathrm{rms}(\theta), 10^{-2}) \sqrt{d}/|u|,$$

    with $\kappa = .08$ in the growth phase and $\min(.08, 2/(t+1))$ after it, where $\eta$ is also cut to 0.7 once.
    The first two steps are a hundredth of the parameters' length.  In short runs $\kappa = \log$ `leap` at the third: a
    loss that still falls along them lets $\eta$ leap, by ten in runs of less than 290 steps and not at all from 580 on;
    one that does not, as where weights are trained on, holds it back.
    After an update longer than the average of those before, the next step is shortened in proportion (`clip`).

    **Arguments:**

    - `base`: an optimizer whose learning rate is 1, such as `optax.adamw(1.0)`.  Any other constant works as well: only
      the direction and the relative length of its updates count.
    - `total_steps`: calls of `update` in the whole run.  Give it wherever you know it: part of the gain is annealing.
    - `recompute`: evaluate the base a second time for its new state, once the step is known not to be skipped, so that
      old and new state need not be kept side by side.  Saves copies where the state takes a few operations per
      parameter, as Adam's does, most of all in `lax.scan`; leave it where the base decomposes matrices.
    - the others as in [`scale_by_reaction_rate`][].  With `learning_rate` the rate is yours and only the measurement
      remains.

    **Returns:** a transformation with a [`RateControlState`][].  Its updates have the dtype of the parameters; the base
    optimizer runs in float32 or wider.  Loss times a constant changes nothing for SGD and momentum, to the last bit for
    powers of two.

    Good values: the defaults, and an Adam-like base.  How it fails: runs of fewer than about 200 steps are over before
    the rate is found; plain SGD or momentum as base on losses with plateaus; label noise, since hot rates overfit.  Put
    `optax.MultiSteps` around this, not inside; for dynamic accumulation see [`batch_controller`][].

    A step with a gradient or an update that is not finite is skipped and counted in `skipped`.

    **Raises:** `ValueError` for a setting out of its range, a `base` that is no optimizer, and for missing `params`.

    ```python
    >>> import jax, jax.numpy as jnp, optax, rxjax as rx
    >>> optimizer = rx.optim.rate_control(optax.adamw(1.0), total_steps=300)
    >>> loss = lambda x: jnp.sum((x - jnp.array([3.0, -1.0])) ** 2)
    >>> def step(carry, _):
    ...     params, state = carry
    ...     updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    ...     return (optax.apply_updates(params, updates), state), optax.tree.get(state, "learning_rate")
    >>> params = jnp.zeros(2)
    >>> (params, state), rates = jax.lax.scan(step, (params, optimizer.init(params)), length=300)
    >>> print(params.round(1), bool(rates.max() > 100 * rates[0]))
    [ 3. -1.] True

    ```
    """
    base = need_base(base, "rate_control")
    block = scale_by_reaction_rate(
        total_steps,
        target=target,
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
        flip_sign=False,
    )

    def init(params: PyTree) -> RateControlState:
        check_floating(params, "params")
        rate: Any = block.init(params)
        return RateControlState(rate, base.init(widened(params)))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args
    ) -> tuple[PyTree, RateControlState]:
        params = need_params(params, "rate_control")
        gradient = widened(updates)
        direction, after = base.update(gradient, state.base, widened(params), **extra_args)
        rate: Any
        moved, rate = block.update(direction, state.rate, params, grad=gradient)
        taken = rate.skipped == state.rate.skipped
        if not recompute:
            return moved, RateControlState(rate, replace_unless(taken, after, state.base))
        # The first new state is then needed for the direction alone and never written: old and new share a buffer.
        # Along with the displacement of the same leaf: see there for the order.
        zero_unless = lambda taken, g, xi: (jnp.where(taken, g, 0), xi)
        gradient, _ = in_turns(zero_unless, taken, gradient, rate.displacement)
        _, after = base.update(gradient, state.base, widened(params), **extra_args)
        return moved, RateControlState(rate, select(taken, after, state.base))

    return optax.GradientTransformationExtraArgs(init, update)
