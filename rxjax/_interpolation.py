"""Positive functions between the points where they were measured."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rxjax_solvers._compiled import compiled


class LogCubic(eqx.Module):
    r"""A positive function on a rectangle, from its values on a lattice: cubic convolution of the logarithm.

    Passes through every measured value, has a continuous gradient and is positive everywhere.  Third order in the
    lattice's spacing (R. G. Keys, IEEE Trans. Acoust. Speech Signal Process. 29, 1153 (1981), eq. 15 with a = -1/2).
    Outside the lattice it keeps the value at the edge.

    **Arguments:**

    - `values`: `(n_1, .., n_k, *out)`, positive; `n_i >= 2` points from `lower[i]` to `upper[i]`, both included.
    - `lower`, `upper`: `(k,)`.

    **How it fails:** features narrower than the lattice's spacing are smoothed over, not seen.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> from rxjax._interpolation import LogCubic
        >>> x = jnp.linspace(0.0, 1.0, 9)
        >>> f = LogCubic(jnp.exp(-3 * x), jnp.zeros(1), jnp.ones(1))
        >>> print((f(jnp.array([0.3])) / jnp.exp(-0.9)).round(6))
        1.0

        ```
    """

    logs: Float[Array, "..."]
    lower: Float[Array, " k"]
    upper: Float[Array, " k"]

    def __init__(self, values: Float[Array, "..."], lower: Float[Array, " k"], upper: Float[Array, " k"]):
        self.logs, self.lower, self.upper = _extended(values, lower.shape[0]), lower, upper

    def __call__(self, theta: Float[Array, " k"]) -> Float[Array, "..."]:
        """The value at `theta`, of shape `out`."""
        return _between(self, theta)


@compiled
def _extended(values: Array, dim: int) -> Array:
    logs = jnp.log(values)
    for axis in range(dim):
        # One more layer on either side, on the straight line through the last two.
        f = jnp.moveaxis(logs, axis, 0)
        logs = jnp.moveaxis(jnp.concatenate([2 * f[:1] - f[1:2], f, 2 * f[-1:] - f[-2:-1]]), 0, axis)
    return logs


@compiled
def _between(of: LogCubic, theta: Array) -> Array:
    k = of.lower.shape[0]
    sizes = jnp.asarray(of.logs.shape[:k], theta.dtype) - 3
    lower, upper = of.lower.astype(theta.dtype), of.upper.astype(theta.dtype)
    place = jnp.clip((theta - lower) / (upper - lower), 0, 1) * sizes
    cell = jnp.minimum(jnp.floor(place), sizes - 1)
    start = [i.astype(jnp.int32) for i in jnp.unstack(cell)]
    rest = of.logs.shape[k:]
    f = jax.lax.dynamic_slice(of.logs, [*start, *(jnp.zeros((), jnp.int32) for _ in rest)], (4,) * k + rest).astype(
        theta.dtype
    )
    for weights in jax.vmap(_keys)(place - cell):
        f = jnp.tensordot(weights, f, axes=1, precision="highest")
    return jnp.exp(f)


def _keys(t: Float[Array, ""]) -> Float[Array, "4"]:
    """Weights of the four points around a place `t` of the way from the second to the third."""
    return jnp.stack(
        [
            t * (t * (2 - t) - 1) / 2,
            (t * t * (3 * t - 5) + 2) / 2,
            t * (t * (4 - 3 * t) + 1) / 2,
            t * t * (t - 1) / 2,
        ]
    )
