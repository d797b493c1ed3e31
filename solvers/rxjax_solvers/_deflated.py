"""The inverse of a closed generator on changes of density that add up to zero."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ._compiled import compiled
from ._factor import Factor, assemble
from ._factorization import AbstractFactorization, Elimination, usual
from ._fokker_planck import FokkerPlanck
from ._generator import AbstractGenerator, check_generator
from ._region import Region
from ._results import RESULTS, outcome

# The rate of death over the mean rate of leaving, for a look at where the process is often.
_LIFE = 1e-4


class Deflated(eqx.Module):
    r"""A closed generator, its stationary law $\pi$ and the inverse of $-W$ without $\pi$.

    - `generator`: `W`.
    - `law`: shape `(*shape)`, of mass 1.
    - `factor`: that of `-W` outside of the likeliest state.
    - `result`: whether `law` is the only one.
    """

    generator: AbstractGenerator
    law: Float[Array, "*shape"]
    factor: Factor
    result: RESULTS

    def solve(self, b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""`x` of mass zero with $-W x = b - \pi \int b$."""
        mass = self.generator.mass
        x = self.factor.solve(b - self.law * mass(b))
        return x - self.law * mass(x)

    def transpose_solve(self, b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""`u` of mean zero under $\pi$ with $-W^\top u = b - \int \pi b$."""
        mass = self.generator.mass
        u = self.factor.transpose_solve(b - mass(self.law * b))
        return u - mass(self.law * u)


def deflate(generator: AbstractGenerator, *, method: AbstractFactorization | None = None) -> Deflated:
    """Factor a closed generator and find its stationary law: what `stationary` and `spectrum` share.

    Two factors, one for a generator from a potential.  In the chosen state the process is held, elsewhere it is
    factored as in `factorize`, by the same `method`.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.MasterEquation.from_matrix(jnp.array([[-1.0, 2.0], [1.0, -2.0]]))
        >>> parts = rxs.deflate(W)
        >>> print(rxs.stationary(W, factor=parts).round(3))
        [0.667 0.333]

        ```
    """
    law, result = stationary_law(generator, method)
    return Deflated(generator, law, _held(generator, law, method), result)


def check_deflated(factor: Any, generator: AbstractGenerator) -> Deflated:
    """`factor` if it is of a generator of the same shape."""
    if not isinstance(factor, Deflated):
        raise ValueError(f"Argument `factor` must be `deflate(generator)`, but it is a {type(factor).__name__}.")
    if factor.law.shape != generator.shape:
        raise ValueError(
            f"Argument `factor` must be of a generator of shape {generator.shape}, but that has shape "
            f"{factor.law.shape}.  Pass `deflate(generator)`."
        )
    return factor


def _held(generator: AbstractGenerator, law: Array, method: AbstractFactorization | None) -> Factor:
    held, shift = _state(law)
    return assemble(generator, [held], shift, method)


@compiled
def _state(law: Array) -> tuple[Region, Array]:
    none = jnp.zeros_like(law)
    return Region(_likeliest(lax.stop_gradient(law)), none, none), jnp.zeros((), law.dtype)


def _likeliest(law: Array) -> Bool[Array, "*shape"]:
    return (jnp.arange(law.size) == jnp.argmax(law)).reshape(law.shape)


def stationary_law(
    generator: AbstractGenerator, method: AbstractFactorization | None = None
) -> tuple[Float[Array, "*shape"], RESULTS]:
    """The law of mass 1 with `W law = 0`, and whether it exists and is the only one."""
    check_generator(generator)
    if generator.time_dependent:
        raise ValueError("Argument `generator` must not depend on time, but it does.  Freeze it: `generator.at(t)`.")
    if isinstance(generator, FokkerPlanck) and generator.log_gibbs is not None:
        return _gibbs(generator, generator.log_gibbs)
    method = usual(generator) if method is None else method
    law, unique = _law(generator, method)
    return law, _judged(generator, unique, isinstance(method, Elimination))


@compiled
def _gibbs(generator: FokkerPlanck, log_gibbs: Array) -> tuple[Array, RESULTS]:
    law = jnp.exp(log_gibbs - lax.stop_gradient(jnp.max(log_gibbs)))
    return law / generator.mass(law), outcome((leaks(generator), RESULTS.no_stationary_law))


@compiled
def _judged(generator: AbstractGenerator, unique: Array, eliminated: bool) -> RESULTS:
    several = RESULTS.not_unique if eliminated else RESULTS.unsolved
    return outcome((leaks(generator), RESULTS.no_stationary_law), (~unique, several))


@compiled
def leaks(generator: AbstractGenerator) -> Array:
    """Whether mass is lost for good, beyond what rounding makes of columns that add up to zero."""
    return jnp.any(lax.stop_gradient(generator.exit_rates()) > _rounding(generator))


def _rounding(generator: AbstractGenerator) -> Array:
    leaving = lax.stop_gradient(generator.outflow())
    return 8 * leaving.size * jnp.finfo(leaving.dtype).eps * leaving


@eqx.filter_custom_jvp
def _law(generator: AbstractGenerator, method: AbstractFactorization) -> tuple[Float[Array, "*shape"], Bool[Array, ""]]:
    return (_after_a_life if isinstance(method, Elimination) else _around_a_state)(generator, method)


def _after_a_life(generator: AbstractGenerator, method: AbstractFactorization) -> tuple[Array, Array]:
    """The state of a process after a life far longer than any of its own times."""
    # Nothing cancels, so the rate of death may be as small as the numbers allow.
    shift = _shift(generator, 1e-150 if generator.dtype == jnp.float64 else 1e-25, False)
    return _at_the_end(assemble(generator, [], shift, method))


@compiled
def _shift(generator: AbstractGenerator, share: float, of_the_mean: bool) -> Array:
    leaving = generator.outflow()
    if of_the_mean:
        return share * jnp.sum(leaving) / leaving.size
    shift = jnp.max(leaving) * share
    return jnp.where(shift > 0, shift, 1)


@compiled
def _at_the_end(factor: Factor) -> tuple[Array, Array]:
    shape, dtype = factor.extra.shape, factor.extra.dtype
    even = factor.elimination.solve(jnp.full(shape, 1 / factor.extra.size, dtype))
    # With one closed class the mean of any function at the end does not depend on the start.
    probe = jax.random.uniform(jax.random.key(0), shape, dtype)
    mean = factor.shift * factor.elimination.transpose_solve(probe)
    unique = jnp.max(mean) - jnp.min(mean) < 1e3 * jnp.sqrt(jnp.finfo(dtype).eps) * 1e-3
    # An even start is seen in states rarer than a death; the likeliest state never is, since P_ij(t) <= pi_i/pi_j.
    often = factor.elimination.solve(_likeliest(even).astype(dtype))
    law = jnp.where(unique, often, even)
    return law / factor.generator.mass(law), unique


def _around_a_state(generator: AbstractGenerator, method: AbstractFactorization) -> tuple[Array, Array]:
    """Mean times spent elsewhere between two visits of a state where the process is often; and whether they are known.

    With two closed classes the times have no limit, and the iteration none either.
    """
    often = _often(assemble(generator, [], _shift(generator, _LIFE, True), method))
    return _visits(_held(generator, often, method), often)


@compiled
def _often(factor: Factor) -> Array:
    early = factor.elimination.solve(jnp.full(factor.extra.shape, 1 / factor.extra.size))
    return _likeliest(jnp.where(jnp.isfinite(early), early, 0)).astype(factor.extra.dtype)


@compiled
def _visits(factor: Factor, often: Array) -> tuple[Array, Array]:
    sent = jnp.maximum(factor.generator.apply(often), 0) * (1 - often)
    law = factor.elimination.solve(sent) + often
    return law / factor.generator.mass(law), jnp.all(jnp.isfinite(law))


@_law.def_jvp
def _law_jvp(primals: Any, tangents: Any):
    (generator, method), (tangent, _) = primals, tangents
    law, unique = _law(generator, method)
    # Where there are cells their volume moves with the bounds of the grid.
    _, (change, mass) = eqx.filter_jvp(lambda g: (g.apply(law), g.mass(law)), (generator,), (tangent,))
    x = _held(generator, law, method).solve(change)
    excess = generator.mass(x) + (0 if mass is None else mass)
    return (law, unique), (x - law * excess, None)
