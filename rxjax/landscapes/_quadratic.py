"""The quadratic bowl."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rxjax_solvers._checks import finite, is_traced, require

from ._base import AbstractLandscape, Numbers, as_float, box


class Quadratic(AbstractLandscape):
    r"""The quadratic form

    $$L(\theta) = \tfrac12 (\theta - c)^\top H (\theta - c)$$

    the model of any smooth minimum, and the one case where stochastic gradient descent is solved in closed form.

    **Good values:** `hessian=jnp.diag(jnp.array([0.1, 1.0]))`, a condition number of 10.  The Gibbs law at temperature
    $kT$ has covariance $kT H^{-1}$.  `bounds` is $c \pm 3$.

    **How it fails:** only the symmetric part of $H$ would matter, so a matrix that is not symmetric is refused.  With a
    negative eigenvalue there is no minimum and no Gibbs law: `minima` is `None`, and `saddles` holds $c$ if exactly one
    is negative.  Inside `jit`, where eigenvalues are not known while compiling, `minima` raises at run time instead.

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp
        >>> import rxjax as rx
        >>> bowl = rx.landscapes.Quadratic(jnp.array([[2.0, 0.5], [0.5, 1.0]]))
        >>> print(jax.grad(bowl)(jnp.array([1.0, 0.0])))
        [2.  0.5]

        ```
    """

    hessian: Float[Array, "d d"] | Float[Array, " d"]
    center: Float[Array, " d"]
    dim: int = eqx.field(static=True)
    name = "quadratic"

    def __init__(self, hessian: Numbers, center: Numbers = 0.0):
        """**Arguments:**

        - `hessian`: `(d, d)` and symmetric, or `(d,)` for a diagonal one, or a number in one dimension.
        - `center`: $c$, `(d,)` or one number for all coordinates.

        **Raises:** `ValueError` for another shape, a matrix that is not symmetric, or entries that are not finite.
        """
        hessian = finite(as_float(hessian), "hessian")
        if hessian.ndim == 0:
            hessian = hessian[None]
        if hessian.ndim > 2 or hessian.shape[0] != hessian.shape[-1] or hessian.size == 0:
            raise ValueError(f"Argument `hessian` must have shape (d, d) or (d,), but it has shape {hessian.shape}.")
        if hessian.ndim == 2:
            # The square root of the rounding unit: room for a Hessian that was measured, none for a wrong one.
            slack = jnp.finfo(hessian.dtype).eps ** 0.5 * jnp.max(jnp.abs(hessian))
            skew = jnp.max(jnp.abs(hessian - hessian.T)) > slack
            remedy = "Give (H + H.T) / 2."
            hessian = require(hessian, "hessian", "be symmetric", [(skew, "is not")], remedy)
        dim = hessian.shape[0]
        center = finite(as_float(center), "center")
        if center.shape not in ((), (dim,)):
            raise ValueError(f"Argument `center` must have shape ({dim},) or (), but it has shape {center.shape}.")
        self.hessian = hessian
        self.center = jnp.broadcast_to(center, (dim,))
        self.dim = dim

    @property
    def bounds(self) -> Float[Array, "d 2"]:
        return self.center[:, None] + box(self.dim, -3.0, 3.0).astype(self.center.dtype)

    @property
    def minima(self) -> Float[Array, "n d"] | None:
        lowest = self._eigenvalues()[:1]
        if not is_traced(lowest):
            return self.center[None] if np.all(np.asarray(lowest) > 0) else None
        faults = [(~(lowest > 0), "is not: its centre is no minimum")]
        return require(self.center, "hessian", "be positive definite to have a minimum", faults)[None]

    @property
    def saddles(self) -> Float[Array, "m d"] | None:
        eigenvalues = self._eigenvalues()
        if is_traced(eigenvalues):
            return None
        signs = np.asarray(eigenvalues)
        is_saddle = np.sum(signs < 0) == 1 and np.all(signs != 0)
        return self.center[None] if is_saddle else jnp.zeros((0, self.dim), self.center.dtype)

    def _eigenvalues(self) -> Float[Array, " d"]:
        return jnp.sort(self.hessian) if self.hessian.ndim == 1 else jnp.linalg.eigvalsh(self.hessian)

    def _value(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        x = theta - self.center.astype(theta.dtype)
        h = self.hessian.astype(theta.dtype)
        force = h * x if h.ndim == 1 else jnp.matmul(h, x, precision="highest")
        return 0.5 * jnp.sum(x * force)
