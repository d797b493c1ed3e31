"""Gaussian proposal."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._base import AbstractProposal, check_shape, check_vector, check_width


class Gaussian(AbstractProposal):
    r"""Normal updates, $\delta \sim N(0, s^2 I)$, with $M(\lambda) = e^{s^2 |\lambda|^2 / 2}$.

    **Arguments:**

    - `std`: $s > 0$, a number or one per axis, shape `(d,)`; in the units of the parameters.

    Good values: $s |g|/(kT)$ of order 1.  The total rate grows like $e^{s^2 |g|^2 / 2 (kT)^2}$ without bound, carried
    by ever longer updates over which the loss is not linear; where that matters take a [`Box`][] or a [`Ball`][].

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.proposals.Gaussian(0.1).tilted_mean(jnp.array([1.0, -2.0])))
    [ 0.01 -0.02]

    ```
    """

    std: Float[Array, "*d"]

    def __init__(self, std: ArrayLike):
        self.std = check_width(std, "std", per_axis=True)

    def log_density(self, delta: ArrayLike) -> Float[Array, ""]:
        delta = check_vector(delta, "delta", self.std)
        z = delta / self.std
        return jnp.sum(-jnp.square(z) / 2 - jnp.log(self.std) - math.log(2 * math.pi) / 2)

    def sample(self, key: PRNGKeyArray, shape: Sequence[int]) -> Float[Array, "..."]:
        shape = check_shape(shape, self.std)
        return jnp.broadcast_to(self.std, shape) * jax.random.normal(key, shape, self.std.dtype)

    def log_mgf(self, tilt: ArrayLike) -> Float[Array, ""]:
        tilt = check_vector(tilt, "tilt", self.std)
        return jnp.sum(jnp.square(self.std * tilt)) / 2

    def tilted_mean(self, tilt: ArrayLike) -> Float[Array, " d"]:
        tilt = check_vector(tilt, "tilt", self.std)
        return self.std * (self.std * tilt)
