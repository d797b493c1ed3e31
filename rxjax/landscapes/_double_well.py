"""The tilted double well in any dimension."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import finite, positive, require

from ._base import AbstractLandscape, as_scalar, check_dim, constant, widest


class DoubleWell(AbstractLandscape):
    r"""Two wells along the first coordinate, a harmonic bowl along the others:

    $$L(\theta) = b\,(\theta_1^2 - 1)^2 + t\,\theta_1 + \tfrac12 \sum_{i>1} \theta_i^2$$

    with barrier $b$ and tilt $t$.  Without tilt the wells lie at $\theta_1 = \pm 1$ with energy 0 and curvature $8b$,
    the saddle at 0 with energy $b$ and curvature $-4b$.

    The stationary points solve $x^3 - x + q = 0$ with $q = t/4b$; by the trigonometric formula (Viète) they are
    $x_k = \tfrac{2}{\sqrt3} \sin(\phi + 2\pi k/3)$, $k = -1, 0, 1$, with
    $\phi = \tfrac13 \arcsin(\tfrac{3\sqrt3}{2} q)$: the left well, the saddle and the right well, in this order
    whatever their energies.  All are differentiable in `barrier` and `tilt`.

    **Good values:** `barrier=1.0` with $kT$ between 0.05 and 0.5; a tilt of 0.2 lifts the right well by about 0.4 above
    the left one.  `bounds` is $\pm 2$ along the first coordinate and $\pm 3$ along the others.

    **How it fails:** from $|t| = \tfrac{8}{3\sqrt3} b \approx 1.54\,b$ on one well is left: the landscape itself is
    still good, but `minima` and `saddles` raise.  Close to that limit the shallow well and the saddle merge like a
    square root: their positions keep half of the digits, and their gradients grow without bound.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> import rxjax as rx
        >>> well = rx.landscapes.DoubleWell(barrier=2.0, tilt=0.5, dim=2)
        >>> print(well.minima.round(3))
        [[-1.03   0.   ]
         [ 0.967  0.   ]]
        >>> print(well.saddles.round(3))
        [[0.063 0.   ]]

        ```
    """

    barrier: Float[Array, ""]
    tilt: Float[Array, ""]
    dim: int = eqx.field(static=True)
    name = "double well"

    def __init__(self, barrier: ArrayLike = 1.0, tilt: ArrayLike = 0.0, dim: int = 1):
        """**Arguments:**

        - `barrier`: $b > 0$, the height between the wells at zero tilt.
        - `tilt`: $t$, the slope added along the first coordinate.
        - `dim`: the number of coordinates.

        **Raises:** `ValueError` for a barrier that is not positive, values that are not finite or no scalars, or a
        `dim` below 1; `TypeError` for one that is not whole.
        """
        barrier = positive(as_scalar(barrier, "barrier"), "barrier", "A negative one has no lowest point.")
        self.barrier, self.tilt = widest(barrier, finite(as_scalar(tilt, "tilt"), "tilt"))
        self.dim = check_dim(dim)

    @property
    def bounds(self) -> Float[Array, "d 2"]:
        return constant([[-2.0, 2.0]] + [[-3.0, 3.0]] * (self.dim - 1))

    @property
    def minima(self) -> Float[Array, "2 d"]:
        return self._stationary(np.array([-1, 1]))

    @property
    def saddles(self) -> Float[Array, "1 d"]:
        return self._stationary(np.array([0]))

    def _stationary(self, k: np.ndarray) -> Float[Array, "n d"]:
        limit = 8.0 / (3.0 * math.sqrt(3.0))
        faults = [(~(jnp.abs(self.tilt) < limit * self.barrier), "leaves one")]
        remedy = f"Keep its size below {limit:.6f} times the barrier."
        tilt = require(self.tilt, "tilt", "leave two wells", faults, remedy)
        phase = jnp.arcsin(tilt / (limit * self.barrier)) / 3.0
        x = (2.0 / math.sqrt(3.0)) * jnp.sin(phase + jnp.asarray(k * (2.0 * math.pi / 3.0), phase.dtype))
        return jnp.pad(x[:, None], ((0, 0), (0, self.dim - 1)))

    def _value(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        barrier, tilt = self.barrier.astype(theta.dtype), self.tilt.astype(theta.dtype)
        x, rest = theta[0], theta[1:]
        return barrier * (x**2 - 1.0) ** 2 + tilt * x + 0.5 * jnp.sum(rest**2)
