"""Uniform proposal on a box."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._base import AbstractProposal, check_shape, check_vector, check_width
from ._bessel import ball_log_mgf, ball_mean


class Box(AbstractProposal):
    r"""Uniform updates on the box $[-r, r]^d$, with $M(\lambda) = \prod_i \sinh(r\lambda_i)/(r\lambda_i)$.

    **Arguments:**

    - `half_width`: $r > 0$, a number or one per axis, shape `(d,)`; in the units of the parameters.

    For a strong tilt the mean update tends to the corner $\pm r$: with every axis at its bound, as in sign descent.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.proposals.Box(0.1).tilted_mean(jnp.array([1.0, -1e6])).round(4))
    [ 0.0033 -0.1   ]

    ```
    """

    half_width: Float[Array, "*d"]

    def __init__(self, half_width: ArrayLike):
        self.half_width = check_width(half_width, "half_width", per_axis=True)

    def log_density(self, delta: ArrayLike) -> Float[Array, ""]:
        delta = check_vector(delta, "delta", self.half_width)
        volume = jnp.sum(jnp.broadcast_to(jnp.log(2 * self.half_width), delta.shape))
        return jnp.where(jnp.all(jnp.abs(delta) <= self.half_width), -volume, -jnp.inf)

    def sample(self, key: PRNGKeyArray, shape: Sequence[int]) -> Float[Array, "..."]:
        shape = check_shape(shape, self.half_width)
        return jnp.broadcast_to(self.half_width, shape) * jax.random.uniform(
            key, shape, self.half_width.dtype, minval=-1, maxval=1
        )

    def log_mgf(self, tilt: ArrayLike) -> Float[Array, ""]:
        tilt = check_vector(tilt, "tilt", self.half_width)
        return jnp.sum(ball_log_mgf(*self._intervals(tilt)))

    def tilted_mean(self, tilt: ArrayLike) -> Float[Array, " d"]:
        tilt = check_vector(tilt, "tilt", self.half_width)
        return ball_mean(*self._intervals(tilt))[:, 0]

    def _intervals(self, tilt: Array) -> tuple[Array, Array]:
        """The axes one by one: an interval is the ball of one dimension."""
        return jnp.broadcast_to(self.half_width, tilt.shape), tilt[:, None]
