"""The minima of a landscape, found from many starts."""

import operator
from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, Shaped

from rxjax_solvers._checks import is_traced, positive, require
from rxjax_solvers._program import program

from ._stationary import accuracy, climb, deduplicate, each, is_bottom, still
from .landscapes import as_landscape, evaluate, require_finite_values
from .landscapes._callable import check_bounds
from .landscapes._trees import norm

# Below this many distinct minima one program serves; the list grows by this factor when it is full.
_ROOM, _GROWTH = 128, 16


class Minima(eqx.Module):
    """The distinct minima of a landscape, lowest energy first.

    - `points`: `(n, d)`; `energies`: `(n,)`.
    - `hessian_eigenvalues`: `(n, d)`, ascending, the curvatures along the principal axes.
    - `index`: `(n,)`, the number of downward directions, zero for a minimum.
    - `degenerate`: `(n,)`, whether a curvature is lost in rounding: a flat valley, or a minimum of fourth order.
    - `counts`: `(n,)`, how many starts ended there.
    - `mask`: `(n,)`, true for every row, unless `max_minima` padded the arrays: false rows have energy infinity.
    - `size`: the extent of the box that was searched.
    - `stats`: how complete the list may be.  `starts`, then how many of them `converged` to a minimum in the bounds,
        `failed` to converge, ended `outside` the bounds, at points that are `not_minima`, or were `dropped` because
        `max_minima` was too small; and `unseen`, the Good-Turing estimate of the share of starts that would find
        something new: the number of minima found exactly once, divided by `converged`.
    """

    points: Float[Array, "n d"]
    energies: Float[Array, " n"]
    hessian_eigenvalues: Float[Array, "n d"]
    index: Int[Array, " n"]
    degenerate: Bool[Array, " n"]
    counts: Int[Array, " n"]
    mask: Bool[Array, " n"]
    size: Float[Array, ""]
    stats: dict[str, Any]


def find_minima(
    landscape: Callable,
    *,
    starts: int | Shaped[ArrayLike, "starts d"] = 256,
    key: PRNGKeyArray | Shaped[Array, "..."] | None = None,
    bounds: Shaped[ArrayLike, "..."] | None = None,
    max_minima: int | None = None,
    merge_distance: ArrayLike | None = None,
    max_steps: int = 256,
) -> Minima:
    r"""The minima of a landscape: descents from many starts, polished to rounding, duplicates removed.

    From each start the BFGS method of optimistix goes downhill, then Newton's method on the eigenvectors of the Hessian
    takes the last digits; all starts run at once.  What is not a minimum by the signature of its Hessian, or by a
    probe where the curvature vanishes, is left out and counted.

    **Arguments:**

    - `landscape`: `theta (d,) -> ()`, a landscape of `rxjax.landscapes` or any callable.
    - `starts`: how many points, spread evenly over the bounds (a Kronecker sequence, shifted at random if a `key` is
        given), or the points themselves, shape `(starts, d)`.  Good values: 20 to 50 times the number of minima.
    - `key`: a key of `jax.random` for the shift.  Without it the same points are taken every time.
    - `bounds`: `(d, 2)`, the box in which minima count; that of the landscape if not given.  A minimum on the
        box' wall, where the gradient does not vanish, is none.
    - `max_minima`: rows of the result, padded and masked; the lowest minima are kept.  With it the function works
        inside `jit` and `vmap`; without it the number of rows is the number found, and it must be called outside.
    - `merge_distance`: points closer than this are one minimum.  If not given, ten times the accuracy to which points
        are found: 1.5e-7 of each side of the box in float64, 3.5e-3 in float32.
    - `max_steps`: of BFGS, for each start.

    **Returns:** a `Minima`.  Look at `stats["unseen"]`: 0 says that every minimum was hit twice or more.  No search
    from starts can prove that it is complete; a narrow well is missed in silence.

    **How it fails:** Hessians are formed and decomposed, so a thousand coordinates are the limit.  In a continuous
    valley every start ends elsewhere: `degenerate` is true for many rows.

    **Derivatives:** with `max_minima`, those of `points` and `energies` in the parameters of the landscape are those of
    the minima, which move with it (implicit function theorem; a degenerate minimum is held along its flat modes).
    `hessian_eigenvalues` has none: take those of `jax.hessian(landscape)(point)`.

    **Raises:** `ValueError` for bounds that are missing or do not ascend, for starts that do not fit, for a landscape
    that is not finite at a start, and (without `max_minima`) if there is no minimum at all.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> minima = rx.find_minima(rx.landscapes.MullerBrown())
        >>> print(minima.points.round(3), minima.energies.round(1))
        [[-0.558  1.442]
         [ 0.623  0.028]
         [-0.05   0.467]] [-146.7 -108.2  -80.8]
        >>> minima.stats["unseen"]
        0.0

        ```
    """
    at, bounds = _starts(landscape, starts, key, bounds)
    landscape = as_landscape(landscape, dim=at.shape[1])
    if max_minima is not None and operator.index(max_minima) < 1:
        raise ValueError(f"Argument `max_minima` must be at least 1, but it is {max_minima}.")
    if max_steps < 1:
        raise ValueError(f"Argument `max_steps` must be at least 1, but it is {max_steps}.")
    if max_minima is None and is_traced(at, *jax.tree.leaves(landscape)):
        raise ValueError(
            "Argument `max_minima` must be given inside `jit` and other transformations, but it is None: "
            "the number of minima is not known there. Type `max_minima=64`, say."
        )
    span = jnp.stack([jnp.min(at, 0), jnp.max(at, 0)], 1) if bounds is None else bounds.astype(at.dtype)
    size = jnp.max(span[:, 1] - span[:, 0])
    size = jnp.where(size > 0, size, 1)
    if merge_distance is None:
        # Side by side: a box may be a thousand times as long as it is wide.
        merge = 10 * accuracy(at.dtype) * (size if bounds is None else span[:, 1] - span[:, 0])
    else:
        merge = positive(jnp.asarray(merge_distance, at.dtype), "merge_distance")
    merge = jnp.broadcast_to(merge, span.shape[:1])

    room = at.shape[0] if max_minima is None else max_minima
    small = min(room, _ROOM) if max_minima is None else room
    energies = require_finite_values(evaluate(landscape, at))
    search = _descend_all(landscape, at, energies, None if bounds is None else span, size, max_steps)
    minima = _collect(search, merge, size, small)
    while max_minima is None and small < room and minima.stats["dropped"] > 0:
        small = min(room, small * _GROWTH)
        minima = _collect(search, merge, size, small)
    return minima if max_minima is not None else _trimmed(minima)


def _starts(landscape: Callable, starts: Any, key: Any, bounds: Any) -> tuple[Array, Array | None]:
    """The starting points `(starts, d)` and the bounds `(d, 2)`, if there are any."""
    dim = getattr(landscape, "dim", None)
    bounds = getattr(landscape, "bounds", None) if bounds is None else bounds
    if isinstance(starts, (int, np.integer)):
        if starts < 1:
            raise ValueError(f"Argument `starts` must be at least 1, but it is {starts}.")
        if bounds is None:
            raise ValueError(
                "Argument `bounds` must be given for a landscape without bounds of its own, but it is None. "
                "Type `bounds=[[-2, 2], [-2, 2]]`, say, or give the starting points as `starts`."
            )
        bounds = check_bounds(bounds, dim)
        unit = spread(int(starts), bounds.shape[0], key, bounds.dtype)
        return bounds[None, :, 0] + unit * (bounds[:, 1] - bounds[:, 0])[None, :], bounds
    at = jnp.asarray(starts)
    at = at if jnp.issubdtype(at.dtype, jnp.floating) else at.astype(jnp.result_type(float))
    if at.ndim != 2 or at.shape[0] < 1 or (dim is not None and at.shape[1] != dim):
        raise ValueError(
            f"Argument `starts` must be a number of points or have shape (starts, {dim or 'd'}), but it has shape "
            f"{at.shape}."
        )
    at = require(at, "starts", "be finite", [(~jnp.isfinite(at), "is not finite")])
    return at, None if bounds is None else check_bounds(bounds, at.shape[1])


def spread(n: int, dim: int, key: Any, dtype: Any) -> Float[Array, "n d"]:
    """`n` points evenly spread over the unit cube: Roberts' sequence, shifted at random if a key is given."""
    root = 2.0
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (dim + 1))
    sequence = np.outer(np.arange(1, n + 1), root ** -np.arange(1.0, dim + 1)) % 1.0
    shift = jnp.full((1, dim), 0.5, dtype) if key is None else jr.uniform(key, (1, dim), dtype)
    return (jnp.asarray(sequence, dtype) + shift) % 1.0


@program
def _descend_all(
    landscape: Callable, at: Array, energies: Array, bounds: Array | None, size: Array, max_steps: int
) -> dict[str, Array]:
    """Where each start ends."""
    fixed = still(landscape, at[0])
    widths = jnp.full(at.shape[1], size) if bounds is None else bounds[:, 1] - bounds[:, 0]
    # Half the way to the next start: longer steps leap over the basins of shallow minima.
    first = min(0.1, 0.5 * at.shape[0] ** (-1 / at.shape[1]))
    tolerance = accuracy(at.dtype)
    solver = optx.BFGS(rtol=tolerance, atol=tolerance)

    def one(start, energy):
        # In units of the box, with a slope at the start as long as the first step is to be.
        slope = norm(widths * jax.grad(fixed)(start))
        scale = first / jnp.where(slope > 0, slope, 1)
        local = lambda u, _: scale * (fixed(start + widths * u) - energy)
        there = optx.minimise(local, solver, jnp.zeros_like(start), max_steps=max_steps, throw=False).value
        there = jnp.where(jnp.all(jnp.isfinite(there)), start + widths * there, start)
        end = climb(fixed, there, 0, 0.1 * size, size, 64)
        inside = jnp.ones((), bool)
        if bounds is not None:
            slack = accuracy(at.dtype) * widths
            inside = jnp.all((end.point >= bounds[:, 0] - slack) & (end.point <= bounds[:, 1] + slack))
        bottom = is_bottom(fixed, end, energy, size)
        # A curvature that lifts the whole box by less than rounding is lost too.
        lost = jnp.finfo(at.dtype).eps * jnp.abs(energy - end.energy) / size**2
        degenerate = end.degenerate() | (end.eigenvalues[0] <= lost)
        point, height = end.moved(landscape)
        return point, height, end.eigenvalues, end.index(), degenerate, end.converged, inside, bottom

    names = ("points", "energies", "hessian_eigenvalues", "index", "degenerate", "converged", "inside", "bottom")
    return dict(zip(names, each(one, landscape, at, energies), strict=True))


@eqx.filter_jit
def _collect(search: dict[str, Array], merge: Array, size: Array, room: int) -> Minima:
    """The distinct minima among the ends, lowest first, in arrays of `room` rows."""
    good = search["converged"] & search["inside"] & search["bottom"] & (search["index"] == 0)
    order = jnp.argsort(jnp.where(good, jax.lax.stop_gradient(search["energies"]), jnp.inf))
    ends = jax.tree.map(lambda x: x[order], search)
    good = good[order]
    places = jax.lax.stop_gradient(ends["points"]) / merge[None, :]
    firsts, labels, dropped = deduplicate(places, good, jnp.ones((), merge.dtype), room)
    mask = firsts >= 0
    rows = {k: ends[k][jnp.maximum(firsts, 0)] for k in ("points", "energies", "hessian_eigenvalues", "degenerate")}
    counts = jnp.sum(labels[None, :] == jnp.arange(room, dtype=jnp.int32)[:, None], axis=1).astype(jnp.int32)
    converged = jnp.sum(good)
    stats = {
        "starts": jnp.asarray(good.shape[0]),
        "converged": converged,
        "failed": jnp.sum(~ends["converged"]),
        "outside": jnp.sum(ends["converged"] & ~ends["inside"]),
        "not_minima": jnp.sum(ends["converged"] & ends["inside"] & ~good),
        "dropped": dropped,
        "unseen": jnp.sum(counts == 1).astype(size.dtype) / jnp.maximum(converged, 1).astype(size.dtype),
    }
    return Minima(
        points=jnp.where(mask[:, None], rows["points"], 0),
        energies=jnp.where(mask, rows["energies"], jnp.inf),
        hessian_eigenvalues=jnp.where(mask[:, None], rows["hessian_eigenvalues"], 0),
        index=jnp.zeros((room,), jnp.int32),
        degenerate=mask & rows["degenerate"],
        counts=jnp.where(mask, counts, 0),
        mask=mask,
        size=size,
        stats=stats,
    )


def _trimmed(minima: Minima) -> Minima:
    """Without the padding, and with plain numbers in `stats`."""
    stats = {k: v.item() for k, v in minima.stats.items()}
    n = int(np.sum(np.asarray(minima.mask)))
    if n == 0:
        raise ValueError(
            f"Argument `landscape` must have a minimum inside `bounds`, but none of {stats['starts']} starts found "
            f"one: {stats['outside']} left the bounds, {stats['failed']} did not converge, {stats['not_minima']} ended "
            "at other stationary points. Widen the bounds, or give more starts."
        )
    rows = jax.tree.map(lambda x: x[:n] if eqx.is_array(x) and x.ndim else x, minima)
    return cast(Minima, eqx.tree_at(lambda m: m.stats, rows, stats))
