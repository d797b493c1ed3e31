"""The largest eigenvalue of the Hessian by Lanczos' method."""

from collections.abc import Callable

import equinox as eqx
import jax.random as jr
from jaxtyping import Array, Float, PyTree

from rxjax_solvers._program import program

from ._curvature import flat_loss
from ._lanczos import ritz_pairs


class LargestEigenvalue(eqx.Module):
    """What [`lambda_max`][] found.

    - `value`: the largest Ritz value, in the units of a curvature.
    - `error`: the norm of its residual; an exact eigenvalue lies within `value` plus or minus `error`.
    """

    value: Float[Array, ""]
    error: Float[Array, ""]


def lambda_max(
    loss_fn: Callable, params: PyTree, batch: PyTree, *, steps: int = 20, key: Array | None = None
) -> LargestEigenvalue:
    r"""Largest eigenvalue of the Hessian of the loss on ONE fixed batch, from `steps` Hessian-vector products.

    Lanczos' method with full reorthogonalisation from a random start.  The estimate is a Rayleigh quotient and so
    never above the true value (but for rounding): its bias is downward and shrinks geometrically with `steps`.
    `lambda_max * learning_rate / 2 = 1` is the edge of stability of full-batch descent.

    **Arguments:**

    - `loss_fn`: `loss_fn(params, batch)`, a real number.
    - `params`: any PyTree; its real floating arrays are the parameters, all else is left alone.
    - `batch`: handed to `loss_fn`.  The Hessian is that of this batch: take the whole data set, or one batch of 1000
      examples, and keep it, since curvatures of different batches cannot be compared.
    - `steps`: Hessian-vector products, each of the cost of about two gradients; one more finds their size.  Memory:
      `steps` vectors like the parameters.
    - `key`: of the random start; fixed if not given.

    **Returns:** a [`LargestEigenvalue`][], in the units of the loss over squared parameters.

    Good values: 20 steps for a well-separated edge (`error` tells), 40 in the bulk.  **How it fails:** a Hessian whose
    largest eigenvalue in magnitude is far below zero needs more steps.  Products are taken in the dtype of the
    parameters: bfloat16 gives two digits.  ReLU networks have the Hessian of their smooth pieces.

    **Raises:** `ValueError` for `params` without a real floating array, or `steps` below 1.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> loss = lambda p, x: jnp.sum(x * p["w"] ** 2) / 2
    >>> top = rx.measure.lambda_max(loss, {"w": jnp.ones(3)}, jnp.array([1.0, 5.0, 3.0]))
    >>> print(f"{top.value:.3f}", bool(top.error < 1e-4))
    5.000 True

    ```

    Source: Lanczos (1950), by `matfree`; Cohen et al., "Gradient descent on neural networks typically occurs at the
    edge of stability" (2021).
    """
    if steps < 1:
        raise ValueError(f"Argument `steps` must be at least 1, but it is {steps}.")
    return _measured(loss_fn, params, batch, steps, jr.key(0) if key is None else key)


@program
def _measured(loss_fn: Callable, params: PyTree, batch: PyTree, steps: int, key: Array) -> LargestEigenvalue:
    gradient, product = flat_loss(loss_fn, params, batch).expand()
    return largest_eigenvalue(product, gradient, steps, key)


def largest_eigenvalue(product: Callable, like: Array, steps: int, key: Array) -> LargestEigenvalue:
    """The largest Ritz value of `steps` products of vectors shaped `like` this one, and its residual."""
    found = ritz_pairs(product, jr.normal(key, like.shape, like.dtype), steps)
    return LargestEigenvalue(found.values[-1], found.errors[-1])
