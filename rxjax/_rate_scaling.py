"""The dependence of rates on the learning rate, rho = exp(a - c/eta), fitted (row 12 of the theory)."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import finite, positive, printed, require

from ._arrays import real_array, real_arrays, summation_dtype


class RateScaling(eqx.Module):
    r"""The law $\rho(\eta) = e^{a - c/\eta}$, as fitted by [`fit_rate_scaling`][].

    - `c`: the slope, in the units of a learning rate.
    - `standard_error`: of `c`.
    - `log_prefactor`: $a$, the logarithm of the rate at infinite learning rate.
    - `log_prefactor_error`: its standard error.
    - `residual`: standard deviation of the logarithms about the line, with $n - 2$ degrees of freedom.
    """

    c: Float[Array, ""]
    standard_error: Float[Array, ""]
    log_prefactor: Float[Array, ""]
    log_prefactor_error: Float[Array, ""]
    residual: Float[Array, ""]

    def log_rate(self, learning_rate: ArrayLike) -> Float[Array, "..."]:
        """The logarithm of the fitted rate at learning rates of any shape."""
        eta = positive(real_array(learning_rate, "learning_rate"), "learning_rate")
        return self.log_prefactor - self.c / eta


def fit_rate_scaling(learning_rates: ArrayLike, rates: ArrayLike, *, logarithmic: bool = False) -> RateScaling:
    r"""Fit $\rho \propto e^{-c/\eta}$ to rates measured over a range of learning rates.

    An ordinary least-squares line of $\log \rho$ against $1/\eta$.  The law is exact where the temperature is linear in
    $\eta$ and the barrier does not move: then $c = 2 E_b/(k\,\mathrm{tr}\,C)$ for $T = (\eta/2)\,\mathrm{tr}\,C$.

    **Arguments:**

    - `learning_rates`: $\eta > 0$, shape `(n,)`, at least three and not all equal.
    - `rates`: $\rho > 0$ at each, shape `(n,)`, in any unit of inverse time.
    - `logarithmic`: whether `rates` are natural logarithms already, as they must be where a rate underflows.

    **Returns:** a [`RateScaling`][].  Its standard errors assume that the logarithms scatter by the same amount at
    every learning rate, and hold no part of a systematic departure from the law: look at `residual`, and fit over a
    range in which $1/\eta$ varies by a factor of 3 or more, with $\eta h \lesssim 0.2$.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for fewer than three points, shapes that differ, equal
    learning rates, or numbers that are not positive and finite.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> eta = jnp.array([0.05, 0.1, 0.2, 0.4])
    >>> fit = rx.fit_rate_scaling(eta, 3.0 * jnp.exp(-0.7 / eta))
    >>> print(f"{fit.c:.4f} {jnp.exp(fit.log_prefactor):.4f}")
    0.7000 3.0000

    ```

    Source: the scaling relation of the reaction-rate picture of learning, $\rho \propto e^{-c/\eta}$.
    """
    eta, rho = real_arrays(learning_rates=learning_rates, rates=rates)
    if eta.ndim != 1 or eta.shape[0] < 3:
        raise ValueError(
            f"Argument `learning_rates` must have shape (n,) with n >= 3, for a line through two points has no error, "
            f"but it has shape {eta.shape}."
        )
    if rho.shape != eta.shape:
        raise ValueError(f"Argument `rates` must have shape {eta.shape} as `learning_rates`, but it has {rho.shape}.")
    dtype = summation_dtype(jnp.result_type(eta, rho))
    eta = positive(eta, "learning_rates").astype(dtype)
    remedy = (
        "Give logarithms with `logarithmic=True` where a rate underflows; leave out runs in which nothing happened."
    )
    y = (finite(rho, "rates") if logarithmic else jnp.log(positive(rho, "rates", remedy))).astype(dtype)
    x = 1 / eta
    # Neighbouring numbers may share a reciprocal.
    same = jnp.max(x) == jnp.min(x)
    faults = [(same, "is one rate only")]
    x = require(x, "learning_rates", "differ", faults, "A slope needs at least two.", printed(eta))
    n = x.shape[0]
    mean_x, mean_y = jnp.mean(x), jnp.mean(y)
    # In units of the largest deviation, whose square may be out of the range of float32.
    unit = jnp.max(jnp.abs(x - mean_x))
    z = (x - mean_x) / unit
    spread = jnp.sum(z**2)
    slope = jnp.sum(z * (y - mean_y)) / spread
    scatter = y - mean_y - slope * z
    # The square root has no slope at an exact fit: zero is taken.
    total = jnp.sum(scatter**2)
    exact = total == 0
    residual = jnp.where(exact, 0.0, jnp.sqrt(jnp.where(exact, 1.0, total) / (n - 2)))
    return RateScaling(
        c=-slope / unit,
        standard_error=residual / (unit * jnp.sqrt(spread)),
        log_prefactor=mean_y - slope * (mean_x / unit),
        log_prefactor_error=residual * jnp.sqrt(1 / n + (mean_x / unit) ** 2 / spread),
        residual=residual,
    )
