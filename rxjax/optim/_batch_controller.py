"""A batch size that grows while training: accumulation of micro-batches that keeps their statistics."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, PyTree

from rxjax_solvers._checks import one_of

from ._arguments import check_setting, need_base, need_params
from ._batch_rules import RULES, annealed_accumulation, noise_scale_batch, norm_test_batch
from ._wide import cast_like, check_floating, scalar_dtype, select, square, widened, zeros


class BatchControllerState(NamedTuple):
    """State of [`batch_controller`][].  Scalars have shape=() and, unless said, dtype=float32 or wider."""

    micro_step: Array  # dtype=int32: micro-batches in the running sum
    accumulation: Array  # dtype=int32: k of the step in progress
    micro_batches: Array  # dtype=int32: finite micro-batches seen in all
    optimizer_steps: Array  # dtype=int32: updates made
    skipped: Array  # dtype=int32: micro-batches skipped because they were not finite
    recommended_batch: Array  # dtype=int32: examples a step by the rule, k_max micro-batches at most
    trace_sigma: Array  # average of unbiased estimates of tr Sigma_1, of one example
    gradient_square: Array  # average of unbiased estimates of |G|^2; single ones may be negative
    estimates: Array  # dtype=int32: how many steps of two or more micro-batches they come from
    scatter: Array  # sum of |G_k - mean|^2 over the running micro-batches
    mean_gradient: PyTree  # like the parameters, float32 or wider: mean of the running micro-batches
    base: Any  # the wrapped optimizer's


def batch_controller(
    base: optax.GradientTransformation,
    micro_batch_size: ArrayLike,
    *,
    k_max: int,
    rule: str = "anneal",
    total_micro_batches: ArrayLike | None = None,
    target: ArrayLike | None = None,
    k_min: int | None = None,
    decay: ArrayLike = 0.95,
) -> optax.GradientTransformationExtraArgs:
    r"""Accumulate a varying number of micro-batches per step, and measure the gradient noise while doing so.

    Call `update` with the mean gradient of each micro-batch of $b$ examples.  After $k$ of them the wrapped optimizer
    steps with their mean; before, the updates are zero.  As `optax.MultiSteps`, but the spread of the micro-batch
    gradients $G_j$ is kept and gives, at no cost, the unbiased

    $$\mathrm{tr}\,\Sigma_1 \approx \frac{b}{k-1} \sum_j |G_j - \bar G|^2, \qquad
      |G|^2 \approx |\bar G|^2 - \frac{\mathrm{tr}\,\Sigma_1}{b k}.$$

    **Arguments:**

    - `base`: any optimizer, at a constant learning rate for `rule="anneal"`.
    - `micro_batch_size`: $b \geq 1$, examples in each call.
    - `k_max`: the most micro-batches in a step.
    - `rule`: what decides $k$ of the next step.
        - `"anneal"`: $k = \min(k_{max}, \mathrm{round}(1/(1 - n/N)))$ after $n$ of `total_micro_batches` $= N$: the
          temperature falls as if the rate were annealed linearly, with fewer updates.
        - `"noise_scale"`: the batch is `target` (1) times the critical batch $\mathrm{tr}\,\Sigma_1/|G|^2$.
        - `"norm_test"`: $\mathrm{tr}\,\Sigma_1/B \leq \theta^2 |g_B|^2$ with $\theta$ = `target` (0.5).
    - `k_min`: the fewest; 1 for `"anneal"` and 2 for the others, which cannot measure with less.
    - `decay`: of the averages of both estimates over steps, in $[0, 1)$; debiased.  The ratio is taken of averages.

    **Returns:** a transformation with a [`BatchControllerState`][].  `recommended_batch` is the rule's batch in
    examples, for those who would rather change the batch on the host: it is rounded to whole micro-batches and lies
    between $b k_{min}$ and $b k_{max}$.

    How it fails: a batch equal to the critical batch throughout cost 1.4 to 6 times the loss at equal samples in our
    trials; `"noise_scale"` saves updates, not samples.  With `"anneal"` the estimates need $k \geq 2$, so they are zero
    (`estimates` too) in the first half of a run.  A micro-batch that is not finite is left out and counted.

    **Raises:** `ValueError` for arguments out of their range, a missing `total_micro_batches`, or missing `params`.

    ```python
    >>> import jax, jax.numpy as jnp, optax, rxjax as rx
    >>> optimizer = rx.optim.batch_controller(optax.sgd(0.1), 8, k_max=4, rule="noise_scale")
    >>> params = jnp.zeros(2)
    >>> state = optimizer.init(params)
    >>> for g in (jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])):
    ...     updates, state = optimizer.update(g, state, params)
    >>> print(updates, optax.tree.get(state, "trace_sigma"), optax.tree.get(state, "recommended_batch"))
    [-0.1 -0.1] 16.0 16

    ```

    Source: Smith et al., "Don't decay the learning rate, increase the batch size" (2018).
    """
    one_of(rule, "rule", RULES)
    check_setting(micro_batch_size, "micro_batch_size", 1.0, closed=True)
    check_setting(decay, "decay", 0.0, 1.0, closed=True)
    if rule == "anneal":
        if total_micro_batches is None:
            raise ValueError(
                'Argument `total_micro_batches` must be given for `rule="anneal"`, but it is None. It is the number of '
                "calls of `update` in the whole run."
            )
        check_setting(total_micro_batches, "total_micro_batches")
    fewest = (1 if rule == "anneal" else 2) if k_min is None else k_min
    if not 1 <= fewest <= k_max:
        raise ValueError(f"Argument `k_max` must be at least `k_min`, {fewest}, but it is {k_max}.")
    if target is None:
        target = 0.5 if rule == "norm_test" else 1.0
    check_setting(target, "target")
    base = need_base(base, "batch_controller")

    def choose(state: BatchControllerState) -> Array:
        """`k` of the next step."""
        dtype = state.scatter.dtype
        micro = jnp.asarray(micro_batch_size).astype(dtype)
        if rule == "anneal":
            assert total_micro_batches is not None
            total = jnp.asarray(total_micro_batches).astype(dtype)
            k = annealed_accumulation(state.micro_batches.astype(dtype) / total, k_max)
        else:
            trace, signal = state.trace_sigma, state.gradient_square
            ask = jnp.asarray(target).astype(dtype)
            if rule == "noise_scale":
                batch = noise_scale_batch(trace, signal, ask)
            else:
                taken = jnp.maximum(state.accumulation, 1).astype(dtype)
                batch = norm_test_batch(trace, signal + trace / (micro * taken), ask)
            k = jnp.where(state.estimates > 0, jnp.ceil(batch / micro), fewest)
        return jnp.clip(k, fewest, k_max).astype(jnp.int32)

    def recommend(state: BatchControllerState) -> BatchControllerState:
        k = choose(state)
        micro = jnp.asarray(micro_batch_size).astype(state.scatter.dtype)
        batch = jnp.round(k.astype(micro.dtype) * micro).astype(jnp.int32)
        return state._replace(accumulation=k, recommended_batch=batch)

    def init(params: PyTree) -> BatchControllerState:
        check_floating(params, "params")
        dtype = scalar_dtype(params)
        # Each in a buffer of its own, so that the state can be donated.
        zero, none = (lambda: jnp.zeros((), dtype)), (lambda: jnp.zeros((), jnp.int32))
        state = BatchControllerState(
            micro_step=none(),
            accumulation=none(),
            micro_batches=none(),
            optimizer_steps=none(),
            skipped=none(),
            recommended_batch=none(),
            trace_sigma=zero(),
            gradient_square=zero(),
            estimates=none(),
            scatter=zero(),
            mean_gradient=zeros(params),
            base=base.init(params),
        )
        return recommend(state)

    def measure(state: BatchControllerState) -> BatchControllerState:
        """Average the estimates of the step that is complete."""
        dtype = state.scatter.dtype
        k = state.micro_step.astype(dtype)
        micro = jnp.asarray(micro_batch_size).astype(dtype)
        trace = micro * state.scatter / jnp.maximum(k - 1, 1)
        signal = square(state.mean_gradient, dtype) - trace / (micro * k)
        count = state.estimates + 1
        b = jnp.asarray(decay).astype(dtype)
        # The weight of the newest estimate in a debiased average.
        weight = (1 - b) / (1 - b ** count.astype(dtype))
        new = state._replace(
            trace_sigma=state.trace_sigma + weight * (trace - state.trace_sigma),
            gradient_square=state.gradient_square + weight * (signal - state.gradient_square),
            estimates=count,
        )
        return select(state.micro_step >= 2, new, state)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args
    ) -> tuple[PyTree, BatchControllerState]:
        params = need_params(params, "batch_controller")
        dtype = state.scatter.dtype
        g = widened(updates)
        finite = jnp.isfinite(square(g, dtype))
        n = state.micro_step.astype(dtype)
        apart = jax.tree.map(lambda x, m: jnp.where(finite, x - m, 0), g, state.mean_gradient)
        part = 1 / (n + 1)
        one = jnp.where(finite, 1, 0).astype(jnp.int32)
        state = state._replace(
            mean_gradient=jax.tree.map(lambda m, a: m + a * part.astype(a.dtype), state.mean_gradient, apart),
            scatter=state.scatter + square(apart, dtype) * n * part,
            micro_step=state.micro_step + one,
            micro_batches=state.micro_batches + one,
            skipped=state.skipped + 1 - one,
        )

        def step(state: BatchControllerState) -> tuple[PyTree, BatchControllerState]:
            mean = cast_like(state.mean_gradient, updates)
            moved, inner = base.update(mean, state.base, params, **extra_args)
            inner = jax.tree.map(lambda new, old: new.astype(jnp.result_type(old)), inner, state.base)
            after = recommend(measure(state))
            after = after._replace(
                base=inner,
                mean_gradient=zeros(params),
                scatter=jnp.zeros_like(state.scatter),
                micro_step=jnp.zeros_like(state.micro_step),
                optimizer_steps=state.optimizer_steps + 1,
            )
            return cast_like(moved, params), after

        def wait(state: BatchControllerState) -> tuple[PyTree, BatchControllerState]:
            return jax.tree.map(jnp.zeros_like, params), state

        return jax.lax.cond(finite & (state.micro_step >= state.accumulation), step, wait, state)

    return optax.GradientTransformationExtraArgs(init, update)
