"""Learning rates at which descent on a quadratic stops converging (row 11 of the theory), and batch sharpness."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import finite, is_traced, positive, require

from ._arrays import real_arrays, summation_dtype
from ._hyperparameters import check_count, check_momentum


def critical_learning_rate(
    lambda_max: ArrayLike, *, momentum: ArrayLike = 0.0, nesterov: bool = False, ema: bool = False
) -> Float[Array, "..."]:
    r"""Critical learning rate of FULL-BATCH gradient descent, $\eta_c = 2/\lambda_{max}(H)$, and its momentum variants.

    Above it the iteration diverges along the sharpest direction of a quadratic.  On a real network the sharpness then
    settles at $2/\eta$ instead: the edge of stability.

    | descent | step $\theta \leftarrow \theta - \eta s$ | $\eta_c$ |
    |---|---|---|
    | plain | $s = g$ | $2/\lambda$ |
    | heavy ball, `momentum=mu` | $s = v \leftarrow \mu v + g$ | $2(1+\mu)/\lambda$ |
    | Nesterov, `nesterov=True` | $s = g + \mu v,\ v \leftarrow \mu v + g$ first | $2(1+\mu)/(\lambda(1+2\mu))$ |
    | moving average, `ema=True` | $s = v \leftarrow \mu v + (1-\mu) g$ | $2(1+\mu)/((1-\mu)\lambda)$ |

    `nesterov` and `ema` together multiply the Nesterov limit by $1/(1-\mu)$.

    **Arguments:**

    - `lambda_max`: the largest eigenvalue of the Hessian, above zero, any shape.
    - `momentum`: $\mu$ in $[0, 1)$, a number or an array of the shape of `lambda_max`.
    - `nesterov`, `ema`: as above; `optax.sgd` is the heavy ball and Nesterov form, `optax.ema` the moving average.

    **Returns:** $\eta_c$, in the units of a learning rate.  With gradient noise the limit is lower: see
    [`sgd_critical_learning_rate`][].

    **Raises:** `ValueError` (inside `jit`, a run-time error) for a curvature that is not positive or a momentum outside
    $[0, 1)$.

    ```python
    >>> import rxjax as rx
    >>> print(rx.critical_learning_rate(4.0), rx.critical_learning_rate(1.0, momentum=0.9))
    0.5 3.8

    ```

    Source: the plain limit is the framework's; heavy ball after Polyak (1964); all three momentum forms as in Cohen et
    al., "Gradient descent on neural networks typically occurs at the edge of stability" (2021), appendix B.
    """
    sharpness, mu = real_arrays(lambda_max=lambda_max, momentum=momentum)
    remedy = "Descent along a direction of no or negative curvature has no critical rate."
    sharpness, mu = positive(sharpness, "lambda_max", remedy), check_momentum(mu)
    rate = 2 * (1 + mu) / sharpness
    if nesterov:
        rate = rate / (1 + 2 * mu)
    return rate / (1 - mu) if ema else rate


def sgd_critical_learning_rate(
    batch_size: ArrayLike, dim: ArrayLike, *, curvature: ArrayLike = 1.0
) -> Float[Array, "..."]:
    r"""Mean-square limit of SGD on a linear regression with isotropic Gaussian inputs, $2B/((B + 1 + d)\,h)$.

    For inputs $x \sim N(0, h I_d)$ the Hessian of one example, $x x^\top$, fluctuates as strongly as it averages.  The
    mean parameters still converge below $2/h$, but their second moment grows without bound above this limit, which for
    $B \ll d$ is proportional to the batch size.

    **Arguments:**

    - `batch_size`: $B \geq 1$, drawn with replacement, any shape.
    - `dim`: $d \geq 1$.
    - `curvature`: $h > 0$, the common eigenvalue of the mean Hessian.

    The three are numbers or arrays of one shape.

    **Returns:** the largest learning rate at which $E|\theta|^2$ stays bounded, without momentum.  Exact for this model
    only; for other isotropic inputs, $E[|x|^2 x x^\top] = m h^2 I$, replace $d + 1$ by $m - 1$.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for counts below one or a curvature that is not positive.

    ```python
    >>> import rxjax as rx
    >>> print(f"{rx.sgd_critical_learning_rate(8, 1):.4f} {rx.sgd_critical_learning_rate(8, 1000):.4f}")
    1.6000 0.0159

    ```

    Source: the exact second moment of the update on Gaussian data (Isserlis' theorem); compare Jain et al.,
    "Parallelizing stochastic gradient descent for least squares regression" (2018).
    """
    batch, dim, curvature = real_arrays(batch_size=batch_size, dim=dim, curvature=curvature)
    batch, dim = check_count(batch, "batch_size"), check_count(dim, "dim")
    return 2 * (batch / (batch + 1 + dim)) / positive(curvature, "curvature")


def batch_sharpness(gradients: ArrayLike, hessian_gradients: ArrayLike) -> Float[Array, ""]:
    r"""Batch sharpness, $E[g_B^\top H_B\, g_B] / E|g_B|^2$: the curvature that a stochastic step meets.

    SGD trains at an edge of stability of its own, where this quantity (and not $\lambda_{max}$ of the full Hessian)
    settles at $2/\eta$.

    **Arguments:**

    - `gradients`: mini-batch gradients $g_B$, shape `(n, d)`, one row a batch.
    - `hessian_gradients`: $H_B\, g_B$, the Hessian-vector product of each batch with its own gradient, same shape.

    **Returns:** the ratio of the two means (not the mean of ratios), in the units of a curvature; summed in float32 at
    least and safe against overflow.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for shapes that differ, numbers that are not finite, or
    gradients that are all zero.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> g = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> print(rx.batch_sharpness(g, g * jnp.array([3.0, 1.0])))
    1.4

    ```

    Source: Andreyev and Beneventano, "Edge of stochastic stability" (2024).
    """
    g, hg = real_arrays(gradients=gradients, hessian_gradients=hessian_gradients)
    if g.ndim != 2 or g.shape[0] == 0:
        raise ValueError(f"Argument `gradients` must have shape (n, d) with n >= 1, but it has shape {g.shape}.")
    if hg.shape != g.shape:
        raise ValueError(
            f"Argument `hessian_gradients` must have the shape of `gradients`, but it has {hg.shape} and not {g.shape}."
        )
    g, hg = finite(g, "gradients"), finite(hg, "hessian_gradients")
    dtype = summation_dtype(jnp.result_type(g, hg))
    g, hg = g.astype(dtype), hg.astype(dtype)
    largest = jnp.max(jnp.abs(g), initial=0.0)
    remedy = "At a point where every batch has a zero gradient no step is taken."
    shown = None if is_traced(largest) else "all zero"
    largest = require(largest, "gradients", "have a non-zero row", [(largest == 0, "has none")], remedy, shown)
    g = g / largest
    return jnp.sum(g * (hg / largest)) / jnp.sum(g**2)
