"""Rates between neighbouring cells on part of a grid."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._fokker_planck import FokkerPlanck
from .._grid import from_front


def neighbour(x: Array, axis: int, step: int, periodic: bool) -> Array:
    """The value one cell further along an axis (`step` is 1 or -1), zero or false beyond a side."""
    if periodic:
        return jnp.roll(x, -step, axis)
    ends = (-1, 1, 0) if step == 1 else (1, -1, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), [ends if i == axis else (0, 0, 0) for i in range(x.ndim)])


def hops(generator: FokkerPlanck) -> tuple[tuple[int, ...], ...]:
    """The offsets of the hops along each axis, then along each diagonal; each has its opposite."""
    dim = len(generator.shape)
    out = [tuple(int(i == axis) for i in range(dim)) for axis in range(dim)]
    for diagonal in generator.diagonals:
        first, second = diagonal.axes
        out.append(tuple(int(i == first) + diagonal.sign * int(i == second) for i in range(dim)))
    return tuple(out)


def kept_rates(
    generator: FokkerPlanck, loss: Float[Array, "*shape"], keep: Bool[Array, "*shape"]
) -> tuple[list[tuple[Array, Array]], Array]:
    """Rates among the kept cells for each of `hops` and its opposite, and what leaves them: `loss`, exits, the rest.

    Cells that are not kept have no rates and lose 1.
    """
    pairs = []
    for axis, rates in enumerate(generator.axis_rates):
        pair = []
        for rate, step in ((rates.up, 1), (rates.down, -1)):
            rate = from_front(rate, axis)
            stays = keep & neighbour(keep, axis, step, rates.periodic)
            loss = loss + jnp.where(stays, 0, rate)
            pair.append(jnp.where(stays, rate, 0))
        pairs.append((pair[0], pair[1]))
    for diagonal in generator.diagonals:
        pair = []
        for rate, by in ((diagonal.forward, -1), (diagonal.backward, 1)):
            stays = keep & (diagonal.shifted(keep.astype(rate.dtype), by) > 0)
            loss = loss + jnp.where(stays, 0, rate)
            pair.append(jnp.where(stays, rate, 0))
        pairs.append((pair[0], pair[1]))
    return pairs, jnp.where(keep, loss, 1)
