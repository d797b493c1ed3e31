"""Kramers' and Eyring's escape times: Arrhenius with the prefactor of the landscape."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped

from rxjax_solvers._checks import printed, require
from rxjax_solvers._program import program

from .._arrays import real_arrays, summation_dtype
from .._limits import exponential
from .._rates import boltzmann_exponent
from ..landscapes import as_landscape

# The share of the barrier by which Newton's method may still lower a minimum or a saddle.
_NEARLY = 0.01
_NEWTON_STEPS = 4


def kramers_time(
    landscape: Callable,
    minimum: Shaped[ArrayLike, "..."] | Sequence,
    saddle: Shaped[ArrayLike, "..."] | Sequence,
    temperature: ArrayLike,
    *,
    k: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    r"""Mean time from a minimum over a saddle to the next minimum, by Kramers' formula.

    $$\tau = \frac{2\pi}{|\lambda_s|} \sqrt{\frac{|\det H_s|}{\det H_a}}\; e^{(L_s - L_a)/kT}$$

    for $dX = -\nabla L\,dt + \sqrt{2kT}\,dW$, with $\lambda_s$ the negative eigenvalue of the saddle's Hessian $H_s$
    and $H_a$ the Hessian of the minimum (Eyring and Kramers in $d$ dimensions); in one dimension it is Kramers'
    $2\pi / \sqrt{L''(a)\,|L''(b)|}\; e^{\Delta L/kT}$.

    Convention: the mean first-passage time to the NEXT MINIMUM, the inverse of the escape rate; to the saddle itself
    it is half as long.  With several ways out the rates, $1/\tau$, add up.

    **Arguments:**

    - `landscape`: `theta (d,) -> ()`.
    - `minimum`, `saddle`: points of shape `(d,)`, or numbers in one dimension, such as rows of [`find_minima`][] and
        [`find_barriers`][].  Each is improved by Newton's method, so two right digits are enough.
    - `temperature`: $T \geq 0$ of isotropic noise, any shape: [`effective_temperature`][] with `per_parameter=True`
        or, where the noise is not isotropic, along the way out.
    - `k`: scaling constant.

    **Returns:** the time, in the shape of `temperature`, in units in which the mobility is 1: learning rate x steps
    for gradient descent.  Its gradients are total ones: minimum and saddle move with the landscape's parameters
    (nothing flows through the arguments `minimum` and `saddle` themselves).

    Good values: barriers above $5\,kT$.  The relative error is of first order in $kT$: for $(x^2-1)^2/4$ the exact
    time is 22 % longer at $\Delta L/kT = 2.5$, 11 % at 5, 4 % at 10.

    **How it fails:** it knows the two Hessians only.  A flat minimum or saddle, a second pass of about the same height,
    or a shallow minimum half way are outside of the formula: solve for the mean first-passage time instead.

    **Raises:** `ValueError` (inside `jit`, a run-time error) if `minimum` is no minimum, `saddle` is no saddle of index
    1, or the saddle is not above the minimum.

    ??? cite "References"

        H. A. Kramers, Physica 7, 284 (1940); P. Hänggi, P. Talkner and M. Borkovec, Rev. Mod. Phys. 62, 251 (1990),
        sec. IV; N. Berglund, Markov Process. Relat. Fields 19, 459 (2013).

    !!! example

        ```python
        >>> import rxjax as rx
        >>> well = rx.landscapes.DoubleWell(barrier=0.25)
        >>> print(rx.kramers_time(well, -1.0, 0.0, 0.05).round(1))
        659.4

        ```
    """
    return exponential(log_kramers_time(landscape, minimum, saddle, temperature, k=k))


def log_kramers_time(
    landscape: Callable,
    minimum: Shaped[ArrayLike, "..."] | Sequence,
    saddle: Shaped[ArrayLike, "..."] | Sequence,
    temperature: ArrayLike,
    *,
    k: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    r"""Logarithm of [`kramers_time`][]: finite where the time overflows.

    **Arguments:** as for [`kramers_time`][].

    **Returns:** the natural logarithm, of the shape of `temperature`.

    ```python
    >>> import rxjax as rx
    >>> print(rx.log_kramers_time(rx.landscapes.DoubleWell(), -1.0, 0.0, 0.001).round(1))
    1000.1

    ```
    """
    way = way_out(landscape, minimum, saddle)
    return log_arrhenius(way.barrier, way.log_prefactor, temperature, k)


def log_arrhenius(
    barrier: ArrayLike, log_prefactor: ArrayLike, temperature: ArrayLike, k: ArrayLike
) -> Float[Array, "..."]:
    """Logarithm of the time over a barrier."""
    temperature, k, barrier, prefactor = real_arrays(
        temperature=temperature, k=k, barrier=barrier, prefactor=log_prefactor
    )
    return prefactor + boltzmann_exponent(barrier, temperature, k)


class WayOut(NamedTuple):
    """A minimum and a saddle, with what the formulae need of them."""

    minimum: Float[Array, " d"]
    saddle: Float[Array, " d"]
    hessian_minimum: Float[Array, "d d"]
    hessian_saddle: Float[Array, "d d"]
    direction: Float[Array, " d"]
    unstable: Float[Array, ""]
    loss: Float[Array, ""]
    barrier: Float[Array, ""]
    log_prefactor: Float[Array, ""]


def way_out(
    landscape: Callable, minimum: Shaped[ArrayLike, "..."] | Sequence, saddle: Shaped[ArrayLike, "..."] | Sequence
) -> WayOut:
    """Check and improve a minimum and a saddle, and measure the landscape there."""
    points = []
    given = real_arrays(minimum=jnp.asarray(minimum), saddle=jnp.asarray(saddle))
    for x, name in zip(given, ("minimum", "saddle"), strict=True):
        x = jnp.atleast_1d(x)
        points.append(require(x, name, "be finite", [(~jnp.isfinite(x), "is not finite")]))
    dtype = summation_dtype(jnp.result_type(*points))
    a, s = (jnp.asarray(x, dtype) for x in points)
    # As given: they are moved onto the stationary points beside them before they are judged.
    given = printed(a), printed(s)
    if a.ndim != 1 or a.shape != s.shape:
        raise ValueError(
            f"Argument `saddle` must be a point of the shape of `minimum`, (d,), but their shapes are {s.shape} and "
            f"{a.shape}. Use `jax.vmap` for several."
        )
    landscape = as_landscape(landscape, dim=a.shape[0])
    way, (bent, slope_a), (folded, slope_s, below) = _measured(landscape, a, s)
    faults = [
        (bent, "has a direction without positive curvature"),
        (slope_a, "has a slope: it is no stationary point"),
    ]
    remedy = "Take a row of `find_minima(landscape).points`."
    a = require(way.minimum, "minimum", "be a minimum of the landscape", faults, remedy, given[0])
    faults = [
        (folded, "does not have exactly one direction of negative curvature"),
        (slope_s, "has a slope: it is no stationary point"),
        (below, "is not above the minimum"),
    ]
    remedy = "Take a row of `find_barriers(landscape, minima).saddles`."
    s = require(way.saddle, "saddle", "be a saddle of index 1 above the minimum", faults, remedy, given[1])
    # Used through the checked points, so that the checks are not compiled away.
    return way._replace(minimum=a, saddle=s, log_prefactor=way.log_prefactor + 0 * (a[0] + s[0]))


@program
def _measured(
    landscape: Callable, minimum: Float[Array, " d"], saddle: Float[Array, " d"]
) -> tuple[WayOut, tuple[Array, Array], tuple[Array, Array, Array]]:
    """The way from the minimum over the saddle, and what is wrong with either."""
    (a, s), gains, (loss, top), (hessian_a, hessian_s) = _improved(landscape, jnp.stack([minimum, saddle]))
    (low, high), vectors = jnp.linalg.eigh(jax.lax.stop_gradient(jnp.stack([hessian_a, hessian_s])))
    second = high[1] if len(high) > 1 else jnp.ones_like(high[0])
    barrier = top - loss
    near = _NEARLY * jnp.abs(barrier)
    direction, unstable = _simple_mode(hessian_s, vectors[1, :, 0], high[0])
    unstable = -unstable
    log_dets = jnp.linalg.slogdet(hessian_s)[1] - jnp.linalg.slogdet(hessian_a)[1]
    prefactor = math.log(2 * math.pi) - jnp.log(unstable) + log_dets / 2
    way = WayOut(a, s, hessian_a, hessian_s, direction, unstable, loss, barrier, prefactor)
    at_minimum = ~(low[0] > 0), ~(gains[0] <= near)
    at_saddle = ~((high[0] < 0) & (second > 0)), ~(gains[1] <= near), ~(barrier > 0)
    return way, at_minimum, at_saddle


def _improved(landscape: Callable, points: Float[Array, "2 d"]) -> tuple[Array, Array, Array, Array]:
    """The stationary points that Newton's method finds near `points`, the energies that its first steps gain, and the
    values and Hessians there.

    Each step with the Hessian held fixed carries one more derivative in the landscape's parameters (implicit function
    theorem): the last two have the first and the second.
    """

    def newton(x):
        slope = jax.grad(landscape)(x)
        fixed = jax.lax.stop_gradient(jax.hessian(landscape)(jax.lax.stop_gradient(x)))
        step = -jnp.linalg.solve(fixed, slope)
        return x + step, jnp.abs(jax.lax.stop_gradient(slope @ step)) / 2

    newton = jax.vmap(newton)
    still = jax.lax.stop_gradient
    _, gains = first = newton(still(points))
    found = jax.lax.fori_loop(1, _NEWTON_STEPS, lambda _, x: newton(still(x))[0], first[0])
    found = newton(found)[0]
    return found, gains, jax.vmap(landscape)(found), jax.vmap(jax.hessian(landscape))(found)


def _simple_mode(matrix: Array, vector: Array, value: Array) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    """The eigenvector beside `vector` and its eigenvalue, with two derivatives also where others coincide.

    From constants two solves of the bordered equations, `(matrix - value) x + m vector = 0` with `vector . x = 1`.
    """
    border = jnp.append(vector, 0)
    right = jnp.zeros_like(border).at[-1].set(1)
    x = vector
    for _ in range(2):
        shifted = matrix - value * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
        full = jnp.concatenate([jnp.concatenate([shifted, vector[:, None]], axis=1), border[None]])
        x = jnp.linalg.solve(full, right)[:-1]
        x = x / jnp.linalg.norm(x)
        value = x @ matrix @ x
    return x, value
