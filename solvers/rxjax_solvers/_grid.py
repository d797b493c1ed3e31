"""Cell-centred rectangular grids."""

import math
import operator
from collections.abc import Sequence
from functools import partial
from typing import Any, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, ArrayLike, Float, Shaped

from ._checks import not_finite, one_of, positive, require, seen

BOUNDARIES = ("reflecting", "absorbing", "periodic")
# A wrapped Gaussian is summed over this many images on either side: exact to rounding for std up to the axis' length.
_IMAGES = 8


def _sides(boundary: object, dim: int) -> tuple[tuple[str, str], ...]:
    per_axis = (boundary,) * dim if isinstance(boundary, str) else boundary
    if not isinstance(per_axis, Sequence) or len(per_axis) != dim:
        raise ValueError(
            f"Argument `boundary` must be one name, or a sequence with one entry for each of the {dim} axes, but it is "
            f"{boundary!r}.  An entry is a name or a pair (low, high) of names."
        )
    out = []
    for axis, entry in enumerate(per_axis):
        low, high = _pair(entry, axis)
        for side in (low, high):
            one_of(side, "boundary", BOUNDARIES)
        if (low == "periodic") != (high == "periodic"):
            raise ValueError(
                f"Argument `boundary` must be periodic on both sides of an axis or on neither, but it is "
                f"{(low, high)!r} on axis {axis}."
            )
        out.append((low, high))
    return tuple(out)


def _pair(entry: object, axis: int) -> tuple[Any, Any]:
    if isinstance(entry, str):
        return entry, entry
    if not isinstance(entry, Sequence) or len(entry) != 2:
        raise ValueError(
            f"Argument `boundary` must hold for each axis a name or a pair (low, high) of names, but it is {entry!r} "
            f"on axis {axis}."
        )
    return entry[0], entry[1]


def _whole(shape: Any) -> tuple[int, ...]:
    try:
        return tuple(operator.index(n) for n in (shape if np.ndim(shape) else (shape,)))
    except TypeError:
        raise ValueError(
            f"Argument `shape` must be a whole number, or a sequence with one for each axis, but it is {shape!r}."
        ) from None


class Grid(eqx.Module):
    """A rectangle cut into equal cells: `shape[i]` cells between `lower[i]` and `upper[i]` on axis `i`.

    A function on the grid is an array of shape `shape`.  A *density* holds cell averages, so that
    `grid.integrate(p) == 1`.  Cell centres lie half a cell inside the bounds.

    !!! example

        ```python
        >>> import rxjax_solvers as rxs
        >>> grid = rxs.Grid(-2, 2, 8, boundary=("reflecting", "absorbing"))  # one axis: a (low, high) pair is an entry
        Traceback (most recent call last):
        ...
        ValueError: Argument `boundary` must be one name, or a sequence with one entry for each of the 1 axes, ...
        >>> grid = rxs.Grid(-2, 2, 8, boundary=[("reflecting", "absorbing")])
        >>> grid.dim, grid.shape, float(grid.spacing[0])
        (1, (8,), 0.5)

        ```
    """

    lower: Float[Array, "d"]
    upper: Float[Array, "d"]
    shape: tuple[int, ...] = eqx.field(static=True)
    boundary: tuple[tuple[str, str], ...] = eqx.field(static=True)

    def __init__(
        self,
        lower: Shaped[ArrayLike, "..."] | Sequence,
        upper: Shaped[ArrayLike, "..."] | Sequence,
        shape: SupportsIndex | Sequence,
        boundary: str | Sequence = "reflecting",
    ):
        """**Arguments:**

        - `lower`, `upper`: the bounds, scalars or shape `(d,)`.  They may be traced: everything differentiates with
            respect to them, while the edge of a predicate of `theta` rests where it is and a mask moves with its cells,
            as do predicates beside a full-tensor diffusion.
        - `shape`: number of cells on each axis, at least 2 each; an integer for one axis.
        - `boundary`: "reflecting" (no flux), "absorbing" (the density is zero *on* the face) or "periodic"; one name
            for all, or per axis a name or a pair `(low, high)`.

        **Raises:** `ValueError` for a misspelt boundary, fewer than 2 cells or shapes that do not agree; bounds that
        are not finite or not ascending are refused outside and inside `jit`.
        """
        self.shape = _whole(shape)
        dim = len(self.shape)
        if dim == 0 or min(self.shape) < 2:
            raise ValueError(
                f"Argument `shape` must have at least 2 cells on every axis, but it is {self.shape}.  "
                "Typical: 256 in one dimension, (128, 128) in two, (48, 48, 48) in three."
            )
        self.boundary = _sides(boundary, dim)
        bounds = []
        for x, name in ((lower, "lower"), (upper, "upper")):
            x = jnp.asarray(x)
            x = x.astype(jnp.result_type(float)) if not jnp.issubdtype(x.dtype, jnp.floating) else x
            if x.shape not in ((), (dim,)):
                raise ValueError(
                    f"Argument `{name}` must be a scalar or have shape ({dim},), one entry per axis of `shape`, but "
                    f"it has shape {x.shape}."
                )
            bounds.append(x)
        low, high = _bounds(*bounds, dim)
        a, b = seen(low), seen(high)
        self.lower = require(low, "lower", "be finite", [not_finite(a)])
        bad = [not_finite(b), (b <= a, "is not above `lower`")]
        self.upper = require(high, "upper", "be finite and above `lower` on every axis", bad)

    @property
    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    @property
    def spacing(self) -> Float[Array, "d"]:
        """Edge lengths of a cell."""
        return _spacing(self)

    @property
    def cell_volume(self) -> Float[Array, ""]:
        """Volume of a cell."""
        return jnp.prod(self.spacing)

    @property
    def axes(self) -> tuple[Float[Array, "_"], ...]:
        """Cell centres of each axis."""
        return _axes(self, 0.5)

    @property
    def edges(self) -> tuple[Float[Array, "_"], ...]:
        """Cell faces of each axis, `shape[i] + 1` of them."""
        return _axes(self, 0.0)

    @property
    def points(self) -> Float[Array, "*shape d"]:
        """Cell centres, shape `(*shape, d)`."""
        return _points(self)

    def integrate(self, f: Shaped[Array, "*batch_and_shape"]) -> Float[Array, "*batch"]:
        """Integral over the grid of cell averages `f` of shape `(*batch, *shape)`."""
        if f.shape[f.ndim - self.dim :] != self.shape:
            raise ValueError(f"Argument `f` must end in the grid's shape {self.shape}, but it has shape {f.shape}.")
        return _integral(self, f)

    def normalize(self, f: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`f` divided by its integral; refuses a mass that is not positive and finite."""
        f = _floating(self, f)
        return f / positive(self.integrate(f), "f", "The integral of a density must be positive.")

    def gaussian(
        self, mean: Shaped[ArrayLike, "..."] | Sequence, std: Shaped[ArrayLike, "..."] | Sequence
    ) -> Float[Array, "*shape"]:
        """Cell averages of a normal density with independent axes, normalised on the grid.

        **Arguments:** `mean` and `std` are scalars or shape `(d,)`; `std` is the standard deviation.  On a periodic
        axis the density is wrapped (`std` up to the axis' length).  Good values: `std` of two cells or more, else
        the shape is that of the cell.

        **Raises:** a `std` that is not positive, or a `mean` so far outside that no mass falls on the grid.
        """
        dtype = self.lower.dtype
        mean, std = jnp.asarray(mean, dtype), jnp.asarray(std, dtype)
        for x, name in ((mean, "mean"), (std, "std")):
            if x.shape not in ((), (self.dim,)):
                raise ValueError(
                    f"Argument `{name}` must be a scalar or have shape ({self.dim},), but it has shape {x.shape}."
                )
        masses, totals = _normal_masses(self, mean, positive(std, "std"))
        fault = [(~(seen(totals) > 0), "leaves no mass on the grid")]
        return _densities(self, masses, require(totals, "mean", "lie on the grid or within a few `std` of it", fault))


# Compiled as wholes: operation by operation each new shape would cost a second.
@partial(jax.jit, static_argnums=2, inline=True)
def _bounds(low: Array, high: Array, dim: int) -> tuple[Array, Array]:
    dtype = jnp.result_type(low, high)
    return jnp.broadcast_to(low.astype(dtype), (dim,)), jnp.broadcast_to(high.astype(dtype), (dim,))


@partial(jax.jit, inline=True)
def _spacing(grid: Grid) -> Array:
    return (grid.upper - grid.lower) / jnp.asarray(grid.shape, grid.lower.dtype)


@partial(jax.jit, inline=True)
def _integral(grid: Grid, f: Array) -> Array:
    f = _floating(grid, f)
    return jnp.sum(f, axis=tuple(range(f.ndim - grid.dim, f.ndim))) * grid.cell_volume.astype(f.dtype)


def _floating(grid: Grid, f: Array) -> Array:
    """Counts and masks as numbers, for which a volume of cells is not rounded."""
    return f if jnp.issubdtype(f.dtype, jnp.inexact) else f.astype(grid.lower.dtype)


@partial(jax.jit, static_argnums=1, inline=True)
def _axes(grid: Grid, offset: float) -> tuple[Array, ...]:
    """Cell centres of each axis (`offset` 0.5), or its faces (0)."""
    h = grid.spacing
    counts = [n + (offset == 0) for n in grid.shape]
    return tuple(grid.lower[i] + h[i] * (jnp.arange(n, dtype=h.dtype) + offset) for i, n in enumerate(counts))


@partial(jax.jit, inline=True)
def _points(grid: Grid) -> Array:
    return jnp.stack(jnp.meshgrid(*grid.axes, indexing="ij"), axis=-1)


@partial(jax.jit, inline=True)
def _normal_masses(grid: Grid, mean: Array, std: Array) -> tuple[tuple[Array, ...], Array]:
    """Mass of a normal law in the cells of each axis, and in all of them."""
    mean, std = jnp.broadcast_to(mean, (grid.dim,)), jnp.broadcast_to(std, (grid.dim,))
    places = []
    for i, edge in enumerate(grid.edges):
        images = jnp.zeros((1,), edge.dtype)
        if grid.boundary[i][0] == "periodic":
            images = jnp.arange(-_IMAGES, _IMAGES + 1, dtype=edge.dtype) * (grid.upper[i] - grid.lower[i])
        places.append((edge[None, :] - mean[i] - images[:, None]) / std[i])
    # One call for all axes: the special function is most of what there is to compile.
    z = jnp.concatenate([z.ravel() for z in places])
    beyond = ndtr(jnp.where(z > 0, -z, z))
    ends = np.cumsum([z.size for z in places])[:-1]
    masses = []
    for z, tail in zip(places, jnp.split(beyond, ends), strict=True):
        # Mass beyond each face, seen from the mean: a difference of two numbers near 1 would lose the tail.
        tail = tail.reshape(z.shape)
        low, high = tail[:, :-1], tail[:, 1:]
        inside = jnp.where(z[:, :-1] > 0, low - high, jnp.where(z[:, 1:] > 0, 1 - low - high, high - low))
        masses.append(jnp.sum(inside, axis=0))
    return tuple(masses), jnp.stack([jnp.sum(mass) for mass in masses])


@partial(jax.jit, inline=True)
def _densities(grid: Grid, masses: tuple[Array, ...], totals: Array) -> Array:
    out = jnp.ones((), totals.dtype)
    for i, mass in enumerate(masses):
        mass = mass / totals[i] / grid.spacing[i]
        out = out[..., None] * mass.reshape((1,) * out.ndim + mass.shape)
    return out


def check_grid(grid: Any) -> None:
    """Refuse what is no grid, as where arguments come in another order."""
    if not isinstance(grid, Grid):
        raise ValueError(f"Argument `grid` must be a Grid, but it is of type {type(grid).__name__}.")


def to_front(f: Array, axis: int) -> Array:
    """The axis to sweep moved first: lanes lie behind it."""
    return f if axis == 0 else jnp.moveaxis(f, axis, 0)


def from_front(f: Array, axis: int) -> Array:
    """Inverse of `to_front`."""
    return f if axis == 0 else jnp.moveaxis(f, 0, axis)


def evaluate(fn, points: Float[Array, "*shape d"], name: str, allowed: Sequence[tuple[int, ...]]) -> Array:
    """`fn(theta)` at every point, with the shape of its value checked before anything is computed.

    A `fn` with a method `evaluate(points)` is asked for all points at once: it may bound its own memory.
    """
    theta = jax.ShapeDtypeStruct(points.shape[-1:], points.dtype)
    value: Any = jax.eval_shape(fn, theta)
    shape: Any = getattr(value, "shape", None)
    if shape not in allowed:
        raise ValueError(
            f"Argument `{name}` must return an array of shape {' or '.join(map(str, allowed))} for `theta` of shape "
            f"{theta.shape}, but it returns {'shape ' + str(shape) if shape is not None else type(value).__name__}."
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"Argument `{name}` must return floating-point numbers, but it returns {value.dtype}.")
    batched = getattr(fn, "evaluate", None)
    if batched is not None:
        return batched(points).astype(points.dtype)
    # Operation by operation: as one program it would be compiled anew each time, since what it closes over may change.
    out = jax.vmap(fn)(points.reshape(-1, points.shape[-1]))
    return out.reshape(points.shape[:-1] + shape).astype(points.dtype)
