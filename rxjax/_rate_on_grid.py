"""Rates of many updates at every point of a grid."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

from rxjax_solvers import Grid
from rxjax_solvers._checks import is_traced, non_negative, one_of, positive, require
from rxjax_solvers._grid import check_grid
from rxjax_solvers._offsets import offsets_within

from ._arrays import real_array
from ._grid_sums import log_rates, log_sums
from ._limits import exponential, times_rate
from ._rates import log_attempt_frequency
from .landscapes import check_landscape

ENERGIES = ("inner_product", "difference")
# Working memory beyond the result, in bytes.
_MEMORY = 2**28


def stencil(
    grid: Grid, radius: Shaped[ArrayLike, "..."] | Sequence, *, include_zero: bool = False
) -> Float[Array, "m d"]:
    """The updates that lead from a cell to every cell within a radius, in the order of the grid.

    **Arguments:**

    - `grid`: the cells.
    - `radius`: in the units of `theta`; a number for a ball, or `(d,)`, the half axes of an ellipsoid.
    - `include_zero`: keep the update that leads nowhere.

    **Returns:** the updates, `(m, d)`, exact multiples of `grid.spacing`.

    **Raises:** `ValueError` for a radius below the spacing of every axis, or for a traced grid or radius, since `m`
    depends on both.

    ```python
    >>> import rxjax as rx
    >>> print(rx.stencil(rx.solvers.Grid(0.0, 1.0, 10), 0.25))
    [[-0.2]
     [-0.1]
     [ 0.1]
     [ 0.2]]

    ```
    """
    offsets = offsets_within(grid, radius, include_zero=include_zero)
    return jnp.asarray(offsets * np.asarray(grid.spacing, np.float64), grid.lower.dtype)


def rate_on_grid(
    landscape: Callable,
    grid: Grid,
    delta: Shaped[ArrayLike, "..."] | Sequence,
    temperature: Shaped[ArrayLike, "..."],
    *,
    energy: str = "inner_product",
    entropy: Shaped[ArrayLike, "..."] = 0.0,
    tau0: ArrayLike = 1.0,
    k: ArrayLike = 1.0,
    log: bool = True,
    memory_limit: int = _MEMORY,
) -> Float[Array, "..."]:
    r"""Logarithm of the rate density at every point of a grid for given updates,
    $\log\rho(\theta, \delta) = S/k - \log\tau_0 - E_a/(kT)$.

    One compiled program: the slope of the landscape is evaluated once a point, in blocks that stay in the processor's
    cache, and the results are written once.

    **Arguments:**

    - `landscape`: `theta (d,) -> ()`.
    - `grid`: the points, at the centres of its cells.
    - `delta`: the updates $\delta$, `(m, d)`, such as `rx.stencil(grid, radius)`; `(d,)`, or a number in one dimension,
        for a single one.
    - `temperature`: $T \geq 0$, a number or an array of the grid's shape.  At zero the logarithm has its limits.
    - `energy`: `"inner_product"`, $E_a = \nabla L\cdot\delta$; or `"difference"`, $E_a = L(\theta+\delta) - L(\theta)$,
        for which the landscape is also evaluated outside of the grid.
    - `entropy`: $S$, a number or an array of the grid's shape.
    - `tau0`, `k`: as for [`log_rate_density`][].
    - `log`: return the logarithm; else the rate density itself, which may be infinite.
    - `memory_limit`: bytes that may be used beyond the result.  Without effect on the result; it bounds the number of
        points at which a large landscape is evaluated at once.

    **Returns:** `(m, *grid.shape)`, or `(*grid.shape)` for a single update, in the dtype of the grid.  A result of `m`
    grids may be more than the memory holds: [`total_rate_on_grid`][] and [`flow_on_grid`][] sum over updates at once.

    **Raises:** `ValueError` for a misspelt energy, what is no grid, shapes that do not fit, no memory, or (inside
    `jit`, a run-time error) a negative temperature, a `tau0` or `k` that is not positive, an argument that is not
    finite; `TypeError` for a landscape that is no function or returns no real number.  Its values are not checked: NaN
    stays NaN.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> well, grid = rx.landscapes.DoubleWell(), rx.solvers.Grid(-2.0, 2.0, 4)
        >>> print(rx.rate_on_grid(well, grid, 0.1, temperature=0.5))
        [ 1.5 -0.3  0.3 -1.5]

        ```
    """
    _check(landscape, grid, energy, memory_limit)
    delta, single = _updates(delta, grid)
    attempt, temperature = _fields(grid, entropy, tau0, k, temperature)
    temperature = non_negative(temperature, "temperature", "Zero is the limit without noise.")
    # Where the temperature is known to be positive, no result needs to be compared with its limit.
    may_be_cold = is_traced(temperature) or bool(jnp.any(temperature == 0))
    result = log_rates(landscape, grid, delta, attempt, temperature, energy, memory_limit, may_be_cold)
    result = result[0] if single else result
    return result if log else exponential(result)


class GridFlow(eqx.Module):
    """The sum over updates at every point of a grid.

    - `log_total`: `(*shape)`, the logarithm of the total rate.
    - `mean_update`: `(*shape, d)`, the mean update, weighted with its rate.
    - `total`: the total rate; `flow`: total rate x mean update, `(*shape, d)`.  Both may overflow.
    """

    log_total: Float[Array, "*shape"]
    mean_update: Float[Array, "*shape d"]

    @property
    def total(self) -> Float[Array, "*shape"]:
        """The total rate, in units of 1/tau0."""
        return exponential(self.log_total)

    @property
    def flow(self) -> Float[Array, "*shape d"]:
        """The velocity, `theta` per tau0."""
        return times_rate(self.total[..., None], self.mean_update)


def total_rate_on_grid(
    landscape: Callable,
    grid: Grid,
    delta: Shaped[ArrayLike, "..."] | Sequence,
    temperature: Shaped[ArrayLike, "..."],
    *,
    weights: Shaped[ArrayLike, " m"] | None = None,
    energy: str = "inner_product",
    entropy: Shaped[ArrayLike, "..."] = 0.0,
    tau0: ArrayLike = 1.0,
    k: ArrayLike = 1.0,
    log: bool = True,
    memory_limit: int = _MEMORY,
) -> Float[Array, "*shape"]:
    r"""Logarithm of the total rate at every point, $\log \sum_m w_m\, \rho(\theta, \delta_m)$.

    The sum is taken where the terms are computed: no array of `m` grids is made.

    **Arguments:**

    - `weights`: $w_m \geq 0$, `(m,)`: the proposal density of the updates x the volume that each stands for.  If not
        given 1.  For a stencil and a density $q$ they are `q(delta) * grid.cell_volume`.
    - the others: as for [`rate_on_grid`][], but the temperature must be positive.

    **Returns:** `(*grid.shape)`; with `log=False` the total rate itself.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> well, grid = rx.landscapes.DoubleWell(), rx.solvers.Grid(-2.0, 2.0, 4)
        >>> print(rx.total_rate_on_grid(well, grid, [[-0.1], [0.1]], 0.5, log=False).round(3))
        [4.705 2.091 2.091 4.705]

        ```
    """
    _check(landscape, grid, energy, memory_limit)
    terms = _weighted_terms(grid, delta, weights, temperature, entropy, tau0, k)
    total = log_sums(landscape, grid, *terms, energy, memory_limit, False)[0]
    return total if log else exponential(total)


def flow_on_grid(
    landscape: Callable,
    grid: Grid,
    delta: Shaped[ArrayLike, "..."] | Sequence,
    temperature: Shaped[ArrayLike, "..."],
    *,
    weights: Shaped[ArrayLike, " m"] | None = None,
    energy: str = "inner_product",
    entropy: Shaped[ArrayLike, "..."] = 0.0,
    tau0: ArrayLike = 1.0,
    k: ArrayLike = 1.0,
    memory_limit: int = _MEMORY,
) -> GridFlow:
    r"""Total rate and flow at every point, $\sum_m w_m\, \rho(\theta, \delta_m)\, (1, \delta_m)$.

    **Arguments:** as for [`total_rate_on_grid`][].

    **Returns:** a `GridFlow`: the logarithm of the total rate and the mean update, finite where the flow itself
    overflows.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> well, grid = rx.landscapes.DoubleWell(), rx.solvers.Grid(-2.0, 2.0, 4)
        >>> flow = rx.flow_on_grid(well, grid, rx.stencil(grid, 1.0), 0.5)
        >>> print(flow.mean_update[:, 0].round(3), flow.flow.shape)
        [ 1.    -0.995  0.995 -1.   ] (4, 1)

        ```
    """
    _check(landscape, grid, energy, memory_limit)
    terms = _weighted_terms(grid, delta, weights, temperature, entropy, tau0, k)
    return GridFlow(*log_sums(landscape, grid, *terms, energy, memory_limit, True))


def _check(landscape: Callable, grid: Grid, energy: str, memory_limit: int) -> None:
    one_of(energy, "energy", ENERGIES)
    check_grid(grid)
    check_landscape(landscape, grid.dim, grid.lower.dtype)
    if memory_limit < 1:
        raise ValueError(f"Argument `memory_limit` must be a positive number of bytes, but it is {memory_limit}.")


def _updates(delta: Shaped[ArrayLike, "..."] | Sequence, grid: Grid) -> tuple[Float[Array, "m d"], bool]:
    """The updates as `(m, d)`, and whether it was a single one."""
    delta = real_array(jnp.asarray(delta), "delta").astype(grid.lower.dtype)
    single = delta.ndim < 2
    delta = jnp.atleast_1d(delta)[None] if single else delta
    if delta.ndim != 2 or delta.shape[1] != grid.dim or not delta.shape[0]:
        raise ValueError(
            f"Argument `delta` must have shape (m, {grid.dim}), one update a row, or ({grid.dim},), but it has shape "
            f"{delta[0].shape if single else delta.shape}."
        )
    return require(delta, "delta", "be finite", [(~jnp.isfinite(delta), "is not finite")]), single


def _fields(
    grid: Grid, entropy: ArrayLike, tau0: ArrayLike, k: ArrayLike, temperature: ArrayLike
) -> tuple[Array, Array]:
    """The logarithm of the attempt frequency and `k T`, each a number or an array of the grid's shape."""
    k = positive(jnp.asarray(k), "k")
    attempt = log_attempt_frequency(entropy, tau0, k)
    for x, name in ((attempt, "entropy"), (jnp.asarray(temperature), "temperature")):
        if x.shape not in ((), grid.shape):
            raise ValueError(
                f"Argument `{name}` must be a number or have the grid's shape {grid.shape}, but it has shape {x.shape}."
            )
    dtype = grid.lower.dtype
    temperature = real_array(temperature, "temperature").astype(dtype)
    return attempt.astype(dtype), k.astype(dtype) * temperature


def _weighted_terms(
    grid: Grid,
    delta: Shaped[ArrayLike, "..."] | Sequence,
    weights: Shaped[ArrayLike, "..."] | None,
    temperature: ArrayLike,
    entropy: ArrayLike,
    tau0: ArrayLike,
    k: ArrayLike,
) -> tuple[Array, Array, Array, Array]:
    """Updates, their weights, and the two fields."""
    updates, _ = _updates(delta, grid)
    attempt, temperature = _fields(grid, entropy, tau0, k, temperature)
    temperature = positive(temperature, "temperature", "For the limit without noise take `rate_on_grid`.")
    if weights is None:
        return updates, jnp.ones(updates.shape[:1], updates.dtype), attempt, temperature
    weights = real_array(weights, "weights").astype(updates.dtype)
    if weights.shape != updates.shape[:1]:
        raise ValueError(
            f"Argument `weights` must have shape {updates.shape[:1]}, one for each update, but it has {weights.shape}."
        )
    faults = [
        (~jnp.isfinite(weights), "is not finite"),
        (weights < 0, "is negative"),
        (jnp.all(weights == 0), "is zero for every update"),
    ]
    weights = require(weights, "weights", "be non-negative and finite, and not all zero", faults)
    return updates, weights, attempt, temperature
