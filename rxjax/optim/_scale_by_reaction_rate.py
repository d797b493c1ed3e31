"""The chainable block: it measures the log-rate of the reaction carried out and scales updates by a rate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, PyTree

from ._arguments import need_params
from ._controller import ControllerState, Sums, control, initial_state, make_settings, window_length
from ._wide import check_floating, in_rows, in_turns, inners, scalar_dtype, select, size, widened, zeros


class ReactionRateState(NamedTuple):
    """State of [`scale_by_reaction_rate`][]."""

    displacement: PyTree  # like the parameters, float32 or wider: xi after this step
    controller: ControllerState  # scalars, among them log_rate, gauge, learning_rate and phase
    skipped: Array  # shape=(), dtype=int32: steps skipped because a number was not finite


def scale_by_reaction_rate(
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
    flip_sign: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Scale updates by a learning rate that is found from the reaction that training has just carried out.

    Stands where `optax.scale_by_learning_rate` stands, at the end of a chain, and needs no rate.  With the displacement
    $\xi$ of the parameters from their running mean over $w$ steps, the gradient $g$ and the incoming update $u$:

    $$\mathrm{log\_rate} = -\frac{E_a}{T} = -\frac{\langle g, \xi\rangle}{(\eta/2)\,|g||u|}, \qquad
      \text{gauge} = \sqrt{2w}\; \frac{\mathrm{EMA}(-\langle g, \xi\rangle)}{\mathrm{EMA}(|g||\xi|)}.$$

    For plain SGD ($|u| = |g|$) the first obeys exactly $|\xi+\delta|^2 - |\xi|^2 = 2\eta T(\mathrm{log\_rate} + 1)$
    with $T = (\eta/2)|g|^2$ and the step $\delta = -\eta g$: above 0 the drift dominates, 0 is free diffusion, -1 on
    average is thermal equilibrium.  For Adam and momentum it is a gauge, not an identity.  Without the averages,
    $\mathrm{gauge} = \mathrm{log\_rate} \cdot \eta|u|\sqrt{w/2}/|\xi|$.  The rate $\eta$ is heated while the gauge is
    above `target` and cooled below it; see [`rate_control`][] for what that is good for.

    **Arguments:**

    - `total_steps`: $T$; the rate is annealed by $\max(0, 1 - t/T)$.  Without it the rate is not annealed.
    - `target`: of the gauge; -0.5, or -0.3 without `total_steps`.
    - `learning_rate`: a number or a schedule: measure only, do not control.  Then without `total_steps`.
    - `window`: $w \geq 1$; as long as the run so far, and 8 at least, if not given.
    - `decay`: of the moving averages; 0 turns them off.
    - `leap`: what the third step may multiply or divide $\eta$ by, as the gauge says; 1 turns that off.  If not given,
      what growth by a factor of 100 lacks after a tenth of `total_steps`, between 1 and 10; 10 without `total_steps`.
    - `clip`: the step after an update longer than `clip` times the geometric moving average of $|u|$ is shortened in
      proportion.  1 with `total_steps`, without it none is, nor ever with `learning_rate`; 1e9 turns it off.
    - `growth`, `backoff`: largest change of $\log\eta$ in later steps, and the factor on $\eta$ at the end of the
      growth phase, which is the first step after the fifth with a negative gauge.
    - `trust`, `initial_step`: length of the longest and of the first step, relative to that of the parameters, which
      counts as `scale_floor` $\sqrt{d}$ at least.
    - `flip_sign`: the incoming updates point uphill, as those of `optax.scale_by_adam` and raw gradients do.  Give
      `False` behind a complete optimizer of unit rate.

    `update` takes `grad=`, the gradient before the rest of the chain; without it the incoming updates serve as the
    gradient, which is right for plain SGD and behind clipping.  It needs `params`.  Complex gradients come conjugated,
    as in every optax loop.  Sums are kept in float32 or wider, also for bfloat16 parameters.

    **Returns:** a transformation with a [`ReactionRateState`][]; `optax.tree.get(state, "log_rate")`, and the same with
    `"gauge"`, `"learning_rate"`, `"temperature"`, `"phase"` (0 growth, 1 controlled) or `"skipped"`.

    A step whose $|g|^2$ or $|u|^2$ is not finite is skipped: zero updates, nothing but `skipped` changes.

    **Raises:** `ValueError` for a setting out of its range and for missing `params`.

    ```python
    >>> import jax.numpy as jnp, optax, rxjax as rx
    >>> optimizer = optax.chain(optax.scale_by_adam(), rx.optim.scale_by_reaction_rate(total_steps=100))
    >>> params = jnp.array([1.0, 2.0])
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(2 * params, state, params, grad=2 * params)
    >>> print(updates, optax.tree.get(state, "phase"))
    [-0.01581139 -0.01581139] 0

    ```
    """
    settings = make_settings(
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

    def init(params: PyTree) -> ReactionRateState:
        check_floating(params, "params")
        return ReactionRateState(zeros(params), initial_state(scalar_dtype(params)), jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        grad: PyTree | None = None,
        **extra_args,
    ) -> tuple[PyTree, ReactionRateState]:
        del extra_args
        params = need_params(params, "scale_by_reaction_rate")
        g = widened(updates if grad is None else grad)
        u = in_rows(widened(updates))
        xi, before = state.displacement, state.controller
        dtype = before.drift.dtype
        theta = widened(params)
        pairs = [(g, xi), (g, g), (xi, xi), (u, u), (theta, theta)]
        sums = Sums(*inners(pairs, dtype), size=size(xi))
        after = control(settings, before, sums)
        finite = jnp.isfinite(sums.gradient) & jnp.isfinite(sums.update)
        rate = -after.learning_rate if flip_sign else after.learning_rate
        keep = jnp.where(finite, 1 - 1 / window_length(settings, before), 1)

        def move(finite: Array, u: Array, xi: Array, x: ArrayLike) -> tuple[Array, Array]:
            moved = jnp.where(finite, rate.astype(u.dtype) * u, 0).astype(jnp.result_type(x))
            return moved, keep.astype(xi.dtype) * xi + moved.astype(xi.dtype)

        moved, xi = in_turns(move, finite, u, xi, params)
        skipped = state.skipped + jnp.where(finite, 0, 1).astype(jnp.int32)
        return moved, ReactionRateState(xi, select(finite, after, before), skipped)

    return optax.GradientTransformationExtraArgs(init, update)
