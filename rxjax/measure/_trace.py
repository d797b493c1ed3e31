"""The trace of the Hessian from random probes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PyTree

from rxjax_solvers._program import program

from ._curvature import flat_loss
from ._estimate import Estimate, deviation


def trace(
    loss_fn: Callable,
    params: PyTree,
    batch: PyTree,
    *,
    probes: int = 30,
    deflate: int = 0,
    key: Array | None = None,
) -> Estimate:
    r"""Trace of the Hessian of the loss on ONE fixed batch, the sum of all curvatures, with its standard error.

    Hutchinson's estimator, the mean of $z^\top H z$ over probes $z$ of random signs.  With `deflate` the trace on the
    span of $H s_1, \dots, H s_m$, with $s$ of random signs, is computed exactly and probes serve for the rest alone
    (Hutch++).  Both are UNBIASED at any number of probes.

    **Arguments:**

    - `loss_fn`, `params`, `batch`: as in [`lambda_max`][].
    - `probes`: two or more, one Hessian-vector product each, one after the other: about two gradients.
    - `deflate`: $m$; two products each and `m` vectors like the parameters in memory.  It pays where few
      curvatures outweigh all others, as in a trained classifier.
    - `key`: of the probes; fixed if not given.

    **Returns:** an [`Estimate`][], in the units of the loss over squared parameters.  The error is that of the random
    probes on this batch; it does not tell how the trace varies from batch to batch.

    Good values: 30 probes; the relative error is about $\sqrt{2\,\mathrm{tr}H^2/\text{probes}}/\mathrm{tr}H$, less
    where the Hessian is nearly diagonal.  **How it fails:** curvatures of both signs cancel in the trace and not in
    its error.

    **Raises:** `ValueError` for `params` without a real floating array, fewer than two probes, or a `deflate` that is
    negative or exceeds the number of parameters.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> loss = lambda p, x: jnp.sum(x * p["w"] ** 2) / 2
    >>> print(rx.measure.trace(loss, {"w": jnp.ones(3)}, jnp.array([1.0, 5.0, 3.0])).value)
    9.0

    ```

    Source: Hutchinson (1989); Meyer, Musco, Musco and Woodruff, "Hutch++: optimal stochastic trace estimation" (2021).
    """
    if probes < 2:
        raise ValueError(f"Argument `probes` must be at least 2, but it is {probes}.")
    return _measured(loss_fn, params, batch, probes, deflate, jr.key(0) if key is None else key)


@program
def _measured(loss_fn: Callable, params: PyTree, batch: PyTree, probes: int, deflate: int, key: Array) -> Estimate:
    gradient, product = flat_loss(loss_fn, params, batch).expand()
    size, dtype = gradient.size, gradient.dtype
    if not 0 <= deflate <= size:
        raise ValueError(f"Argument `deflate` must be from 0 to the number of parameters, {size}, but it is {deflate}.")
    k_span, k_probes = jr.split(key)
    signs = lambda key: jr.rademacher(key, (size,), dtype)
    inside, apart = jnp.zeros((), dtype), lambda z: z
    if deflate:
        stretched = jax.lax.map(lambda key: product(signs(key)), jr.split(k_span, deflate))
        span = jnp.linalg.qr(stretched.T)[0].T
        inside = jnp.sum(jax.lax.map(lambda q: jnp.sum(q * product(q)), span))
        exact = jax.lax.Precision.HIGHEST
        apart = lambda z: z - jnp.matmul(jnp.matmul(span, z, precision=exact), span, precision=exact)

    def sample(key):
        z = apart(signs(key))
        return jnp.sum(z * product(z))

    samples = jax.lax.map(sample, jr.split(k_probes, probes))
    return Estimate(inside + jnp.mean(samples), deviation(samples) / probes**0.5)
