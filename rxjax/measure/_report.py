"""What the theory says about a network at the point where it stands."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._critical_rates import critical_learning_rate
from .._hyperparameters import Hyperparameters
from .._temperature import batch_covariance, effective_temperature
from ._estimate import Estimate
from ._gradient_noise import count_units, gradient_noise
from ._lambda_max import lambda_max
from ._optimal_learning_rate import optimal_learning_rate
from ._trace import trace

_UNITS = {
    "squared_gradient": "squared gradient",
    "noise_trace": "squared gradient",
    "critical_batch_size": "examples",
    "temperature": "loss",
    "temperature_per_parameter": "loss",
    "lambda_max": "curvature",
    "critical_learning_rate": "learning rate",
    "edge": "1 at the edge of stability",
    "hessian_trace": "curvature",
    "optimal_learning_rate": "learning rate",
    "maximal_learning_rate": "learning rate",
    "noise_batch_size": "examples",
}


class Report(eqx.Module):
    r"""What [`report`][] measured, each an [`Estimate`][]; `print` shows the table.

    - `squared_gradient`: $|G|^2$.  `noise_trace`: $\mathrm{tr}\,\Sigma_1$ of one example.
    - `critical_batch_size`: their ratio.
    - `temperature`: $(\eta/2)\,\mathrm{tr}\,C$ of the run.  `temperature_per_parameter`: that over the number of
      parameters.
    - `lambda_max`: the largest curvature.  `critical_learning_rate`: of full-batch descent with the run's momentum.
      `edge`: the run's learning rate over it.
    - `hessian_trace`: the sum of all curvatures.
    - `optimal_learning_rate`, `maximal_learning_rate`, `noise_batch_size`: of the next step without momentum.
    """

    squared_gradient: Estimate
    noise_trace: Estimate
    critical_batch_size: Estimate
    temperature: Estimate
    temperature_per_parameter: Estimate
    lambda_max: Estimate
    critical_learning_rate: Estimate
    edge: Estimate
    hessian_trace: Estimate
    optimal_learning_rate: Estimate
    maximal_learning_rate: Estimate
    noise_batch_size: Estimate

    def as_dict(self) -> dict[str, Estimate]:
        """The entries by name."""
        return {name: getattr(self, name) for name in _UNITS}

    def __str__(self) -> str:
        number = lambda x: f"{float(x):.3g}"
        rows = [(n, number(e.value), number(e.standard_error), _UNITS[n]) for n, e in self.as_dict().items()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        line = lambda r: f"{r[0]:<{widths[0]}}  {r[1]:>{widths[1]}} +- {r[2]:<{widths[2]}}  {r[3]}"
        return "\n".join(map(line, rows))


def report(
    loss_fn: Callable,
    params: PyTree,
    batch: PyTree,
    hyperparameters: Hyperparameters,
    *,
    micro_batches: int = 16,
    chunk_size: int = 32,
    lanczos_steps: int = 20,
    probes: int = 20,
    key: Array | None = None,
) -> Report:
    r"""Temperature, sharpness, critical batch and best learning rate of a network, in one call, each with its error.

    Calls [`gradient_noise`][] on single examples, [`lambda_max`][], [`trace`][] and [`optimal_learning_rate`][], whose
    units, estimators and biases stand there.

    **Arguments:**

    - `loss_fn`: `loss_fn(params, batch)`, the MEAN loss over the examples of a batch.
    - `params`: any PyTree (dicts, Equinox modules, Flax parameters).
    - `batch`: a PyTree of arrays with a leading axis over examples: the run's data set, or a part of it drawn without
      replacement.
    - `hyperparameters`: [`rxjax.Hyperparameters`][] of the run, scalars.
    - `micro_batches`: for the best learning rate; the examples that they leave over are not used there.
    - `chunk_size`: single gradients in memory at a time.
    - `lanczos_steps`, `probes`: Hessian-vector products for `lambda_max` and for the trace.
    - `key`: of the random starts and probes; fixed if not given.

    **Returns:** a [`Report`][].  Errors of gradient noise, temperature and best rate are sampling errors with respect
    to the run's data set, zero for the first two if `batch` is all of it; that of `lambda_max` bounds its distance from
    an eigenvalue of this batch, that of the trace is of the probes.  The cost is some 100 gradients of `batch`, and
    four programs are compiled.

    **How it fails:** as its parts do.  Without upward curvature the critical rate is infinite.  A loss that is not a
    mean over examples, as with batch normalisation, has no gradient noise of one example.

    **Raises:** `ValueError` for a batch of fewer than `micro_batches` examples, several hyperparameters, and as its
    parts do.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> loss = lambda w, x: jnp.mean((w - x) ** 2)
    >>> run = rx.Hyperparameters(0.1, batch_size=2, dataset_size=100)
    >>> found = rx.measure.report(loss, jnp.array(0.0), jnp.array([1.0, 2.0, 3.0, 6.0]), run, micro_batches=4)
    >>> print("\n".join(str(found).splitlines()[3:6]))
    temperature                0.462 +- 0.392     loss
    temperature_per_parameter  0.462 +- 0.392     loss
    lambda_max                     2 +- 2.38e-07  curvature

    ```

    Source: those of its parts.
    """
    several = [x.shape for x in jax.tree.leaves(hyperparameters) if x.ndim]
    if several:
        raise ValueError(
            f"Argument `hyperparameters` must be those of one run, but some have shape {several[0]}. Vmap over many."
        )
    count = count_units(batch, 1, least=2)
    if not 3 <= micro_batches <= count:
        raise ValueError(
            f"Argument `micro_batches` must be from 3 to the {count} examples of `batch`, but it is {micro_batches}."
        )
    data = {"sampling": "without_replacement", "dataset_size": hyperparameters.dataset_size}
    noise = gradient_noise(loss_fn, params, batch, chunk_size=chunk_size, **data)
    top = lambda_max(loss_fn, params, batch, steps=lanczos_steps, key=key)
    total = trace(loss_fn, params, batch, probes=probes, key=key)
    one = batch_covariance(jnp.ones((), noise.trace.value.dtype), hyperparameters)
    # A step on all the data has no noise: a batch size beyond which none is left above rounding.
    batch_size = 1 / jnp.maximum(one, jnp.finfo(one.dtype).eps ** 2)
    unit = count // micro_batches
    whole = jax.tree.map(lambda x: x[: unit * micro_batches], batch)
    rates = optimal_learning_rate(loss_fn, params, whole, batch_size, micro_batch_size=unit, key=key, **data)

    dim = sum(x.size for x in jax.tree.leaves(eqx.filter(params, eqx.is_inexact_array)))
    run = hyperparameters
    heat = effective_temperature(run.learning_rate, trace=one, momentum=run.momentum)
    # What the critical rate times the curvature is; of no or negative curvature there is no limit.
    bound = critical_learning_rate(jnp.ones((), top.value.dtype), momentum=run.momentum)
    flat = top.value <= 0
    limit = jnp.where(flat, jnp.inf, bound / jnp.where(flat, 1, top.value))
    spread = jnp.where(flat, jnp.inf, limit * top.error / jnp.where(flat, 1, top.value))
    return Report(
        squared_gradient=noise.squared_gradient,
        noise_trace=noise.trace,
        critical_batch_size=noise.ratio,
        temperature=_times(noise.trace, heat),
        temperature_per_parameter=_times(noise.trace, heat / dim),
        lambda_max=Estimate(top.value, top.error),
        critical_learning_rate=Estimate(limit, spread),
        edge=_times(Estimate(top.value, top.error), run.learning_rate / bound),
        hessian_trace=total,
        optimal_learning_rate=rates.optimal,
        maximal_learning_rate=rates.maximal,
        noise_batch_size=rates.noise_batch,
    )


def _times(estimate: Estimate, factor: Array) -> Estimate:
    return Estimate(estimate.value * factor, estimate.standard_error * factor)
