"""The Müller–Brown surface."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._base import AbstractLandscape, constant

_HEIGHT = np.array([-200.0, -100.0, -170.0, 15.0])
_XX = np.array([-1.0, -1.0, -6.5, 0.7])
_XY = np.array([0.0, 0.0, 11.0, 0.6])
_YY = np.array([-10.0, -10.0, -6.5, 0.7])
_X0 = np.array([1.0, 0.0, -0.5, -1.0])
_Y0 = np.array([0.0, 0.5, 1.5, 1.0])

# Newton's method in 40 digits.
_MINIMA = (
    (-0.5582236346330242775, 1.441725841804668655),
    (0.6234994049308765098, 0.02803775852868566575),
    (-0.05001082299820605775, 0.4666941048719720878),
)
_SADDLES = ((0.2124865820006620069, 0.2929883251073677651), (-0.8220015587327320974, 0.6243128028148713613))


class MullerBrown(AbstractLandscape):
    r"""The Müller–Brown surface, the standard test of reaction paths in two dimensions:

    $$L(x, y) = \sum_{i=1}^4 A_i \exp\!\big[a_i (x - x_i)^2 + b_i (x - x_i)(y - y_i) + c_i (y - y_i)^2\big]$$

    with $A = (-200, -100, -170, 15)$, $a = (-1, -1, -6.5, 0.7)$, $b = (0, 0, 11, 0.6)$, $c = (-10, -10, -6.5, 0.7)$,
    $x_i = (1, 0, -0.5, -1)$ and $y_i = (0, 0.5, 1.5, 1)$ (Müller and Brown, Theoretica Chimica Acta 53, 75, 1979).

    Three minima with energies -146.70, -108.17 and -80.77, deepest first, and two saddles between them, -72.25 (right)
    and -40.66 (left), lowest first.

    **Good values:** $kT$ from 5 to 20: the highest barrier, from the deepest minimum, is 106.  `bounds` is
    $[-1.8, 1.3] \times [-0.5, 2.2]$, where the surface rises to about 8700 in a corner.

    **How it fails:** the fourth term grows like a Gaussian turned upside down and overflows some 10 units away in
    float32.  Use the bounds.

    !!! example

        ```python
        >>> import jax
        >>> import rxjax as rx
        >>> surface = rx.landscapes.MullerBrown()
        >>> print(jax.vmap(surface)(surface.minima).round(2))
        [-146.7  -108.17  -80.77]

        ```
    """

    dim = 2
    name = "Müller–Brown"

    def __init__(self):
        """Takes no argument."""

    @property
    def bounds(self) -> Float[Array, "2 2"]:
        return constant([[-1.8, 1.3], [-0.5, 2.2]])

    @property
    def minima(self) -> Float[Array, "3 2"]:
        return constant(_MINIMA)

    @property
    def saddles(self) -> Float[Array, "2 2"]:
        return constant(_SADDLES)

    def _value(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        height, xx, xy, yy, x0, y0 = (jnp.asarray(c, theta.dtype) for c in (_HEIGHT, _XX, _XY, _YY, _X0, _Y0))
        x, y = theta[0] - x0, theta[1] - y0
        return jnp.sum(height * jnp.exp(xx * x**2 + xy * x * y + yy * y**2))
