"""Particles of a Fokker-Planck equation."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Shaped

from .._checks import check_times, positive
from .._convention import AbstractConvention
from .._program import program
from ._equation import Coefficient, Equation, check_equation, check_starts, ito_form


class Paths(eqx.Module):
    """Particles at the times asked for: `ts (times,)`, `xs (times, particles, d)`, and a `result` of diffrax."""

    ts: Float[Array, " times"]
    xs: Float[Array, "times particles d"]
    result: diffrax.RESULTS


def langevin(
    drift: Coefficient,
    diffusion: Coefficient,
    x0: Shaped[ArrayLike, "particles d"],
    ts: Shaped[ArrayLike, "..."],
    key: PRNGKeyArray,
    *,
    dt: Shaped[ArrayLike, ""],
    convention: AbstractConvention | None = None,
    noise: Coefficient = None,
    method: diffrax.AbstractSolver | None = None,
    max_steps: int = 100_000,
) -> Paths:
    r"""Independent particles of $dX = b\,dt + \sqrt{2D}\,dW$ in free space, the process behind `FokkerPlanck`.

    The same drift, diffusion, noise and convention give the same law; the equation is turned into Ito's form first.
    Steps are those of diffrax, of constant length, one Brownian path for each particle.

    **Arguments:**

    - `drift`, `diffusion`, `convention`, `noise`: as for `FokkerPlanck`; a tensor must be positive semi-definite.
    - `x0`: where the particles are at `ts[0]`, shape `(particles, d)`.
    - `ts`: ascending times at which positions are kept.
    - `key`: a key of `jax.random`; the same key, the same paths.
    - `dt`: the step.  Good values: 1/50 of the shortest relaxation time; the bias of means is of first order in it.
    - `method`: a diffrax solver for Ito equations; `diffrax.Euler()` if not given.

    **Returns:** `Paths`.  Derivatives, in reverse mode, are those of the paths with the noise held fixed.  Paths move
    by the root of a diffusion: by one that is zero their derivative is infinite or NaN, by `noise` it is finite.  Axes
    and directions without noise beside others with noise are taken to have none nearby.

    **Many calls:** the first compiles for some seconds, and the program is kept.  With the same functions and shapes a
    further one takes as long as its steps: 0.03 s for 1000 particles in the plane and 20 steps, where compiling took 3.
    It is compiled anew where something that the functions read by name is another object; an array changed in place is
    not seen.  A function defined again, a lambda in a loop, is another one: make numbers that vary leaves of an
    `eqx.Module` that is called, or call it inside `jax.jit`.

    **How it fails:** a step beyond the stability limit, `dt b' > 2`, sends particles to infinity: no NaN is hidden.

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp, rxjax_solvers as rxs
        >>> x0, key = jnp.full((2000, 1), 2.0), jax.random.key(0)
        >>> paths = rxs.langevin(lambda x: -x, 0.5, x0, jnp.array([0.0, 1.0]), key, dt=0.05)
        >>> print(jnp.abs(jnp.mean(paths.xs[-1]) - 2 * 0.95**20) < 0.05)  # the mean of 20 steps
        True

        ```
    """
    x0 = check_starts(x0, "x0")
    ts = check_times(jnp.asarray(ts, x0.dtype), "x0")
    if ts.shape[0] < 2:
        raise ValueError("Argument `ts` must hold the time of `x0` and at least one later, but it holds one.")
    dt = positive(jnp.asarray(dt, x0.dtype), "dt")
    return _paths(check_equation(drift, diffusion, noise, convention), x0, ts, key, dt, method, max_steps)


@program
def _paths(
    equation: Equation,
    x0: Array,
    ts: Array,
    key: PRNGKeyArray,
    dt: Array,
    method: diffrax.AbstractSolver | None,
    max_steps: int,
) -> Paths:
    force, sigma = ito_form(equation, x0.shape[1])
    # The drift is asked too: diffrax 0.7.0 puts errors of coefficients into words of its own.
    _, noise = jax.eval_shape(lambda t, x: (force(t, x), sigma(t, x)), ts[0], x0[0])
    sources = noise.shape[1]

    def one(x, key):
        path = diffrax.VirtualBrownianTree(ts[0], ts[-1], dt / 2, (sources,), key)
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, _: force(t, y)), diffrax.ControlTerm(lambda t, y, _: sigma(t, y), path)
        )
        return diffrax.diffeqsolve(
            terms,
            diffrax.Euler() if method is None else method,
            ts[0],
            ts[-1],
            dt,
            x,
            saveat=diffrax.SaveAt(ts=ts),
            max_steps=max_steps,
        )

    solution: Any = jax.vmap(one)(x0, jr.split(key, x0.shape[0]))
    return Paths(ts, jnp.swapaxes(solution.ys, 0, 1), solution.result)
