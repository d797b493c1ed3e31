"""`solve`: a density carried along by a generator."""

from collections.abc import Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped

from ._checks import is_traced, non_negative, require
from ._controller import DensityController
from ._factor import factorable
from ._fokker_planck import FokkerPlanck
from ._generator import AbstractGenerator, GeneratorTerm
from ._results import RESULTS, answer
from ._shift_invert import ShiftInvert
from ._solution import Solution
from ._steppers import Strang
from ._uniformization import Uniformization

# Horizons beyond which a positive method takes too many steps: times the first relative change per unit time for a
# splitting, times the fastest rate for uniformisation.
_SPLITTING_REACH, _UNIFORMIZATION_REACH = 2e3, 1e5


def check_density(p0: Array, generator: AbstractGenerator, name: str = "p0") -> Array:
    """`p0` if it is a density on the generator's grid: right shape, finite, non-negative, mass 1 within 1e-3."""
    if p0.shape != generator.shape:
        raise ValueError(
            f"Argument `{name}` must have the grid's shape {generator.shape}, but it has shape {p0.shape}."
        )
    if not jnp.issubdtype(p0.dtype, jnp.floating):
        raise ValueError(f"Argument `{name}` must be floating point, but it is {p0.dtype}.")
    p0 = non_negative(p0, name)
    mass = generator.mass(p0)
    faults = [(mass == 0, "has zero mass"), (~(jnp.abs(mass - 1) <= 1e-3), "has another mass")]
    shown = None if is_traced(mass) else f"mass {float(mass):.6g}"
    return require(p0, name, "have mass 1 within 1e-3", faults, "Pass it through `grid.normalize`.", shown)


def check_times(ts: Array) -> Array:
    """`ts` if it is a vector of finite, strictly ascending times."""
    if ts.ndim != 1 or ts.shape[0] < 1:
        raise ValueError(f"Argument `ts` must be a vector of at least one time, but it has shape {ts.shape}.")
    faults = [(~jnp.isfinite(ts), "is not finite"), (ts[1:] <= ts[:-1], "is not")]
    return require(ts, "ts", "be finite and strictly ascending", faults, "The first time is that of `p0`.")


def solve(
    generator: AbstractGenerator,
    p0: Float[Array, "*shape"],
    ts: Shaped[ArrayLike, "times"] | Sequence,
    *,
    method: Any = None,
    rtol: Shaped[ArrayLike, ""] = 1e-2,
    atol: Shaped[ArrayLike, ""] | None = None,
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
    - `method`: a diffrax solver such as `Strang()`, or a method for the whole interval, `ShiftInvert()` or
        `Uniformization()`.  If not given, `Strang()` for a `FokkerPlanck` and `Uniformization()` otherwise, which are
        never negative; and `ShiftInvert()` where the horizon is known to be beyond their reach (outside `jit`: while
        compiling it is not known).  `Solution.method` says which.
    - `rtol`, `atol`: each step's error in L1 stays below `atol + rtol * (change over the step)`; `atol` is 1e-6, and
        1e-5 in float32.  See `DensityController`.
    - `stepsize_controller`, `dt0`, `saveat`, `adjoint`, `progress_meter`, `max_steps`, `throw`: as in
        `diffrax.diffeqsolve`, to which they are passed on; methods for the whole interval take none but `throw`.

    **Returns:** a `Solution` with `ps[0] == p0`, exactly.

    **Raises:** wrong shapes, a density that is negative, not finite or not of mass 1, and times that do not ascend,
    outside and inside `jit`; with `throw`, a solve that did not reach the last time.

    **Accuracy in float32:** about 1e-5 in L1, and mass to 3e-5 over 25 steps.

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
    p0 = check_density(p0, generator)
    ts = check_times(jnp.asarray(ts, p0.dtype))
    options = (dt0, stepsize_controller, saveat, adjoint, progress_meter)
    plain = all(option is None for option in options)
    if method is None:
        method = _choose(generator, p0, ts, plain)
    name = type(method).__name__
    if ts.shape[0] == 1:
        mass = generator.mass(p0)[None]
        stats = dict(num_steps=0, num_accepted_steps=0, num_rejected_steps=0, mass=mass, min=jnp.min(p0))
        return Solution(ts, p0[None], RESULTS.successful, stats, name)
    if not isinstance(method, diffrax.AbstractSolver):
        if not plain:
            raise ValueError(
                f"Argument `method` must be a diffrax solver when steps, save points or adjoints are given, but it is "
                f"{name}(), which covers the whole interval at once.  Leave them out, or use Strang()."
            )
        ps, result, stats = method.run(generator, p0, ts)
        result = result if isinstance(result, RESULTS) else RESULTS.promote(result)
        ps = answer(ps, result, True) if throw else ps
        return Solution(ts, ps, result, stats | dict(mass=generator.mass(ps), min=jnp.min(ps)), name)
    if atol is None:
        atol = 1e-6 if p0.dtype == jnp.float64 else 1e-5
    if stepsize_controller is None:
        landing = ts if saveat is None else None
        stepsize_controller = DensityController(rtol=rtol, atol=atol, step_ts=landing)  # pyright: ignore[reportCallIssue]
    if saveat is None:
        saveat = diffrax.SaveAt(ts=ts)
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
        None if dt0 is None else jnp.asarray(dt0, p0.dtype),
        p0,
        saveat=saveat,
        stepsize_controller=stepsize_controller,
        adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        progress_meter=diffrax.NoProgressMeter() if progress_meter is None else progress_meter,
        max_steps=max_steps,
        throw=throw,
    )
    stats = {k: v for k, v in sol.stats.items() if k != "max_steps"}
    if isinstance(sol.ys, jax.Array):
        stats |= dict(mass=generator.mass(sol.ys), min=jnp.min(sol.ys))
    if isinstance(method, Strang) and sol.solver_state is not None:
        stats |= dict(limited_steps=sol.solver_state.limited, moved_mass=sol.solver_state.moved)
    return Solution(sol.ts, sol.ys, RESULTS.promote(sol.result), stats, name)  # pyright: ignore[reportArgumentType]


def _choose(generator: AbstractGenerator, p0: Array, ts: Array, plain: bool) -> Any:
    """A positive method, unless it is known that the horizon is too far for it."""
    splits = isinstance(generator, FokkerPlanck)
    usual = Strang() if splits else Uniformization()
    if generator.time_dependent or not plain or not factorable(generator):
        return usual
    rate = jnp.sum(jnp.abs(generator.apply(p0))) / jnp.sum(p0) if splits else jnp.max(generator.outflow())
    reach = _SPLITTING_REACH if splits else _UNIFORMIZATION_REACH
    far = rate * (ts[-1] - ts[0]) > reach
    return ShiftInvert() if not is_traced(far) and bool(far) else usual
