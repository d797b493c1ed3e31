"""The Rastrigin function in any dimension."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._base import AbstractLandscape, box, check_dim, constant
from ._products import index_one_saddles, product_minima

_TURN = 2.0 * math.pi
_MOST = 4


def _energy(x: np.ndarray) -> np.ndarray:
    return x**2 + 10.0 * (1.0 - np.cos(_TURN * x))


def _roots(start: np.ndarray) -> np.ndarray:
    """Newton's method on `x + 10 pi sin(2 pi x) = 0`, which converges from every integer and half-integer here."""
    x = start
    for _ in range(20):
        x = x - (x + 5.0 * _TURN * np.sin(_TURN * x)) / (1.0 + 5.0 * _TURN**2 * np.cos(_TURN * x))
    return x


_WELLS = tuple(_roots(np.arange(-5.0, 6.0)))
_TOPS = tuple(_roots(np.arange(-4.5, 5.0)))


class Rastrigin(AbstractLandscape):
    r"""The Rastrigin function, a bowl with a ripple on it:

    $$L(\theta) = \sum_{i=1}^d \big[\theta_i^2 + 10 - 10 \cos(2\pi\theta_i)\big]$$

    (Rastrigin, Systems of Extremal Control, 1974).  The global minimum is 0 at the origin.  Each coordinate has 11
    wells, close to the integers from -5 to 5, and 10 tops between them inside the bounds: $11^d$ minima and
    $10\,d\,11^{d-1}$ saddles of index 1, lowest first.

    **Good values:** $kT$ from 1 to 5: the barriers from a well inwards are 10 to 20.  `bounds` is $\pm 5.12$.

    **How it fails:** beyond 4 dimensions the minima and saddles are too many to list, and both are `None`.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> landscape = rx.landscapes.Rastrigin(2)
        >>> landscape.minima.shape, landscape.saddles.shape
        ((121, 2), (220, 2))
        >>> print(landscape.minima[:3].round(3))
        [[ 0.     0.   ]
         [-0.995  0.   ]
         [ 0.    -0.995]]

        ```
    """

    dim: int = eqx.field(static=True)
    name = "Rastrigin"

    def __init__(self, dim: int = 2):
        """**Arguments:**

        - `dim`: the number of coordinates.
        """
        self.dim = check_dim(dim)

    @property
    def bounds(self) -> Float[Array, "d 2"]:
        return box(self.dim, -5.12, 5.12)

    @property
    def minima(self) -> Float[Array, "n d"] | None:
        return None if self.dim > _MOST else constant(product_minima(_WELLS, self.dim, _energy))

    @property
    def saddles(self) -> Float[Array, "m d"] | None:
        return None if self.dim > _MOST else constant(index_one_saddles(_WELLS, _TOPS, self.dim, _energy))

    def _value(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.sum(theta**2 + 10.0 - 10.0 * jnp.cos(_TURN * theta))
