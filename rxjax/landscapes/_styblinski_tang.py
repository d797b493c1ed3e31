"""The Styblinski–Tang function in any dimension."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._base import AbstractLandscape, box, check_dim, constant
from ._products import index_one_saddles, product_minima

# 4 x^3 - 32 x + 5 = 0 by the trigonometric formula: left well, saddle, right well.
_PHASE = math.asin(5.0 * math.sqrt(27.0 / 2.0) / 128.0) / 3.0
_STATIONARY = [math.sqrt(32.0 / 3.0) * math.sin(_PHASE + 2.0 * math.pi * k / 3.0) for k in (-1, 0, 1)]
_MOST = 10


def _energy(x: np.ndarray) -> np.ndarray:
    return 0.5 * (x**4 - 16.0 * x**2 + 5.0 * x)


class StyblinskiTang(AbstractLandscape):
    r"""The Styblinski–Tang function, a sum of one tilted double well per coordinate:

    $$L(\theta) = \tfrac12 \sum_{i=1}^d (\theta_i^4 - 16\,\theta_i^2 + 5\,\theta_i)$$

    (Styblinski and Tang, Neural Networks 3, 467, 1990).  A well per coordinate at -2.90353 with energy -39.16617 or at
    2.74680 with -25.02945, with 0.19561 at 0.15673 between them.  In $d$ dimensions that makes $2^d$ minima and
    $d\,2^{d-1}$ saddles of index 1, each of which flips one coordinate: 25.2251 up from one side, 39.3618 from the
    other.  Lowest first.  A network of minima with every rate known.

    **Good values:** $kT$ from 2 to 10.  `bounds` is $\pm 5$.

    **How it fails:** beyond 10 dimensions the minima and saddles are too many to list, and both are `None`.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> landscape = rx.landscapes.StyblinskiTang(3)
        >>> landscape.minima.shape, landscape.saddles.shape
        ((8, 3), (12, 3))
        >>> print(landscape.minima[0].round(5), landscape(landscape.minima[0]).round(2))
        [-2.90353 -2.90353 -2.90353] -117.5

        ```
    """

    dim: int = eqx.field(static=True)
    name = "Styblinski–Tang"

    def __init__(self, dim: int = 2):
        """**Arguments:**

        - `dim`: the number of coordinates.
        """
        self.dim = check_dim(dim)

    @property
    def bounds(self) -> Float[Array, "d 2"]:
        return box(self.dim, -5.0, 5.0)

    @property
    def minima(self) -> Float[Array, "n d"] | None:
        if self.dim > _MOST:
            return None
        return constant(product_minima(_STATIONARY[::2], self.dim, _energy))

    @property
    def saddles(self) -> Float[Array, "m d"] | None:
        if self.dim > _MOST:
            return None
        return constant(index_one_saddles(_STATIONARY[::2], _STATIONARY[1:2], self.dim, _energy))

    def _value(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        return 0.5 * jnp.sum(theta**4 - 16.0 * theta**2 + 5.0 * theta)
