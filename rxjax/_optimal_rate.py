"""The optimal learning rate of SGD on a quadratic model, in closed form (row 16 of the theory and section 5)."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import finite, non_negative, one_of, positive, require

from ._arrays import real_array, real_arrays, size_of, summation_dtype
from ._covariance import check_covariance, check_symmetric, product_diagonal, times
from ._hyperparameters import check_count


def optimal_learning_rate(
    gradient: ArrayLike, hessian: ArrayLike, covariance: ArrayLike, *, rate_law: str = "constant"
) -> Float[Array, ""]:
    r"""Optimal learning rate of SGD, in closed form for a quadratic model of the loss.

    $$\eta_{opt} = \mathrm{argmax}_\eta \int \rho(\delta; \eta)\, [L(\theta) - L(\theta+\delta)]\, d\delta.$$

    The updates are those of SGD, $\delta \sim N(-\eta g, \eta^2 C)$, and the gain is
    $-g\cdot\delta - \delta^\top H \delta/2$.

    - `rate_law="constant"`: every proposed update happens, $\rho$ is its density.  Then $\eta_{opt}$ maximises the
      expected decrease of the loss in one step: $|g|^2/(g^\top H g + \mathrm{tr}(HC))$.
    - `rate_law="arrhenius"`: each is weighted by $e^{-g\cdot\delta/kT}$ at $kT = (\eta/2)\,\mathrm{tr}\,C$.  Then
      $g^\top M g/(g^\top M H M g + \mathrm{tr}(HC))$ with $M = I + 2C/\mathrm{tr}\,C$, which tends to the first for
      isotropic noise as $d$ grows.

    For other proposals, rate laws and losses see [`optimal_learning_rate_integral`][].

    **Arguments:**

    - `gradient`: $g$ of the full loss, shape `(d,)`.
    - `hessian`: $H$, symmetric, shape `(d, d)`, its diagonal `(d,)`, or a number for a multiple of the identity.
    - `covariance`: $C$ of the MINI-BATCH gradient (see `batch_covariance`), shaped like `hessian`.
    - `rate_law`: as above.

    **Returns:** $\eta_{opt}$, zero at a critical point with noise.  It is the best rate for ONE step; a schedule chosen
    so greedily is too small for a whole run, since it shuns the directions in which noise costs now and pays later.

    **Raises:** `ValueError` (inside `jit`, a run-time error) where the expected loss has no minimum over $\eta$ (the
    denominator is not positive), for Arrhenius without noise (temperature zero), or for arrays that do not fit.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> g, h, c = jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0]), jnp.array([0.5, 0.1])
    >>> print(f"{rx.optimal_learning_rate(g, h, c):.4f}")
    0.3623
    >>> print(f"{rx.optimal_learning_rate(g, h, c, rate_law='arrhenius'):.4f}")
    0.2736

    ```

    Source: the framework's definition of the optimal rate.  With the constant law it is the rate of McCandlish et al.,
    "An empirical model of large-batch training" (2018), eq. 2.7.
    """
    one_of(rate_law, "rate_law", ("constant", "arrhenius"), "Other laws: `optimal_learning_rate_integral`.")
    g, h, c, size = _quadratic(gradient, hessian, covariance)
    noise = _trace_product(h, c, g.shape[0]) / size / size
    if rate_law == "arrhenius":
        total = jnp.sum(jnp.broadcast_to(jnp.diagonal(c) if c.ndim == 2 else c, g.shape))
        remedy = 'Without noise the Arrhenius factor is infinite downhill: take `rate_law="constant"`.'
        total = require(total, "covariance", "have a positive trace", [(total <= 0, "has none")], remedy)
        step = g + 2 * times(c, g) / total
    else:
        step = g
    top, bottom = jnp.sum(g * step), jnp.sum(step * times(h, step)) + noise
    remedy = "Where the loss falls ever faster along the step, no finite rate is best."
    faults = [(bottom <= 0, "makes the curvature met by a step and its noise zero or negative")]
    bottom = require(bottom, "hessian", "give a positive curvature along the step", faults, remedy)
    return top / bottom


def maximal_learning_rate(gradient: ArrayLike, hessian: ArrayLike) -> Float[Array, ""]:
    r"""The best learning rate without noise, $\eta_{max} = |g|^2/(g^\top H g)$: the limit of large batches.

    **Arguments:** `gradient` of shape `(d,)` and `hessian` as in [`optimal_learning_rate`][].

    **Returns:** the minimiser of the quadratic model along steepest descent.  At twice this rate a step gains nothing.

    **Raises:** `ValueError` (inside `jit`, a run-time error) where $g^\top H g$ is not positive, as for $g = 0$.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(f"{rx.maximal_learning_rate(jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0])):.4f}")
    0.3846

    ```
    """
    g, h, *_ = _quadratic(gradient, hessian, 0.0)
    return jnp.sum(g**2) / _along(g, h)


def noise_batch_size(gradient: ArrayLike, hessian: ArrayLike, sigma1: ArrayLike) -> Float[Array, ""]:
    r"""The batch size at which noise costs as much as curvature, $B_{noise} = \mathrm{tr}(H\Sigma_1)/(g^\top H g)$.

    **Arguments:** `gradient` and `hessian` as in [`optimal_learning_rate`][]; `sigma1` is the covariance of the
    gradient of ONE example, shaped like `hessian`.

    **Returns:** $B_{noise}$, in examples.  At $B = B_{noise}$ the best learning rate is half of the maximal one; much
    larger batches buy little.

    **Raises:** `ValueError` (inside `jit`, a run-time error) where $g^\top H g$ is not positive, or for a `sigma1` that
    is not positive semi-definite.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(f"{rx.noise_batch_size(jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0]), 4.0):.4f}")
    1.2308

    ```

    Source: McCandlish et al., "An empirical model of large-batch training" (2018), eq. 2.8.
    """
    g, h, c, size = _quadratic(gradient, hessian, sigma1, "sigma1")
    return _trace_product(h, c, g.shape[0]) / size / size / _along(g, h)


def optimal_rate_at_batch(
    batch_size: ArrayLike, maximal_rate: ArrayLike, noise_batch: ArrayLike
) -> Float[Array, "..."]:
    r"""The optimal learning rate as a function of the batch size, $\eta_{opt}(B) = \eta_{max}/(1 + B_{noise}/B)$.

    **Arguments:**

    - `batch_size`: $B \geq 1$, drawn with replacement, any shape.
    - `maximal_rate`: $\eta_{max} > 0$, see [`maximal_learning_rate`][].
    - `noise_batch`: $B_{noise} \geq 0$, see [`noise_batch_size`][]; both numbers, or arrays of the same shape.

    **Returns:** the rates; proportional to $B$ below $B_{noise}$ and constant above.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for numbers out of these ranges.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print([f"{eta:.4f}" for eta in rx.optimal_rate_at_batch(jnp.array([1, 10, 100]), 0.4, 10.0)])
    ['0.0364', '0.2000', '0.3636']

    ```
    """
    batch, top, noise = real_arrays(batch_size=batch_size, maximal_rate=maximal_rate, noise_batch=noise_batch)
    batch, noise = check_count(batch, "batch_size"), non_negative(noise, "noise_batch")
    return positive(top, "maximal_rate") / (1 + noise / batch)


def expected_decrease(
    learning_rate: ArrayLike, gradient: ArrayLike, hessian: ArrayLike, covariance: ArrayLike
) -> Float[Array, "..."]:
    r"""Expected decrease of the loss in one step of SGD, $\eta |g|^2 - (\eta^2/2)(g^\top H g + \mathrm{tr}(HC))$.

    **Arguments:**

    - `learning_rate`: $\eta \geq 0$, any shape.
    - `gradient`, `hessian`, `covariance`: as in [`optimal_learning_rate`][], $C$ being that of the mini-batch.

    **Returns:** $E[L(\theta) - L(\theta + \delta)]$, of the shape of `learning_rate`, in the units of the loss: exact
    on a quadratic.  Positive where the step helps, negative beyond twice the optimal rate.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for a negative rate or arrays that do not fit.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> g, h, c = jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0]), jnp.array([0.5, 0.1])
    >>> print(f"{rx.expected_decrease(rx.optimal_learning_rate(g, h, c), g, h, c):.4f}")
    0.9058

    ```
    """
    eta = non_negative(real_array(learning_rate, "learning_rate"), "learning_rate")
    g, h, c, size = _quadratic(gradient, hessian, covariance)
    noise = _trace_product(h, c, g.shape[0])
    return eta * size * (size * (jnp.sum(g**2) - eta / 2 * jnp.sum(g * times(h, g)))) - eta * (eta / 2 * noise)


def _quadratic(
    gradient: ArrayLike, hessian: ArrayLike, covariance: ArrayLike, name: str = "covariance"
) -> tuple[Array, Array, Array, Array]:
    """The three arrays, checked, in one dtype of float32 at least: the gradient in units of its size, which is last."""
    g, h, c = real_arrays(gradient=gradient, hessian=hessian, **{name: covariance})
    if g.ndim != 1:
        raise ValueError(f"Argument `gradient` must have shape (d,), but it has shape {g.shape}.")
    dim = g.shape[0]
    if h.shape not in ((), (dim,), (dim, dim)):
        raise ValueError(
            f"Argument `hessian` must have shape (), ({dim},) or ({dim}, {dim}) for {dim} parameters, but it has shape "
            f"{h.shape}."
        )
    g, c = finite(g, "gradient"), check_covariance(c, name, dim)
    h = check_symmetric(h, "hessian") if h.ndim == 2 else finite(h, "hessian")
    dtype = summation_dtype(jnp.result_type(g, h, c))
    g = g.astype(dtype)
    # The square of a gradient is out of float32's range long before the gradient is.
    size = size_of(g)
    return g / size, h.astype(dtype), c.astype(dtype), size


def _trace_product(h: Array, c: Array, dim: int) -> Array:
    return jnp.sum(jnp.broadcast_to(product_diagonal(h, c), (dim,)))


def _along(g: Array, h: Array) -> Array:
    """`g' H g`, refused unless it is positive."""
    bend = jnp.sum(g * times(h, g))
    faults = [(bend <= 0, "makes `g' H g` zero or negative")]
    remedy = "Without curvature along the gradient every larger step is better."
    return require(bend, "hessian", "be positive along a non-zero gradient", faults, remedy)
