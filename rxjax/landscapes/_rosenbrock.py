"""The extended Rosenbrock function."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._base import AbstractLandscape, box, check_dim, constant

# Where Newton's method finds the one saddle of index 1; the last coordinate is the square of the one before.
_SADDLE_STARTS = {
    4: (-0.656, 0.443, 0.204, 0.042),
    5: (-0.557, 0.325, 0.117, 0.023, 0.0005),
    6: (-0.555, 0.322, 0.115, 0.0235, 0.0104, 0.0001),
    7: (-0.555, 0.322, 0.115, 0.0235, 0.0107, 0.01, 0.0001),
}
_MOST = 100


def _newton(x: np.ndarray) -> np.ndarray:
    """The stationary point near `x`, to rounding."""
    n = len(x)
    for _ in range(30):
        head, tail = x[:-1], x[1:]
        gradient, hessian = np.zeros(n), np.zeros((n, n))
        gradient[:-1] += -400.0 * head * (tail - head**2) - 2.0 * (1.0 - head)
        gradient[1:] += 200.0 * (tail - head**2)
        i = np.arange(n - 1)
        hessian[i, i] += 1200.0 * head**2 - 400.0 * tail + 2.0
        hessian[i + 1, i + 1] += 200.0
        hessian[i, i + 1] = hessian[i + 1, i] = -400.0 * head
        x = x - np.linalg.solve(hessian, gradient)
    return x


class Rosenbrock(AbstractLandscape):
    r"""The extended Rosenbrock function, a narrow curved valley:

    $$L(\theta) = \sum_{i=1}^{d-1} \big[100\,(\theta_{i+1} - \theta_i^2)^2 + (1 - \theta_i)^2\big], \qquad d \ge 2$$

    (Rosenbrock, The Computer Journal 3, 175, 1960).  The global minimum is 0 at $(1, \dots, 1)$.  In two and three
    dimensions nothing else is stationary.  From four on a second minimum lies near $(-1, 1, \dots, 1)$, with energy
    3.70 to 3.99; two are known up to $d = 100$ (Kok and Sandrock, Evolutionary Computation 17, 437, 2009).  For $d$
    from 4 to 7 one saddle of index 1 joins them, found by Newton's method from 40,000 random starts.

    **Good values:** at the minimum the curvatures are 0.4 and 1002 in two dimensions, a condition number of 2500: a
    test of stiffness.  $kT$ from 0.1 to 10.  `bounds` is $\pm 2.048$.

    **How it fails:** a grid must resolve the valley's width, $\sqrt{kT/1000}$ across.  Above 7 dimensions `saddles` is
    `None`, above 100 `minima` is too.

    !!! example

        ```python
        >>> import jax
        >>> import rxjax as rx
        >>> valley = rx.landscapes.Rosenbrock(4)
        >>> print(jax.vmap(valley)(valley.minima).round(4))
        [0.     3.7014]

        ```
    """

    dim: int = eqx.field(static=True)
    name = "Rosenbrock"

    def __init__(self, dim: int = 2):
        """**Arguments:**

        - `dim`: the number of coordinates, 2 or more.
        """
        self.dim = check_dim(dim, least=2)

    @property
    def bounds(self) -> Float[Array, "d 2"]:
        return box(self.dim, -2.048, 2.048)

    @property
    def minima(self) -> Float[Array, "n d"] | None:
        if self.dim > _MOST:
            return None
        ones = np.ones((1, self.dim))
        if self.dim < 4:
            return constant(ones)
        start = np.concatenate([[-1.0], np.ones(self.dim - 1)])
        return constant(np.concatenate([ones, _newton(start)[None]]))

    @property
    def saddles(self) -> Float[Array, "m d"] | None:
        if self.dim < 4:
            return constant(np.zeros((0, self.dim)))
        if self.dim not in _SADDLE_STARTS:
            return None
        return constant(_newton(np.asarray(_SADDLE_STARTS[self.dim]))[None])

    def _value(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        head, tail = theta[:-1], theta[1:]
        return jnp.sum(100.0 * (tail - head**2) ** 2 + (1.0 - head) ** 2)
