"""Nested dissection of a grid (George 1973): which cells are eliminated when, and what they touch.

A box of cells is cut by a line (a plane in 3-D) of separating cells, its halves likewise, down to a few cells.  Boxes
of one level do not touch, so they are eliminated at once, the smallest first.  Few boxes that are larger than the
others of their level are cut once more, so that tables are not made for the largest.  The *front* of a box holds its
separating cells and its *ring*: the cells outside the box, all eliminated later, that its cells touch.  All of this
depends on the shape of the grid alone and is computed with NumPy while tracing.
"""

import functools
from typing import NamedTuple

import numpy as np

# Boxes of at most so many cells are eliminated whole.
_LEAF = 4


class Level(NamedTuple):
    """The boxes of one level, `size` of them; `cells` is the number of cells of the grid and stands for none.

    - `separator`: (size, s), `ring`: (size, r), numbers of cells in C order.
    - `into`, `rate`: for each original rate between cells of a front, the place in the fronts (size, s+r, s+r), target
        before source, and the flat place in the rates (2 hops, cells), each hop followed by its opposite.
    - `parents`: (m,), the boxes that were cut, those of the level below are their halves, (2 m); none of the lowest.
    - `children`: (m, 2, s+r), where each cell of their fronts lies in the ring of either half, or the length of that
        ring where it does not.
    """

    size: int
    separator: np.ndarray
    ring: np.ndarray
    into: tuple[np.ndarray, ...]
    rate: np.ndarray
    parents: np.ndarray
    children: np.ndarray


@functools.lru_cache(maxsize=16)
def plan(shape: tuple[int, ...], periodic: tuple[bool, ...], hops: tuple[tuple[int, ...], ...]) -> tuple[Level, ...]:
    """The levels, the one to eliminate first first; `hops` are offsets to neighbours, each with its opposite."""
    cells = int(np.prod(shape))
    neighbours = _neighbours(shape, periodic, hops)
    levels, above = [], None
    for size, separator, ring, parents in _boxes(shape, periodic, neighbours):
        front = _Front(size, separator, ring, cells)
        if above is not None:
            number, below = ring // cells, np.full((size // 2, 2, above.width), front.rings, np.int32)
            at = above.find(levels[-1].parents[number // 2] * cells + ring % cells)
            below[number // 2, number % 2, at] = front.ring_place
            levels[-1] = levels[-1]._replace(children=below)
        into, rate = front.entries(neighbours)
        tables = (front.table(separator, front.separators), front.table(ring, front.rings))
        levels.append(Level(size, *tables, into, rate, parents, np.zeros((0, 2, front.width), np.int32)))
        above = front
    return tuple(reversed(levels))


def _neighbours(
    shape: tuple[int, ...], periodic: tuple[bool, ...], hops: tuple[tuple[int, ...], ...]
) -> list[np.ndarray]:
    """The cell where each hop and its opposite lead, -1 beyond a side."""
    place, out = np.indices(shape).reshape(len(shape), -1), []
    for hop in hops:
        for step in (1, -1):
            there = place + step * np.array(hop)[:, None]
            beyond = np.zeros(place.shape[1], bool)
            for axis, n in enumerate(shape):
                beyond |= (not periodic[axis]) & ((there[axis] < 0) | (there[axis] >= n))
                there[axis] %= n
            out.append(np.where(beyond, -1, np.ravel_multi_index(tuple(there), shape)))
    return out


def _boxes(shape, periodic, neighbours):
    """For each level from the whole grid down: number of boxes, codes `box * cells + cell` in order, and the cut."""
    dim, cells = len(shape), int(np.prod(shape))
    place = np.indices(shape).reshape(dim, -1)
    box = np.zeros(cells, np.int64)
    low, high, wraps = np.zeros((1, dim), np.int64), np.array([shape]), list(periodic)
    while True:
        extent = high - low
        axis, inside = int(np.argmax(extent.max(axis=0))), box >= 0
        # A box that still wraps needs two cuts; the second is its last line.  Of two lines nothing would be left.
        seam = int(wraps[axis])
        whole = (np.prod(extent, axis=1) <= _LEAF) | (extent[:, axis] <= 1 + seam)
        number = np.where(inside, box, 0)
        middle = (low[:, axis] + high[:, axis] - seam) // 2
        x = place[axis]
        cut = inside & (whole[number] | (x == middle[number]) | (x >= high[number, axis] - seam))
        touched = []
        for there in neighbours:
            outside = inside & (there >= 0)
            outside[outside] = box[there[outside]] < 0
            touched.append(box[outside] * cells + there[outside])
        parents = np.flatnonzero(~whole).astype(np.int32)
        codes = np.sort((box * cells + np.arange(cells))[cut]), np.unique(np.concatenate(touched))
        yield len(low), *codes, parents
        if not len(parents):
            return
        half = 2 * (np.cumsum(~whole) - 1)
        box = np.where(inside & ~cut, half[number] + (x > middle[number]), -1)
        low, high, middle = low[parents], high[parents], middle[parents]
        (low_end, high_end), (low_start, high_start) = (low, high.copy()), (low.copy(), high.copy())
        high_end[:, axis], low_start[:, axis] = middle, middle + 1
        high_start[:, axis] -= seam
        low = np.stack([low_end, low_start], axis=1).reshape(-1, dim)
        high = np.stack([high_end, high_start], axis=1).reshape(-1, dim)
        wraps[axis] = False


class _Front:
    """Where cells lie in the fronts of one level."""

    def __init__(self, size: int, separator: np.ndarray, ring: np.ndarray, cells: int):
        self.size, self.cells, self.separator, self.ring = size, cells, separator, ring
        self.separators, self.separator_place = self._rank(separator)
        self.rings, self.ring_place = self._rank(ring)
        self.width = self.separators + self.rings

    def _rank(self, codes: np.ndarray) -> tuple[int, np.ndarray]:
        number = codes // self.cells
        most = int(np.bincount(number, minlength=1).max())
        return most, np.arange(len(codes)) - np.searchsorted(number, number)

    def table(self, codes: np.ndarray, width: int) -> np.ndarray:
        out = np.full((self.size, width), self.cells)
        place = np.arange(len(codes)) - np.searchsorted(codes // self.cells, codes // self.cells)
        out[codes // self.cells, place] = codes % self.cells
        return out.astype(np.int32)

    def find(self, codes: np.ndarray) -> np.ndarray:
        """The place in the front, -1 where it is not there."""
        out = np.full(codes.shape, -1)
        parts = ((self.separator, self.separator_place, 0), (self.ring, self.ring_place, self.separators))
        for known, place, shift in parts:
            if len(known):
                at = np.clip(np.searchsorted(known, codes), 0, len(known) - 1)
                out = np.where(known[at] == codes, place[at] + shift, out)
        return out

    def entries(self, neighbours: list[np.ndarray]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Rates out of separating cells, and into them from the ring: others were taken below or come later."""
        number, cell = self.separator // self.cells, self.separator % self.cells
        own, into, rate = self.separator_place, [], []
        for k, there in enumerate(neighbours):
            other = there[cell]
            at = np.where(other >= 0, self.find(number * self.cells + np.maximum(other, 0)), -1)
            known, ring = at >= 0, at >= self.separators
            into += [np.stack([number, at, own])[:, known], np.stack([number, own, at])[:, ring]]
            back = k + 1 - 2 * (k % 2)
            rate += [(k * self.cells + cell)[known], (back * self.cells + other)[ring]]
        return tuple(np.concatenate(into, axis=1).astype(np.int32)), np.concatenate(rate).astype(np.int32)
