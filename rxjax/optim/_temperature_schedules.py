"""Temperature as a function of the step: linear, cosine, geometric, and at a constant production of entropy."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from rxjax_solvers._checks import non_negative, require

from ._arguments import check_setting


def _progress(count: ArrayLike, steps: ArrayLike) -> Array:
    """The fraction of the run that is over, from 0 to 1."""
    return jnp.clip(jnp.asarray(count, float) / jnp.asarray(steps, float), 0, 1)


def linear_temperature(start: ArrayLike, end: ArrayLike, steps: ArrayLike) -> Callable[[ArrayLike], Array]:
    r"""$T(t) = T_0 + (T_1 - T_0)\, t/n$, and $T_1$ after $n$ steps.

    **Arguments:** `start` and `end`, temperatures $T_0, T_1 \geq 0$ in one unit; `steps`, $n > 0$.

    **Returns:** an optax schedule: the temperature as a function of the step count.

    ```python
    >>> import rxjax as rx
    >>> print(rx.optim.linear_temperature(2.0, 0.0, 100)(25))
    1.5

    ```
    """
    first, last = _checked(start, end, steps)
    return lambda count: first + (last - first) * _progress(count, steps)


def cosine_temperature(start: ArrayLike, end: ArrayLike, steps: ArrayLike) -> Callable[[ArrayLike], Array]:
    r"""$T(t) = T_1 + (T_0 - T_1)(1 + \cos(\pi t/n))/2$; arguments and return as in [`linear_temperature`][].

    ```python
    >>> import rxjax as rx
    >>> print(rx.optim.cosine_temperature(2.0, 0.0, 100)(50).round(3))
    1.0

    ```
    """
    first, last = _checked(start, end, steps)
    return lambda count: last + (first - last) * (1 + jnp.cos(jnp.pi * _progress(count, steps))) / 2


def geometric_temperature(start: ArrayLike, end: ArrayLike, steps: ArrayLike) -> Callable[[ArrayLike], Array]:
    r"""$T(t) = T_0 (T_1/T_0)^{t/n}$; arguments and return as in [`linear_temperature`][], temperatures above zero.

    The schedule of constant entropy production where heat capacity and relaxation time do not depend on temperature.

    ```python
    >>> import rxjax as rx
    >>> print(rx.optim.geometric_temperature(1.0, 0.01, 100)(50).round(6))
    0.1

    ```
    """
    first, last = _checked(start, end, steps, above_zero=True)
    return lambda count: first * jnp.exp(jnp.log(last / first) * _progress(count, steps))


def constant_entropy_production(
    start: ArrayLike,
    end: ArrayLike,
    steps: ArrayLike,
    *,
    heat_capacity: Callable[[Array], Array] | None = None,
    relaxation_time: Callable[[Array], Array] | None = None,
    points: int = 513,
) -> Callable[[ArrayLike], Array]:
    r"""Annealing that produces entropy at a constant rate, the least in all for its number of steps.

    Near equilibrium a bath whose temperature changes produces entropy at the rate $\sigma = C \tau (\dot T/T)^2$, with
    the heat capacity $C(T)$ and the relaxation time $\tau(T)$ of the system.  At constant $\sigma$

    $$\dot T = -v\, T / \sqrt{C(T)\, \tau(T)},$$

    a constant thermodynamic speed $v$, set so that $T_1$ is reached after $n$ steps: slow where the system is slow
    or its energy changes much.

    **Arguments:**

    - `start`, `end`, `steps`: as in [`linear_temperature`][], temperatures above zero.
    - `heat_capacity`: $C(T) > 0$, a function of an array of temperatures; constant if not given.  The variance of the
      loss over $T^2$ estimates it; $d/2$ on a quadratic.
    - `relaxation_time`: $\tau(T) > 0$ likewise, for a barrier for instance `lambda T: jnp.exp(barrier / T)`.  Only the
      shape of the two functions matters, not their size.
    - `points`: of the trapezoidal rule over $\log T$; the error falls with their square.

    **Returns:** an optax schedule; with both functions constant that of [`geometric_temperature`][].

    **Raises:** `ValueError` for arguments out of their range.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> barrier = lambda T: jnp.exp(1.0 / T)
    >>> schedule = rx.optim.constant_entropy_production(1.0, 0.1, 100, relaxation_time=barrier)
    >>> print([f"{schedule(t):.3f}" for t in (0, 10, 50, 100)])
    ['1.000', '0.270', '0.123', '0.100']

    ```

    Source: Salamon and Berry, "Thermodynamic length and dissipated availability" (1983); the friction form of Sivak and
    Crooks, "Thermodynamic metrics and optimal paths" (2012).
    """
    first, last = (jnp.log(x) for x in _checked(start, end, steps, above_zero=True))
    if points < 2:
        raise ValueError(f"Argument `points` must be at least 2, but it is {points}.")
    logs = first + (last - first) * jnp.linspace(0, 1, points, dtype=first.dtype)
    weight = jnp.ones_like(logs)
    for f, name in ((heat_capacity, "heat_capacity"), (relaxation_time, "relaxation_time")):
        if f is not None:
            # Zero in part where what is relative to the largest value underflows.
            value = non_negative(f(jnp.exp(logs)), name, "Only its shape matters: divide it by its largest value.")
            weight = weight * jnp.sqrt(require(value, name, "be positive", [(jnp.max(value) == 0, "is zero")]))
    # Relative to the largest, so that sums do not overflow.
    weight = weight / jnp.max(weight)
    length = jnp.concatenate([jnp.zeros(1, logs.dtype), jnp.cumsum((weight[1:] + weight[:-1]) / 2)])
    length = length / length[-1]
    return lambda count: jnp.exp(jnp.interp(_progress(count, steps).astype(logs.dtype), length, logs))


def _checked(start: ArrayLike, end: ArrayLike, steps: ArrayLike, above_zero: bool = False) -> tuple[Array, Array]:
    """Both temperatures as arrays, if they and the number of steps are in range."""
    for x, name in ((start, "start"), (end, "end")):
        check_setting(x, name, closed=not above_zero)
    check_setting(steps, "steps")
    return jnp.asarray(start, float), jnp.asarray(end, float)
