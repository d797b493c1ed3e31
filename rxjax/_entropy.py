"""Local entropies of a loss: the log volume of good parameters around a point (row 3 of the theory).

The source framework leaves the entropy open.  Three readings are offered: zero, the default wherever an entropy enters;
the entropy of the Gaussian that a Hessian and a temperature make; and the free entropy of the loss itself.  All are
relative to unit volume and carry the factor `k`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from rxjax_solvers._checks import is_traced, one_of, require
from rxjax_solvers._program import program

from ._arrays import real_array, real_arrays, widened
from ._covariance import check_symmetric
from ._gaussian_sums import Gaussian, gaussian_at_maximum, log_mean_over_samples, log_sum_over_nodes
from ._known import non_negative, positive


def gaussian_entropy(
    hessian: ArrayLike, temperature: ArrayLike, *, gamma: ArrayLike = 0.0, k: ArrayLike = 1.0
) -> Float[Array, ""]:
    r"""Entropy of a Gaussian basin, $S/k = (d/2)\log(2\pi e\,kT) - (1/2)\log\det(H + \gamma kT I)$.

    The entropy of the normal law with precision $H/kT + \gamma I$: the Gibbs law of a quadratic loss at temperature
    $T$, held by a spring of stiffness $\gamma kT$ if the basin is open somewhere.

    **Arguments:**

    - `hessian`: $H$, symmetric, of shape `(d, d)`, or its diagonal `(d,)`.
    - `temperature`: $T > 0$, the temperature per parameter of an isotropic noise, a scalar.
    - `gamma`: $\gamma \geq 0$, inverse squared length.
    - `k`: scaling constant $k > 0$.

    **Returns:** $S$ in units of `k`, float32 at least, relative to unit volume: flat and wide basins have more, and it
    falls to $-\infty$ as $T \to 0$.

    **Raises:** `ValueError` (inside `jit`, a run-time error) where $H + \gamma kT I$ is not positive definite, as at a
    saddle or in a flat direction without `gamma`.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.gaussian_entropy(jnp.array([1.0, 4.0]), temperature=0.5).round(4))
    1.4516

    ```
    """
    hessian = real_array(hessian, "hessian")
    if hessian.ndim not in (1, 2) or hessian.size == 0 or hessian.shape[0] != hessian.shape[-1]:
        raise ValueError(f"Argument `hessian` must have shape (d,) or (d, d), but it has shape {hessian.shape}.")
    hessian = widened(hessian)
    kt, gamma, k = _scales(temperature, gamma, k)
    dim = hessian.shape[0]
    if hessian.ndim == 2:
        hessian = check_symmetric(hessian, "hessian")
        factor = jnp.linalg.cholesky(hessian + gamma * kt * jnp.eye(dim, dtype=hessian.dtype))
        roots = jnp.diagonal(factor)
    else:
        shifted = hessian + gamma * kt
        roots = jnp.sqrt(jnp.where(shifted > 0, shifted, jnp.nan))
    faults = [(~jnp.all(roots > 0), "is not")]
    remedy = "Give a larger `gamma`, or the Hessian of a minimum."
    must = "be positive definite with `gamma * k * temperature` added"
    roots = require(roots, "hessian", must, faults, remedy, None if is_traced(hessian) else hessian)
    return k * (dim / 2 * (math.log(2 * math.pi * math.e) + jnp.log(kt)) - jnp.sum(jnp.log(roots)))


def free_entropy(
    loss: Callable,
    theta: PyTree,
    temperature: ArrayLike,
    gamma: ArrayLike,
    *,
    subtract_loss: bool = True,
    method: str = "quadrature",
    around: str | None = None,
    order: int = 32,
    num_samples: int = 4096,
    key: PRNGKeyArray | None = None,
    chunk: int = 1024,
    tolerance: float | None = None,
    return_error: bool = False,
    k: ArrayLike = 1.0,
) -> Any:
    r"""Free entropy around a point, $S/k = \log\int e^{-(L(x) - L(\theta))/kT - (\gamma/2)|x-\theta|^2} dx$.

    **Arguments:**

    - `loss`: $L$, a function of `theta` alone that returns a scalar.
    - `theta`: $\theta$, of shape `(d,)` or any PyTree of $d$ entries.
    - `temperature`: $T > 0$, a scalar.
    - `gamma`: $\gamma \geq 0$, inverse squared radius of the neighbourhood.
    - `subtract_loss`: with `False`, the local entropy of Chaudhari et al. (2017), without $+L(\theta)$.  The rate
      density carries the loss already in its activation energy: there keep `True`, or the loss counts twice.
    - `method`: `"quadrature"`, a Gauss-Hermite product rule for $d \leq 3$; or `"monte_carlo"` for any $d$.
    - `around`: where the rule's Gaussian sits.  `"maximum"`: at the local maximum of the integrand nearest to
      `theta`, with its curvature (the default for quadrature, exact for quadratic losses, needs a dense Hessian).
      `"theta"`: at `theta` with variance $1/\gamma$ (the default for Monte Carlo, needs `gamma > 0`, better where
      the neighbourhood holds several wells).
    - `order`: nodes per axis, 2 to 128.
    - `num_samples`, `key`: for Monte Carlo.  `chunk`: evaluations of the loss at once, which bounds the memory.
    - `tolerance`: the largest error allowed, in units of `k`: by default 1e-3 for quadrature and 0.1 for Monte Carlo.
    - `return_error`: return `(value, error)` and raise for no error.
    - `k`: scaling constant $k > 0$.

    **Returns:** $S$, in units of `k` and relative to unit volume, float32 at least.  Its error is, for quadrature, the
    larger difference to the rules of one node less and of a quarter less; for Monte Carlo the standard error.

    A well far from `theta` and many widths away is not seen by a rule around a maximum, nor by its error.  In many
    dimensions the Monte Carlo error grows with the spread of $L/kT$ over the neighbourhood: keep
    $\mathrm{tr} H/(\gamma kT)$ below 5 or so, or go `around="maximum"`.

    **Raises:** `ValueError` (inside `jit`, a run-time error) where the error exceeds `tolerance`, the integral does not
    exist or an argument is out of range.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> loss = lambda x: jnp.sum(x**2) / 2
    >>> print(rx.free_entropy(loss, jnp.array([1.0, 0.0]), temperature=1.0, gamma=1.0).round(4))
    1.3947

    ```
    """
    one_of(method, "method", ("quadrature", "monte_carlo"))
    around = around or ("maximum" if method == "quadrature" else "theta")
    one_of(around, "around", ("maximum", "theta"))
    theta = jax.tree.map(lambda x: widened(real_array(x, "theta")), theta)
    dim = sum(x.size for x in jax.tree.leaves(theta))
    kt, gamma, k = _scales(temperature, gamma, k)
    _check_method(method, dim, order, num_samples, chunk, key)
    if around == "theta":
        remedy = 'Without a neighbourhood use around="maximum".'
        gamma = require(gamma, "gamma", "be positive", [(gamma == 0, "is zero")], remedy)
    value, error, start = _log_integral(loss, theta, kt, gamma, key, method, around, order, num_samples, chunk)
    remedy = "Is it finite in the whole neighbourhood?  Where it has no minimum give a positive `gamma`."
    value = require(value, "loss", "have a finite integral", [(~jnp.isfinite(value), "has none")], remedy)
    value = k * (value if subtract_loss else value - start / kt)
    if return_error:
        return value, k * error
    limit = (1e-3 if method == "quadrature" else 0.1) if tolerance is None else tolerance
    name, remedy = ("order", "Raise it") if method == "quadrature" else ("num_samples", "Raise it or `gamma`")
    remedy += ", go around the other point, or take `return_error=True`."
    shown = None if is_traced(error) else f"error {error:.3g}"
    return require(value, name, f"bring the error below {limit}", [(~(error <= limit), "does not")], remedy, shown)


@program
def _log_integral(
    loss: Callable,
    theta: PyTree,
    kt: Array,
    gamma: Array,
    key: PRNGKeyArray | None,
    method: str,
    around: str,
    order: int,
    num_samples: int,
    chunk: int,
) -> tuple[Array, Array, Array]:
    """The logarithm of the integral with the loss subtracted, its error, and the loss at `theta`."""
    flat, unravel = ravel_pytree(theta)

    def flat_loss(x: Array) -> Array:
        value = real_array(loss(unravel(x)), "loss")
        if value.shape != ():
            raise ValueError(f"Argument `loss` must return a scalar, but it returns shape {value.shape}.")
        return value

    start = flat_loss(flat)

    def log_boltzmann(x: Array) -> Array:
        return -(flat_loss(x) - start) / kt

    def log_integrand(x: Array) -> Array:
        return log_boltzmann(x) - gamma / 2 * jnp.sum(jnp.square(x - flat))

    gaussian = (
        Gaussian(flat, 1 / jnp.sqrt(gamma)) if around == "theta" else gaussian_at_maximum(log_integrand, flat, gamma)
    )
    if method == "quadrature":
        return *log_sum_over_nodes(log_integrand, gaussian, order, chunk), start

    # Around theta the Gaussian is the spring's own: what would cancel is left out.
    def log_weight(x: Array, z: Array) -> Array:
        return log_boltzmann(x) if around == "theta" else log_integrand(x) + jnp.sum(jnp.square(z)) / 2

    assert key is not None
    return *log_mean_over_samples(log_weight, gaussian, key, num_samples, chunk), start


def _scales(temperature: ArrayLike, gamma: ArrayLike, k: ArrayLike) -> tuple[Array, Array, Array]:
    """`k T`, `gamma` and `k`, checked."""
    temperature, gamma, k = (widened(x) for x in real_arrays(temperature=temperature, gamma=gamma, k=k))
    for name, x in (("temperature", temperature), ("gamma", gamma), ("k", k)):
        if x.ndim:
            raise ValueError(f"Argument `{name}` must be a scalar, but it has shape {x.shape}. Vmap over many.")
    k = positive(k, "k")
    temperature = positive(temperature, "temperature", "The entropy is minus infinity at zero temperature.")
    return k * temperature, non_negative(gamma, "gamma"), k


def _check_method(method: str, dim: int, order: int, num_samples: int, chunk: int, key: PRNGKeyArray | None) -> None:
    if dim < 1:
        raise ValueError("Argument `theta` must hold at least one number, but it holds none.")
    if chunk < 1:
        raise ValueError(f"Argument `chunk` must be at least 1, but it is {chunk}.")
    if method == "quadrature":
        if dim > 3:
            raise ValueError(
                f'Argument `method` must be "monte_carlo" beyond 3 dimensions, but it is "quadrature" for {dim}.'
            )
        if not 2 <= order <= 128:
            raise ValueError(f"Argument `order` must lie between 2 and 128, but it is {order}.")
    else:
        if key is None:
            raise ValueError('Argument `key` must be given for method="monte_carlo", but it is None.')
        if num_samples < 2:
            raise ValueError(f"Argument `num_samples` must be at least 2, but it is {num_samples}.")
