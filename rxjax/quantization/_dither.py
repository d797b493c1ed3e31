"""What noise and stochastic rounding do to the mean and the spread of a rounded step, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc
from jaxtyping import Array, ArrayLike, Float, Shaped

from rxjax_solvers._checks import finite, non_negative, positive

from .._arrays import real_arrays, summation_dtype

# Below this ratio of noise to spacing the sum over grid points is used, above it the Fourier series.
_SWITCH = 0.35
_TERMS = 5
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


def _shaped(**named: ArrayLike) -> list[Float[Array, "..."]]:
    """Real arrays of one shape and dtype, float32 at least; scalars spread out, nothing else does."""
    arrays = real_arrays(**named)
    shapes = {a.shape for a in arrays if a.shape}
    if len(shapes) > 1:
        given = ", ".join(f"`{name}` {a.shape}" for name, a in zip(named, arrays, strict=True))
        raise ValueError(f"Arguments must have one shape or be scalars, but the shapes are {given}.")
    dtype = summation_dtype(jnp.result_type(*arrays))
    shape = shapes.pop() if shapes else ()
    return [jnp.broadcast_to(a.astype(dtype), shape) for a in arrays]


def _band(middle: Float[Array, "*shape"], half_width: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Normal probability of the band `middle ± half_width`, odd in its width; no cancellation where it is thin."""
    thin = jnp.abs(half_width) * (middle + 1) < 4
    width = jnp.where(thin, half_width, 0.0)
    nodes, weights = (jnp.asarray(x, middle.dtype) for x in (_NODES, _WEIGHTS / np.sqrt(2 * np.pi)))
    points = middle[..., None] + nodes.reshape((1,) * middle.ndim + (-1,)) * width[..., None]
    by_nodes = width * jnp.sum(weights.reshape((1,) * middle.ndim + (-1,)) * jnp.exp(-(points**2) / 2), axis=-1)
    root = float(np.sqrt(0.5))
    by_tails = (erfc((middle - half_width) * root) - erfc((middle + half_width) * root)) / 2
    return jnp.where(thin, by_nodes, by_tails)


def dithered_step(
    mean: Shaped[ArrayLike, "..."], std: Shaped[ArrayLike, "..."], spacing: Shaped[ArrayLike, "..."] = 1.0
) -> Float[Array, "..."]:
    r"""The mean step that is left of a noisy update after rounding to nearest.

    For an update $\delta \sim \mathcal{N}(m, s^2)$ of a weight on a uniform grid of spacing $u$,

    $$\mathbb{E}[\mathrm{RN}(\delta)] = \sum_k k u \left[\Phi\!\left(\frac{(k + 1/2) u - m}{s}\right) -
    \Phi\!\left(\frac{(k - 1/2) u - m}{s}\right)\right].$$

    Without noise an update below `u/2` is lost entirely; noise of a quarter of the spacing already carries 47 % of a
    small one over the edge, half a spacing 99 %.  Gradient noise is nature's stochastic rounding.

    **Arguments:**

    - `mean`: the update $m$, any shape.
    - `std`: the standard deviation $s \ge 0$ of its noise.
    - `spacing`: the gap $u > 0$ of the grid at the weight, `rx.quantization.spacing(weight, dtype)`.  The three are
        arrays of one shape or scalars.

    **Returns:**

    The expected step, in the units of `mean`.  Good for steps that stay within the weight's binade: at a power of two
    the grid changes its spacing.  At `std = 0` it is the rounded mean, ties to even, and all derivatives are zero.
    float32 keeps a relative 1e-5 for `|mean| < 100 spacing` and `std > 0.06 spacing`; below that a small step is itself
    smaller than `1e-14 spacing`.

    **Raises:** `ValueError` (a run-time error inside `jit`) for a negative `std`, a `spacing` that is not positive, or
    anything not finite.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax.quantization as rq
        >>> rq.dithered_step(0.1, jnp.array([0.25, 0.5, 1.0])) / 0.1
        Array([0.466..., 0.986..., 1.       ], dtype=float32)

        ```

    Source: the sum over grid points is the definition; for `s > 0.35 u` it is summed in its Fourier form,
    $m + (u/\pi) \sum_j (-1)^j \sin(2 \pi j m/u)\, e^{-2 \pi^2 j^2 s^2/u^2}/j$ (Poisson summation), exact as well.
    """
    m, s, u = _shaped(mean=mean, std=std, spacing=spacing)
    m, s, u = finite(m, "mean"), non_negative(s, "std"), positive(u, "spacing")
    return _dithered(m, s, u)


@jax.jit
def _dithered(m: Float[Array, "..."], s: Float[Array, "..."], u: Float[Array, "..."]) -> Float[Array, "..."]:
    m, s = m / u, s / u
    whole = jnp.rint(m)
    rest = m - whole  # exact, in [-1/2, 1/2]
    wide = s > _SWITCH
    terms = jnp.arange(_TERMS, dtype=m.dtype).reshape((-1,) + (1,) * m.ndim)
    j = terms + 1
    spread = jnp.where(wide, s, 1.0)[None]
    sign = 2 * (j % 2) - 1
    waves = sign / (np.pi * j) * jnp.sin(2 * np.pi * j * rest[None]) * jnp.exp(-2 * (np.pi * j * spread) ** 2)
    by_waves = rest - jnp.sum(waves, axis=0)
    narrow = ~wide & (s > 0)
    # Less noise than the rounding of `rest` is felt at a tie alone, and its slopes, zero times infinity, would be NaN.
    spread = jnp.where(narrow, jnp.maximum(s, 8 * jnp.finfo(s.dtype).eps), 1.0)
    middle = (terms + 0.5) / spread[None]
    by_points = jnp.sum(_band(middle, jnp.broadcast_to(rest / spread, middle.shape)), axis=0)
    return u * (whole + jnp.where(wide, by_waves, jnp.where(narrow, by_points, 0.0)))


def rounding_diffusion(
    update: Shaped[ArrayLike, "..."], spacing: Shaped[ArrayLike, "..."] = 1.0
) -> Float[Array, "..."]:
    r"""The diffusion that stochastic rounding adds: half the variance of one rounded step, $|\delta| (u - |\delta|)/2$.

    Stochastic rounding keeps the mean of an update and turns the rest into a random walk.  Compare with the diffusion
    of the gradient noise per step, $\eta^2 C/2$: where this one is larger, the number format sets the temperature.

    **Arguments:**

    - `update`: the update $\delta$, any shape.
    - `spacing`: the gap $u > 0$ of the grid, `rx.quantization.spacing(weight, dtype, direction=update)`; the same shape
        or a scalar.

    **Returns:**

    The diffusion per step, in units of `update` squared.  Whole gaps are crossed without noise: for $|\delta| > u$ the
    remainder of $|\delta|$ after division by $u$ takes its place.  The most is $u^2/8$.

    **Raises:** `ValueError` (a run-time error inside `jit`) if `spacing` is not positive or anything is not finite.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax.quantization as rq
        >>> rq.rounding_diffusion(jnp.array([0.0, 0.25, 0.5, 1.0, 1.25]))
        Array([0.     , 0.09375, 0.125  , 0.     , 0.09375], dtype=float32)

        ```
    """
    delta, u = _shaped(update=update, spacing=spacing)
    delta, u = finite(delta, "update"), positive(u, "spacing")
    size = jnp.abs(delta) / u
    rest = size - jnp.floor(size)
    return rest * (1 - rest) / 2 * u**2
