"""`solve`: a density carried along by a generator."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Shaped

from ._checks import check_times, is_traced, non_negative, require, seen
from ._compiled import compiled
from ._controller import DensityController
from ._factor import factorable
from ._first_order import once
from ._fokker_planck import FokkerPlanck
from ._generator import AbstractGenerator, GeneratorTerm, check_generator
from ._program import Reads
from ._rational import Rational, obstacle
from ._results import RESULTS, answer
from ._shift_invert import ShiftInvert
from ._solution import Solution
from ._steppers import Strang
from ._uniformization import Uniformization

# Horizons beyond which a positive method takes too many steps: times the first relative change per unit time for a
# splitting, times the fastest rate for uniformisation.
_SPLITTING_REACH, _UNIFORMIZATION_REACH = 2e3, 1e5
# Densities kept for a gradient: as many as a solve with default tolerances has steps.  Each costs a quarter of a step,
# used or not, and each step beyond them one that is taken again.
_CHECKPOINTS = 32
# What a save point keeps of a density if nothing else is asked for.
_AS_IT_IS = diffrax.SubSaveAt(t1=True).fn


def check_density(p0: Array, generator: AbstractGenerator, name: str = "p0") -> Array:
    """`p0` if it is a density on the generator's grid: right shape, finite, non-negative, mass 1 within 1e-3."""
    if p0.shape != generator.shape:
        raise ValueError(
            f"Argument `{name}` must have the grid's shape {generator.shape}, but it has shape {p0.shape}."
        )
    if not jnp.issubdtype(p0.dtype, jnp.floating):
        raise ValueError(f"Argument `{name}` must be floating point, but it is {p0.dtype}.")
    p0 = non_negative(p0, name)
    mass = seen(generator.mass(p0))
    faults = [(mass == 0, "has zero mass"), (~(abs(mass - 1) <= 1e-3), "has another mass")]
    shown = None if is_traced(mass) else f"mass {float(mass):.6g}"
    return require(p0, name, "have mass 1 within 1e-3", faults, "Pass it through `grid.normalize`.", shown)


def solve(
    generator: AbstractGenerator,
    p0: Float[Array, "*shape"],
    ts: Shaped[ArrayLike, "times"] | Sequence,
    *,
    method: Any = None,
    rtol: Shaped[ArrayLike, ""] = 1e-3,
    atol: Shaped[ArrayLike, ""] = 1e-5,
    dt0: Shaped[ArrayLike, ""] | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    saveat: diffrax.SaveAt | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    progress_meter: diffrax.AbstractProgressMeter | None = None,
    max_steps: int | None = 4096,
    throw: bool = True,
) -> Solution:
    """Solve `dp/dt = W p` from `p0` at `ts[0]`.

    **Arguments:**

    - `generator`: `W`, for example `FokkerPlanck(...)`.
    - `p0`: the density at `ts[0]`, cell averages of mass 1 within 1e-3; it is not renormalised.
    - `ts`: strictly ascending times; steps land on each of them.
    - `method`: a diffrax solver such as `Strang()`, or a method for the whole interval: `Rational()`, `ShiftInvert()`
        or `Uniformization()`.  If not given, see below.
    - `rtol`, `atol`: each step's estimated error in L1 stays below `atol + rtol * (change over the step)`.  See
        `DensityController`.
    - `stepsize_controller`, `dt0`, `saveat`, `adjoint`, `progress_meter`, `max_steps`, `throw`: as in
        `diffrax.diffeqsolve`, to which they are passed on; methods for the whole interval take none but `throw`.
        Gradients are reverse mode; for `jax.jvp` and `jax.jacfwd` pass `adjoint=diffrax.ForwardMode()`.

    **Which method** if none is given, and steps, save points and adjoints are left alone:

    - on one axis with detailed balance `Rational()`: any horizon, right to 1e-9 or better;
    - else `Strang()` for a `FokkerPlanck` and `Uniformization()` otherwise; but `ShiftInvert()`, which may be negative
        within its error, once the horizon is beyond their reach.  Inside `jit` that is known at run time only: both
        are compiled and one of them runs (`stats["far"]` says whether it was `ShiftInvert()`, and `Solution.method`
        names both).  Under `vmap` the farthest member decides for all of them, so split a batch of very different
        horizons.  On two axes and more, where compiling both takes some ten seconds, `Strang()` is taken inside
        `jit`: name `ShiftInvert()` for times far beyond the relaxation.

    Generators that depend on time, and grids too large to factor, always take the method that goes step by step.

    **Returns:** a `Solution` with `ps[0] == p0`, exactly.

    **Raises:** what is no generator, wrong shapes, a density that is negative, not finite or not of mass 1, and times
    that do not ascend, outside and inside `jit`; with `throw`, a solve that did not reach the last time.

    **Accuracy in float32:** about 1e-5 in L1, and mass to 3e-5 over 25 steps of a splitting.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> grid = rxs.Grid(-2, 2, 128)
        >>> W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, temperature=0.5)
        >>> sol = rxs.solve(W, grid.gaussian(-1, 0.2), jnp.linspace(0, 4, 3))
        >>> right = jnp.sum(sol.ps[:, 64:], axis=1) * grid.spacing[0]
        >>> [round(float(x), 3) for x in right]
        [0.0, 0.171, 0.291]

        ```
    """
    check_generator(generator)
    p0 = check_density(p0, generator)
    dtype = generator.dtype if generator.grid is None else generator.grid.lower.dtype
    if p0.dtype != dtype:
        raise ValueError(
            f"Argument `p0` must have the generator's dtype {dtype}, but it is {p0.dtype}.  Use `p0.astype({dtype})`."
        )
    ts = check_times(jnp.asarray(ts, p0.dtype))
    options = (dt0, stepsize_controller, saveat, adjoint, progress_meter)
    plain = all(option is None for option in options)
    far = None
    if method is None:
        method, far = _choose(generator, p0, ts, plain)
    elif isinstance(method, type) or not (isinstance(method, diffrax.AbstractSolver) or hasattr(method, "run")):
        raise ValueError(
            "Argument `method` must be Strang(), Rational(), ShiftInvert(), Uniformization() or a diffrax solver, an "
            f"object, but it is {method!r}."
        )
    name = type(method).__name__
    if ts.shape[0] == 1:
        mass = generator.mass(p0)[None]
        stats = dict(num_steps=0, num_accepted_steps=0, num_rejected_steps=0, mass=mass, min=jnp.min(p0))
        return Solution(ts, p0[None], RESULTS.successful, stats, name)
    rtol, atol = non_negative(rtol, "rtol"), non_negative(atol, "atol")
    steps = _Steps(rtol, atol, dt0, stepsize_controller, saveat, adjoint, progress_meter, max_steps)
    if far is None and isinstance(method, diffrax.AbstractSolver):
        at, ps, result, stats = steps.run(method, generator, p0, ts, throw)
        return Solution(at, ps, result, stats, name)
    if far is None and not plain:
        raise ValueError(
            f"Argument `method` must be a diffrax solver when steps, save points or adjoints are given, but it is "
            f"{name}(), which covers the whole interval at once.  Leave them out, or use Strang()."
        )
    if far is None:
        ps, result, stats = _at_once(method, generator, p0, ts)
    else:
        ps, result, stats = _either(far, method, steps, generator, p0, ts)
        name = f"{name} or ShiftInvert"
    ps = answer(ps, result, True) if throw else ps
    return Solution(ts, ps, result, stats | _sums(generator, ps), name)


class _Steps(NamedTuple):
    """The options of a method that goes step by step, as `solve` takes them."""

    rtol: Any
    atol: Any
    dt0: Any
    controller: Any
    saveat: Any
    adjoint: Any
    progress_meter: Any
    max_steps: int | None

    def run(self, method: diffrax.AbstractSolver, generator: AbstractGenerator, p0: Array, ts: Array, throw: bool):
        """Times, densities, how it ended and statistics."""
        controller, saveat = self.controller, self.saveat
        if isinstance(self.adjoint, diffrax.BacksolveAdjoint):
            raise ValueError(
                "Argument `adjoint` must not be BacksolveAdjoint(), which carries the density back in time, where what "
                "has spread has no way back.  Leave it out, or use RecursiveCheckpointAdjoint()."
            )
        if controller is None:
            landing = ts if saveat is None else None
            controller = DensityController(rtol=self.rtol, atol=self.atol, step_ts=landing)
        if saveat is None:
            saveat = diffrax.SaveAt(ts=ts)
        if self.adjoint is None:
            remedy = "take `jax.jacfwd` twice with `adjoint=diffrax.ForwardMode()`."
            generator, p0, ts = once((generator, p0, ts), remedy)
        wants_state = isinstance(method, Strang) and not saveat.solver_state
        if wants_state:
            saveat = diffrax.SaveAt(
                subs=saveat.subs, dense=saveat.dense, solver_state=True, controller_state=saveat.controller_state
            )
        sol = diffrax.diffeqsolve(
            GeneratorTerm(generator),
            method,
            ts[0],
            ts[-1],
            None if self.dt0 is None else jnp.asarray(self.dt0, p0.dtype),
            p0,
            # Part of what diffrax keeps its program by: coefficients of time are traced with what they read now.
            args=Reads(generator) if generator.time_dependent else None,
            saveat=saveat,
            stepsize_controller=controller,
            adjoint=diffrax.RecursiveCheckpointAdjoint(_CHECKPOINTS) if self.adjoint is None else self.adjoint,
            progress_meter=diffrax.NoProgressMeter() if self.progress_meter is None else self.progress_meter,
            max_steps=self.max_steps,
            throw=throw,
        )
        stats = {k: v for k, v in sol.stats.items() if k != "max_steps"}
        # What a function of the user's made of densities has no mass.
        if isinstance(saveat.subs, diffrax.SubSaveAt) and saveat.subs.fn is _AS_IT_IS and sol.ys is not None:
            stats |= _sums(generator, sol.ys)
        if isinstance(method, Strang) and sol.solver_state is not None:
            stats |= dict(limited_steps=sol.solver_state.limited, moved_mass=sol.solver_state.moved)
        return sol.ts, sol.ys, RESULTS.promote(sol.result), stats


def _at_once(method: Any, generator: AbstractGenerator, p0: Array, ts: Array) -> tuple[Array, RESULTS, dict[str, Any]]:
    ps, result, stats = method.run(generator, p0, ts)
    result = result if isinstance(result, RESULTS) else RESULTS.promote(result)
    return ps, result, stats


def _sums(generator: AbstractGenerator, ps: Array) -> dict[str, Array]:
    return dict(mass=generator.mass(ps), min=jnp.min(ps))


def _either(far: Array, method: Any, steps: _Steps, generator: AbstractGenerator, p0: Array, ts: Array):
    """`ShiftInvert` if the horizon turns out to be far, else `method`, with the statistics that both have."""

    def common(result, ps, stats):
        taken = jnp.asarray(stats["num_steps"], jnp.int32)
        rejected = jnp.asarray(stats.get("num_rejected_steps", 0), jnp.int32)
        return ps, result, dict(num_steps=taken, num_accepted_steps=taken - rejected, num_rejected_steps=rejected)

    def near(generator, p0, ts):
        if isinstance(method, diffrax.AbstractSolver):
            _, ps, result, stats = steps.run(method, generator, p0, ts, throw=False)
        else:
            ps, result, stats = _at_once(method, generator, p0, ts)
        return common(result, ps, stats)

    def late(generator, p0, ts):
        ps, result, stats = _at_once(ShiftInvert(), generator, p0, ts)
        return common(result, ps, stats)

    ps, result, stats = lax.cond(far, late, near, generator, p0, ts)
    return ps, result, stats | dict(far=far)


@jax.custom_batching.custom_vmap
def _largest(x: Array) -> Array:
    """The largest of a batch, one number for all: what depends on it stays a branch under `vmap`."""
    return x


@_largest.def_vmap
def _(axis_size, in_batched, x):
    del axis_size, in_batched
    return _largest(jnp.max(x, axis=0)), False


def _choose(generator: AbstractGenerator, p0: Array, ts: Array, plain: bool) -> tuple[Any, Array | None]:
    """A method, and whether the horizon is too far for it if that is known at run time only."""
    splits = isinstance(generator, FokkerPlanck)
    usual = Strang() if splits else Uniformization()
    if generator.time_dependent or not plain:
        return usual, None
    if obstacle(generator) is None:
        return Rational(), None
    if not factorable(generator):
        return usual, None
    reach = _SPLITTING_REACH if splits else _UNIFORMIZATION_REACH
    turns = _turns(generator, p0, ts)
    if is_traced(turns):
        if splits and len(generator.shape) > 1:
            return usual, None
        return usual, _largest(lax.stop_gradient(turns)) > reach
    return (ShiftInvert() if bool(turns > reach) else usual), None


@compiled
def _turns(generator: AbstractGenerator, p0: Array, ts: Array) -> Array:
    """How often what the method goes by happens until the last time."""
    if isinstance(generator, FokkerPlanck):
        rate = jnp.sum(jnp.abs(generator.apply(p0))) / jnp.sum(p0)
    else:
        rate = jnp.max(generator.outflow())
    return rate * (ts[-1] - ts[0])
