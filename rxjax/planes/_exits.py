"""Exit times and first hits of projected runs, with their errors."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from rxjax_solvers._program import program

from ..measure import Estimate
from ._runs import PlaneRuns

_DRAWS = 1000


class ExitTime(eqx.Module):
    """How long runs stay in a region.

    - `value`: the mean time, in the units of `PlaneRuns.times`; `standard_error`: of the sampling.
    - `interval`: `(2,)`, a bootstrap interval of the confidence asked for.
    - `exited`: how many runs left; `runs`: of how many.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    interval: Float[Array, "2"]
    exited: Int[Array, ""]
    runs: int = eqx.field(static=True)


def exit_time(
    runs: PlaneRuns,
    inside: Callable,
    *,
    confidence: float = 0.95,
    key: PRNGKeyArray | Shaped[Array, "..."] | None = None,
) -> ExitTime:
    r"""The mean time until runs first leave a region of the plane, all times over all exits.

    The plain mean where every run has left.  Where some had not when sampling ended, $\sum_i t_i$ over the number of
    exits: the maximum-likelihood mean of an exponential law, to which exits from a deep basin tend.

    **Arguments:**

    - `runs`: saved at every step; a coarser `save_every` misses short visits outside.
    - `inside`: `theta (k,) -> bool`; a run that diverges has left where this is false of NaN, as comparisons are.
    - `confidence`: of the interval.
    - `key`: of the bootstrap over runs; fixed if not given.

    **Returns:** an `ExitTime`; infinite, with infinite errors, where no run has left.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> walk = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])[:, :, None]
        >>> runs = rx.planes.PlaneRuns(jnp.arange(3), jnp.arange(3.0), walk, jnp.ones((3, 2)))
        >>> print(rx.planes.exit_time(runs, lambda x: x[0] < 0.5).value)
        1.5

        ```
    """
    if not 0 < confidence < 1:
        raise ValueError(f"Argument `confidence` must lie between 0 and 1, but it is {confidence}. Type 0.95, say.")
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    found = _exits(runs, inside, jr.key(0) if key is None else key, tails)
    return ExitTime(*found, runs=runs.coordinates.shape[1])


@program
def _exits(runs: PlaneRuns, inside: Callable, key: Array, tails: tuple[float, float]):
    times, left = _first(runs, ~_visits(runs, inside, "inside"))
    n = times.shape[0]
    drawn = jr.randint(key, (_DRAWS, n), 0, n)
    exits = left.astype(times.dtype)
    mean = lambda t, e: jnp.where(e > 0, t / jnp.where(e > 0, e, 1), jnp.inf)
    value = mean(jnp.sum(times), jnp.sum(exits))
    again = mean(jnp.sum(times[drawn], axis=1), jnp.sum(exits[drawn], axis=1))
    known = jnp.all(jnp.isfinite(again))
    spread = jnp.where(known, jnp.std(jnp.where(known, again, 0)), jnp.inf)
    levels = jnp.asarray(tails, times.dtype)
    ends = jnp.sort(again)[jnp.round(levels * (_DRAWS - 1)).astype(int)]
    return value, spread, ends, jnp.sum(left)


def first_reached(runs: PlaneRuns, source: Callable, target: Callable) -> Estimate:
    r"""The share of runs that reach `target` before `source`: the committor $q$ of their start.

    **Arguments:**

    - `runs`: saved at every step.
    - `source`, `target`: `theta (k,) -> bool`, as for `rx.solvers.committor`.

    **Returns:** an `Estimate` over the runs that have reached either, with the error of a share (at least that of one
    run more); NaN where none has.
    """
    return _committed(runs, source, target)


@program
def _committed(runs: PlaneRuns, source: Callable, target: Callable) -> Estimate:
    back, went_back = _first(runs, _visits(runs, source, "source"))
    ahead, arrived = _first(runs, _visits(runs, target, "target"))
    dtype = runs.times.dtype
    hits = jnp.sum(arrived & (~went_back | (ahead < back))).astype(dtype)
    n = jnp.sum(arrived | went_back).astype(dtype)
    # Of no or of all hits the plain error would be zero.
    safe = (hits + 1) / (n + 2)
    many = jnp.maximum(n, 1)
    error = jnp.sqrt(safe * (1 - safe) / many)
    return Estimate(jnp.where(n > 0, hits / many, jnp.nan), jnp.where(n > 0, error, jnp.inf))


def _visits(runs: PlaneRuns, there: Callable, name: str) -> Array:
    """Whether each run is `there` at each time, `(saves, runs)`."""
    visits = jax.vmap(jax.vmap(there))(runs.coordinates)
    if visits.ndim != 2 or visits.dtype != bool:
        raise ValueError(
            f"Argument `{name}` must return one truth value for a point of the plane, but it returns dtype "
            f"{visits.dtype} of shape {visits.shape[2:]}. Type `lambda theta: theta[0] < 1`, say."
        )
    return visits


def _first(runs: PlaneRuns, visits: Array) -> tuple[Array, Array]:
    """The time of the first visit of each run, the last one if there is none, and whether there is one."""
    ever = jnp.any(visits, axis=0)
    first = jnp.argmax(visits, axis=0)
    return runs.times[jnp.where(ever, first, runs.times.shape[0] - 1)], ever
