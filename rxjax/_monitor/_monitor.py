"""A live look at a training run, for any loop."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree

from ..optim._arguments import check_setting
from ..optim._controller import Sums
from ..optim._wide import inners, size, widened
from ..quantization._formats import resolve
from . import _noise
from ._gauges import gauged
from ._measured import measured
from ._metrics import metrics
from ._state import MonitorState, initial
from ._step import Step, alike, examples, moving, number


class Monitor(eqx.Module):
    r"""Watches a training run: temperature, noise, rates, edge of stability, lost updates.

    ```
    monitor = rx.Monitor(batch_size=32)
    state = monitor.init(params)                                      # once
    state, metrics = monitor.update(state, params=params, grads=grads, updates=updates, **extra)   # in the jitted step
    ```

    `metrics` is a flat `dict[str, scalar]` whose names, definitions and advice stand in `docs/optimizers.md`.  Nothing
    leaves the device: return the metrics from the step, or stack them with `lax.scan`, and write them where you like.

    **Arguments:**

    - `batch_size`: examples in `grads`; needed for what is said of ONE example (`trace_sigma`, `critical_batch`,
        `recommended_batch`) unless `batch` is given to `update`.
    - `dataset_size`: with it and the batch size, `noise_scale`.
    - `every`: steps between the expensive measurements, 2 at least.  The first is made at the first step.
    - `decay`: of the averages over steps.
    - `number_format`: of which the survival of updates is told, one of `rx.quantization.FORMATS`; `None` for none.
    - `lanczos_steps`: Hessian-vector products for `lambda_max`.
    - `path_points`: losses on the segment to the last snapshot.
    - `micro_batches`: parts in which the batch is taken for its noise.
    - `differences`: keep the last gradient, one more tree, so that the noise can be told from gradients alone.

    **Memory**: two trees like the parameters, three with `differences`; of expensive entries nothing but numbers.
    While curvature is measured, `lanczos_steps` vectors as long as all parameters, whole on each device if these are
    sharded.

    **Good values:** a measurement costs some 40 gradients of the batch (`lanczos_steps` 10 and `path_points` 9), so
    `every` 500 to 1000 where the gradient is most of a step, for 4 to 9 % more.  The rest is passes over trees like the
    parameters at every step: 23 % of a step with 1024 examples, more than the step itself with 32, on one core of a CPU
    (measured in `benchmarks/optimizers_time.md`).
    **How it fails:** under `vmap` both sides of a `lax.cond` are computed, so that every step costs as much as a
    measured one; leave `loss_fn` out there.  For Adam and momentum, `rate`, `temperature`, `log_rate` and `edge` are
    gauges, not identities; `step_edge` and `fluctuation_dissipation` hold for every optimizer.

    A step whose gradient or update is not finite is counted in `nonfinite` and enters no average, no measurement and
    no memory: all metrics keep their last value but `grad_norm` and `update_norm`, which show what came.

    **Raises:** `ValueError` for a setting out of its range or trees that do not fit.

    ```python
    >>> import jax, jax.numpy as jnp, optax, rxjax as rx
    >>> loss = lambda p, x: jnp.mean((p - x) ** 2) / 2
    >>> monitor, optimizer = rx.Monitor(batch_size=8, every=10), optax.sgd(0.1)
    >>> def step(carry, key):
    ...     params, opt, seen = carry
    ...     grads = jax.grad(loss)(params, jax.random.normal(key, (8,)))
    ...     updates, opt = optimizer.update(grads, opt, params)
    ...     seen, metrics = monitor.update(seen, params=params, grads=grads, updates=updates)
    ...     return (optax.apply_updates(params, updates), opt, seen), metrics
    >>> start = jnp.array(1.0)
    >>> carry = (start, optimizer.init(start), monitor.init(start))
    >>> _, history = jax.lax.scan(step, carry, jax.random.split(jax.random.key(0), 400))
    >>> print(f"{history['rate'][-1]:.2f} {history['trace_sigma'][-1]:.1f}")
    0.10 1.0

    ```
    """

    batch_size: float | int | None = eqx.field(static=True)
    dataset_size: float | int | None = eqx.field(static=True)
    every: int = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    number_format: str | None = eqx.field(static=True)
    lanczos_steps: int = eqx.field(static=True)
    path_points: int = eqx.field(static=True)
    micro_batches: int = eqx.field(static=True)
    differences: bool = eqx.field(static=True)

    def __init__(
        self,
        batch_size: float | int | None = None,
        *,
        dataset_size: float | int | None = None,
        every: int = 100,
        decay: float = 0.98,
        number_format: str | None = "bfloat16",
        lanczos_steps: int = 10,
        path_points: int = 9,
        micro_batches: int = 8,
        differences: bool = True,
    ):
        for x, name in ((batch_size, "batch_size"), (dataset_size, "dataset_size")):
            if x is not None:
                check_setting(x, name, 1.0, closed=True)
        least = {"every": 2, "lanczos_steps": 1, "path_points": 2, "micro_batches": 2}
        for name, value in zip(least, (every, lanczos_steps, path_points, micro_batches), strict=True):
            if value < least[name] or value % 1:
                must = f"be a whole number of at least {least[name]}"
                raise ValueError(f"Argument `{name}` must {must}, but it is {value}.")
        check_setting(decay, "decay", 0.0, 1.0, closed=True)
        if number_format is not None:
            resolve(number_format, "number_format")
        self.batch_size, self.dataset_size = batch_size, dataset_size
        self.every, self.decay, self.number_format = every, decay, number_format
        self.lanczos_steps, self.path_points, self.micro_batches = lanczos_steps, path_points, micro_batches
        self.differences = differences

    def init(self, params: PyTree) -> MonitorState:
        """The state before the first step.  `params` is what `update` will be given: arrays, or a module with them."""
        return initial(moving(params), self.differences)

    def update(
        self,
        state: MonitorState,
        *,
        params: PyTree,
        grads: PyTree,
        updates: PyTree,
        loss: ArrayLike | None = None,
        opt_state: Any = None,
        learning_rate: ArrayLike | None = None,
        loss_fn: Callable | None = None,
        batch: PyTree | None = None,
        micro_grads: PyTree | None = None,
        **extra_args,
    ) -> tuple[MonitorState, dict[str, Array]]:
        """Take in one step.  What is not given leaves its metrics out, by the structure of the call, never by a value.

        **Arguments:**

        - `params`: the parameters BEFORE the step, where the gradient was taken.
        - `grads`: the mini-batch gradient, before clipping.
        - `updates`: what the optimizer adds to the parameters.
        - `loss`: shown as it is.
        - `opt_state`: the optimizer's state after the step; `learning_rate`, `log_rate`, `gauge`, `phase`, `skipped`
          and `recommended_batch` are read from it where it has them, and the noise of `rx.optim.batch_controller`.
        - `learning_rate`: where no state has it.
        - `loss_fn` and `batch`: `loss_fn(params, batch)` and the examples of this step, for curvature, barrier and the
          noise from micro-batches.  `loss_fn` must accept `params` as they are given here.
        - `micro_grads`: gradients of equal parts of the batch, with a leading axis: the noise at every step.
        - other arguments are ignored.

        The noise comes from `micro_grads`, else from a `batch_controller` in `opt_state`, else from micro-batches of
        `batch` every so many steps, else from the differences of successive gradients.  The last is too large by half
        the squared change of the mean gradient in a step: wrong while the loss falls fast and at the edge of
        stability.

        **Returns:** the new state and the metrics, float32 or wider.
        """
        del extra_args
        theta = moving(params)
        alike(state.snapshot, theta, "state", dtypes=True)
        if self.differences:
            alike(state.previous, theta, "state")
        g, u = widened(alike(grads, theta, "grads")), widened(alike(updates, theta, "updates"))
        dtype: Any = state.gauges.drift.dtype
        xi = state.displacement
        batch_size = examples(batch) if self.batch_size is None else self.batch_size
        to_measure = None if loss_fn is None else batch
        source = _noise.source(micro_grads, opt_state, batch_size, to_measure, self.differences)
        wide = widened(theta)
        pairs = [(g, xi), (g, g), (xi, xi), (u, u), (wide, wide), (xi, u)]
        if source == "differences":
            change = jax.tree.map(jnp.subtract, g, state.previous)
            pairs += [(g, state.previous), (change, change)]
        # All at once, so that each array is read once and few kernels are compiled.
        found = inners(pairs, dtype)
        sums = Sums(*found[:5], size=size(xi))
        finite = jnp.isfinite(sums.gradient) & jnp.isfinite(sums.update)
        step = Step(
            params=params,
            theta=theta,
            gradient=g,
            update=u,
            sums=sums,
            work=found[5],
            successive=found[6:],
            source=source,
            finite=finite,
            due=finite & (state.gauges.steps % self.every == 0),
            loss=number(loss, "loss"),
            opt_state=opt_state,
            learning_rate=number(learning_rate, "learning_rate"),
            loss_fn=loss_fn,
            batch=batch,
            micro_grads=micro_grads,
            batch_size=batch_size,
        )
        state = _noise.at_every_step(state, step, self.differences, self.decay)
        state = measured(state, step, self)
        state = gauged(state, step, self.decay)
        return state, metrics(state, step, self)

    def live(self, total: int | None = None, console: Any = None) -> Any:
        """A live table on the terminal: `with monitor.live(total) as table: table.show(step, metrics)`.

        **Arguments:**

        - `total`: steps in all, for the bar.
        - `console`: a `rich.console.Console`; standard error if not given.  Silent where it is no terminal.

        ```python
        >>> import rxjax as rx
        >>> with rx.Monitor().live(total=10) as table:
        ...     table.show(5, {"loss": 0.5, "log_rate": -0.9})

        ```
        """
        from ._live import LiveTable

        return LiveTable(total, console)
