"""Transition paths between two sets of states."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._checks import require, seen
from ._compiled import compiled
from ._deflated import stationary_law
from ._factor import Factor, assemble, check_factor
from ._generator import AbstractGenerator, check_generator
from ._region import Region, Target, region
from ._results import RESULTS, answer, outcome


class _Ends(NamedTuple):
    source: Region
    target: Region
    factor: Factor


def _ends(generator: AbstractGenerator, source: Target, target: Target, factor: Factor | None) -> _Ends:
    check_generator(generator)
    a, b = region(generator, source, "source"), region(generator, target, "target")
    both = [((seen(a.members) & seen(b.members)).any(), "shares one with `source`")]
    members = require(b.members, "target", "hold cells of its own", both, "", "a common cell")
    b = Region(members, b.extra, b.into)
    if factor is None:
        return _Ends(a, b, assemble(generator, [a, b], jnp.zeros((), a.extra.dtype)))
    return _Ends(a, b, check_factor(factor, generator, seen(a.members) | seen(b.members), "(source, target)"))


def committor(
    generator: AbstractGenerator,
    source: Target,
    target: Target,
    *,
    factor: Factor | None = None,
    throw: bool = True,
) -> Any:
    r"""Probability to reach `target` before `source`: $W^\top q = 0$ between them, 0 on the source, 1 on the target.

    **Arguments:**

    - `source`, `target`: masks (sets of cells) or predicates of `theta` (edges placed where they lie, second order).
        Derivatives by what a predicate itself reads are zero.
    - `factor`: `factorize(generator, target=(source, target))`, if you have it.

    **Returns:** shape `(*shape)`; values near 0 keep their relative accuracy at any temperature.

    **How it fails:** `RESULTS.unreachable` where some state reaches neither.

    ??? cite "References"

        W. E and E. Vanden-Eijnden, J. Stat. Phys. 123, 503 (2006).

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> grid = rxs.Grid(-2, 2, 200)
        >>> W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, grid, temperature=0.05)
        >>> q = rxs.committor(W, lambda x: x[0] <= -1, lambda x: x[0] >= 1)
        >>> round(float(jnp.interp(-0.2, grid.axes[0], q)), 3)
        0.201

        ```
    """
    ends = _ends(generator, source, target, factor)
    q, result = _forward(ends)
    return answer(q, result, throw)


@compiled
def _forward(ends: _Ends) -> tuple[Array, RESULTS]:
    q = ends.factor.transpose_solve(ends.target.into) + ends.target.members.astype(ends.target.into.dtype)
    return q, outcome((~jnp.all(jnp.isfinite(q)), ends.factor.elimination.fault))


def _from_source(generator: AbstractGenerator, ends: _Ends, law: Array) -> Array:
    """The part of the stationary law that came last from the source: `law` on it, 0 on the target."""
    a = ends.source
    on_source = jnp.where(a.members, law, 0)
    # What enters from the source, and at its edge as much as leaves there in equilibrium.
    entering = generator.apply(on_source)
    entering = jnp.where(ends.factor.keep, jnp.where(entering < 0, 0, entering) + a.extra * law, 0)
    return ends.factor.solve(entering) + on_source


def _transitions(generator, source, target, factor, law) -> tuple[Array, Array, RESULTS]:
    ends = _ends(generator, source, target, factor)
    law, result = stationary_law(generator) if law is None else (_density(generator, law), RESULTS.successful)
    return _reaction(generator, ends, law, result)


def _density(generator: AbstractGenerator, law: Array) -> Array:
    """`law` if it is a density; one that was not found is not finite, and so is what is asked of it."""
    if jnp.shape(law) != generator.shape:
        raise ValueError(
            f"Argument `law` must have the generator's shape {generator.shape}, but it has shape {jnp.shape(law)}."
        )
    # Densities of Krylov methods are negative here and there, within their error.
    below, mass = generator.mass(jnp.minimum(law, 0)), generator.mass(law)
    faults = [(seen(below < -1e-3), "is negative"), (seen(abs(mass - 1) > 1e-3), "has another mass")]
    return require(law, "law", "be non-negative and of mass 1 within 1e-3", faults, "Pass `stationary(generator)`.")


@compiled
def _reaction(generator: AbstractGenerator, ends: _Ends, law: Array, result: RESULTS) -> tuple[Array, Array, RESULTS]:
    """Transitions per unit time, and these over the probability of having come last from the source."""
    part = _from_source(generator, ends, law)
    flux = generator.mass(part * ends.target.into)
    broken = outcome((~jnp.isfinite(flux), ends.factor.elimination.fault))
    result = RESULTS.where(result == RESULTS.successful, broken, result)
    return flux, flux / generator.mass(part), result


def reactive_flux(
    generator: AbstractGenerator,
    source: Target,
    target: Target,
    *,
    factor: Factor | None = None,
    law: Float[Array, "*shape"] | None = None,
    throw: bool = True,
) -> Any:
    """Transitions from `source` to `target` per unit time in the stationary state.

    Each is counted once, when it enters the target after it last left the source; for reversible and driven processes
    alike.  Arguments as in `committor`, and `law`: `stationary(generator)`, if you have it.

    **Raises:** `ValueError` for a `law` of another shape, or negative or of another mass than 1 by
    more than 1e-3.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.MasterEquation.from_edges([0, 1, 1, 2], [1, 0, 2, 1], 1.0, size=3)
        >>> first, last = jnp.arange(3) == 0, jnp.arange(3) == 2
        >>> round(float(rxs.reactive_flux(W, first, last)), 4)  # 1/3 in the middle, half of it from the source
        0.1667

        ```
    """
    flux, _, result = _transitions(generator, source, target, factor, law)
    return answer(flux, result, throw)


def transition_rate(
    generator: AbstractGenerator,
    source: Target,
    target: Target,
    *,
    factor: Factor | None = None,
    law: Float[Array, "*shape"] | None = None,
    throw: bool = True,
) -> Any:
    """Reactive flux over the probability of having come last from the source: the rate constant, in 1/time.

    Arguments as in `reactive_flux`.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.MasterEquation.from_edges([0, 1, 1, 2], [1, 0, 2, 1], 1.0, size=3)
        >>> first, last = jnp.arange(3) == 0, jnp.arange(3) == 2
        >>> round(float(rxs.transition_rate(W, first, last)), 4)
        0.3333

        ```
    """
    _, rate, result = _transitions(generator, source, target, factor, law)
    return answer(rate, result, throw)
