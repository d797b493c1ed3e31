"""`exp(t W) p` at all times at once, from one factor."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Shaped

from ._attempt import SHARE, Parts, again, attempt, dimension, operator, room, transposed_operator
from ._chebyshev import FEW, paired, sweep
from ._checks import positive
from ._compiled import compiled
from ._deflated import stationary_law
from ._factorization import AbstractFactorization, repeated
from ._first_order import once
from ._generator import AbstractGenerator
from ._krylov import BLOCK, combine, evolve, extend, inner_integral, inverse, start
from ._results import RESULTS, outcome

# The rate of the factor over the inverse of the one time it serves, of many, and how it grows when that does not do.
_ALONE, _PER_TIME, _FASTER = 5.0, 15.0, 8.0
# Times up to so many first ones are served by one factor from the start; rounding allows fewer in float32.
_SPAN, _SHORT_SPAN = 30.0, 5.0
# Rate times time outside of which the derivative, unlike the density, asks for a factor nearer to the time.
_NEAR, _FAR = 0.3, 1e4


class ShiftInvert(eqx.Module):
    r"""Shift-and-invert Arnoldi: $e^{tW} p$ at every time from one factor of $s - W$.

    $K = (1 - W/s)^{-1}$ is known on $m$ vectors $p, K p, \dots$; in their span $W_m = s (1 - H_m^{-1})$ is a small
    matrix whose exponential gives the density at all times, however late; $H_m$ is not inverted for it.  The stationary
    law is split off first, so mass is exact at any horizon.  Stops when the residual, what has left the span in all the
    time before, what the last vectors changed, and rounding are below `tol` at every save time; where one does not get
    there it starts again with an $s$ for that time.

    **Arguments:**

    - `tol`: error in the sum of absolute values at each save time, relative to the mass.  If not given 1e-9, and 1e-4
        in float32.
    - `max_krylov`: vectors for one factor.
    - `max_factors`: factors tried.
    - `factorization`: `Elimination()` or `Iteration()`; if not given elimination within its reach, where a factor is
        made once and each of many solves is cheap.  By iteration a solve is as accurate as `tol` needs: the later, the
        less (V. Simoncini and D. B. Szyld, SIAM J. Sci. Comput. 25, 454, 2003), and all of them add to the error;
        never more accurate than `Iteration`'s own `tol`, which the error does not count.

    **Good values:** the defaults; 8 to 40 solves for 1e-9.  **How it fails:** early times after a start uphill over
    many kT need several factors; if they do not suffice the result is `RESULTS.not_converged`.  A density may be
    negative within the error; if it is by more than `tol` the result is `RESULTS.negative`.

    **Reverse mode** costs one transposed run with the same factor for each save time that matters; of several factors
    all but the last are made again, and times far from theirs get one of their own.  With detailed balance five times
    or more within a factor of some 100 share one sweep, of 50 to 190 solves for all of them.  Its rounding grows with
    the save time, as that of `Rational` does, and no `error` says so: behind 30 kT a slope kept 6 digits at t=1e7, 4
    at 1e9 and 2 at 1e11, against 330-digit arithmetic.  No forward mode, no second derivatives.

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

    def __check_init__(self):
        for name, value in (("max_krylov", self.max_krylov), ("max_factors", self.max_factors)):
            if value < 1:
                raise ValueError(f"Argument `{name}` must be at least 1, but it is {value}.")

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
        method = repeated(generator) if self.factorization is None else self.factorization
        return _solved(generator, p0, ts, tol, method, self.max_krylov, self.max_factors)


@compiled
def _solved(
    generator: AbstractGenerator,
    p0: Array,
    ts: Array,
    tol: Array,
    method: AbstractFactorization,
    max_krylov: int,
    max_factors: int,
) -> tuple[Array, RESULTS, dict[str, Any]]:
    problem = once((generator, p0, ts), "`ShiftInvert()` has the first alone.  Take differences of `jax.grad`s.")
    ps, error, solves, factors = _propagate(problem, tol, method, max_krylov, max_factors)
    # One density after the other: all of them at once would be written down once more.
    below = lax.map(lambda p: -generator.mass(jnp.minimum(p, 0)), lax.stop_gradient(ps))
    negative = below / generator.mass(p0)
    error = jnp.concatenate([jnp.zeros(1, p0.dtype), error])
    result = outcome((~jnp.all(error <= tol), RESULTS.not_converged), (jnp.any(negative > tol), RESULTS.negative))
    return ps, result, dict(num_steps=solves, num_factors=factors, error=error)


class _Attempts(eqx.Module):
    """Rates of the factors, vectors used with each, which of them served each time, and how many were made."""

    rates: Float[Array, "factors"]
    used: Int[Array, "factors"]
    which: Int[Array, "times"]
    tried: Int[Array, ""]


def _law(generator: AbstractGenerator, p0: Array, method: AbstractFactorization | None) -> Array:
    """The stationary law times the mass of `p0`, zero where there is none or more than one."""
    law, result = stationary_law(generator, method)
    return jnp.where(result == RESULTS.successful, law * generator.mass(p0), 0)


def _next(rates: Array, tried: Array, errors: Array, span: Array) -> Array:
    """The rate after those tried: that of the worst time, or a faster one if that has been tried."""
    known = jnp.arange(rates.size, dtype=jnp.int32) < tried
    rate = _PER_TIME / span[jnp.argmax(errors)]
    near = known & (rates > rate / 2) & (rates < 2 * rate)
    return jnp.where(jnp.any(near), _FASTER * jnp.max(jnp.where(known, rates, 0)), rate)


@eqx.filter_custom_vjp
def _propagate(problem, tol, method, max_krylov, max_factors):
    """Densities at all times, the errors of all but the first, and the numbers of solves and factors."""
    return _run(problem, tol, method, max_krylov, max_factors)[0]


def _run(problem, tol, method, max_krylov, max_factors):
    generator, p0, ts = lax.stop_gradient(problem)
    span = ts[1:] - ts[0]
    law = _law(generator, p0, method)
    tol = tol * generator.mass(p0)
    reach = _SPAN if p0.dtype == jnp.float64 else _SHORT_SPAN
    serves = jnp.minimum(jnp.sqrt(span[0] * span[-1]), reach * span[0])
    one = lambda rate, known: attempt(generator, p0, law, span, rate, tol, max_krylov, method, known)
    best = jnp.zeros((ts.size, *p0.shape), p0.dtype).at[0].set(p0), jnp.full(span.shape, jnp.inf, p0.dtype)
    empty = room(generator, p0, law, tol, max_krylov, method)
    none = jnp.zeros((), jnp.int32)
    per_time = jnp.minimum(_ALONE * jnp.cbrt(span[-1] / span[0]), _PER_TIME)
    rates = jnp.full(max_factors, per_time / serves, p0.dtype)
    attempts = _Attempts(rates, jnp.zeros(max_factors, jnp.int32), jnp.zeros(span.shape, jnp.int32), none)

    def go_on(carry):
        (_, error), _, attempts = carry
        return (attempts.tried == 0) | (jnp.any(error > tol) & (attempts.tried < max_factors))

    def next_one(carry):
        known, _, attempts = carry
        n = attempts.tried
        ps, error, better, parts = one(attempts.rates[n], known)
        attempts = _Attempts(
            attempts.rates.at[n + 1].set(_next(attempts.rates, n + 1, error, span), mode="drop"),
            attempts.used.at[n].set(parts.krylov.used),
            jnp.where(better, n, attempts.which),
            n + 1,
        )
        return (ps, error), parts, attempts

    (ps, error), parts, attempts = lax.while_loop(go_on, next_one, (best, empty, attempts))
    out = ps, error / generator.mass(p0), jnp.sum(attempts.used, dtype=jnp.int32), attempts.tried
    return out, (law, parts, attempts)


@_propagate.def_fwd
def _forward(perturbed, problem, tol, method, max_krylov, max_factors):
    del perturbed
    out, kept = _run(problem, tol, method, max_krylov, max_factors)
    return out, (out[0], kept)


@_propagate.def_bwd
def _backward(residuals, cotangents, perturbed, problem, tol, method, max_krylov, max_factors):
    del perturbed
    (ps, (law, parts, attempts)), (generator, p0, ts) = residuals, problem
    gs = cotangents[0]
    # Behind a barrier: XLA would fold one that is the same everywhere through the loops, for seconds.
    gs = lax.optimization_barrier(jnp.zeros_like(ps) if gs is None else gs)
    slopes = jax.vmap(lambda g, p: jnp.vdot(g, generator.apply(p)))(gs, ps)
    dts = slopes.at[0].set(-jnp.sum(slopes[1:]))
    of_first, gs = gs[0], gs[1:]
    span = ts[1:] - ts[0]
    frozen, mass = lax.stop_gradient((generator, generator.mass(p0)))

    matters = jnp.any(gs.reshape(span.size, -1) != 0, axis=1)
    reach = attempts.rates[attempts.which] * span
    far = matters & ((reach < _NEAR) | (reach > _FAR))
    alone = jnp.nonzero(far, size=span.size)[0].astype(jnp.int32)

    # First the factors of the attempts, then those of the times that are far.
    def of_factor(n, carry):
        first, one = n < attempts.tried, alone[n - attempts.tried]
        rate = jnp.where(first, attempts.rates[n], _PER_TIME / span[one])
        used = jnp.where(first, attempts.used[n], max_krylov)
        which = jnp.where(first, (attempts.which == n) & ~far, jnp.arange(span.size, dtype=jnp.int32) == one)

        def add():
            remade = lambda: again(frozen, p0, law, span, rate, used, mass * tol, max_krylov, method)
            latest = lax.cond(n == attempts.tried - 1, lambda: parts, remade)
            mine = jnp.where(which.reshape(-1, *[1] * p0.ndim), gs, 0)
            dp0, slope = _derivatives(frozen, p0, law, latest, mine, span, tol)
            return carry[0] + dp0, jax.tree.map(jnp.add, carry[1], slope)

        return lax.cond(jnp.any(which & matters), add, lambda: carry)

    nothing = eqx.filter(jax.tree.map(jnp.zeros_like, frozen), eqx.is_inexact_array)
    count = attempts.tried + jnp.sum(far, dtype=jnp.int32)
    dp0, slope = lax.fori_loop(0, count, of_factor, (of_first, nothing))
    return slope, dp0, dts


def _derivatives(generator: AbstractGenerator, p0: Array, law: Array, parts: Parts, gs: Array, span: Array, tol):
    """Derivatives with respect to `p0` and `generator`: the times that one sweep serves, then one after the other."""
    if span.size < FEW:
        return _transposed(generator, p0, law, parts, gs, span, tol)
    apply, _ = operator(parts.factor, law, generator)
    transposed, _ = transposed_operator(parts.factor, law)
    swept = sweep(generator, law, parts.factor, apply, transposed, p0, gs, span, tol)
    gs = jnp.where(swept.served.reshape(-1, *[1] * p0.ndim), 0, gs)
    nothing = lambda: (jnp.zeros_like(p0), jax.tree.map(jnp.zeros_like, swept.slope))
    rest = lambda: _transposed(generator, p0, law, parts, gs, span, tol)
    dp0, slope = lax.cond(jnp.any(gs != 0), rest, nothing)
    return swept.dp0 + dp0, jax.tree.map(jnp.add, swept.slope, slope)


def _transposed(generator: AbstractGenerator, p0: Array, law: Array, parts: Parts, gs: Array, span: Array, tol: Array):
    """Derivatives with respect to `p0` and `generator`: one transposed run for each time that matters."""
    rate, size = parts.factor.shift, parts.krylov.sizes.size - 1
    weight = law / jnp.where(jnp.any(law > 0), jnp.sum(law), 1)
    # The law takes part as one more direction, which stands still.
    small = jnp.pad(inverse(parts.krylov, parts.krylov.used)[:-1, :-1], ((0, 1), (0, 1))).at[-1, -1].set(1)
    first = jnp.zeros(small.shape[0], p0.dtype).at[0].set(parts.krylov.norm).at[-1].set(1)
    apply, project = transposed_operator(parts.factor, law)
    share = SHARE * tol / jnp.maximum(1, rate * span[-1])
    rough = lambda v: apply(v, jnp.maximum(share, parts.factor.elimination.tol) * jnp.max(jnp.abs(v)))

    # A loop over those that matter, not a condition within one over all: batched, both sides of it would be run.
    matters = jnp.any(gs.reshape(span.size, -1) != 0, axis=1)
    which = jnp.nonzero(matters, size=span.size)[0]

    def one(i, carry):
        g, t = gs[which[i]], span[which[i]]
        mean = jnp.sum(weight * g)
        space = start(project((g - mean).ravel()), size)
        space = extend(space, rough, parts.krylov.used, dimension(law), project)
        dual = inverse(space, space.used)[:-1, :-1]
        seed = jnp.zeros(dual.shape[0], p0.dtype).at[0].set(space.norm)
        end = evolve(dual, seed, rate, t[None])[0]
        pairs = inner_integral(dual, small, seed, first, rate, t)
        # Both at once: what the vectors make of the end, and of each of the density's and the law.
        shares = jnp.concatenate([end, pairs.T[:size], gap, pairs.T[size:]])
        return carry[0] + mean, combine(space, shares, carry[1], lambda made, both, _: both + made)

    blocks = parts.krylov.blocks
    rows = len(blocks) * BLOCK
    gap = jnp.zeros((rows - size, size), p0.dtype)
    zero = jnp.zeros((), p0.dtype), jnp.zeros((1 + rows + 1, p0.size), p0.dtype)
    means, both = lax.fori_loop(0, jnp.sum(matters, dtype=jnp.int32), one, zero)

    # So many vectors at a time, and only those that are there.
    def add(i, slope):
        vectors = lax.switch(i, [lambda block=block: block for block in blocks])
        duals = lax.dynamic_slice_in_dim(both, 1 + i * BLOCK, BLOCK)
        return jax.tree.map(jnp.add, slope, paired(generator, duals, vectors))

    slope = paired(generator, both[-1:], law.ravel()[None])
    slope = lax.fori_loop(0, parts.krylov.used // BLOCK + 1, add, slope)
    return both[0].reshape(p0.shape) + means, slope
