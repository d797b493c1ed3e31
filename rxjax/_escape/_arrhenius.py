"""Arrhenius' escape time."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import non_negative, positive

from .._arrays import real_arrays
from .._limits import exponential
from .._rates import boltzmann_exponent


def escape_time(
    barrier: ArrayLike, temperature: ArrayLike, *, tau0: ArrayLike = 1.0, k: ArrayLike = 1.0
) -> Float[Array, "..."]:
    r"""Escape time over a barrier, $\tau = \tau_0\, e^{E_b / (kT)}$.

    **Arguments:**

    - `barrier`: $E_b \geq 0$, the energy of the saddle above the minimum, any shape.
    - `temperature`: $T \geq 0$, any shape: the one along the way out, `effective_temperature(..., direction=v)`.
    - `tau0`: attempt time $\tau_0 > 0$.  The source framework leaves it open; [`kramers_time`][] computes it.
    - `k`: scaling constant $k > 0$.

    **Returns:** a time in the unit of `tau0`.  At temperature zero it is infinite, or $\tau_0$ without a barrier.  It
    overflows beyond $E_b/(kT)$ of 88 in float32 or 709 in float64: take [`log_escape_time`][] there.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for a number out of its range.

    ```python
    >>> import rxjax as rx
    >>> print(rx.escape_time(1.0, 0.2).round(2), rx.log_escape_time(100.0, 0.1))
    148.41 1000.0

    ```
    """
    return exponential(log_escape_time(barrier, temperature, tau0=tau0, k=k))


def log_escape_time(
    barrier: ArrayLike, temperature: ArrayLike, *, tau0: ArrayLike = 1.0, k: ArrayLike = 1.0
) -> Float[Array, "..."]:
    r"""Logarithm of [`escape_time`][], $\log\tau_0 + E_b / (kT)$: finite where the time overflows.

    **Arguments:** as for [`escape_time`][].

    **Returns:** the natural logarithm.  Its gradients at temperature zero are defined as zero.

    ```python
    >>> import rxjax as rx
    >>> print(rx.log_escape_time(1.0, 0.0), rx.log_escape_time(1.0, 0.25))
    inf 4.0

    ```
    """
    barrier, temperature, tau0, k = real_arrays(barrier=barrier, temperature=temperature, tau0=tau0, k=k)
    barrier = non_negative(barrier, "barrier", "It is the saddle's energy above that of the minimum.")
    return jnp.log(positive(tau0, "tau0")) + boltzmann_exponent(barrier, temperature, k)
