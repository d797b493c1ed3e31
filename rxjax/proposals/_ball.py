"""Uniform proposal on a ball."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._base import AbstractProposal, check_shape, check_vector, check_width
from ._bessel import ball_log_mgf, ball_mean


class Ball(AbstractProposal):
    r"""Uniform updates in the ball $|\delta| \leq r$.

    With $x = r|\lambda|$, $M(\lambda) = \Gamma(d/2+1)\,(2/x)^{d/2}\,I_{d/2}(x)$ of the modified Bessel function.

    **Arguments:**

    - `radius`: $r > 0$, a number, in the units of the parameters.

    For a strong tilt the mean update tends to steepest descent of length $r$, as with a clipped gradient.  In many
    dimensions a ball is felt as a Gaussian of variance $r^2/(d + 2)$ until $x$ reaches $d$.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.proposals.Ball(0.1).tilted_mean(jnp.array([3e6, 4e6])).round(4))
    [0.06 0.08]

    ```
    """

    radius: Float[Array, ""]

    def __init__(self, radius: ArrayLike):
        self.radius = check_width(radius, "radius", per_axis=False)

    def log_density(self, delta: ArrayLike) -> Float[Array, ""]:
        delta = check_vector(delta, "delta", self.radius)
        dim = delta.shape[0]
        log_volume = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1) + dim * jnp.log(self.radius)
        # A sample may lie beyond the surface by rounding.
        edge = 1 + 8 * jnp.finfo(delta.dtype).eps
        return jnp.where(jnp.sum(jnp.square(delta / self.radius)) <= edge, -log_volume, -jnp.inf)

    def sample(self, key: PRNGKeyArray, shape: Sequence[int]) -> Float[Array, "..."]:
        shape = check_shape(shape, self.radius)
        unit = jax.random.ball(key, shape[-1], shape=shape[:-1], dtype=self.radius.dtype)
        return self.radius * unit

    def log_mgf(self, tilt: ArrayLike) -> Float[Array, ""]:
        tilt = check_vector(tilt, "tilt", self.radius)
        return ball_log_mgf(self.radius, tilt)

    def tilted_mean(self, tilt: ArrayLike) -> Float[Array, " d"]:
        tilt = check_vector(tilt, "tilt", self.radius)
        return ball_mean(self.radius, tilt)
