"""The local entropy of a network: the log volume of good parameters around a point, for a quadratic loss."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, PyTree

from rxjax_solvers._checks import is_traced, require
from rxjax_solvers._program import program

from .._arrays import real_arrays
from .._known import positive
from ._curvature import flat_loss
from ._estimate import Estimate, deviation
from ._lanczos import Ritz, ritz_pairs


def local_entropy(
    loss_fn: Callable,
    params: PyTree,
    batch: PyTree,
    temperature: ArrayLike,
    gamma: ArrayLike,
    *,
    probes: int = 10,
    steps: int = 20,
    key: Array | None = None,
    k: ArrayLike = 1.0,
) -> Estimate:
    r"""Local entropy of the loss on ONE fixed batch, $S/k = \log\int e^{-(L(x)-L(\theta))/kT-\gamma|x-\theta|^2/2} dx$,
    with the loss replaced by its second-order expansion at $\theta$,

    $$\frac{S}{k} = \frac d2 \log\frac{2\pi}{\gamma} - \frac12 \mathrm{tr}\log\Big(I + \frac{H}{\gamma kT}\Big)
      + \frac12\, \frac{g^\top}{kT} \Big(\frac{H}{kT} + \gamma I\Big)^{-1} \frac{g}{kT}.$$

    The trace of the logarithm by stochastic Lanczos quadrature, the mean over probes of random signs; the last term by
    one more run of Lanczos' method from the gradient, and so without sampling error.  For a loss in few dimensions, or
    beyond second order, see [`rxjax.free_entropy`][], of which this is the value on a quadratic.

    **Arguments:**

    - `loss_fn`, `params`, `batch`: as in [`lambda_max`][].
    - `temperature`: $T > 0$ per parameter, see `rxjax.effective_temperature(..., per_parameter=True)`.
    - `gamma`: $\gamma > 0$, inverse squared radius of the neighbourhood: $d$ independent coordinates of variance
      $1/\gamma$ each.
    - `probes`: two or more, with `steps` Hessian-vector products each and one more, about two gradients a product.
      Memory: `steps` vectors like the parameters.
    - `key`: of the probes; fixed if not given.
    - `k`: scaling constant $k > 0$.

    **Returns:** an [`Estimate`][], in units of `k` and relative to unit volume.  It is of the order of $d$, so that
    differences between points are what counts: take them with the same `gamma` and `key`, where the noise of the
    probes largely cancels.  The bias of the quadrature is downward where $H$ is positive and shrinks geometrically in
    `steps` over $\sqrt{1 + \lambda_{max}/\gamma kT}$.

    Good values: `steps` of twice that root, 10 probes.  **How it fails:** with $\gamma kT$ below the most negative
    curvature the quadratic has no integral, and with little above it the loss beyond second order decides.

    **Raises:** `ValueError` (inside `jit`, a run-time error) where $H + \gamma kT I$ is seen not to be positive
    definite, for numbers that are not positive, fewer than two probes or no step.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> loss = lambda x, _: jnp.sum(x**2) / 2
    >>> found = rx.measure.local_entropy(loss, jnp.array([1.0, 0.0]), None, temperature=1.0, gamma=1.0)
    >>> print(f"{found.value:.4f}")
    1.3947

    ```

    Source: Chaudhari et al., "Entropy-SGD" (2017); Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic
    Lanczos quadrature" (2017).
    """
    if probes < 2:
        raise ValueError(f"Argument `probes` must be at least 2, but it is {probes}.")
    if steps < 1:
        raise ValueError(f"Argument `steps` must be at least 1, but it is {steps}.")
    temperature, gamma, k = real_arrays(temperature=temperature, gamma=gamma, k=k)
    for name, x in (("temperature", temperature), ("gamma", gamma), ("k", k)):
        if x.ndim:
            raise ValueError(f"Argument `{name}` must be a scalar, but it has shape {x.shape}. Vmap over many.")
    temperature, gamma, k = positive(temperature, "temperature"), positive(gamma, "gamma"), positive(k, "k")
    key = jr.key(0) if key is None else key
    found, lowest = _measured(loss_fn, params, batch, k * temperature, gamma, probes, steps, key)
    faults = [(lowest <= -1, "does not")]
    remedy = "Raise it, or measure at a minimum."
    shown = None if is_traced(lowest) else f"curvature {float(lowest * gamma * k * temperature):.3g}"
    must = "make `H + gamma * k * temperature` positive definite"
    return Estimate(k * require(found.value, "gamma", must, faults, remedy, shown), k * found.standard_error)


@program
def _measured(
    loss_fn: Callable,
    params: PyTree,
    batch: PyTree,
    kt: Array,
    gamma: Array,
    probes: int,
    steps: int,
    key: Array,
) -> tuple[Estimate, Array]:
    """The entropy in units of `k`, and the lowest Ritz value over `gamma kT`."""
    gradient, product = flat_loss(loss_fn, params, batch).expand()
    size, dtype = gradient.size, gradient.dtype
    kt, gamma = kt.astype(dtype), gamma.astype(dtype)

    def run(start: Array) -> tuple[Ritz, Array]:
        # Values relative to the spring's stiffness, those beyond the end of the Krylov space without weight.
        found = ritz_pairs(lambda v: product(v) / (gamma * kt), start, steps)
        return found, jnp.where(found.known, found.values, 0)

    def sample(key: Array) -> tuple[Array, Array]:
        found, values = run(jr.rademacher(key, (size,), dtype))
        logs = jnp.log1p(jnp.maximum(values, jnp.nextafter(jnp.asarray(-1, dtype), jnp.asarray(0, dtype))))
        return size * jnp.sum(found.vectors[0] ** 2 * logs), jnp.min(values)

    samples, lowest = jax.lax.map(sample, jr.split(key, probes))
    found, values = run(gradient)
    lowest = jnp.minimum(jnp.min(lowest), jnp.min(values))
    pull = jnp.sum((gradient / kt) ** 2) / gamma
    pull = pull * jnp.sum(found.vectors[0] ** 2 / jnp.where(values > -1, 1 + values, 1))
    value = size / 2 * (math.log(2 * math.pi) - jnp.log(gamma)) - jnp.mean(samples) / 2 + pull / 2
    return Estimate(value, deviation(samples) / (2 * probes**0.5)), lowest
