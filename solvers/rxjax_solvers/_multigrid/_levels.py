"""Coarser and coarser grids, and one cycle through them: an approximate inverse."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._elimination._gth import inverse
from .._elimination._neighbours import hops, kept_rates, neighbour
from .._fokker_planck import FokkerPlanck
from ._approximation import AbstractApproximation
from ._halving import Chain, Halving, Offset, evened, halve, joined, parted

# Grids of so many cells are solved as a full matrix.
_COARSEST = 144
# Sweeps over either colour before and after the coarser grids.
_SWEEPS = 2

# Which of the even and odd cells along each axis, and an array of each.
Child = tuple[int, ...]
Children = dict[Child, Array]


class Level(eqx.Module):
    """One grid, apart by the even and odd cells along each axis: neighbours lie at the same place, or one further on.

    The matrix is scaled to a diagonal of ones: from the left for functions, from the right for densities.

    - `shares`: of each hop in what leaves a cell, `apart`.
    - `carried`: from here to the next grid, one axis after the other; apart along the axes that are still to come, and
        scaled to both grids.
    """

    shares: Float[Array, "hops *twos_and_half"]
    carried: tuple[Float[Array, "5 *twos_and_half"], ...]
    hops: tuple[Offset, ...] = eqx.field(static=True)
    axes: tuple[int, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)

    def __init__(
        self, chain: Chain, halvings: Sequence[Halving], scale: Array, axes: tuple[int, ...], periodic: tuple[bool, ...]
    ):
        """`scale`: one over the diagonal of the next grid."""
        leaving = chain.leaving()
        inverted, self.hops, self.axes, self.periodic = 1 / leaving, tuple(chain.rates), axes, periodic
        self.shares = jax.vmap(apart)(jnp.stack([rate * inverted for rate in chain.rates.values()]))
        carried, done = [], ()
        for axis, (down, up, *mean) in zip(axes, halvings, strict=True):
            if not done:
                even, odd = parted(leaving, axis)
                mean = [
                    part * of
                    for part, of in zip(mean, (even, odd, neighbour(odd, axis, -1, periodic[axis])), strict=True)
                ]
            done = (*done, axis)
            if done == axes:
                mean = [part * scale for part in mean]
            carried.append(jax.vmap(partial(apart, whole=done))(jnp.stack([down, up, *mean])))
        self.carried = tuple(carried)

    def smooth(self, x: Children, b: Children, backward: bool) -> tuple[Children, Children]:
        """Gauss-Seidel over the colours of a chessboard, odd cells first; also even cells of one sweep before."""

        def sweep(_, state):
            x, _ = state
            even = _of_colour(x, 0)
            x = lax.optimization_barrier(x | self._balanced(x, b, backward, 1))
            return x | self._balanced(x, b, backward, 0), even

        return lax.fori_loop(0, _SWEEPS, sweep, (x, _of_colour(x, 0)))

    def _balanced(self, x: Children, b: Children, backward: bool, colour: int) -> Children:
        """Each cell of a colour such that its equation holds with the others as they are."""
        return {child: self._of_others(x, child, b[child], backward) for child in _of_colour(x, colour)}

    def _of_others(self, x: Children, child: Child, total: Array, backward: bool) -> Array:
        for k, hop in enumerate(self.hops):
            other = tuple((part + step) % 2 for part, step in zip(child, hop, strict=True))
            if backward:
                total = total + self.shares[k, *child] * self._seen(x[other], child, hop)
            else:
                back = self.hops.index(tuple(-step for step in hop))
                total = total + self._seen(self.shares[back, *other] * x[other], child, hop)
        return total

    def _seen(self, x: Array, child: Child, hop: Offset) -> Array:
        """What lies at the end of a hop, at the place of the child."""
        for axis, step in enumerate(hop):
            if step and (child[axis] == 1) == (step == 1):
                x = neighbour(x, axis, step, self.periodic[axis])
        return x

    def descend(self, b: Children, backward: bool) -> tuple[Children, Children]:
        """Smooth from zero: `x` and what is missing from `b`, where anything is."""
        none = {child: jnp.zeros_like(part) for child, part in b.items()}
        later, before = self.smooth(none | _of_colour(b, 0), b, backward)
        x = later | before
        rest = {child: later[child] - before[child] for child in before}
        if any(sum(hop) % 2 == 0 for hop in self.hops):
            # Hops along diagonals join equal colours.
            rest |= {child: new - x[child] for child, new in self._balanced(x, b, backward, 1).items()}
        return x, rest

    def restrict(self, x: Children, backward: bool) -> Float[Array, "*coarse"]:
        """Mass sent on to the coarser cells; of functions (`backward`) the mean.  What is not given is zero."""
        for axis, carried in zip(self.axes, self.carried, strict=True):
            out = {}
            for child in children(carried[0]):
                down, up, own, after, before = (carried[k, *child] for k in range(5))
                low, high = x.get(child), x.get(_partner(child, axis))
                further = lambda x, axis=axis: neighbour(x, axis, -1, self.periodic[axis])
                parts = []
                if low is not None:
                    parts.append(own * low if backward else low)
                if high is not None:
                    parts.append(
                        after * high + before * further(high) if backward else down * high + further(up * high)
                    )
                if parts:
                    out[child] = sum(parts[1:], parts[0])
            x = out
        shape = next(iter(x.values()))
        return together({child: x.get(child, jnp.zeros_like(shape)) for child in children(self.carried[-1][0])})

    def prolong(self, x: Float[Array, "*coarse"], backward: bool) -> Children:
        """Mass spread over the cells; of functions their means."""
        parts = named(apart(x, self.axes))
        for axis, carried in zip(reversed(self.axes), reversed(self.carried), strict=True):
            out = {}
            for child in children(carried[0]):
                part = parts[child]
                down, up, own, after, before = (carried[k, *child] for k in range(5))
                further = lambda x, axis=axis: neighbour(x, axis, 1, self.periodic[axis])
                out[child] = part if backward else own * part
                odd = down * part + up * further(part) if backward else after * part + further(before * part)
                out[_partner(child, axis)] = odd
            parts = out
        return parts


class Levels(AbstractApproximation):
    """Grids from the finest down and the inverse on the coarsest, with the diagonals scaled away."""

    pairs: tuple[tuple[Array, Array], ...]
    loss: Float[Array, "*shape"]
    scale: Float[Array, "*shape"]
    grids: tuple[Level, ...]
    inverted: Float[Array, "n n"]
    hops: tuple[Offset, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)

    def __init__(self, chain: Chain, periodic: tuple[bool, ...]):
        self.hops = tuple(hop for hop in sorted(chain.rates, reverse=True) if hop > _opposite(hop))
        self.pairs = tuple((chain.rates[hop], chain.rates[_opposite(hop)]) for hop in self.hops)
        self.loss, self.periodic = chain.loss, periodic
        self.scale = 1 / chain.leaving()
        grids = []
        while chain.loss.size > _COARSEST or not grids:
            fine = evened(chain, periodic)
            shape = fine.loss.shape
            axes = tuple(axis for axis, n in enumerate(shape) if 2 * n > max(shape))
            chain, halvings = fine, []
            for axis in axes:
                chain, halving = _separately(partial(halve, axis=axis, periodic=periodic[axis]), chain)
                halvings.append(halving)
            make = partial(Level, axes=axes, periodic=periodic)
            grids.append(_separately(make, fine, halvings, 1 / chain.leaving()))
        self.grids = tuple(grids)
        self.inverted = _inverted(chain) * chain.leaving().ravel()[:, None]

    def apply(self, x: Float[Array, "*shape"], backward: bool) -> Float[Array, "*shape"]:
        """Differences first, so that what is in balance cancels early."""
        y = self.loss * x
        for hop, (forth, back) in zip(self.hops, self.pairs, strict=True):
            opposite = _opposite(hop)
            if backward:
                y = y + forth * (x - self._at(x, hop)) + back * (x - self._at(x, opposite))
            else:
                flux = forth * x - self._at(back * x, hop)
                y = y + flux - self._at(flux, opposite)
        return y

    def _at(self, x: Array, hop: Offset) -> Array:
        for axis, step in enumerate(hop):
            x = neighbour(x, axis, step, self.periodic[axis]) if step else x
        return x

    def cycle(self, b: Float[Array, "*shape"], backward: bool) -> Float[Array, "*shape"]:
        x = together(self._cycle(named(apart(self.scale * b if backward else b)), backward, 0))
        x = x[tuple(slice(n) for n in b.shape)]
        return x if backward else self.scale * x

    def _cycle(self, b: Children, backward: bool, depth: int) -> Children:
        level = self.grids[depth]
        x, rest = level.descend(b, backward)
        coarse = level.restrict(rest, backward)
        if depth + 1 < len(self.grids):
            whole = together(self._cycle(named(apart(coarse)), backward, depth + 1))
            correction = whole[tuple(slice(n) for n in coarse.shape)]
        else:
            matrix = self.inverted.T if backward else self.inverted
            correction = jnp.matmul(matrix, coarse.ravel(), precision=lax.Precision.HIGHEST).reshape(coarse.shape)
        correction = level.prolong(correction, backward)
        x = {child: part + correction[child] for child, part in x.items()}
        return level.smooth(x, b, backward)[0]


def apart(x: Array, whole: tuple[int, ...] = ()) -> Array:
    """The even and odd cells along each axis but those of `whole`, counted by as many axes in front.

    Zeros after the last of an odd number.
    """
    x = jnp.pad(x, [(0, n % 2 if axis not in whole else 0) for axis, n in enumerate(x.shape)])
    parts = [1 if axis in whole else 2 for axis in range(x.ndim)]
    x = x.reshape([size for n, part in zip(x.shape, parts, strict=True) for size in (n // part, part)])
    return x.transpose(*range(1, x.ndim, 2), *range(0, x.ndim, 2))


def children(x: Array) -> list[Child]:
    """Of an array that is apart."""
    return list(itertools.product(*map(range, x.shape[: x.ndim // 2])))


def named(x: Array) -> Children:
    return {child: x[child] for child in children(x)}


def together(parts: Children) -> Array:
    """What `apart` has set apart."""
    while len(parts) > 1:
        axis = max(i for child in parts for i, bit in enumerate(child) if bit)
        parts = {
            child: joined(part, parts[_partner(child, axis)], axis) for child, part in parts.items() if not child[axis]
        }
    return next(iter(parts.values()))


def _of_colour(x: Children, colour: int) -> Children:
    return {child: part for child, part in x.items() if sum(child) % 2 == colour}


def _partner(child: Child, axis: int) -> Child:
    return (*child[:axis], 1, *child[axis + 1 :])


def _separately(step: Callable[..., Any], chain: Chain, *rest: Any) -> Any:
    """A step as a program of its own: else XLA computes what it returns again wherever that is read."""
    returned = eqx.filter_eval_shape(step, chain, *rest)
    none = lambda *_: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), returned)
    return lax.cond(jnp.all(chain.loss[:1] >= 0), step, none, chain, *rest)


def _opposite(hop: Offset) -> Offset:
    return tuple(-step for step in hop)


def _inverted(chain: Chain) -> Array:
    cells, axes = jnp.arange(chain.loss.size).reshape(chain.loss.shape), tuple(range(chain.loss.ndim))
    rates = jnp.zeros((cells.size, cells.size), chain.loss.dtype)
    for hop, rate in chain.rates.items():
        there = jnp.roll(cells, _opposite(hop), axes)
        rates = rates.at[there.ravel(), cells.ravel()].add(rate.ravel())
    return inverse(rates[None], chain.loss.ravel()[None])[0]


def grid_levels(generator: FokkerPlanck, loss: Float[Array, "*shape"], keep: Bool[Array, "*shape"]) -> Levels:
    """The grids below that of a generator."""
    pairs, loss = kept_rates(generator, loss, keep)
    rates = {}
    for hop, (forth, back) in zip(hops(generator), pairs, strict=True):
        rates[hop], rates[_opposite(hop)] = forth, back
    return Levels(Chain(rates, loss), tuple(rates.periodic for rates in generator.axis_rates))
