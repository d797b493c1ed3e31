"""Every other cell along one axis becomes a cell of a coarser chain.

A cell between two of them, left out, takes from both what it hands on to them: a function there is the mean of what the
process meets next along the axis, and mass there is where the two send it.  That is elimination of the cells left out,
exact along the axis, so the way from one coarser cell to the next is a series of resistances and slow passages stay
slow; hops across go along with the mass.  Every quantity is a sum of products of positive numbers.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .._elimination._neighbours import neighbour

Offset = tuple[int, ...]


class Chain(NamedTuple):
    """A Markov chain on a grid: rates by the offset of a hop, and other losses; each `(*shape)`, unit 1/time.

    Rates are zero where a hop would leave the grid or ends on a cell that takes no part.
    """

    rates: dict[Offset, Array]
    loss: Array

    def leaving(self) -> Array:
        """The diagonal of `A`: rate at which each cell is left."""
        return sum(self.rates.values(), self.loss)


class Halving(NamedTuple):
    """What ties cells left out to coarser ones; the cell left out at a place follows the coarser one there.

    Each of the coarser grid's shape, without a unit.

    - `down`, `up`: where the process goes next from a cell left out.
    - `own`, `after`, `before`: the shares in the mean over a coarser cell of itself and of its neighbours left out.
    """

    down: Array
    up: Array
    own: Array
    after: Array
    before: Array


def evened(chain: Chain, periodic: tuple[bool, ...]) -> Chain:
    """The same with an even number of cells along each axis: one more, which takes no part; on a ring a stop on the way
    from the last to the first, so that a function in the others is what it was.
    """
    for axis, n in enumerate(chain.loss.shape):
        if n % 2:
            chain = _with_one_more(chain, axis, n, periodic[axis] and n > 1)
    return chain


def _with_one_more(chain: Chain, axis: int, n: int, ring: bool) -> Chain:
    first, last = (
        (jnp.arange(n) == k).reshape([-1 if i == axis else 1 for i in range(chain.loss.ndim)]) for k in (0, n - 1)
    )
    ends = {1: last, -1: first}
    beside = lambda x, value: jnp.concatenate([x, value], axis)
    none = jnp.zeros_like(lax.slice_in_dim(chain.loss, 0, 1, axis=axis))
    along = {hop[axis]: rate for hop, rate in chain.rates.items() if hop[axis] and sum(map(abs, hop)) == 1}
    # Of any pace, as long as it leads both ways alike; at that of its neighbours it smooths well.
    stop = sum((jnp.sum(jnp.where(ends[step], rate, 0), axis, keepdims=True) for step, rate in along.items()), none)
    stop = jnp.where(stop > 0, stop, 1)
    rates = {}
    for hop, rate in chain.rates.items():
        if ring and hop[axis]:
            rate = jnp.where(ends[hop[axis]], 2 * rate, rate)
        rates[hop] = beside(rate, stop if ring and hop[axis] and sum(map(abs, hop)) == 1 else none)
    return Chain(rates, beside(chain.loss, none if ring else none + 1))


def halve(chain: Chain, axis: int, periodic: bool) -> tuple[Chain, Halving]:
    """The chain of every other cell along one axis, of which there is an even number."""
    below = lambda x: neighbour(x, axis, -1, periodic)
    rates = {offset: parted(rate, axis) for offset, rate in chain.rates.items()}
    loss, loss_out = parted(chain.loss, axis)

    along = lambda step, which: sum(both[which] for offset, both in rates.items() if offset[axis] == step)
    leaving = along(1, 1) + along(-1, 1) + loss_out
    # Where nothing leads along the axis neighbours share.
    stuck = leaving <= 0
    inverted, share = 1 / jnp.where(stuck, 1, leaving), jnp.where(stuck, 0.5, 0)
    down, up = along(-1, 1) * inverted + share, along(1, 1) * inverted + share
    after, before = along(1, 0) * inverted + share, along(-1, 0) * below(inverted) + below(share)
    own = 1 / (1 + after + before)
    down, up, own, after, before = halving = Halving(down, up, own, own * after, own * before)

    coarse: dict[Offset, Array] = {}

    def collect(offset: Offset, rate: Array):
        if any(offset):
            coarse[offset] = coarse[offset] + rate if offset in coarse else rate

    for offset, (inside, out) in rates.items():
        across = offset[:axis] + (0,) + offset[axis + 1 :]
        there = lambda x, across=across: jnp.roll(x, tuple(-step for step in across), tuple(range(x.ndim)))
        if offset[axis] == 0:
            # What a coarser cell gets of this hop must not depend on which way it is taken: a harmonic mean.
            to_below, to_above = (2 * _share(there(x), x) for x in (down, up))
            collect(offset, own * inside + after * to_below * out + before * below(to_above * out))
        elif offset[axis] == 1:
            collect(offset, own * inside * there(up))
            collect(across, own * inside * there(down))
        else:
            collect(offset, own * inside * below(there(down)))
            collect(across, own * inside * below(there(up)))
    if periodic and loss.shape[axis] == 1:
        # A ring of one cell leads back to itself.
        for offset in [offset for offset in coarse if offset[axis]]:
            coarse[offset] = jnp.zeros_like(loss)
    loss = own * loss + after * loss_out + before * below(loss_out)
    return Chain(coarse, loss), halving


def _share(one: Array, other: Array) -> Array:
    """`one / (one + other)`, a half of nothing."""
    both = one + other
    return jnp.where(both > 0, one / jnp.where(both > 0, both, 1), 0.5)


def parted(x: Array, axis: int) -> tuple[Array, Array]:
    """The even and the odd cells along an axis; after the last of an odd number follows zero."""
    if x.shape[axis] % 2:
        x = jnp.pad(x, [(0, int(i == axis)) for i in range(x.ndim)])
    x = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    return lax.index_in_dim(x, 0, axis + 1, keepdims=False), lax.index_in_dim(x, 1, axis + 1, keepdims=False)


def joined(even: Array, odd: Array, axis: int) -> Array:
    """What `parted` has parted."""
    both = jnp.stack([even, odd], axis + 1)
    return both.reshape(*even.shape[:axis], 2 * even.shape[axis], *even.shape[axis + 1 :])
