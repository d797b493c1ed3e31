"""`exp(t W) p` at all times at once, from one factor."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Shaped

from ._chebyshev import FEW, paired, sweep
from ._checks import positive
from ._compiled import compiled
from ._deflated import stationary_law
from ._factor import Factor, assemble
from ._factorization import AbstractFactorization, repeated
from ._generator import AbstractGenerator
from ._krylov import BLOCK, Krylov, combine, evolve, extend, inner_integral, inverse, rounding, start
from ._results import RESULTS, outcome

# Products between two looks at the error, and fewer once it is within this factor of what is asked.
_CHUNK, _FEW, _NEARLY = 8, 4, 1e3
# The error is also what so many products changed.
_LAG = 3
# The rate of the factor over the inverse of the time it serves, and by how much it grows when that does not do.
_PER_TIME, _FASTER = 15.0, 8.0
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
        made once and each of many solves is cheap.

    **Good values:** the defaults; 8 to 44 solves for 1e-9.  **How it fails:** early times after a start uphill over
    many kT need several factors; if they do not suffice the result is `RESULTS.not_converged`.  A density may be
    negative within the error; if it is by more than `tol` the result is `RESULTS.negative`.

    **Reverse mode** costs one transposed run with the same factor for each save time that matters; of several factors
    all but the last are made again, and times far from theirs get one of their own.  With detailed balance five times
    or more within a factor of some 100 share one sweep, of 50 to 190 solves for all of them.  Its rounding grows with
    the save time, as that of `Rational` does, and no `error` says so: behind 30 kT a slope kept 6 digits at t=1e7, 4
    at 1e9 and 2 at 1e11, against 330-digit arithmetic.  No forward mode.

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
    ps, error, solves, factors = _propagate((generator, p0, ts), tol, method, max_krylov, max_factors)
    negative = -generator.mass(jnp.minimum(ps, 0)) / generator.mass(p0)
    error = jnp.concatenate([jnp.zeros(1, p0.dtype), error])
    result = outcome((~jnp.all(error <= tol), RESULTS.not_converged), (jnp.any(negative > tol), RESULTS.negative))
    return ps, result, dict(num_steps=solves, num_factors=factors, error=error)


class _Parts(eqx.Module):
    """What an attempt leaves for its transpose."""

    factor: Factor
    krylov: Krylov


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


def _apply(factor: Factor, law: Array, generator: AbstractGenerator):
    """`(1 - W/s)^-1` on changes of density, flat in and out, and what takes their mass away.

    At late times an image is far smaller than its source, so that rounding in the mass of one would be another's law.
    """
    total = generator.mass(law)
    unit = law / jnp.where(total == 0, 1, total)

    def apply(v):
        w = factor.shift * factor.elimination.solve(v.reshape(law.shape))
        return (w - unit * generator.mass(w)).ravel()

    return apply, lambda v: v - jnp.where(total > 0, jnp.mean(v), 0)


def _dimension(law: Array) -> Array:
    """Of what is left beside the law: in no more directions than that the inverse exists."""
    return law.size - jnp.any(law > 0).astype(jnp.int32)


def _begin(generator: AbstractGenerator, p0: Array, law: Array, rate: Array, size, method):
    """A factor at `rate`, the space of the first vector, and how it grows."""
    factor = assemble(generator, [], rate, method)
    apply, project = _apply(factor, law, generator)
    grow = lambda krylov, steps: extend(krylov, apply, steps, _dimension(law), project)
    return factor, start(project((p0 - law).ravel()), size), grow


def _attempt(generator: AbstractGenerator, p0: Array, law: Array, span: Array, rate: Array, tol: Array, size, method):
    """A factor at `rate`, vectors until the error is small at some of the times, densities and errors at all.

    The densities have a row for the first time, with nothing in it.
    """
    factor, krylov, grow = _begin(generator, p0, law, rate, size, method)
    some = span[jnp.unique(jnp.array([0, span.size // 3, 2 * span.size // 3, span.size - 1]), size=min(4, span.size))]

    def errors(krylov, times):
        both = jnp.stack([krylov.used, krylov.used - _LAG])
        (ys, before), (outside, _) = lax.map(lambda used: _coordinates(krylov, used, rate, times), both)
        lengths = krylov.sizes * _volume(generator)
        change = jnp.abs(ys - before) @ lengths
        error = jnp.maximum(change, outside * lengths[krylov.used])
        now, first = jnp.abs(ys) @ lengths, krylov.norm * lengths[0]
        error = error + rounding(rate * times, now, first)
        return ys, jnp.where(jnp.isfinite(error), error, jnp.inf)

    products = lambda error: jnp.where(error < _NEARLY * tol, _FEW, _CHUNK).astype(jnp.int32)

    def go_on(carry):
        krylov, error = carry
        return (error > tol) & (krylov.used + products(error) <= size)

    def further(carry):
        krylov = grow(carry[0], products(carry[1]))

        # One time after the other until one is not served: of spaces that are too small the first tells.
        def look(carry):
            k, error = carry
            return k + 1, jnp.maximum(error, errors(krylov, some[k][None])[1][0])

        unseen = jnp.zeros((), jnp.int32), jnp.zeros((), p0.dtype)
        return krylov, lax.while_loop(lambda c: (c[0] < some.size) & (c[1] <= tol), look, unseen)[1]

    krylov, _ = lax.while_loop(go_on, further, (krylov, jnp.full((), jnp.inf, p0.dtype)))
    ys, error = errors(krylov, span)
    ys = jnp.where(jnp.isfinite(error)[:, None], ys, 0)
    # A row of zeros for the first time, rather than a copy of all the others.
    ps = combine(krylov, jnp.pad(ys, ((1, 0), (0, 0))), law.ravel())
    return ps.reshape(-1, *law.shape), error, _Parts(factor, krylov)


def _again(generator: AbstractGenerator, p0: Array, law: Array, rate: Array, used: Array, size, method) -> _Parts:
    """The factor and the space of an earlier attempt."""
    factor, krylov, grow = _begin(generator, p0, law, rate, size, method)
    return _Parts(factor, grow(krylov, used))


def _next(rates: Array, tried: Array, errors: Array, span: Array) -> Array:
    """The rate after those tried: that of the worst time, or a faster one if that has been tried."""
    known = jnp.arange(rates.size, dtype=jnp.int32) < tried
    rate = _PER_TIME / span[jnp.argmax(errors)]
    near = known & (rates > rate / 2) & (rates < 2 * rate)
    return jnp.where(jnp.any(near), _FASTER * jnp.max(jnp.where(known, rates, 0)), rate)


def _volume(generator: AbstractGenerator) -> Array:
    one = jnp.ones((), generator.outflow().dtype)
    return one if generator.grid is None else generator.grid.cell_volume.astype(one.dtype)


def _coordinates(krylov: Krylov, used: Array, rate: Array, times: Array) -> tuple[Array, Array]:
    """The density's coordinates at some times; and what was outside of the space, now or in all the time before."""
    k, last = inverse(krylov, used), used - 1
    first = jnp.zeros(k.shape[0], k.dtype).at[0].set(krylov.norm)
    ys, ends = evolve(k, first, rate, times, last)
    outside = jnp.maximum(jnp.abs(krylov.projected[used, last] * ends), jnp.abs(ys[:, used]))
    return ys.at[:, used].set(0), outside


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
    attempt = lambda rate: _attempt(generator, p0, law, span, rate, tol, max_krylov, method)
    shapes = eqx.filter_eval_shape(attempt, tol)[2]
    empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    best = jnp.zeros((ts.size, *p0.shape), p0.dtype).at[0].set(p0), jnp.full(span.shape, jnp.inf, p0.dtype)
    none = jnp.zeros((), jnp.int32)
    rates = jnp.full(max_factors, _PER_TIME / serves, p0.dtype)
    attempts = _Attempts(rates, jnp.zeros(max_factors, jnp.int32), jnp.zeros(span.shape, jnp.int32), none)

    def go_on(carry):
        (_, error), _, attempts = carry
        return (attempts.tried == 0) | (jnp.any(error > tol) & (attempts.tried < max_factors))

    def again(carry):
        (ps, error), _, attempts = carry
        n = attempts.tried
        new, new_error, parts = attempt(attempts.rates[n])
        better = new_error < error
        rows = jnp.pad(better, (1, 0)).reshape(-1, *[1] * p0.ndim)
        mixed, whole = lambda ps, new: jnp.where(rows, new, ps), lambda ps, new: new.at[0].set(p0)
        ps = lax.cond(jnp.all(better), whole, mixed, ps, new)
        error = jnp.where(better, new_error, error)
        attempts = _Attempts(
            attempts.rates.at[n + 1].set(_next(attempts.rates, n + 1, error, span), mode="drop"),
            attempts.used.at[n].set(parts.krylov.used),
            jnp.where(better, n, attempts.which),
            n + 1,
        )
        return (ps, error), parts, attempts

    (ps, error), parts, attempts = lax.while_loop(go_on, again, (best, empty, attempts))
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
    frozen = lax.stop_gradient(generator)

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
            again = lambda: _again(frozen, p0, law, rate, used, max_krylov, method)
            latest = lax.cond(n == attempts.tried - 1, lambda: parts, again)
            mine = jnp.where(which.reshape(-1, *[1] * p0.ndim), gs, 0)
            dp0, slope = _derivatives(frozen, p0, law, latest, mine, span, tol)
            return carry[0] + dp0, jax.tree.map(jnp.add, carry[1], slope)

        return lax.cond(jnp.any(which & matters), add, lambda: carry)

    nothing = eqx.filter(jax.tree.map(jnp.zeros_like, frozen), eqx.is_inexact_array)
    count = attempts.tried + jnp.sum(far, dtype=jnp.int32)
    dp0, slope = lax.fori_loop(0, count, of_factor, (of_first, nothing))
    return slope, dp0, dts


def _derivatives(generator: AbstractGenerator, p0: Array, law: Array, parts: _Parts, gs: Array, span: Array, tol):
    """Derivatives with respect to `p0` and `generator`: the times that one sweep serves, then one after the other."""
    if span.size < FEW:
        return _transposed(generator, p0, law, parts, gs, span)
    apply, _ = _apply(parts.factor, law, generator)
    transposed, _ = _transpose(parts.factor, law)
    swept = sweep(generator, law, parts.factor, apply, transposed, p0, gs, span, tol)
    gs = jnp.where(swept.served.reshape(-1, *[1] * p0.ndim), 0, gs)
    nothing = lambda: (jnp.zeros_like(p0), jax.tree.map(jnp.zeros_like, swept.slope))
    rest = lambda: _transposed(generator, p0, law, parts, gs, span)
    dp0, slope = lax.cond(jnp.any(gs != 0), rest, nothing)
    return swept.dp0 + dp0, jax.tree.map(jnp.add, swept.slope, slope)


def _transpose(factor: Factor, law: Array):
    """The transpose of `(1 - W/s)^-1` on functions of mean zero under the law, and what takes their means away."""
    weight = law / jnp.where(jnp.any(law > 0), jnp.sum(law), 1)

    def apply(v):
        u = factor.shift * factor.elimination.transpose_solve(v.reshape(law.shape))
        return (u - jnp.sum(weight * u)).ravel()

    unit = weight.ravel() / jnp.where(jnp.any(law > 0), jnp.linalg.norm(weight), 1)
    return apply, lambda v: v - unit * jnp.sum(unit * v)


def _transposed(generator: AbstractGenerator, p0: Array, law: Array, parts: _Parts, gs: Array, span: Array):
    """Derivatives with respect to `p0` and `generator`: one transposed run for each time that matters."""
    rate, size = parts.factor.shift, parts.krylov.sizes.size - 1
    weight = law / jnp.where(jnp.any(law > 0), jnp.sum(law), 1)
    # The law takes part as one more direction, which stands still.
    small = jnp.pad(inverse(parts.krylov, parts.krylov.used)[:-1, :-1], ((0, 1), (0, 1))).at[-1, -1].set(1)
    first = jnp.zeros(small.shape[0], p0.dtype).at[0].set(parts.krylov.norm).at[-1].set(1)
    apply, project = _transpose(parts.factor, law)

    # A loop over those that matter, not a condition within one over all: batched, both sides of it would be run.
    matters = jnp.any(gs.reshape(span.size, -1) != 0, axis=1)
    which = jnp.nonzero(matters, size=span.size)[0]

    def one(i, carry):
        g, t = gs[which[i]], span[which[i]]
        mean = jnp.sum(weight * g)
        space = start(project((g - mean).ravel()), size)
        space = extend(space, apply, parts.krylov.used, _dimension(law), project)
        dual = inverse(space, space.used)[:-1, :-1]
        seed = jnp.zeros(dual.shape[0], p0.dtype).at[0].set(space.norm)
        end = evolve(dual, seed, rate, t[None])[0]
        pairs = inner_integral(dual, small, seed, first, rate, t)
        # One product for both: what the vectors make of the end, and of each of the density's.
        both = combine(space, jnp.concatenate([end, pairs.T]), jnp.zeros(p0.size, p0.dtype))
        return carry[0] + mean + both[0].reshape(p0.shape), carry[1] + both[1:]

    zero = jnp.zeros_like(p0), jnp.zeros((small.shape[0], p0.size), p0.dtype)
    dp0, duals = lax.fori_loop(0, jnp.sum(matters, dtype=jnp.int32), one, zero)
    basis = parts.krylov.basis
    rows = jnp.pad(duals[:size], ((0, basis.shape[0] - size), (0, 0)))

    # So many vectors at a time, and only those that are there.
    def add(i, slope):
        some = (lax.dynamic_slice_in_dim(a, i * BLOCK, BLOCK) for a in (rows, basis))
        return jax.tree.map(jnp.add, slope, paired(generator, *some))

    slope = paired(generator, duals[size:], law.ravel()[None])
    return dp0, lax.fori_loop(0, parts.krylov.used // BLOCK + 1, add, slope)
