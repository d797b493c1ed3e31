"""What a user may give for a drift or a diffusion."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, ArrayLike, Shaped


class TimeDependent(eqx.Module):
    """Marks a coefficient `f(t, theta)` that depends on time, with `theta` of shape `(d,)`.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> drift = rxs.TimeDependent(lambda t, theta: jnp.cos(2 * t) - theta)

        ```
    """

    f: Callable

    def at(self, t: Shaped[ArrayLike, ""]) -> Callable:
        """The coefficient as a function of `theta` at time `t`."""
        return lambda theta: self.f(t, theta)


class Tabulated(eqx.Module):
    """A potential whose values in the cells are known: those of a real network are not to be computed twice."""

    potential: Callable
    values: Array


class NegativeGradient(eqx.Module):
    """The drift `-mobility * grad V`, taken from differences of `V` between neighbouring cells.

    For a constant diffusion `D` this makes `exp(-mobility V / D)` exactly stationary on the grid, and needs values of
    `V` only, never its gradient.  `potential` maps `theta` of shape `(d,)` to `()`, is an array of values in the
    cells, or `TimeDependent`; `mobility` is a scalar or one number per axis, or `(d, d)` beside a diffusion of that
    shape, and symmetric on a grid (first order in the cell size where it is no multiple of that).  On a periodic axis
    the seam takes the difference between the last and the first cell, so `V` must be periodic there.
    """

    potential: Callable | TimeDependent | Tabulated | Shaped[Array, "..."]
    mobility: Shaped[ArrayLike, "..."] = 1.0


class Corrected(eqx.Module):
    """A drift and what a convention adds to it, a function of `theta` or `TimeDependent`."""

    drift: Any
    correction: Callable | TimeDependent


def is_time_dependent(coefficient: Any) -> bool:
    """Whether a coefficient changes with time."""
    if isinstance(coefficient, Corrected):
        return is_time_dependent(coefficient.drift) or is_time_dependent(coefficient.correction)
    if isinstance(coefficient, NegativeGradient):
        return isinstance(coefficient.potential, TimeDependent)
    return isinstance(coefficient, TimeDependent)


def freeze(coefficient: Any, t: Shaped[ArrayLike, ""]) -> Any:
    """The coefficient at time `t`, time-independent."""
    if isinstance(coefficient, Corrected):
        return Corrected(freeze(coefficient.drift, t), freeze(coefficient.correction, t))
    if isinstance(coefficient, NegativeGradient) and isinstance(coefficient.potential, TimeDependent):
        return NegativeGradient(coefficient.potential.at(t), coefficient.mobility)
    return coefficient.at(t) if isinstance(coefficient, TimeDependent) else coefficient
