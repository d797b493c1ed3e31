"""Laws that do not change."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ._compiled import compiled
from ._deflated import Deflated, check_deflated, stationary_law
from ._factor import Factor, check_factor, factorize
from ._first_order import frozen
from ._generator import AbstractGenerator
from ._long_lives import apart
from ._results import RESULTS, answer, outcome


def stationary(generator: AbstractGenerator, *, factor: Deflated | Factor | None = None, throw: bool = True) -> Any:
    r"""The stationary law, $W \pi = 0$ of mass 1.

    By elimination without subtraction, or by iteration beyond its reach (see `factorize`); of a generator made by
    `from_potential` the Gibbs law itself, which is that of the discrete generator too.

    **Arguments:**

    - `generator`: `W`, closed: no absorbing sides.
    - `factor`: `deflate(generator)`, if you have it.
    - `throw`: with `False`, return `(value, result)`.

    **Returns:** shape `(*shape)`; every value right to some roundings, however small it is, and by iteration the sum of
    absolute errors to 1e-10.  Gradients are right to
    `eps e^(E_b/kT)`, except for `from_potential`, where they are right to rounding.

    **How it fails:** `RESULTS.not_unique` if several sets of states are never left (the value is then the law that an
    even start ends in), `RESULTS.no_stationary_law` if mass is lost, `RESULTS.unsolved` where an iteration did not
    converge.

    ??? cite "References"

        W. K. Grassmann, M. I. Taksar, D. P. Heyman, Oper. Res. 33, 1107 (1985).

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> ring = rxs.Grid(0, 2 * jnp.pi, 64, boundary="periodic")
        >>> p = rxs.stationary(rxs.FokkerPlanck(lambda x: 0.5 + jnp.sin(x), 0.5, ring))
        >>> round(float(ring.integrate(p * (0.5 + jnp.sin(ring.axes[0])))), 3)  # mean velocity
        0.176

        ```
    """
    if factor is not None:
        factor = check_deflated(factor, generator)
    law, result = stationary_law(generator) if factor is None else (factor.law, factor.result)
    return answer(law, result, throw)


def quasi_stationary(
    generator: AbstractGenerator,
    *,
    factor: Factor | None = None,
    max_steps: int = 2000,
    throw: bool = True,
) -> Any:
    r"""The law conditioned on survival and the rate at which it is left: $W \nu = -\lambda \nu$, mass 1.

    Inverse iteration from an even start.  A process that starts as $\nu$ ends after an exponential time of mean
    $1/\lambda$.

    **Arguments:**

    - `generator`: `W`, which loses mass at absorbing sides or exits.
    - `factor`: `factorize(generator)`; with a `target` there, survival is that of not having reached it.
    - `max_steps`: each step gains the ratio of the first two rates.

    **Returns:** `(law, rate)`.  The rate differentiates once, as accurately as `mean_first_passage_time`, and raises a
    `ValueError` for second derivatives; the law is a constant to derivatives.

    **How it fails:** two wells that are left with nearly the same rate converge slowly: `RESULTS.not_converged`.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.FokkerPlanck(jnp.zeros(1), 0.5, rxs.Grid(-1, 1, 100, boundary="absorbing"))
        >>> law, rate = rxs.quasi_stationary(W)
        >>> round(float(rate), 3)  # pi^2/8
        1.234

        ```
    """
    factor = factorize(generator) if factor is None else check_factor(factor, generator, None, "target")
    return answer(*_survival(generator, factor, jnp.asarray(max_steps, jnp.int32)), throw)


@compiled
def _survival(generator: AbstractGenerator, factor: Factor, max_steps: Array) -> tuple[tuple[Array, Array], RESULTS]:
    eps = jnp.finfo(factor.extra.dtype).eps
    # An iterative solve is known to its tolerance only.
    still = jnp.maximum(32 * eps, 4 * factor.elimination.tol)
    even = jnp.where(factor.keep, jnp.ones_like(factor.extra), 0)

    def go_on(carry):
        _, change, step = carry
        return (change > still) & (step < max_steps)

    def iterate(forward):
        def body(carry):
            x, _, step = carry
            y = forward(x)
            y = y / jnp.sum(y)
            return y, jnp.sum(jnp.abs(y - x)), step + 1

        start = (even / jnp.sum(even), jnp.ones_like(eps, factor.extra.dtype), jnp.zeros((), jnp.int32))
        return lax.while_loop(go_on, body, start)

    law, change, _ = iterate(lax.stop_gradient(factor.elimination).solve)
    left, left_change, _ = iterate(lax.stop_gradient(factor.elimination).transpose_solve)
    law, left = frozen(law, generator), frozen(left, generator)
    rate = _rate(factor, law, left, lax.stop_gradient(1 / jnp.sum(factor.elimination.solve(law))))
    near = jnp.maximum(1e4 * eps, still)
    converged = (change <= near) & (left_change <= near)
    result = outcome((~jnp.isfinite(rate), factor.elimination.fault), (~converged, RESULTS.not_converged))
    return (lax.stop_gradient(law / generator.mass(law)), rate), result


@eqx.filter_custom_jvp
def _rate(factor: Factor, law: Array, left: Array, rate: Array) -> Array:
    return rate


@_rate.def_jvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """First-order perturbation theory: the derivative of the rate needs those of neither vector."""
    (factor, law, left, rate), (tangent, *_) = primals, tangents
    # A slow rate times a small share would be below all numbers.
    left = left / jnp.sqrt(rate)
    parts = apart(factor, rate * left, left)
    _, change = eqx.filter_jvp(parts.backward, (factor,), (tangent,))
    return rate, jnp.sum(law * change) / jnp.sum(left * law)
