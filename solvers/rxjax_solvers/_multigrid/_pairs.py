"""Pairs of neighbouring cells along one axis, joined into cells of a coarser chain.

Within a pair mass is shared out as if it were in equilibrium, `down_2 : up_1`; of a reversible generator this is the
Gibbs law, without its range.  What leaves a pair leaves it from where the mass is, and the way between the middles of
two pairs is a series of resistances: `1/(1 + up_2/(up_1 + down_2) + down_3/(up_3 + down_4))` of the rate across the
face between them.  That halves the rates of free diffusion, as the coarser grid asks for, and keeps slow passages slow.
Every quantity is a sum of products of positive numbers.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._grid import from_front, to_front

Offset = tuple[int, ...]


class Chain(NamedTuple):
    """A Markov chain on a grid: rates by the offset of a hop, other losses, and the cells that take part.

    Rates are zero where a hop would leave the grid or ends on a cell that takes no part.
    """

    rates: dict[Offset, Array]
    loss: Array
    keep: Array


class Pairing(eqx.Module):
    """The shares of the first and the second cell of each pair; a cell left over at the end is a first one."""

    first: Float[Array, "*coarse"]
    second: Float[Array, "*coarse"]
    axis: int = eqx.field(static=True)
    cells: int = eqx.field(static=True)

    def restrict(self, x: Float[Array, "*fine"], backward: bool) -> Float[Array, "*coarse"]:
        """What the pairs hold together; of functions (`backward`) the mean."""
        first, second = _split(x, self.axis, "constant")
        return self.first * first + self.second * second if backward else first + second

    def prolong(self, x: Float[Array, "*coarse"], backward: bool) -> Float[Array, "*fine"]:
        """Shares of what the pairs hold; of functions the same value for both."""
        both = (x, x) if backward else (self.first * x, self.second * x)
        both = jnp.stack([to_front(half, self.axis) for half in both], axis=1)
        return from_front(both.reshape(-1, *both.shape[2:])[: self.cells], self.axis)


def pair_up(chain: Chain, axis: int, periodic: bool) -> tuple[Chain, Pairing]:
    """The chain of the pairs along one axis."""
    cells = chain.loss.shape[axis]
    odd = cells % 2 == 1
    halves = lambda x: _split(x, axis, "edge")
    up = tuple(int(i == axis) for i in range(chain.loss.ndim))
    down = tuple(-i for i in up)
    (up_1, up_2), (down_1, down_2), (keep_1, keep_2) = (
        halves(chain.rates[up]),
        halves(chain.rates[down]),
        halves(chain.keep),
    )
    lone = _last(up_1.shape, axis) & odd
    inside = jnp.where(lone, 0, up_1 + down_2)
    joined, both, neither = inside > 0, keep_1 & keep_2, ~(keep_1 | keep_2)
    apart = jnp.where(both, 0.5, jnp.where(keep_1 | neither, 1.0, 0.0)).astype(up_1.dtype)
    safe = jnp.where(joined, inside, 1)
    first = jnp.where(lone, 1, jnp.where(joined, down_2 / safe, apart))
    second = jnp.where(lone, 0, jnp.where(joined, up_1 / safe, 1 - apart))

    rates: dict[Offset, Array] = {}

    def collect(offset: Offset, rate: Array):
        if any(offset):
            rates[offset] = rates[offset] + rate if offset in rates else rate

    for offset, rate in chain.rates.items():
        one, two = halves(rate)
        along = offset[:axis] + (0,) + offset[axis + 1 :]
        if offset[axis] == 0:
            collect(offset, first * one + second * two)
        elif offset[axis] == 1:
            collect(along, jnp.where(lone, 0, first * one))
            collect(offset, jnp.where(lone, 1, second) * two)
        else:
            collect(along, second * two)
            collect(offset, first * one)
    above, below = jnp.where(joined, up_2 / safe, 0), jnp.where(joined, down_1 / safe, 0)
    passing = 1 / (1 + above + jnp.roll(below, -1, axis))
    rates[up] = rates[up] * passing
    rates[down] = rates[down] * jnp.roll(passing, 1, axis)
    if periodic and up_1.shape[axis] == 1:
        # A ring of one cell leads back to itself.
        rates[up], rates[down] = jnp.zeros_like(first), jnp.zeros_like(first)
    loss_1, loss_2 = halves(chain.loss)
    coarse = Chain(rates, first * loss_1 + second * loss_2, keep_1 | keep_2)
    return coarse, Pairing(first, second, axis, cells)


def _split(x: Array, axis: int, pad: str) -> tuple[Array, Array]:
    """First and second cells of the pairs; where a cell is left over its partner is a copy or zero."""
    if x.shape[axis] % 2:
        x = jnp.pad(x, [(0, int(i == axis)) for i in range(x.ndim)], mode=pad)
    x = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    return lax.index_in_dim(x, 0, axis + 1, keepdims=False), lax.index_in_dim(x, 1, axis + 1, keepdims=False)


def _last(shape: tuple[int, ...], axis: int) -> Bool[Array, "*shape"]:
    along = jnp.arange(shape[axis]) == shape[axis] - 1
    return jnp.broadcast_to(along.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)
