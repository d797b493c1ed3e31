"""A sum of Gaussian wells."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import finite, non_negative, positive

from ._base import AbstractLandscape, Numbers, as_float, as_scalar


class GaussianWells(AbstractLandscape):
    r"""Gaussian wells of chosen places, depths and widths, in a harmonic bowl:

    $$L(\theta) = -\sum_{j=1}^n a_j \exp\!\Big[-\tfrac12 \sum_{i=1}^d \frac{(\theta_i - c_{ji})^2}{w_{ji}^2}\Big]
    + \tfrac{\kappa}{2} |\theta|^2$$

    Flat wells ($w$ large) and sharp ones side by side show entropy at work: at equal depth the flat well holds more of
    the Gibbs weight, by the ratio of $\prod_i w_{ji}$.

    **Good values:** centres 4 widths apart are separate wells, 2 widths apart are one.  Depths of 5 to 20 $kT$.
    Without `confinement` the surface is flat far away and has no Gibbs law on an unbounded space: use a grid's
    reflecting sides, or $\kappa \approx 0.1$.  A negative depth makes a hill.

    **How it fails:** wells that overlap move each other's minima, so `minima` and `saddles` are `None`: find them.
    `bounds` reaches 4 widths beyond the outermost centres.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> import rxjax as rx
        >>> centers = jnp.array([[-2.0, 0.0], [2.0, 0.0]])
        >>> flat_and_sharp = rx.landscapes.GaussianWells(centers, depths=1.0, widths=jnp.array([1.0, 0.25]))
        >>> print(flat_and_sharp(centers[0]).round(4), flat_and_sharp(jnp.zeros(2)).round(4))
        -1.0 -0.1353

        ```
    """

    centers: Float[Array, "n d"]
    depths: Float[Array, " n"]
    widths: Float[Array, "n d"]
    confinement: Float[Array, ""]
    dim: int = eqx.field(static=True)
    name = "Gaussian wells"
    minima = None
    saddles = None

    def __init__(self, centers: Numbers, depths: Numbers, widths: Numbers, confinement: ArrayLike = 0.0):
        r"""**Arguments:**

        - `centers`: $c$, `(n, d)`.
        - `depths`: $a$, `(n,)` or one number for all wells.
        - `widths`: $w > 0$, the standard deviation of each well: one number, `(n,)`, or `(n, d)` with one per axis.
        - `confinement`: $\kappa \ge 0$, the curvature of the bowl around the origin.

        **Raises:** `ValueError` for shapes that do not fit, a width that is not positive, or values not finite.
        """
        centers = finite(as_float(centers), "centers")
        if centers.ndim != 2 or centers.size == 0:
            raise ValueError(
                f"Argument `centers` must have shape (n, d), one row a well, but it has shape {centers.shape}."
            )
        n, dim = centers.shape
        depths = finite(as_float(depths), "depths")
        if depths.shape not in ((), (n,)):
            raise ValueError(f"Argument `depths` must have shape ({n},) or (), but it has shape {depths.shape}.")
        widths = positive(as_float(widths), "widths")
        if widths.shape not in ((), (n,), (n, dim)):
            raise ValueError(
                f"Argument `widths` must have shape (), ({n},) or ({n}, {dim}), but it has shape {widths.shape}."
            )
        self.centers = centers
        self.depths = jnp.broadcast_to(depths, (n,))
        self.widths = jnp.broadcast_to(widths[:, None] if widths.ndim == 1 else widths, (n, dim))
        self.confinement = non_negative(as_scalar(confinement, "confinement"), "confinement")
        self.dim = dim

    @property
    def bounds(self) -> Float[Array, "d 2"]:
        reach = 4.0 * self.widths.astype(self.centers.dtype)
        return jnp.stack([jnp.min(self.centers - reach, axis=0), jnp.max(self.centers + reach, axis=0)], axis=1)

    def _value(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        centers, depths, widths, confinement = (
            x.astype(theta.dtype) for x in (self.centers, self.depths, self.widths, self.confinement)
        )
        scaled = (theta[None, :] - centers) / widths
        wells = jnp.sum(depths * jnp.exp(-0.5 * jnp.sum(scaled**2, axis=1)))
        return 0.5 * confinement * jnp.sum(theta**2) - wells
