"""Strang splitting over the axes of a grid."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .._checks import require
from .._diagonals import Lines
from .._face_rates import AxisRates
from .._fokker_planck import FokkerPlanck
from .._generator import GeneratorTerm
from .._sums import total
from .._sweeps import Chain, Ring, implicit, implicit_sums, step_factor

# SDIRK2 (Alexander 1977): R(z) = (1 + (1 - 2g) z) / (1 - g z)^2 with g = 1 - 1/sqrt(2) is L-stable and second order.
_GAMMA = 1 - 2**-0.5


class StrangState(eqx.Module):
    """What a run did to keep its guarantee.

    - `limited`: () integer, steps that had to be lifted by more than rounding.
    - `moved`: (), mass moved in doing so, in total.
    - `sense`: () integer, that of time: 1, checked once.  Steps are multiplied by it, or the check is compiled away.
    """

    limited: Int[Array, ""]
    moved: Float[Array, ""]
    sense: Int[Array, ""]


class ConvexInterpolation(diffrax.AbstractLocalInterpolation):
    """Straight lines between steps: second order, and as positive and conservative as the steps."""

    t0: Any
    t1: Any
    y0: Any
    y1: Any

    def evaluate(self, t0, t1=None, left: bool = True):
        del left

        def at(t):
            # Members of a batch that are done take steps of no length, and what is not finite there spoils gradients.
            length = jnp.where(self.t1 == self.t0, 1, self.t1 - self.t0)
            weight = ((t - self.t0) / length).astype(self.y0.dtype)
            return (1 - weight) * self.y0 + weight * self.y1

        return at(t0) if t1 is None else at(t1) - at(t0)


class Strang(diffrax.AbstractAdaptiveSolver):
    """Splitting `exp(h W) ~ exp(h X/2) exp(h Y) exp(h X/2)` over the axes, each factor by two implicit sweeps.

    The diagonals of a full-tensor diffusion are further factors of the splitting: it costs a sweep more for each, and
    keeps mass, positivity and order.

    A step of length `h` is two such splittings of `h/2`, extrapolated by one of `h` beside them; a third of their
    difference, the error of the two, is the estimate that steps are chosen by, in any dimension, one included.  Third
    order, stable at any step, mass exact to rounding, never negative.  Works in `diffrax.diffeqsolve` with constant or
    adaptive steps; `rxjax_solvers.solve` is the front door.

    No linear second-order one-step method is positive at every step length (Bolley and Crouzeix 1978).  Where
    extrapolation would take more than half of the density it takes half, what is below zero is lifted to zero, and all
    of it scaled back to its mass.  What is moved is at most the step's own error, and the order stays; the state
    counts it.  Derivatives are those of the steps taken, lifts and all: with respect to a start they are as good as the
    density where there is any, and of no use in cells that hold next to none (below 1e-20 in the case tried) and are
    lifted.

    **Good values:** adaptive steps; or a constant `h` near the relaxation time of the narrowest well.
    **How it fails:** it follows the relaxation inside a well, so times far beyond it (escape over many kT) take many
    steps.

    ??? cite "References"

        G. Strang, SIAM J. Numer. Anal. 5, 506 (1968).  R. Alexander, SIAM J. Numer. Anal. 14, 1006 (1977).
    """

    term_structure: ClassVar = GeneratorTerm
    interpolation_cls: ClassVar[Callable[..., ConvexInterpolation]] = ConvexInterpolation
    preserves_mass: ClassVar[bool] = True
    preserves_positivity: ClassVar[bool] = True

    def order(self, terms) -> int:
        return 3

    def error_order(self, terms) -> int:
        return 3

    def init(self, terms, t0, t1, y0, args) -> StrangState:
        # diffeqsolve hands the term wrapped, and times that ascend: where they do not, only the wrapping says so.
        backward = (getattr(terms, "direction", 1) == -1, "lies before it")
        remedy = "A density that has spread has no way back."
        sense = require(jnp.ones((), jnp.int32), "t1", "lie after `t0` for Strang()", [backward], remedy, "t1 < t0")
        return StrangState(jnp.zeros((), jnp.int32), jnp.zeros((), y0.dtype), sense)

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state: StrangState, made_jump):
        del args, made_jump
        # diffeqsolve hands the term wrapped, to carry the direction of time.
        generator = getattr(terms, "term", terms).generator
        h = jnp.asarray(t1 - t0, y0.dtype) * solver_state.sense.astype(y0.dtype)
        if not isinstance(generator, FokkerPlanck):
            raise ValueError(
                "Argument `method` must not be Strang() for this generator, which has no axes to split: it is a "
                f"{type(generator).__name__}.  Use Uniformization()."
            )
        # The midpoint's generator serves a whole splitting: the exponential midpoint rule, second order.
        if generator.time_dependent:
            whole, first, second = (generator.at(t0 + share * (t1 - t0)).lines() for share in (0.5, 0.25, 0.75))
        else:
            whole = first = second = generator.lines()
        once, spare = _splitting(_relaxations(whole, h), y0, ())
        half = _relaxations(first, h / 2)
        # Without time the second half has the factors of the first.
        again = _relaxations(second, h / 2) if generator.time_dependent else half
        raw, _ = _splitting(again, *_splitting(half, y0, spare))
        # Both lack a term in h^3, one four times that of the other: third order without it.
        error = (once - raw) / 3
        closed = all("absorbing" not in sides for sides in generator.grid.boundary)
        mass = total(y0) if closed else jnp.maximum(total(raw - error), 0)
        y1, moved = _lift(raw - error, jnp.maximum(raw, 0) / 2, mass)
        cells = generator.grid.cell_volume.astype(y0.dtype)
        state = StrangState(
            solver_state.limited + (moved > jnp.finfo(y0.dtype).eps * mass).astype(jnp.int32),
            solver_state.moved + lax.stop_gradient(moved * cells),
            solver_state.sense,
        )
        dense_info = dict(y0=y0, y1=y1)
        return y1, lax.stop_gradient(error), dense_info, state, diffrax.RESULTS.successful


class _Relaxation(eqx.Module):
    """SDIRK2 along the lines of one axis, in two sweeps of length `tau`."""

    lines: Lines
    tau: Float[Array, ""]
    factor: Chain | Ring

    def __call__(self, p: Array, spare: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        """`p` relaxed, made in the place of `spare` if that is as large; and what is spare then."""
        p = self.lines.enter(p)
        relaxed, spare = _relaxed(p, self.factor.room(p, spare), self.lines.rates, self.tau, self.factor)
        return self.lines.leave(relaxed), lax.stop_gradient(spare)


# R(z) = s ((1 - g) s - (1 - 2g))/g with s = 1/(1 - g z), and g = 1 - 1/sqrt(2).
_SHARE = 1 + 2**0.5


@eqx.filter_custom_jvp
def _relaxed(p: Array, spare: tuple[Array, ...], rates: AxisRates, tau: Array, factor: Chain | Ring):
    a, b = jnp.asarray([(0, _SHARE), (1, 1 - _SHARE)], p.dtype)
    return implicit_sums(tau, factor, a, b, p, spare)


@_relaxed.def_jvp
def _(primals, tangents):
    # Written out, both sweeps' derivatives read densities that a loop would have to stack and copy.
    p, spare, rates, tau, factor = primals
    dp, _, drates, dtau, _ = tangents
    sweep = implicit(rates, tau, factor)
    first = sweep(p)
    second = sweep(_SHARE * first + (1 - _SHARE) * p)
    whole = lambda d, a: jnp.zeros_like(a) if d is None else d
    dp = whole(dp, p)
    moving = bool(jax.tree.leaves(drates))
    drates = jax.tree.map(whole, drates, rates, is_leaf=lambda d: d is None)

    def moved(x):
        # What the derivative of `tau W` makes of `x`.
        by_rates = tau * drates.apply(x) if moving else jnp.zeros_like(x)
        return by_rates if dtau is None else by_rates + dtau * rates.apply(x)

    slope = sweep(dp + moved(first))
    slope = sweep(_SHARE * slope + (1 - _SHARE) * dp + moved(second))
    return (second, spare), (slope, jax.tree.map(jnp.zeros_like, spare))


def _relaxations(lines: Sequence[Lines], h: Float[Array, ""]) -> list[_Relaxation]:
    """What a splitting of length `h` needs for each axis."""
    made = []
    for k, line in enumerate(lines):
        tau = _GAMMA * h * (0.5 if k < len(lines) - 1 else 1)
        made.append(_Relaxation(line, tau, step_factor(line.rates, tau)))
    return made


def _splitting(relaxations: Sequence[_Relaxation], p: Array, spare: tuple[Array, ...]):
    *outer, last = relaxations
    for relax in (*outer, last, *reversed(outer)):
        p, spare = relax(p, spare)
    return p, spare


def _lift(p: Array, floor: Array, mass: Array) -> tuple[Array, Array]:
    """Raise entries to a floor that is not negative, and scale to the sum `mass`; also the sum that was moved.

    The scale differs from 1 by what was lifted and by rounding, which would otherwise add up over many steps.
    """
    above = jnp.maximum(p, floor)
    raised = total(above)
    return above * (mass / jnp.where(raised > 0, raised, 1)), total(above - p)
