"""Paths of a master equation, jump by jump."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, Shaped

from .._checks import check_times, require, seen
from .._compiled import compiled
from .._generator import AbstractGenerator
from .._master_equation import MasterEquation


class Jumps(eqx.Module):
    """Paths at the times that were asked for.

    - `ts`: `(times,)`; `states`: `(times, paths)`, numbers of states, cells in C order; -1 for a path that has exited.
    - `jumps`: `(paths,)`, how many each has made; `complete`: `(paths,)`, false where `max_jumps` was not enough.
    """

    ts: Float[Array, " times"]
    states: Int[Array, "times paths"]
    jumps: Int[Array, " paths"]
    complete: Bool[Array, " paths"]


def gillespie(
    generator: AbstractGenerator,
    start: Int[ArrayLike, " paths"] | Sequence[int],
    ts: Shaped[ArrayLike, "..."],
    key: PRNGKeyArray,
    *,
    max_jumps: int = 1_000_000,
) -> Jumps:
    r"""Exact paths of a master equation: an exponential waiting time, then a jump in proportion to the rates.

    No time step, hence no error but that of sampling, $\sqrt{p(1-p)/n}$ for a probability from `n` paths.

    **Arguments:**

    - `generator`: a `MasterEquation`, on a grid or not.
    - `start`: the state of each path at `ts[0]`, shape `(paths,)`; on a grid the number of the cell in C order,
        `jnp.ravel_multi_index(cell, grid.shape)`; -1 for a path that has exited before.
    - `ts`: ascending times.
    - `key`: a key of `jax.random`.
    - `max_jumps`: of a path, in all; `complete` says whether it was enough.

    **Returns:** `Jumps`.  Paths are vmapped: all wait for the one with the most jumps.

    ??? cite "References"

        D. T. Gillespie, J. Comput. Phys. 22, 403 (1976).

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.MasterEquation.from_edges([0, 1], [1, 0], [1.0, 3.0], size=2)
        >>> paths = rxs.gillespie(W, jnp.zeros(4000, int), jnp.array([0.0, 5.0]), jax.random.key(0))
        >>> print(jnp.abs(jnp.mean(paths.states[-1]) - 0.25) < 0.03)
        True

        ```
    """
    if not isinstance(generator, MasterEquation):
        raise ValueError(
            f"Argument `generator` must be a MasterEquation, but it is a {type(generator).__name__}.  Paths of a "
            "FokkerPlanck are drawn by `langevin`, jumps between its cells with `from_matrix(W.as_matrix())`."
        )
    ts = check_times(jnp.asarray(ts, generator.dtype), "start")
    start, last = jnp.asarray(start), generator.size - 1
    if start.ndim != 1 or not jnp.issubdtype(start.dtype, jnp.integer):
        raise ValueError(
            f"Argument `start` must be a vector of whole numbers, a state for each path, but it has shape "
            f"{start.shape} and dtype {start.dtype}."
        )
    faults = [((seen(start) < -1) | (seen(start) > last), "is not")]
    start = require(start, "start", f"be states from 0 to {last}, or -1", faults)
    return _paths(generator, start, ts, key, jnp.asarray(max_jumps, jnp.int32))


@compiled
def _paths(generator: MasterEquation, start: Array, ts: Array, key: PRNGKeyArray, max_jumps: Array) -> Jumps:
    leaving = generator.outflow().ravel()

    def one(state, key):
        def wait(state, key):
            rate = jnp.where(state < 0, 0, leaving[jnp.maximum(state, 0)])
            return jnp.where(rate > 0, jr.exponential(key, (), ts.dtype) / jnp.where(rate > 0, rate, 1), jnp.inf)

        def until(carry, t):
            def early(carry):
                _, _, next_jump, jumps = carry
                return (next_jump <= t) & (jumps < max_jumps)

            def jump(carry):
                state, key, at, jumps = carry
                key, where, when = jr.split(key, 3)
                state = generator.jumps.draw(state, where).astype(jnp.int32)
                return state, key, at + wait(state, when), jumps + 1

            carry = lax.while_loop(early, jump, carry)
            return carry, (carry[0], carry[2] > t)

        key, first = jr.split(key)
        state = state.astype(jnp.int32)
        carry = (state, key, ts[0] + wait(state, first), jnp.zeros((), jnp.int32))
        (_, _, _, jumps), (states, reached) = lax.scan(until, carry, ts)
        return states, jumps, jnp.all(reached)

    states, jumps, complete = jax.vmap(one)(start, jr.split(key, start.shape[0]))
    return Jumps(ts, states.T, jumps, complete)
