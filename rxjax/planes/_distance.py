"""How far a density is from the points that should have it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Shaped

from rxjax_solvers import Grid
from rxjax_solvers._checks import finite, is_traced, one_of, require

from .._arrays import real_arrays

KINDS = ("l1", "wasserstein")


class DensityDistance(eqx.Module):
    """The distance between a density and a sample.

    - `value`, and `standard_error` by resampling the points.
    - `floor`: the mean distance of as many points drawn from the density itself, and `floor_error`, their spread.  A
        distance within the spread of the floor says that nothing was found.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    floor: Float[Array, ""]
    floor_error: Float[Array, ""]


def density_distance(
    p: Shaped[ArrayLike, "..."],
    grid: Grid,
    points: Shaped[ArrayLike, "..."],
    *,
    kind: str = "wasserstein",
    block: int = 1,
    slices: int = 16,
    draws: int = 200,
    key: PRNGKeyArray | Shaped[Array, "..."] | None = None,
) -> DensityDistance:
    r"""The distance between a density on a grid and a sample of independent points, with its sampling error.

    - `"l1"`: $\sum_i |P_i - f_i|$ over blocks of cells, with $f_i$ the share of the points; from 0 to 2.  Points off
        the grid count in full.
    - `"wasserstein"`: $\int |F - F_n|\,dx$, the mean distance that mass must move, in units of the coordinates; in
        several dimensions the mean of it over projections on random directions (sliced).

    **Arguments:**

    - `p`: cell averages of the density on `grid`, of mass 1.
    - `points`: `(n, d)`, independent: ends of runs, not points of one run.
    - `kind`: as above.
    - `block`: cells joined along each axis for `"l1"`; it must divide the grid.  Good values: ten points or more a
        block, for the floor is about the root of their number over `n`.
    - `slices`: directions for `"wasserstein"`.
    - `draws`: of the bootstrap, and of samples for the floor.
    - `key`: a fixed one if not given.

    **Returns:** a `DensityDistance`.

    **Raises:** `ValueError` for an unknown kind, points of another dimension or not finite, a density of another shape
    or mass, or a block that does not divide the grid.

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp, rxjax as rx
        >>> grid = rx.solvers.Grid(-4.0, 4.0, 64)
        >>> points = jax.random.normal(jax.random.key(0), (2000, 1))
        >>> moved = rx.planes.density_distance(grid.gaussian(0.5, 1.0), grid, points)
        >>> bool(abs(moved.value - 0.5) < 0.1), bool(moved.value > 5 * moved.floor)
        (True, True)

        ```
    """
    one_of(kind, "kind", KINDS)
    p, points = real_arrays(p=p, points=points)
    if p.shape != grid.shape:
        raise ValueError(f"Argument `p` must have the shape {grid.shape} of the grid, but it has shape {p.shape}.")
    if points.ndim != 2 or points.shape[1] != grid.dim:
        raise ValueError(
            f"Argument `points` must have shape (n, {grid.dim}), as the grid has {grid.dim} axes, but it has shape "
            f"{points.shape}."
        )
    if block < 1 or any(n % block for n in grid.shape):
        raise ValueError(f"Argument `block` must divide the cells {grid.shape} of the grid, but it is {block}.")
    for name, x, least in (("points", points.shape[0], 1), ("slices", slices, 1), ("draws", draws, 2)):
        if x < least:
            raise ValueError(f"Argument `{name}` must be at least {least} in number, but it is {x}.")
    points, mass = finite(points, "points", "A run that diverged has no place."), grid.integrate(p)
    faults = [(~(jnp.abs(mass - 1) < 1e-3), "has another")]
    shown = None if is_traced(mass) else f"mass {float(mass):.6g}"
    p = require(p, "p", "have mass 1", faults, "Divide by `grid.integrate(p)`.", shown)
    return _distance(p, grid, points, kind == "l1", block, slices, draws, jr.key(0) if key is None else key)


@eqx.filter_jit
def _distance(
    p: Array, grid: Grid, points: Array, cells: bool, block: int, slices: int, draws: int, key: Array
) -> DensityDistance:
    n = points.shape[0]
    k_slices, k_points, k_floor = jr.split(key, 3)
    mass = p * grid.cell_volume.astype(p.dtype)
    if cells:
        model = _blocks(mass, block).ravel()
        place, model = _place(grid, points, block), jnp.concatenate([model, jnp.zeros(1, p.dtype)])
        share = lambda w: jnp.zeros_like(model).at[place].add(w)
        of_points = lambda w: jnp.sum(jnp.abs(model - share(w)))
        of_model = lambda w: jnp.sum(jnp.abs(model - w))
    else:
        model = mass.ravel()
        line = jr.normal(k_slices, (slices, grid.dim), p.dtype)
        line = line / jnp.sqrt(jnp.sum(line**2, axis=1))[:, None]
        line = line if grid.dim > 1 else jnp.ones((1, 1), p.dtype)
        sites = jnp.concatenate([grid.points.reshape(-1, grid.dim), points.astype(p.dtype)])
        along = jnp.matmul(line, sites.T, precision="highest")
        order = jnp.argsort(along, axis=1)
        gaps = jnp.diff(jnp.take_along_axis(along, order, axis=1), axis=1)

        def between(weights):
            climbed = jnp.cumsum(weights[order], axis=1)[:, :-1]
            return jnp.mean(jnp.sum(jnp.abs(climbed) * gaps, axis=1))

        of_points = lambda w: between(jnp.concatenate([model, -w]))
        of_model = lambda w: between(jnp.concatenate([model - w, jnp.zeros(n, p.dtype)]))
    # Rounding leaves the last cell a mass that is a little off.
    total = jnp.cumsum(model / jnp.sum(model))

    def resampled(key):
        return jnp.bincount(jr.randint(key, (n,), 0, n), length=n).astype(p.dtype) / n

    def from_model(key):
        cell = jnp.searchsorted(total, jr.uniform(key, (n,), p.dtype))
        return jnp.bincount(jnp.minimum(cell, model.size - 1), length=model.size).astype(p.dtype) / n

    again = jax.lax.map(lambda key: of_points(resampled(key)), jr.split(k_points, draws))
    floor = jax.lax.map(lambda key: of_model(from_model(key)), jr.split(k_floor, draws))
    value = of_points(jnp.full(n, 1 / n, p.dtype))
    return DensityDistance(value, jnp.std(again), jnp.mean(floor), jnp.std(floor))


def _blocks(mass: Array, block: int) -> Array:
    """The mass in blocks of cells."""
    for axis in range(mass.ndim):
        shape = mass.shape[:axis] + (mass.shape[axis] // block, block) + mass.shape[axis + 1 :]
        mass = jnp.sum(mass.reshape(shape), axis=axis + 1)
    return mass


def _place(grid: Grid, points: Array, block: int) -> Array:
    """The number of the block of each point, in C order; one past the last for points off the grid."""
    size = grid.spacing * block
    index = jnp.floor((points - grid.lower[None]) / size[None]).astype(int)
    shape = [n // block for n in grid.shape]
    on = jnp.all((index >= 0) & (index < jnp.asarray(shape)[None]), axis=1)
    flat = jnp.zeros(points.shape[0], int)
    for axis, length in enumerate(shape):
        flat = flat * length + index[:, axis]
    count = 1
    for length in shape:
        count *= length
    return jnp.where(on, flat, count)
