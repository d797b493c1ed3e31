"""`exp(t W) p` at all times at once, from one factor."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Shaped

from ._checks import positive
from ._deflated import stationary_law
from ._factor import Factor, assemble
from ._factorization import AbstractFactorization, repeated
from ._generator import AbstractGenerator
from ._krylov import Krylov, evolve, extend, inner_integral, inverse_generator, start
from ._results import RESULTS, outcome

# Products between two looks at the error.
_CHUNK = 8
# The error is also what so many products changed.
_LAG = 3
# The rate of the factor over the inverse of the time it serves, and by how much it grows when that does not do.
_PER_TIME, _FASTER = 12.0, 8.0
# Times up to so many first ones are served by one factor from the start.
_SPAN = 30.0


class ShiftInvert(eqx.Module):
    r"""Shift-and-invert Arnoldi: $e^{tW} p$ at every time from one factor of $s - W$.

    $K = (1 - W/s)^{-1}$ is known on $m$ vectors $p, K p, \dots$; in their span $W_m = s (1 - H_m^{-1})$ is a small
    matrix whose exponential gives the density at all times, however late.  The stationary law is split off first, so
    mass is exact at any horizon.  Stops when the residual, and what the last vectors changed, are below `tol` at every
    save time; where early times do not get there it starts again with a faster $s$.

    **Arguments:**

    - `tol`: error in the sum of absolute values at each save time, relative to the mass.  If not given 1e-9, and 1e-4
        in float32.
    - `max_krylov`: vectors for one factor.
    - `max_factors`: factors tried.
    - `factorization`: `Elimination()` or `Iteration()`; if not given elimination within its reach, where a factor is
        made once and each of many solves is cheap.

    **Good values:** the defaults; 15 to 40 solves for 1e-9.  **How it fails:** early times after a start uphill over
    many kT need several factors; if they do not suffice the result is `RESULTS.not_converged`.  A density may be
    negative within the error; if it is by more than `tol` the result is `RESULTS.negative`.

    **In float32** the reported error does not see the rounding of times far beyond the slowest relaxation: there a
    density was off by 1e-3, now and then by several per cent, with a reported error of zero.  Use float64 for them.

    **Reverse mode** costs one transposed run with the same factor for each save time that matters.  No forward mode.

    ??? cite "References"

        I. Moret and P. Novati, BIT 44, 595 (2004).  J. van den Eshof and M. Hochbruck, SIAM J. Sci. Comput. 27, 1438
        (2006).  C. F. Van Loan, IEEE Trans. Automat. Contr. 23, 395 (1978): the integral in the derivative.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> grid = rxs.Grid(-2, 2, 64)
        >>> W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, temperature=0.1)
        >>> late = rxs.solve(W, grid.gaussian(-1, 0.2), [0.0, 1e7], method=rxs.ShiftInvert()).ps[-1]
        >>> round(float(grid.integrate(jnp.abs(late - rxs.stationary(W)))), 3)
        0.0

        ```
    """

    tol: Float[Array, ""] | float | None = None
    max_krylov: int = eqx.field(static=True, default=56)
    max_factors: int = eqx.field(static=True, default=4)
    factorization: AbstractFactorization | None = None

    preserves_mass: ClassVar[bool] = True
    preserves_positivity: ClassVar[bool] = False

    def run(
        self, generator: AbstractGenerator, p0: Float[Array, "*shape"], ts: Shaped[ArrayLike, "times"]
    ) -> tuple[Float[Array, "times *shape"], RESULTS, dict[str, Any]]:
        """Densities at `ts`, ascending, the first of which is that of `p0`; how it ended; and what it took.

        The statistics: `num_steps`, solves; `num_factors`; `error`, the estimate at each time.
        """
        if generator.time_dependent:
            raise ValueError(
                "Argument `method` must not be ShiftInvert() for a generator that depends on time.  Use Strang()."
            )
        ts = jnp.asarray(ts, p0.dtype)
        tol = (1e-9 if p0.dtype == jnp.float64 else 1e-4) if self.tol is None else self.tol
        tol = positive(jnp.asarray(tol, p0.dtype), "tol")
        mass = generator.mass(p0)
        method = repeated(generator) if self.factorization is None else self.factorization
        later, error, solves, factors = _propagate((generator, p0, ts), tol, method, self.max_krylov, self.max_factors)
        ps = jnp.concatenate([p0[None], later])
        negative = -generator.mass(jnp.minimum(ps, 0)) / mass
        error = jnp.concatenate([jnp.zeros(1, p0.dtype), error])
        result = outcome((~jnp.all(error <= tol), RESULTS.not_converged), (jnp.any(negative > tol), RESULTS.negative))
        return ps, result, dict(num_steps=solves, num_factors=factors, error=error)


class _Parts(eqx.Module):
    """What a run leaves for its transpose: the factor, the space, and the law that was split off."""

    factor: Factor
    krylov: Krylov
    law: Float[Array, "*shape"]


def _law(generator: AbstractGenerator, p0: Array, method: AbstractFactorization | None) -> Array:
    """The stationary law times the mass of `p0`, zero where there is none or more than one."""
    law, result = stationary_law(generator, method)
    return jnp.where(result == RESULTS.successful, law * generator.mass(p0), 0)


def _apply(parts_factor: Factor, law: Array, generator: AbstractGenerator):
    """`(1 - W/s)^-1` on changes of density, flat in and out; rounding may not put mass back."""
    total = generator.mass(law)
    unit = law / jnp.where(total == 0, 1, total)

    def apply(v):
        v = v.reshape(law.shape)
        w = parts_factor.shift * parts_factor.elimination.solve(v)
        # Mass that is rounding in a small new direction stands still, as the law does.
        return (w + unit * (generator.mass(v) - generator.mass(w))).ravel()

    return apply


def _dimension(law: Array) -> Array:
    """Of what is left beside the law: in no more directions than that the inverse exists."""
    return law.size - jnp.any(law > 0).astype(jnp.int32)


def _attempt(
    generator: AbstractGenerator, p0: Array, law: Array, span: Array, rate: Array, tol: Array, size: int, method
):
    """A factor at `rate`, vectors until the error is small at some of the times, densities and errors at all."""
    factor = assemble(generator, [], rate, method)
    apply = _apply(factor, law, generator)
    lengths_of = lambda krylov: jnp.sum(jnp.abs(krylov.basis), axis=1) * _volume(generator)
    some = span[jnp.unique(jnp.array([0, span.size // 3, 2 * span.size // 3, span.size - 1]), size=min(4, span.size))]

    def errors(krylov, times):
        ys, residual = _coordinates(krylov, rate, times)
        before, _ = _coordinates(eqx.tree_at(lambda k: k.used, krylov, krylov.used - _LAG), rate, times)
        lengths = lengths_of(krylov)
        last = jnp.abs(residual) * lengths[krylov.used]
        error = jnp.maximum(jnp.sum(jnp.abs(ys - before) * lengths[None, :-1], axis=1), last)
        return ys, jnp.where(jnp.isfinite(error), error, jnp.inf)

    def go_on(carry):
        krylov, error = carry
        return (error > tol) & (krylov.used + _CHUNK <= size)

    def grow(carry):
        krylov = extend(carry[0], apply, _CHUNK, _dimension(law))
        return krylov, jnp.max(errors(krylov, some)[1])

    krylov = start((p0 - law).ravel(), size)
    krylov, _ = lax.while_loop(go_on, grow, (krylov, jnp.full((), jnp.inf, p0.dtype)))
    ys, error = errors(krylov, span)
    ys = jnp.where(jnp.isfinite(error)[:, None], ys, 0)
    ps = law[None] + jnp.matmul(ys, krylov.basis[:-1], precision=lax.Precision.HIGHEST).reshape(-1, *law.shape)
    return ps, error, _Parts(factor, krylov, law)


def _volume(generator: AbstractGenerator) -> Array:
    one = jnp.ones((), generator.outflow().dtype)
    return one if generator.grid is None else generator.grid.cell_volume.astype(one.dtype)


def _coordinates(krylov: Krylov, rate: Array, times: Array) -> tuple[Array, Array]:
    """The density's coordinates at some times, and the size of the residual there."""
    small, inverse = inverse_generator(krylov, rate)
    first = jnp.zeros(small.shape[0], small.dtype).at[0].set(krylov.norm)
    ys = evolve(small, first, times)
    last = krylov.used - 1
    return ys, krylov.projected[krylov.used, last] * (ys @ inverse[last])


@eqx.filter_custom_vjp
def _propagate(problem, tol, method, max_krylov, max_factors):
    """Densities at all times but the first, their errors, and the numbers of solves and factors."""
    return _run(problem, tol, method, max_krylov, max_factors)[0]


def _run(problem, tol, method, max_krylov, max_factors):
    generator, p0, ts = lax.stop_gradient(problem)
    span = ts[1:] - ts[0]
    law = _law(generator, p0, method)
    tol = tol * generator.mass(p0)
    serves = jnp.minimum(jnp.sqrt(span[0] * span[-1]), _SPAN * span[0])
    attempt = lambda rate: _attempt(generator, p0, law, span, rate, tol, max_krylov, method)
    shapes = eqx.filter_eval_shape(attempt, tol)[2]
    empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    best = jnp.zeros((span.size, *p0.shape), p0.dtype), jnp.full(span.shape, jnp.inf, p0.dtype)
    none = jnp.zeros((), jnp.int32)

    def go_on(carry):
        (_, error), _, _, _, tried = carry
        return (tried == 0) | (jnp.any(error > tol) & (tried < max_factors))

    def again(carry):
        (ps, error), _, rate, solves, tried = carry
        new, new_error, parts = attempt(rate)
        better = new_error < error
        ps = jnp.where(better.reshape(-1, *[1] * p0.ndim), new, ps)
        best = ps, jnp.where(better, new_error, error)
        return best, parts, rate * _FASTER, solves + parts.krylov.used, tried + 1

    carry = best, empty, _PER_TIME / serves, none, none
    (ps, error), parts, _, solves, tried = lax.while_loop(go_on, again, carry)
    return (ps, error / generator.mass(p0), solves, tried), parts


@_propagate.def_fwd
def _forward(perturbed, problem, tol, method, max_krylov, max_factors):
    del perturbed
    out, parts = _run(problem, tol, method, max_krylov, max_factors)
    return out, (out[0], parts)


@_propagate.def_bwd
def _backward(residuals, cotangents, perturbed, problem, tol, method, max_krylov, max_factors):
    del perturbed, tol, method, max_factors
    (ps, parts), (generator, p0, ts) = residuals, problem
    gs = cotangents[0]
    gs = jnp.zeros_like(ps) if gs is None else gs
    span, rate = ts[1:] - ts[0], parts.factor.shift
    closed = jnp.any(parts.law > 0)
    weight = parts.law / jnp.where(closed, jnp.sum(parts.law), 1)
    # The law takes part as one more direction, which stands still.
    small, _ = inverse_generator(parts.krylov, rate)
    small = jnp.pad(small, ((0, 1), (0, 1)))
    first = jnp.zeros(small.shape[0], p0.dtype).at[0].set(parts.krylov.norm).at[-1].set(1)

    def apply(v):
        u = rate * parts.factor.elimination.transpose_solve(v.reshape(p0.shape))
        return (u + jnp.sum(weight * (v.reshape(p0.shape) - u))).ravel()

    def one(carry, inputs):
        g, t = inputs

        def transposed():
            mean = jnp.sum(weight * g)
            space = start((g - mean).ravel(), max_krylov)
            space = extend(space, apply, parts.krylov.used, _dimension(parts.law))
            dual, _ = inverse_generator(space, rate)
            seed = jnp.zeros(dual.shape[0], p0.dtype).at[0].set(space.norm)
            end = evolve(dual, seed, t[None])[0] @ space.basis[:-1]
            pairs = inner_integral(dual, small, seed, first, t)
            return mean + end.reshape(p0.shape), pairs.T @ space.basis[:-1]

        nothing = lambda: (jnp.zeros_like(p0), jnp.zeros((small.shape[0], p0.size), p0.dtype))
        du, dy = lax.cond(jnp.any(g != 0), transposed, nothing)
        return (carry[0] + du, carry[1] + dy), None

    zero = jnp.zeros_like(p0), jnp.zeros((small.shape[0], p0.size), p0.dtype)
    (dp0, duals), _ = lax.scan(one, zero, (gs, span))
    basis = jnp.concatenate([parts.krylov.basis[:-1], parts.law.ravel()[None]])

    def paired(generator):
        applied = jax.vmap(lambda v: generator.apply(v.reshape(p0.shape)).ravel())(basis)
        return jnp.sum(duals * applied)

    slopes = jax.vmap(lambda g, p: jnp.vdot(g, generator.apply(p)))(gs, ps)
    dts = jnp.concatenate([-jnp.sum(slopes)[None], slopes])
    return eqx.filter_grad(paired)(generator), dp0, dts
