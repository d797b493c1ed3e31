"""The exact stationary covariance of discrete-time SGD on a quadratic, with and without heavy-ball momentum."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import positive, require

from ._arrays import real_arrays, summation_dtype
from ._covariance import check_covariance, check_symmetric
from ._hyperparameters import check_momentum


def sgd_stationary_covariance(
    hessian: ArrayLike, covariance: ArrayLike, learning_rate: ArrayLike, momentum: ArrayLike = 0.0
) -> Float[Array, "d d"]:
    r"""Stationary covariance $S$ of the parameters under SGD on a quadratic, exact at any stable learning rate.

    For $\theta \leftarrow \theta - \eta (H\theta + \xi)$ with additive noise of covariance $C$,

    $$S H + H S - \eta\, H S H = \eta\, C,$$

    in one dimension $\eta c/(h(2 - \eta h))$: more than the $\eta c/2h$ of the diffusion picture, and infinite at the
    critical learning rate.  The heavy ball $v \leftarrow \mu v + g,\ \theta \leftarrow \theta - \eta v$ obeys

    $$(1-\mu)(S H + H S) - \eta \frac{1-\mu}{1+\mu} H S H + \frac{\eta\mu}{1-\mu^2} (H^2 S + S H^2 - 2 H S H)
    = \eta\, C.$$

    **Arguments:**

    - `hessian`: $H$, symmetric and positive definite, shape `(d, d)`; `(d,)` for a diagonal, `()` for one dimension.
    - `covariance`: $C$ of the MINI-BATCH gradient, positive semi-definite, the same for all $\theta$; shape `(d, d)`,
      `(d,)` or `()` for a multiple of the identity.
    - `learning_rate`: $\eta > 0$, below the critical rate $2(1+\mu)/\lambda_{max}$.
    - `momentum`: heavy-ball $\mu$ in $[0, 1)$.

    **Returns:** $S$, of shape `(d, d)` (`(1, 1)` for a Hessian of shape `()`).  The excess loss is
    $\mathrm{tr}(HS)/2$, and without momentum $\mathrm{tr}(HS) - (\eta/2)\,\mathrm{tr}(HSH) = (\eta/2)\,\mathrm{tr}\,C$
    to rounding.  Differentiable to any order, also where eigenvalues coincide.  float32 keeps a relative accuracy of
    `1e-6` times the condition number of $H$.

    Only the batches' independence is assumed: reshuffling once an epoch gives far less, see `Hyperparameters`.  Noise
    that grows with $\theta$, as in linear regression with few examples a batch, gives more.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for a Hessian that is not symmetric and positive definite,
    a learning rate at or beyond the critical one, or shapes that do not fit.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> s = rx.sgd_stationary_covariance(jnp.diag(jnp.array([0.1, 2.0])), jnp.array([3.0, 0.2]), 0.1)
    >>> print(f"{s[0, 0]:.4f} {s[1, 1]:.4f}")
    1.5075 0.0056

    ```

    Source: the fixed point of the second moment of the update; Mandt, Hoffman and Blei, "Stochastic gradient descent as
    approximate Bayesian inference" (2017), has its limit of small learning rates, Ziyin et al., "Strength of minibatch
    noise in SGD" (2022), the equations above.
    """
    h, c, eta, mu = real_arrays(hessian=hessian, covariance=covariance, learning_rate=learning_rate, momentum=momentum)
    if h.ndim > 2 or (h.ndim == 2 and h.shape[0] != h.shape[1]):
        raise ValueError(f"Argument `hessian` must have shape (), (d,) or (d, d), but it has shape {h.shape}.")
    for name, x in (("learning_rate", eta), ("momentum", mu)):
        if x.ndim:
            raise ValueError(f"Argument `{name}` must be one number, but it has shape {x.shape}. Vmap over many.")
    if h.ndim < 2:
        h = jnp.diag(jnp.atleast_1d(h))
    dim = h.shape[0]
    c = check_covariance(c, dim=dim)
    eta, mu = positive(eta, "learning_rate"), check_momentum(mu)
    dtype = summation_dtype(jnp.result_type(h, c, eta, mu))
    h, c, eta, mu = (x.astype(dtype) for x in (check_symmetric(h, "hessian"), c, eta, mu))
    if c.ndim < 2:
        c = jnp.diag(jnp.broadcast_to(c, (dim,)))
    curvatures = jnp.linalg.eigvalsh(jax.lax.stop_gradient(h))
    low, high = curvatures[0], curvatures[-1]
    remedy = "A flat direction diffuses without bound: leave it out."
    faults = [(low <= 0, "has an eigenvalue that is not positive")]
    h = require(h, "hessian", "be positive definite", faults, remedy)
    faults = [(eta * high >= 2 * (1 + mu), "is at or beyond the critical rate 2 (1 + momentum) / lambda_max")]
    eta = require(eta, "learning_rate", "be stable", faults, "See `critical_learning_rate`.")
    return _solve(h, eta, mu, eta * c)


def _solve(h: Array, eta: Array, mu: Array, right: Array) -> Array:
    """Solve the linear equation in the eigenbasis of `h`, where it is diagonal.

    Eigenvectors have no derivative where eigenvalues coincide, the solution has: it is differentiated through the
    equation.
    """
    mul = lambda *xs: jnp.linalg.multi_dot(xs, precision=jax.lax.Precision.HIGHEST)

    def left(s):
        drift = mul(h, s) + mul(s, h)
        twist = mul(h, h, s) + mul(s, h, h) - 2 * mul(h, s, h)
        return (1 - mu) * (drift - eta / (1 + mu) * mul(h, s, h)) + eta * mu / (1 - mu**2) * twist

    fixed_h, fixed_eta, fixed_mu = jax.lax.stop_gradient((h, eta, mu))
    x, basis = jnp.linalg.eigh(fixed_h)
    a, b = x[:, None], x[None, :]
    diagonal = (1 - fixed_mu) * ((a + b) - fixed_eta / (1 + fixed_mu) * (a * b))
    diagonal = diagonal + fixed_eta * fixed_mu / (1 - fixed_mu**2) * (a - b) ** 2

    def solve(_, right):
        return mul(basis, mul(basis.T, right, basis) / diagonal, basis.T)

    s = jax.lax.custom_linear_solve(left, right, solve, symmetric=True)
    return (s + s.T) / 2
