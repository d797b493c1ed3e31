"""Strang splitting over the axes of a grid."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .._diagonals import Lines
from .._fokker_planck import FokkerPlanck
from .._generator import GeneratorTerm
from .._sweeps import implicit, step_factor

# SDIRK2 (Alexander 1977): R(z) = (1 + (1 - 2g) z) / (1 - g z)^2 with g = 1 - 1/sqrt(2) is L-stable and second order.
_GAMMA = 1 - 2**-0.5


class StrangState(eqx.Module):
    """What a run did to keep its guarantee.

    - `limited`: () integer, steps that had to be lifted by more than rounding.
    - `moved`: (), mass moved in doing so, in total.
    """

    limited: Int[Array, ""]
    moved: Float[Array, ""]


class ConvexInterpolation(diffrax.AbstractLocalInterpolation):
    """Straight lines between steps: second order, and as positive and conservative as the steps."""

    t0: Any
    t1: Any
    y0: Any
    y1: Any

    def evaluate(self, t0, t1=None, left: bool = True):
        del left

        def at(t):
            weight = ((t - self.t0) / (self.t1 - self.t0)).astype(self.y0.dtype)
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
    counts it.

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
        return StrangState(jnp.zeros((), jnp.int32), jnp.zeros((), y0.dtype))

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state: StrangState, made_jump):
        del args, made_jump
        # diffeqsolve hands the term wrapped, to carry the direction of time.
        generator = getattr(terms, "term", terms).generator
        h = jnp.asarray(t1 - t0, y0.dtype)
        if not isinstance(generator, FokkerPlanck):
            raise ValueError(
                "Argument `method` must not be Strang() for this generator, which has no axes to split: it is a "
                f"{type(generator).__name__}.  Use Uniformization()."
            )
        if generator.time_dependent:
            # The midpoint's generator serves a whole splitting: the exponential midpoint rule, second order.
            times = (t0 + share * (t1 - t0) for share in (0.25, 0.5, 0.75))
            all_lines = [generator.at(t).lines() for t in times]
            dim = len(all_lines[0])
            first, full, second = (_relaxations(lines, h) for lines in all_lines)
            raw = _splitting(second, _splitting(first, y0, dim, 0.5), dim, 0.5)
        else:
            lines = generator.lines()
            dim = len(lines)
            full = _relaxations(lines, h)
            # A loop over the two halves compiles half as much as writing both out.
            halves = _factored(full, dim, 0.5)
            raw, _ = lax.scan(lambda p, _: (_splitting(halves, p, dim, 0.5), None), y0, length=2)
        # Both lack a term in h^3, one four times that of the other: third order without it.
        error = (_splitting(full, y0, dim, 1.0) - raw) / 3
        closed = all("absorbing" not in sides for sides in generator.grid.boundary)
        total = jnp.sum(y0) if closed else jnp.maximum(jnp.sum(raw - error), 0)
        y1, moved = _lift(raw - error, jnp.maximum(raw, 0) / 2, total)
        cells = generator.grid.cell_volume.astype(y0.dtype)
        state = StrangState(
            solver_state.limited + (moved > jnp.finfo(y0.dtype).eps * total).astype(jnp.int32),
            solver_state.moved + lax.stop_gradient(moved * cells),
        )
        dense_info = dict(y0=y0, y1=y1)
        return y1, lax.stop_gradient(error), dense_info, state, diffrax.RESULTS.successful


def _relaxations(lines: Sequence[Lines], h) -> Callable[[int, float], Callable[[Array], Array]]:
    """`(k, fraction) -> SDIRK2` of length `fraction * h` along `lines[k]`; each factored once, when first used."""
    made: dict[tuple[int, float], Callable] = {}

    def relax(axis: int, fraction: float):
        if (axis, fraction) not in made:
            tau = _GAMMA * fraction * h
            made[axis, fraction] = implicit(lines[axis].rates, tau, step_factor(lines[axis].rates, tau))
        sweep = made[axis, fraction]

        def apply(p):
            p = lines[axis].enter(p)

            # R(z) = ((1 - g) s^2 - (1 - 2g) s)/g with s = 1/(1 - g z), and g = 1 - 1/sqrt(2).
            def once(carry, weight):
                p, total = carry
                p = sweep(p)
                return (p, total + weight * p), None

            # A loop over the two sweeps compiles half as much as writing both out.
            weights = jnp.asarray([-(2**0.5), 1 + 2**0.5], p.dtype)
            (_, total), _ = lax.scan(once, (p, jnp.zeros_like(p)), weights)
            return lines[axis].leave(total)

        return apply

    return relax


def _factored(relax, dim: int, fraction: float):
    """`relax` with everything that a splitting of this length needs factored now, outside any loop."""
    for axis in range(dim):
        relax(axis, fraction / 2 if axis < dim - 1 else fraction)
    return relax


def _splitting(relax, p: Array, dim: int, fraction: float) -> Array:
    outer = range(dim - 1)
    for axis in outer:
        p = relax(axis, fraction / 2)(p)
    p = relax(dim - 1, fraction)(p)
    for axis in reversed(outer):
        p = relax(axis, fraction / 2)(p)
    return p


def _lift(p: Array, floor: Array, total: Array) -> tuple[Array, Array]:
    """Raise entries to a floor that is not negative, and scale to the sum `total`; also the sum that was moved.

    The scale differs from 1 by what was lifted and by rounding, which would otherwise add up over many steps.
    """
    above = jnp.maximum(p, floor)
    mass = jnp.sum(above)
    return above * (total / jnp.where(mass > 0, mass, 1)), jnp.sum(above - p)
