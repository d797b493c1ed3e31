"""Times at which particles first leave a region, sampled."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, Shaped

from .._checks import positive
from .._convention import AbstractConvention
from .._program import program
from ._equation import Coefficient, Equation, check_equation, check_starts, ito_form


class ExitTimes(eqx.Module):
    """First passages: `times (particles,)`, and `exited (particles,)`, false where `max_time` came first."""

    times: Float[Array, " particles"]
    exited: Bool[Array, " particles"]


def sample_exit_times(
    drift: Coefficient,
    diffusion: Coefficient,
    level: Callable,
    x0: Shaped[ArrayLike, "particles d"],
    key: PRNGKeyArray,
    *,
    dt: Shaped[ArrayLike, ""],
    max_time: Shaped[ArrayLike, ""],
    convention: AbstractConvention | None = None,
    noise: Coefficient = None,
    bridge: bool = True,
) -> ExitTimes:
    r"""When particles of $dX = b\,dt + \sqrt{2D}\,dW$ first leave the region where every `level` is positive.

    Euler-Maruyama steps.  A path that is inside at both ends of a step may have been outside between them: a Brownian
    bridge between levels $a$ and $b$ has crossed zero with probability $e^{-2ab/(s^2 dt)}$, $s$ the noise across the
    surface.  That chance is drawn, and then the instant of the crossing, which for the bridge follows from an inverse
    Gaussian law.  For constant coefficients and a plane the sampling is exact at any step; else the bias of the mean
    is of first order in `dt`, where without the bridge it is of order $\sqrt{dt}$.

    **Arguments:**

    - `drift`, `diffusion`, `convention`, `noise`: as for `langevin`.
    - `level`: `theta (d,) -> ()` or `(k,)`, positive inside and zero on the surface; best a distance near it.  Surfaces
        that meet, or two sides, are several levels: `lambda x: jnp.stack([1 - x[0], 1 + x[0]])`.
    - `x0`: where the particles start, shape `(particles, d)`, inside.
    - `dt`: the step.  Good values: such that a step is a tenth of the width of the region.
    - `max_time`: where sampling ends; particles still inside have `exited` false and this time, those that are lost
        (a level of NaN, as of steps too long for the drift) a time of NaN.
    - `bridge`: `False` looks at the ends of steps only, for comparison.

    **Returns:** `ExitTimes`.  Random times have no derivative.  Many calls: see `langevin`.

    ??? cite "References"

        E. Gobet, Stochastic Process. Appl. 87, 167 (2000): the bridge.  J. R. Michael, W. R. Schucany and R. W. Haas,
        Am. Stat. 30, 88 (1976): sampling the inverse Gaussian law.
    """
    x0 = check_starts(x0, "x0")
    dt = positive(jnp.asarray(dt, x0.dtype), "dt")
    end = positive(jnp.asarray(max_time, x0.dtype), "max_time")
    return _exits(check_equation(drift, diffusion, noise, convention), level, x0, key, dt, end, bridge)


@program
def _exits(
    equation: Equation, level: Callable, x0: Array, key: PRNGKeyArray, dt: Array, end: Array, bridge: bool
) -> ExitTimes:
    dtype = x0.dtype
    force, sigma = ito_form(equation, x0.shape[1])
    levels = lambda x: jnp.atleast_1d(level(x))

    def one(x, key):
        def inside(carry):
            _, t, _, out = carry
            return ~out & (t < end)

        def step(carry):
            x, t, key, _ = carry
            key, kick, chance, instant = jr.split(key, 4)
            s = sigma(t, x)
            moved = x + force(t, x) * dt + jnp.sqrt(dt) * (s @ jr.normal(kick, s.shape[1:], dtype))
            a, b = levels(x), levels(moved)
            spread = jnp.sum((jax.jacrev(levels)(x) @ s) ** 2, axis=1) * dt
            noisy = spread > 0
            crossing = jnp.where(noisy, jnp.exp(-2 * a * b / jnp.where(noisy, spread, 1)), 0) if bridge else 0.0
            hit = (b <= 0) | (jr.uniform(chance, a.shape, dtype) < crossing)
            share = _instant(a, b, spread, instant) if bridge else jnp.ones_like(a)
            share = jnp.min(jnp.where(hit, share, 1))
            out = jnp.any(hit)
            return moved, jnp.where(out, t + share * dt, t + dt), key, out

        start = (x, jnp.zeros((), dtype), key, jnp.any(levels(x) <= 0))
        x, t, _, out = lax.while_loop(inside, step, start)
        late = t > end
        # A level of NaN is never crossed: who is lost has not stayed inside.
        lost = ~out & jnp.any(jnp.isnan(levels(x)))
        return jnp.where(lost, jnp.nan, jnp.minimum(t, end)), out & ~late

    return ExitTimes(*jax.vmap(one)(x0, jr.split(key, x0.shape[0])))


def _instant(a: Array, b: Array, spread: Array, key: PRNGKeyArray) -> Array:
    """The share of a step after which a bridge from level `a` to `b`, known to cross zero, does so first.

    With `u` the share, `u/(1 - u)` is inverse Gaussian with mean `a/|b|` and shape `a^2/spread` (by reflection the sign
    of `b` does not matter).
    """
    tiny = jnp.finfo(a.dtype).tiny
    normal, uniform = jr.split(key)
    mean = jnp.maximum(a, tiny) / jnp.maximum(jnp.abs(b), jnp.finfo(a.dtype).eps * jnp.maximum(a, tiny))
    shape = jnp.maximum(a, tiny) ** 2 / jnp.maximum(spread, tiny)
    y = jr.normal(normal, a.shape, a.dtype) ** 2 * mean / shape
    # The smaller root, written without a difference of large numbers.
    root = mean * 2 / (2 + y + jnp.sqrt(y * (4 + y)))
    ratio = jnp.where(jr.uniform(uniform, a.shape, a.dtype) * (mean + root) <= mean, root, mean * (mean / root))
    return ratio / (1 + ratio)
