"""`exp(t W) p` for a reversible chain of cells: a sum of resolvents."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Shaped

from ._checks import positive
from ._compiled import compiled
from ._face_rates import AxisRates
from ._fokker_planck import FokkerPlanck
from ._generator import AbstractGenerator
from ._rational_poles import Poles, poles_for
from ._results import RESULTS, outcome
from ._sweeps import Chain, Ring, factor

# Two poles more are 86 times as accurate on a normal matrix, and at least 25 times in every non-normal case measured.
_GAIN = 20.0
# Rounding of the sum over poles, in units of eps.
_ROUNDING = 16
# Share of the tolerance that one step on the way may take; how steps shrink where it takes more, and grow again where
# it takes less, or far less.
_SHARE, _SHRINK, _GROW, _LEAP = 1 / 32, 0.4, 1.25, 3.0


class Rational(eqx.Module):
    r"""Rational approximation: $e^{tW} p \approx r_\infty p + 2\,\mathrm{Re}\sum_k c_k (tW - z_k)^{-1} p$.

    With the 14 poles of the best approximation of $e^z$ on $z \leq 0$ (7 of them, and their conjugates) the error is
    below 1e-13 at any time whatever, for the price of a few sweeps along the grid.  Each sweep eliminates without
    subtractions (in complex numbers), so that slow rates keep their relative accuracy over any barrier.  For
    `FokkerPlanck` on one axis that obeys detailed balance: open, or periodic and made by `from_potential`.

    The error is estimated with 12 poles.  $W$ is far from normal where a start lies uphill over many kT; there the two
    differ, and the method goes on in shorter steps until it has slid down far enough.  What comes out below zero, by no
    more than the error, is lifted to zero and the density scaled back to its mass.

    **Arguments:**

    - `tol`: error in the sum of absolute values at each save time, relative to the mass.  If not given 1e-9, and 1e-4
        in float32.
    - `max_steps`: steps on the way to the save times, refused ones included.

    **Good values:** the defaults; from inside the wells one step for each save time, right to 1e-12.  **How it
    fails:** if `max_steps` do not suffice the result is `RESULTS.not_normal`; if more than `tol` had to be lifted it
    is `RESULTS.negative`.  In float32 rounding leaves about 1e-5.

    **Reverse mode** sweeps once more for each step, with the transposed factor; derivatives with respect to the start
    are right to 1e-8 where it lies uphill.  No forward mode.

    ??? cite "References"

        W. J. Cody, G. Meinardus, R. S. Varga, J. Approx. Theory 2, 50 (1969).  L. N. Trefethen, J. A. C. Weideman, T.
        Schmelzer, BIT 46, 653 (2006).

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> grid = rxs.Grid(-2, 2, 64)
        >>> W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, temperature=0.1)
        >>> sol = rxs.solve(W, grid.gaussian(-1, 0.2), [0.0, 1e3, 1e9], method=rxs.Rational())
        >>> print((sol.ps[:, 32:].sum(axis=1) * grid.spacing[0]).round(3))
        [0.    0.038 0.5  ]

        ```
    """

    tol: Float[Array, ""] | float | None = None
    max_steps: int = eqx.field(static=True, default=64)

    preserves_mass: ClassVar[bool] = True
    preserves_positivity: ClassVar[bool] = True

    def run(
        self, generator: AbstractGenerator, p0: Float[Array, "*shape"], ts: Shaped[ArrayLike, "times"]
    ) -> tuple[Float[Array, "times *shape"], RESULTS, dict[str, Any]]:
        """Densities at `ts`, ascending, the first of which is that of `p0`; how it ended; and what it took.

        The statistics: `num_steps`, steps, refused ones included; `error`, the estimate at each time; `moved_mass`,
        what was lifted to zero at each time.
        """
        words = obstacle(generator)
        if words is not None:
            raise ValueError(f"Argument `method` must not be Rational() {words}.")
        assert isinstance(generator, FokkerPlanck)
        ts = jnp.asarray(ts, p0.dtype)
        tol = (1e-9 if p0.dtype == jnp.float64 else 1e-4) if self.tol is None else self.tol
        tol = positive(jnp.asarray(tol, p0.dtype), "tol")
        return _solved(generator, p0, ts, tol, self.max_steps)


@compiled
def _solved(
    generator: FokkerPlanck, p0: Array, ts: Array, tol: Array, max_steps: int
) -> tuple[Array, RESULTS, dict[str, Any]]:
    closed = all("absorbing" not in sides for sides in generator.grid.boundary)
    later, error, steps = _propagate((generator.rates[0], p0, ts), tol, max_steps, closed)
    above = jnp.maximum(later, lax.stop_gradient(jnp.zeros_like(later)))
    # The derivative is that of the density itself, which is not negative.
    above = later + lax.stop_gradient(above - later)
    kept = lax.stop_gradient(jnp.sum(later, axis=1) / jnp.sum(above, axis=1))
    cells = generator.grid.cell_volume.astype(p0.dtype)
    moved = lax.stop_gradient(jnp.sum(above - later, axis=1) * cells / generator.mass(p0))
    ps = jnp.concatenate([p0[None], above * jnp.where(jnp.isfinite(kept), jnp.maximum(kept, 0), 0)[:, None]])
    result = outcome((~jnp.all(error <= tol), RESULTS.not_normal), (jnp.any(moved > tol), RESULTS.negative))
    none = jnp.zeros(1, p0.dtype)
    stats = dict(num_steps=steps, error=jnp.concatenate([none, error]), moved_mass=jnp.concatenate([none, moved]))
    return ps, result, stats


def obstacle(generator: AbstractGenerator) -> str | None:
    """Why a generator cannot be served, in words that follow the method's name, or `None`."""
    if generator.time_dependent:
        return "for a generator that depends on time.  Use Strang()"
    if not isinstance(generator, FokkerPlanck):
        return f"for a {type(generator).__name__}, which is no chain of cells.  Use ShiftInvert()"
    if len(generator.shape) > 1:
        return f"on a grid of shape {generator.shape}, which is no chain of cells.  Use ShiftInvert()"
    if generator.rates[0].periodic and generator.log_gibbs is None:
        return (
            "on a ring with a drift that may drive it around, whose eigenvalues are complex.  Use ShiftInvert(), or "
            "`FokkerPlanck.from_potential` if the drift has a potential"
        )
    if jax.default_backend() == "tpu":
        return "on a TPU, for it computes in complex numbers.  Use ShiftInvert()"
    return None


def _shifted(rates: AxisRates, dt: Array, poles: Array) -> Chain | Ring:
    """The factors of `z/dt - W`, one lane for each pole `z`."""
    one = jnp.ones((1, poles.size), poles.dtype)
    up, down = (r.astype(poles.dtype)[:, None] * one for r in (rates.up, rates.down))
    return factor(up, down, jnp.broadcast_to(poles[None] / dt.astype(poles.dtype), up.shape), rates.periodic)


def _as(dtype: Any, of: Poles) -> tuple[Array, Array, Array]:
    complex_dtype = jnp.complex128 if dtype == jnp.float64 else jnp.complex64
    return jnp.asarray(of.limit, dtype), jnp.asarray(of.poles, complex_dtype), jnp.asarray(of.residues, complex_dtype)


def _sum(x: Array, weights: Array) -> Array:
    """`2 Re sum_k weights_k x_k`."""
    return 2 * jnp.sum(x.real * weights.real[None] - x.imag * weights.imag[None], axis=1)


def _jump(rates: AxisRates, p: Array, dt: Array, closed: bool) -> tuple[Array, Array]:
    """The density a time `dt` later, and an estimate of the sum of its errors."""
    (limit, z, c), (limit_, z_, c_) = (_as(p.dtype, poles) for poles in poles_for(p.dtype))
    z = jnp.concatenate([z, z_])
    x = _shifted(rates, dt, z).solve(p.astype(z.dtype)[:, None] * jnp.ones((1, z.size), z.dtype))
    out = limit * p - _sum(x[:, : c.size], c) / dt
    other = limit_ * p - _sum(x[:, c.size :], c_) / dt
    error = jnp.sum(jnp.abs(out - other)) / _GAIN + _ROUNDING * jnp.finfo(p.dtype).eps * jnp.sum(jnp.abs(p))
    if closed:
        # r(0) is 1 up to the error of r, and that would add up.
        out = out * (jnp.sum(p) / jnp.sum(out))
    return out, jnp.where(jnp.isfinite(error), error, jnp.inf)


class _Plan(NamedTuple):
    """What a run leaves for its transpose: the densities that it stepped from, and who was reached from which.

    - `bases`: (max_steps + 1, n), the first of them `p0`; `lengths`: from each to the next; `moves` of them are
        used.
    - `owner`: (times - 1,), the base that each save time was reached from.
    """

    bases: Float[Array, "bases n"]
    lengths: Float[Array, "bases"]
    moves: Int[Array, ""]
    owner: Int[Array, "later"]


class _Carry(NamedTuple):
    base: Array
    time: Array
    error: Array
    step: Array
    saved: Array
    tried: Array
    ps: Array
    errors: Array
    plan: _Plan


@eqx.filter_custom_vjp
def _propagate(problem, tol, max_steps, closed):
    """Densities at all times but the first, their errors, and the number of steps."""
    return _run(problem, tol, max_steps, closed, keep=False)[0]


def _run(problem, tol, max_steps: int, closed: bool, keep: bool):
    rates, p0, ts = lax.stop_gradient(problem)
    span = ts[1:] - ts[0]
    scale = jnp.sum(p0)
    room = max_steps if keep else 0
    zero, none = jnp.zeros((), p0.dtype), jnp.zeros((), jnp.int32)

    def go_on(carry: _Carry):
        return carry.saved < span.size

    def attempt(c: _Carry):
        left = span[c.saved] - c.time
        # When the steps are spent what is left is taken as it comes, with the error that it has.
        forced = c.tried >= max_steps
        whole = forced | (c.step >= left)
        dt = jnp.where(whole, left, c.step)
        p, error = _jump(rates, c.base, dt, closed)
        error = error / scale
        saves = whole & (forced | (c.error + error <= tol))
        moves = ~whole & (error <= _SHARE * tol)
        grow = jnp.where(error <= 0.1 * _SHARE * tol, _LEAP, _GROW)
        factor = jnp.where(moves, grow, _SHRINK)
        at = jnp.where(saves, c.saved, span.size)
        i = c.plan.moves
        plan = _Plan(
            c.plan.bases.at[jnp.where(moves, i + 1, room + 1)].set(p, mode="drop"),
            c.plan.lengths.at[jnp.where(moves, i, room + 1)].set(dt, mode="drop"),
            i + moves.astype(i.dtype),
            c.plan.owner.at[at].set(i, mode="drop"),
        )
        return _Carry(
            jnp.where(moves, p, c.base),
            jnp.where(moves, c.time + dt, c.time),
            jnp.where(moves, c.error + error, c.error),
            jnp.where(saves, jnp.inf, dt * factor).astype(dt.dtype),
            c.saved + saves.astype(none.dtype),
            c.tried + (~saves).astype(none.dtype),
            c.ps.at[at].set(p, mode="drop"),
            c.errors.at[at].set(c.error + error, mode="drop"),
            plan,
        )

    plan = _Plan(
        jnp.zeros((room + 1, p0.size), p0.dtype).at[0].set(p0),
        jnp.zeros(room + 1, p0.dtype),
        none,
        jnp.zeros(span.shape, jnp.int32),
    )
    ps, errors = jnp.zeros((span.size, p0.size), p0.dtype), jnp.zeros(span.shape, p0.dtype)
    carry = _Carry(p0, zero, zero, jnp.full((), jnp.inf, p0.dtype), none, none, ps, errors, plan)
    end = lax.while_loop(go_on, attempt, carry)
    return (end.ps, end.errors, end.saved + end.tried), end.plan


@_propagate.def_fwd
def _forward(perturbed, problem, tol, max_steps, closed):
    del perturbed
    out, plan = _run(problem, tol, max_steps, closed, keep=True)
    return out, (out[0], plan)


@_propagate.def_bwd
def _backward(residuals, cotangents, perturbed, problem, tol, max_steps, closed):
    del perturbed, tol, max_steps, closed
    (ps, plan), (rates, p0, ts) = residuals, problem
    gs = jnp.zeros_like(ps) if cotangents[0] is None else cotangents[0]
    limit, z, c = _as(p0.dtype, poles_for(p0.dtype)[0])

    def transposed(p, dt, g):
        """What `g`, at the end of a step from `p`, says of `p` and of the rates."""
        made = _shifted(rates, dt, z)
        one = jnp.ones((1, z.size), z.dtype)
        x, u = made.solve(p.astype(z.dtype)[:, None] * one), made.transpose_solve(g.astype(z.dtype)[:, None] * one)
        weighted = u * (c / dt.astype(c.dtype))[None]

        def paired(rates):
            def pair(u, x):
                return jnp.sum(u.real * rates.apply(x.real) - u.imag * rates.apply(x.imag))

            return -2 * jnp.sum(jax.vmap(pair, in_axes=1)(weighted, x))

        return limit * g - _sum(u, c) / dt, eqx.filter_grad(paired)(rates)

    def skip(p, dt, g):
        return jnp.zeros_like(p), jax.tree.map(jnp.zeros_like, rates)

    def add(carry, start, dt, g, i):
        at, total = carry
        dp, slope = lax.cond(jnp.any(g != 0), transposed, skip, start, dt, g)
        return at.at[i].add(dp), jax.tree.map(jnp.add, total, slope)

    span = ts[1:] - ts[0]
    times = jnp.concatenate([jnp.zeros(1, ts.dtype), jnp.cumsum(plan.lengths[:-1])])

    def one(carry, inputs):
        g, owner, t = inputs
        return add(carry, plan.bases[owner], t - times[owner], g, owner), None

    carry = jnp.zeros_like(plan.bases), jax.tree.map(jnp.zeros_like, rates)
    carry, _ = lax.scan(one, carry, (gs, plan.owner, span))

    def back(k, carry):
        i = plan.moves - 1 - k
        return add(carry, plan.bases[i], plan.lengths[i], carry[0][i + 1], i)

    at, slope = lax.fori_loop(0, plan.moves, back, carry)
    slopes = jax.vmap(lambda g, p: jnp.vdot(g, rates.apply(p)))(gs, ps)
    return slope, at[0], jnp.concatenate([-jnp.sum(slopes)[None], slopes])
