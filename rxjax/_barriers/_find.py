"""The saddles that join the minima of a landscape."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Shaped

from rxjax_solvers._checks import is_traced, one_of
from rxjax_solvers._program import program

from .._minima import Minima
from .._stationary import Stationary, accuracy, climb, deduplicate, descend, each
from ..landscapes import as_landscape
from ..landscapes._callable import check_bounds
from ._band import search_bands
from ._grid_search import CELLS, search_grid
from ._union import kruskal, minimax

METHODS = ("grid", "band")


class Barriers(eqx.Module):
    """Saddles of index 1, each with the two minima to which steepest descent leads from it, lowest energy first.

    - `saddles`: `(m, d)`; `energies`: `(m,)`.
    - `pairs`: `(m, 2)`, rows of the minima, the lower number first.  Two passes between the same minima are two rows.
    - `heights`: `(m, 2)`, the energy of the saddle above the first and above the second minimum: the barriers of the
        way forth and back.
    - `hessian_eigenvalues`: `(m, d)`, ascending: one negative, the others positive.
    - `unlisted`: `(u, d)`, minima that descents from saddles reached but that are not on the list.
    - `stats`: how complete the list may be.  `candidates` that were polished; how many of them `failed` to converge,
        left the `outside` of the bounds, or ended at points that are `not_saddles` of index 1; among distinct saddles
        those that lead back to the `same_minimum` on both sides and those that lead to an `unlisted` minimum or
        `nowhere`; the number of `components` into which the network of minima falls; and `missed`, the number of
        passes that the grid shows below all saddles found (`None` for a band, which cannot tell).
    """

    saddles: Float[Array, "m d"]
    energies: Float[Array, " m"]
    pairs: Int[Array, "m 2"]
    heights: Float[Array, "m 2"]
    hessian_eigenvalues: Float[Array, "m d"]
    unlisted: Float[Array, "u d"]
    stats: dict[str, Any]


def find_barriers(
    landscape: Callable,
    minima: Minima,
    *,
    method: str | None = None,
    bounds: Shaped[ArrayLike, "..."] | Sequence | None = None,
    resolution: SupportsIndex | Sequence[int] | None = None,
    neighbours: int = 12,
    images: int = 17,
    steps: int = 400,
    key: PRNGKeyArray | Shaped[Array, "..."] | None = None,
) -> Barriers:
    r"""The saddles of index 1 between the minima of a landscape.

    A search gives candidates; each is climbed along its softest mode to a saddle, polished to rounding, and kept if its
    Hessian has exactly one negative eigenvalue; steepest descent from both its sides names the pair of minima.

    **Arguments:**

    - `landscape`: `theta (d,) -> ()`.
    - `minima`: what [`find_minima`][] returned for it.
    - `method`: `"grid"`, up to three dimensions: the landscape is flooded on a grid; candidates are the passes between
        watersheds and the places of least slope.  `"band"`, any dimension: nudged elastic bands between near minima
        with the improved tangent and a climbing image; candidates are all their tops.  If not given, the grid up
        to three dimensions where there are bounds.
    - `bounds`: `(d, 2)`, the box in which saddles count; that of the landscape if not given.  A band needs none.
        Its longest side is the scale of all steps: rescale coordinates that differ a hundredfold.
    - `resolution`: points of the grid on each axis, one number or one an axis.  If not given 4096, 256 or 64 in one,
        two or three dimensions.  Good values: five or more across the narrowest pass.
    - `neighbours`: bands go from each minimum to so many nearest others, and after that between unconnected parts.
    - `images`: points on a band, both ends included.  `steps`: of its relaxation.
    - `key`: a key of `jax.random`: bands start with a small random bend, which takes them off lines of symmetry.

    **Returns:** a `Barriers`.  Look at its `stats`: `components` above 1, `unlisted` or `missed` above 0 each say that
    something is missing (more starts for the minima, a finer grid, more neighbours).  Zeros do not prove the
    opposite, least of all for bands: they find the pass that a straight line relaxes to.

    **Derivatives:** none, but at a stationary point the energy changes with a parameter as at a fixed point: that of
    a height is the derivative of `landscape(saddle) - landscape(minimum)`.

    **How it fails:** it runs on the host and not inside `jit`; a saddle on a wall of the box is none; degenerate
    minima, such as a continuous valley, have no well-defined pairs.

    **Raises:** `ValueError` for an unknown method, a grid beyond three dimensions or without bounds, or minima that are
    none, or not those of a landscape of this dimension.

    ??? cite "References"

        G. Henkelman and H. Jonsson, J. Chem. Phys. 113, 9978 (2000); G. Henkelman, B. P. Uberuaga and H. Jonsson,
        J. Chem. Phys. 113, 9901 (2000); D. J. Wales, Energy Landscapes (Cambridge, 2003).

    !!! example

        ```python
        >>> import rxjax as rx
        >>> surface = rx.landscapes.MullerBrown()
        >>> barriers = rx.find_barriers(surface, rx.find_minima(surface))
        >>> print(barriers.pairs, barriers.heights.round(1))
        [[1 2]
         [0 2]] [[ 35.9   8.5]
         [106.   40.1]]
        >>> barriers.stats["components"], barriers.stats["missed"]
        (1, 0)

        ```
    """
    known = _listed(minima)
    dim = known.shape[1]
    landscape = as_landscape(landscape, dim=dim)
    _known(landscape, "landscape")
    box = landscape.bounds if bounds is None else check_bounds(jnp.asarray(bounds), dim)
    if method is None:
        method = "grid" if dim <= 3 and box is not None else "band"
    one_of(method, "method", METHODS)
    limits = None if box is None else np.asarray(box, known.dtype)
    size = float(minima.size) if limits is None else float(np.max(limits[:, 1] - limits[:, 0]))
    search = _Search(landscape, known, np.asarray(minima.energies)[: len(known)], limits, size)

    if method == "grid":
        shape = _shape(dim, limits, resolution)
        assert limits is not None
        grid = search_grid(landscape, known, limits, shape)
        search.polish(grid.candidates, min(4 * grid.cell, 0.1 * size))
        return search.result(grid.merges, grid.cell)
    if neighbours < 1 or images < 3 or steps < 1:
        values = {"neighbours": (neighbours, 1), "images": (images, 3), "steps": (steps, 1)}
        name, (value, least) = next((n, v) for n, v in values.items() if v[0] < v[1])
        raise ValueError(f"Argument `{name}` must be at least {least}, but it is {value}.")
    curvature = float(np.max(np.abs(np.asarray(minima.hessian_eigenvalues)), initial=0.0)) or 1.0
    rest = jr.key(0) if key is None else jnp.asarray(key)
    tried = np.eye(len(known), dtype=bool)
    for _ in range(4):
        pairs = search.pairs_to_try(tried, neighbours)
        if not len(pairs):
            break
        tried[pairs[:, 0], pairs[:, 1]] = tried[pairs[:, 1], pairs[:, 0]] = True
        rest, now = jr.split(rest)
        search.polish(search_bands(landscape, known, pairs, curvature, now, images, steps), 0.02 * size)
    return search.result(None, 0.0)


def _known(tree: Any, name: str) -> None:
    if is_traced(*jax.tree.leaves(tree)):
        raise ValueError(
            f"Argument `{name}` must be known when `find_barriers` is called, but it is traced: call it outside `jit`. "
            "The height of a barrier changes with a parameter as `landscape(saddle) - landscape(minimum)` does, at "
            "points held fixed."
        )


def _listed(minima: Any) -> np.ndarray:
    """The points of the list, without padding."""
    if not isinstance(minima, Minima):
        raise ValueError(
            f"Argument `minima` must be what `find_minima` returned, but it is of type {type(minima).__name__}."
        )
    _known(minima, "minima")
    mask = np.asarray(minima.mask)
    if not np.all(mask[: np.sum(mask)]):
        raise ValueError("Argument `minima` must have its padding at the end, but it has gaps.")
    if not mask.any():
        raise ValueError("Argument `minima` must hold at least one minimum, but it holds none.")
    return np.asarray(minima.points)[mask]


def _shape(dim: int, limits: np.ndarray | None, resolution: SupportsIndex | Sequence[int] | None) -> tuple[int, ...]:
    if dim > 3:
        raise ValueError(f'Argument `method` must be "band" beyond three dimensions, but it is "grid" in {dim}.')
    if limits is None:
        raise ValueError(
            "Argument `bounds` must be given for a grid, but neither it nor the landscape has any. "
            'Give them, or method="band".'
        )
    points: Any = CELLS[dim] if resolution is None else resolution
    shape = tuple(int(n) for n in (np.full(dim, points) if np.ndim(points) == 0 else points))
    if len(shape) != dim or min(shape) < 3:
        raise ValueError(f"Argument `resolution` must be 3 or more points for each of {dim} axes, but it is {points}.")
    return shape


class _Found(NamedTuple):
    """Distinct saddles: points, energies, eigenvalues, and the minima on both sides."""

    points: np.ndarray
    energies: np.ndarray
    eigenvalues: np.ndarray
    pairs: np.ndarray


class _Search:
    """The distinct saddles found so far, and what became of the candidates."""

    def __init__(self, landscape: Callable, known: np.ndarray, energies: np.ndarray, limits: Any, size: float):
        self.landscape, self.known, self.energies, self.limits, self.size = landscape, known, energies, limits, size
        self.close = 10 * accuracy(known.dtype) * size
        apart = np.linalg.norm(known[:, None] - known[None], axis=-1) + np.diag(np.full(len(known), np.inf))
        # A degenerate minimum is found less sharply; half way to the next one there is no doubt yet.
        self.match = min(100 * self.close, 0.5 * float(apart.min(initial=np.inf)))
        self.apart = apart
        self.stats: dict[str, Any] = {name: 0 for name in ("candidates", "failed", "outside", "not_saddles")}
        dim = known.shape[1]
        self.saddles = _Found(np.zeros((0, dim), known.dtype), np.zeros(0), np.zeros((0, dim)), np.zeros((0, 2), int))
        self.strays: list[np.ndarray] = []

    def polish(self, candidates: np.ndarray, reach: float) -> None:
        """Climb from each candidate, and add the saddles that are new."""
        self.stats["candidates"] += len(candidates)
        if not len(candidates):
            return
        dtype = self.known.dtype
        ends, index = _climb_all(self.landscape, _padded(candidates.astype(dtype)), reach, self.size)
        ends, index = jax.tree.map(lambda x: np.asarray(x)[: len(candidates)], (ends, index))
        inside = np.ones(len(candidates), bool)
        if self.limits is not None:
            inside = np.all((ends.point >= self.limits[:, 0]) & (ends.point <= self.limits[:, 1]), axis=1)
        good = ends.converged & inside & (index == 1)
        self.stats["failed"] += int(np.sum(~ends.converged))
        self.stats["outside"] += int(np.sum(ends.converged & ~inside))
        self.stats["not_saddles"] += int(np.sum(ends.converged & inside & (index != 1)))
        rows = np.flatnonzero(good)
        if not len(rows):
            return
        points = np.concatenate([self.saddles.points, ends.point[rows]])
        firsts = np.asarray(_firsts(_padded(points), jnp.arange(2 ** _bits(len(points))) < len(points), self.close))
        new = rows[np.sort(firsts[firsts >= len(self.saddles.points)]) - len(self.saddles.points)]
        if not len(new):
            return
        sides = _descend_both(
            self.landscape, _padded(ends.point[new]), _padded(ends.eigenvectors[new, :, 0]), self.size
        )
        where, arrived = (np.asarray(x)[: len(new)] for x in sides)
        pairs = np.stack([self._name(where[:, s], arrived[:, s]) for s in (0, 1)], axis=1)
        more = _Found(ends.point[new], ends.energy[new], ends.eigenvalues[new], pairs)
        self.saddles = _Found(*(np.concatenate(x) for x in zip(self.saddles, more, strict=True)))

    def _name(self, points: np.ndarray, arrived: np.ndarray) -> np.ndarray:
        """The row of the minimum at each point; -1 for one not listed, -2 where the descent did not arrive."""
        distance = np.linalg.norm(points[:, None] - self.known[None], axis=-1)
        nearest = np.argmin(distance, axis=1)
        names = np.where(distance[np.arange(len(points)), nearest] <= self.match, nearest, -1)
        names = np.where(arrived, names, -2)
        self.strays.extend(points[names == -1])
        return names

    def pairs_to_try(self, tried: np.ndarray, neighbours: int) -> np.ndarray:
        """Pairs of near minima that no band has joined yet; later only those between unconnected parts."""
        distance = np.where(tried, np.inf, self.apart)
        if tried.sum() > len(tried):
            part = self.parts()
            distance = np.where(part[:, None] == part[None], np.inf, distance)
        near = np.argsort(distance, axis=1, kind="stable")[:, :neighbours]
        pairs = [(i, j) for i, row in enumerate(near) for j in row if np.isfinite(distance[i, j])]
        return np.unique(np.sort(np.asarray(pairs, int).reshape(-1, 2), axis=1), axis=0)

    def parts(self) -> np.ndarray:
        """For every minimum the number of the connected part that holds it."""
        pairs = self.saddles.pairs[np.all(self.saddles.pairs >= 0, axis=1)]
        merges, _ = kruskal(len(self.known), pairs)
        part = np.arange(len(self.known) + len(merges))
        for k in reversed(range(len(merges))):
            part[list(merges[k])] = part[len(self.known) + k]
        return part[: len(self.known)]

    def result(self, merges: list[tuple[list[int], list[int], float]] | None, cell: float) -> Barriers:
        points, energies, eigenvalues, pairs = self.saddles
        named = np.all(pairs >= 0, axis=1)
        self.stats["same_minimum"] = int(np.sum(named & (pairs[:, 0] == pairs[:, 1])))
        self.stats["unlisted"] = int(np.sum(np.any(pairs == -1, axis=1)))
        self.stats["nowhere"] = int(np.sum(np.any(pairs == -2, axis=1)))
        self.stats["components"] = len(np.unique(self.parts()))
        rows = np.flatnonzero(named & (pairs[:, 0] != pairs[:, 1]))
        rows = rows[np.argsort(energies[rows], kind="stable")]
        pairs = np.sort(pairs[rows], axis=1)
        energies, eigenvalues = energies[rows].astype(self.known.dtype), eigenvalues[rows]
        self.stats["missed"] = None if merges is None else self._missed(merges, pairs, energies, eigenvalues, cell)
        strays = np.asarray(self.strays, self.known.dtype).reshape(-1, self.known.shape[1])
        if len(strays):
            firsts = np.asarray(_firsts(_padded(strays), jnp.arange(2 ** _bits(len(strays))) < len(strays), self.match))
            strays = strays[np.sort(firsts[firsts >= 0])]
        return Barriers(
            saddles=jnp.asarray(points[rows]),
            energies=jnp.asarray(energies),
            pairs=jnp.asarray(pairs),
            heights=jnp.asarray(energies[:, None] - self.energies[pairs]),
            hessian_eigenvalues=jnp.asarray(eigenvalues.astype(self.known.dtype)),
            unlisted=jnp.asarray(strays),
            stats=self.stats,
        )

    def _missed(
        self, merges: list, pairs: np.ndarray, energies: np.ndarray, eigenvalues: np.ndarray, cell: float
    ) -> int:
        """Passes on the grid that lie below every path over the saddles found between what they join."""
        joined, rows = kruskal(len(self.known), pairs)
        paths = minimax(self.energies, joined, energies[rows])
        # A path on the grid may cut the top of a ridge between two points.
        slack = 0.5 * cell**2 * float(np.max(np.abs(eigenvalues), initial=0.0))
        return sum(bool(paths[np.ix_(a, b)].min() > height + slack) for a, b, height in merges)


def _bits(n: int) -> int:
    return int(np.ceil(np.log2(n)))


def _padded(x: np.ndarray) -> Array:
    """Rows repeated up to a power of two, so that few programs are compiled."""
    rows = 2 ** _bits(len(x))
    return jnp.asarray(np.concatenate([x, np.broadcast_to(x[:1], (rows - len(x), *x.shape[1:]))]))


@program
def _climb_all(landscape: Callable, candidates: Array, reach: float, size: float) -> tuple[Stationary, Array]:
    reach_, size_ = jnp.asarray(reach, candidates.dtype), jnp.asarray(size, candidates.dtype)

    def one(x):
        end = climb(landscape, x, 1, reach_, size_, 128)
        return end, end.index()

    return each(one, landscape, candidates)


@program
def _descend_both(landscape: Callable, saddles: Array, directions: Array, size: float) -> tuple[Array, Array]:
    """Where steepest descent leads from both sides of each saddle: `(m, 2, d)`, and whether it arrived."""
    size_ = jnp.asarray(size, saddles.dtype)
    # Beyond the error of the saddle, but near enough that the curvature there still rules.
    offset = 30 * accuracy(saddles.dtype) * size_

    def one(x):
        end = descend(landscape, x, 0.05 * size_, size_, 512)
        return end.point, end.converged & (end.index() == 0)

    both = saddles[:, None] + offset * jnp.stack([-directions, directions], axis=1)
    ends = each(one, landscape, both.reshape(-1, both.shape[-1]))
    return jax.tree.map(lambda x: x.reshape(*both.shape[:2], *x.shape[1:]), ends)


@eqx.filter_jit
def _firsts(points: Array, wanted: Array, distance: float) -> Array:
    return deduplicate(points, wanted, jnp.asarray(distance, points.dtype), points.shape[0])[0]
