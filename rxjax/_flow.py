"""The density of SGD's parameters over a loss landscape."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from rxjax_solvers import RESULTS, FokkerPlanck, Grid, Ito, NegativeGradient, solve
from rxjax_solvers._checks import require
from rxjax_solvers._convention import AbstractConvention
from rxjax_solvers._grid import evaluate

from ._hyperparameters import Hyperparameters
from ._temperature import batch_covariance

# Above this value of learning rate times curvature a discrete step is no longer a diffusion.
_VALID_ETA_H = 0.2


class Flow(eqx.Module):
    """A density flowing over a landscape, with what it was made from.

    - `ts`: shape `(times,)`, in units of learning rate x steps; `steps`: the same as numbers of SGD steps.
    - `ps`: shape `(times, *grid.shape)`, cell averages; `grid`: the cells.
    - `loss`: shape `(times,)`, the mean loss; `energy`: shape `(*grid.shape)`, the loss in the cells.
    - `temperature`: kT of the diffusion, `(eta/2) C` per axis averaged over axes and over the first density.
    - `eta_h`: learning rate x curvature, averaged over the last density, of the steepest axis; `valid`: whether it is
        at most 0.2, up to where SGD's discrete steps behave like a diffusion.
    - `result`, `stats`: as in `rxjax.solvers.Solution`.
    """

    ts: Float[Array, "times"]
    steps: Float[Array, "times"]
    ps: Float[Array, "times *shape"]
    loss: Float[Array, "times"]
    energy: Float[Array, "*shape"]
    temperature: Float[Array, ""]
    eta_h: Float[Array, ""]
    valid: Bool[Array, ""]
    grid: Grid
    hyperparameters: Hyperparameters
    result: RESULTS
    stats: dict[str, Any]


def probability_flow(
    landscape: Callable,
    hyperparameters: Hyperparameters,
    covariance: Shaped[ArrayLike, "..."] | Callable,
    grid: Grid,
    p0: Float[Array, "*shape"],
    ts: Shaped[ArrayLike, "times"],
    *,
    convention: AbstractConvention | None = None,
    **options: Any,
) -> Flow:
    r"""The density of SGD's parameters, from a loss, hyperparameters and the gradient noise.

    $\partial_t P = \nabla\cdot(P\,\nabla L) + \partial_i\partial_i(D_i P)$ with $D = (\eta/2)\,C$ and
    $C = \Sigma_1/B$ (or its form without replacement), in time units of learning rate x steps.  Heavy-ball momentum
    $\mu$ replaces $\eta$ by $\eta/(1-\mu)$.

    **Arguments:**

    - `landscape`: the loss `theta -> ()` with `theta` of shape `(d,)`: any of `rxjax.landscapes`, any callable.
    - `hyperparameters`: learning rate, batch size, data-set size, momentum, sampling.
    - `covariance`: $\Sigma_1$, the covariance of ONE example's gradient: a scalar, shape `(d,)` (independent axes), or
        a callable of `theta` that returns either.
    - `grid`: the cells; good values: two or more per $\sqrt{kT/h}$, the width of a well of curvature $h$.
    - `p0`: the density at `ts[0]`, for example `grid.gaussian(mean, std)`.
    - `ts`: strictly ascending times, in units of learning rate x steps.
    - `convention`: how noise that depends on position is read; `Ito()` as in SGD if not given.
    - `options`: passed on to `rxjax.solvers.solve`.

    **Returns:** a `Flow`.

    **How it fails:** beyond $\eta h \approx 0.2$, with $h$ the curvature, SGD's steps are no diffusion: `valid` is then
    false.  Epoch-wise sampling has no such diffusion at all and is refused.

    ??? cite "References"

        S. Mandt, M. D. Hoffman, D. M. Blei, J. Mach. Learn. Res. 18, 134 (2017), eq. 9; Q. Li, C. Tai, W. E, ICML 2017.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> well = rx.landscapes.DoubleWell()
        >>> settings = rx.Hyperparameters(learning_rate=0.02, batch_size=1, dataset_size=1000)
        >>> grid = rx.solvers.Grid(-2.0, 2.0, 128)
        >>> flow = rx.probability_flow(well, settings, 20.0, grid, grid.gaussian(-1.0, 0.2), jnp.linspace(0, 10, 3))
        >>> print(flow.steps, f"{flow.temperature:.2f}", [f"{loss:.3f}" for loss in flow.loss])
        [  0. 250. 500.] 0.20 ['0.165', '0.113', '0.113']

        ```
    """
    dtype = grid.lower.dtype
    rate = (hyperparameters.learning_rate / (1 - hyperparameters.momentum)).astype(dtype)
    # The factor from Sigma_1 to D, once: both are linear.
    factor = rate / 2 * batch_covariance(jnp.ones((), dtype), hyperparameters).astype(dtype)
    if callable(covariance):
        convention = Ito() if convention is None else convention
        noise = evaluate(covariance, grid.points, "covariance", [(), (grid.dim,)])
    else:
        noise = jnp.asarray(covariance, dtype)
        if noise.shape not in ((), (grid.dim,)):
            raise ValueError(
                f"Argument `covariance` must be a scalar, have shape ({grid.dim},) or be a callable, but it has shape "
                f"{noise.shape}.  Turn the axes of the grid to those of the noise and give its variances."
            )
    noise = require(
        noise,
        "covariance",
        "be finite and positive semi-definite",
        [(~jnp.isfinite(noise), "is not finite"), (noise < 0, "is negative")],
        "It is the variance of one example's gradient along each axis.",
    )
    diffusion: Any = factor * noise
    if callable(covariance):
        diffusion = lambda theta: factor * jnp.asarray(covariance(theta)).astype(dtype)
    values = evaluate(landscape, grid.points, "landscape", [()])
    energy = require(values, "landscape", "be finite on the grid", [(~jnp.isfinite(values), "is not finite there")])
    drift = NegativeGradient(landscape if _absorbs(grid) else energy)
    solution = solve(FokkerPlanck(drift, diffusion, grid, convention), p0, ts, **options)
    ts = jnp.asarray(ts, dtype)
    # Averaged over the first density where it depends on place, then over the axes.
    if not callable(covariance):
        mean_noise = jnp.mean(noise)
    else:
        over_axes = jnp.mean(noise, axis=-1) if noise.ndim > grid.dim else noise
        mean_noise = grid.integrate(over_axes * p0)
    curvature = [_mean_curvature(energy, solution.ps[-1], grid, axis) for axis in range(grid.dim)]
    eta_h = rate * jnp.max(jnp.stack(curvature))
    return Flow(
        ts=ts,
        steps=ts / rate,
        ps=solution.ps,
        loss=grid.integrate(solution.ps * energy[None]),
        energy=energy,
        temperature=factor * mean_noise,
        eta_h=eta_h,
        valid=eta_h <= _VALID_ETA_H,
        grid=grid,
        hyperparameters=hyperparameters,
        result=solution.result,
        stats=solution.stats,
    )


def _absorbs(grid: Grid) -> bool:
    return any("absorbing" in sides for sides in grid.boundary)


def _mean_curvature(energy: Array, p: Array, grid: Grid, axis: int) -> Array:
    """Mean of |second derivative| along an axis, under `p` on the inner cells."""
    if grid.shape[axis] < 3:
        return jnp.zeros((), energy.dtype)
    second = jnp.diff(energy, n=2, axis=axis) / grid.spacing[axis] ** 2
    inner = jax.lax.slice_in_dim(p, 1, grid.shape[axis] - 1, axis=axis)
    return jnp.sum(jnp.abs(second) * inner) * grid.cell_volume
