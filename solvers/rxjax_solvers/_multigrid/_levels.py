"""Coarser and coarser grids, and one cycle through them: an approximate inverse."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._elimination._gth import inverse
from .._elimination._neighbours import hops, kept_rates, neighbour
from .._fokker_planck import FokkerPlanck
from ._approximation import AbstractApproximation
from ._pairs import Chain, Offset, Pairing, pair_up

# Grids of so many cells are solved as a full matrix.
_COARSEST = 64
# Sweeps over either colour before and after the coarser grids.
_SWEEPS = 2


class Level(eqx.Module):
    """`A = diag(loss + sum of rates) - rates` on one grid.

    - `pairs`: rates of each of `hops` and of its opposite.
    - `colours`: one over the diagonal on either colour of a chessboard, zero on the other.
    """

    pairs: tuple[tuple[Array, Array], ...]
    loss: Float[Array, "*shape"]
    colours: Float[Array, "2 *shape"]
    hops: tuple[Offset, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)

    def __init__(self, chain: Chain, periodic: tuple[bool, ...]):
        self.hops = tuple(hop for hop in sorted(chain.rates, reverse=True) if hop > _opposite(hop))
        self.pairs = tuple((chain.rates[hop], chain.rates[_opposite(hop)]) for hop in self.hops)
        self.loss = chain.loss
        self.periodic = periodic
        inverted = 1 / sum((one + other for one, other in self.pairs), self.loss)
        parity = sum(lax.broadcasted_iota(jnp.int32, self.loss.shape, i) for i in range(self.loss.ndim)) % 2
        self.colours = jnp.stack([jnp.where(parity == colour, inverted, 0) for colour in range(2)])

    def apply(self, x: Float[Array, "*shape"], backward: bool) -> Float[Array, "*shape"]:
        """`A x`, `A' x` for functions (`backward`): differences first, so that what is in balance cancels early."""
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
            x = neighbour(x, axis, step, self.periodic[axis], 0) if step else x
        return x

    def smooth(self, x: Float[Array, "*shape"] | None, b: Float[Array, "*shape"], backward: bool, last: int) -> Array:
        """Gauss-Seidel over the colours, of which `last` comes last; from zero if no `x` is given."""

        def sweep(k, x):
            inverted = lax.dynamic_index_in_dim(self.colours, (k + 1 + last) % 2, 0, keepdims=False)
            return x + inverted * (b - self.apply(x, backward))

        if x is None:
            return lax.fori_loop(1, 2 * _SWEEPS, sweep, self.colours[(1 + last) % 2] * b)
        return lax.fori_loop(0, 2 * _SWEEPS, sweep, x)


class Levels(AbstractApproximation):
    """Grids from the finest down, how each goes over into the next, and the inverse on the coarsest."""

    grids: tuple[Level, ...]
    pairings: tuple[tuple[Pairing, ...], ...]
    inverted: Float[Array, "n n"]
    coarsest: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, chain: Chain, periodic: tuple[bool, ...]):
        grids, pairings = [], []
        while chain.loss.size > _COARSEST or not grids:
            shape = chain.loss.shape
            grids.append(Level(chain, periodic))
            steps = []
            for axis, n in enumerate(shape):
                if 2 * n > max(shape):
                    chain, step = pair_up(chain, axis, periodic[axis])
                    steps.append(step)
            chain = lax.optimization_barrier(chain)
            pairings.append(tuple(steps))
        self.grids, self.pairings = tuple(grids), tuple(pairings)
        self.coarsest = chain.loss.shape
        self.inverted = _inverted(chain)

    def apply(self, x: Float[Array, "*shape"], backward: bool) -> Float[Array, "*shape"]:
        return self.grids[0].apply(x, backward)

    def cycle(self, b: Float[Array, "*shape"], backward: bool) -> Float[Array, "*shape"]:
        return self._descend(b, backward, 0)

    def _descend(self, b: Array, backward: bool, depth: int) -> Array:
        if depth == len(self.grids):
            matrix = self.inverted.T if backward else self.inverted
            return jnp.matmul(matrix, b.ravel(), precision=lax.Precision.HIGHEST).reshape(b.shape)
        level, pairings = self.grids[depth], self.pairings[depth]
        x = level.smooth(None, b, backward, 1)
        rest = b - level.apply(x, backward)
        for pairing in pairings:
            rest = pairing.restrict(rest, backward)
        correction = self._descend(rest, backward, depth + 1)
        for pairing in reversed(pairings):
            correction = pairing.prolong(correction, backward)
        return level.smooth(x + correction, b, backward, 0)


def _opposite(hop: Offset) -> Offset:
    return tuple(-step for step in hop)


def _inverted(chain: Chain) -> Array:
    size = chain.loss.size
    cells = jnp.arange(size).reshape(chain.loss.shape)
    rates = jnp.zeros((size, size), chain.loss.dtype)
    axes = tuple(range(chain.loss.ndim))
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
    return Levels(Chain(rates, loss, keep), tuple(rates.periodic for rates in generator.axis_rates))
