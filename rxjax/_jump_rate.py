"""Rate densities of jumps over a landscape, in the form that a master equation takes."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers import SeparableRate

from ._arrays import real_array
from ._known import positive
from ._limits import exponential
from ._rate_laws import AbstractRateLaw, Arrhenius
from ._rates import log_attempt_frequency
from .proposals import AbstractProposal


class JumpRate(eqx.Module):
    r"""The rate density $A(\theta)\, q(\delta)\, f(\Delta E/kT)$ of a law whose factors cannot be separated.

    Made by [`jump_rate`][].  What that was given are fields, so it differentiates in all of them.
    """

    landscape: Callable
    temperature: Float[Array, ""]
    proposal: AbstractProposal
    law: AbstractRateLaw
    log_attempt: "_LogAttempt"

    def log_density(self, theta: ArrayLike, delta: ArrayLike) -> Float[Array, ""]:
        """The logarithm of the rate density."""
        energy = self.law.energy_change(self.landscape, theta, delta)
        factor = self.law.log_factor(energy, self.temperature)
        return self.log_attempt(theta) + self.proposal.log_density(delta) + factor

    def __call__(self, theta: ArrayLike, delta: ArrayLike) -> Float[Array, ""]:
        """The rate density, in 1/(tau0 x volume)."""
        return exponential(self.log_density(theta, delta))


class _LogAttempt(eqx.Module):
    """The logarithm of the attempt frequency of a place."""

    entropy: Array | Callable
    tau0: Array
    k: Array

    def __call__(self, theta: ArrayLike) -> Float[Array, ""]:
        entropy = self.entropy(theta) if callable(self.entropy) else self.entropy
        return log_attempt_frequency(entropy, self.tau0, self.k)


class _LogArrive(eqx.Module):
    """The logarithm of the factor of the end of a jump."""

    landscape: Callable
    temperature: Float[Array, ""]
    share: float = eqx.field(static=True)

    def __call__(self, theta: ArrayLike) -> Float[Array, ""]:
        return -self.share * self.landscape(theta) / self.temperature


class _LogLeave(eqx.Module):
    """The logarithm of the factor of its start."""

    log_attempt: _LogAttempt
    log_arrive: _LogArrive

    def __call__(self, theta: ArrayLike) -> Float[Array, ""]:
        return self.log_attempt(theta) - self.log_arrive(theta)


def jump_rate(
    landscape: Callable,
    temperature: ArrayLike,
    proposal: AbstractProposal,
    *,
    law: AbstractRateLaw | None = None,
    entropy: ArrayLike | Callable = 0.0,
    tau0: ArrayLike = 1.0,
    k: ArrayLike = 1.0,
) -> JumpRate | SeparableRate:
    r"""The rate density of a jump from $\theta$ to $\theta + \delta$ as a function `rate(theta, delta)`.

    $$\rho(\theta, \delta) = \frac{e^{S(\theta)/k}}{\tau_0}\; q(\delta)\; f(\Delta E / kT)$$

    `rxjax.solvers.MasterEquation.from_rates(rate, grid, radius)` makes a generator of it; with `fft=True` where the law
    is a product of a factor of each end, `Symmetric()` and `Arrhenius("difference")`.

    **Arguments:**

    - `landscape`: `theta (d,) -> ()`.
    - `temperature`: $T > 0$.
    - `proposal`: $q$, one of `rxjax.proposals`.
    - `law`: $f$; `Arrhenius()` if not given: the source framework's, whose equilibrium is the Gibbs law at HALF the
        temperature.  `Symmetric()`, `Metropolis()` and `Glauber()` have it at the temperature itself.
    - `entropy`: $S$, a number or a function of `theta`, such as a closure of [`free_entropy`][].
    - `tau0`, `k`: as for [`attempt_frequency`][].

    **Returns:** a function of `theta` and `delta`, both of shape `(d,)`: a module with the arguments as fields, which
    may be made inside `eqx.filter_jit` and `eqx.filter_vmap`.  Where the factors are apart, `"difference"` and
    `Symmetric()`, each has landscape and temperature of its own, and a gradient by the fields is the sum of both.

    The diffusion limit, for a Gaussian proposal of width $s$, has $D = A s^2 / 2$ and the drift $-(D/kT)\nabla L$
    (`Symmetric()`), twice that (`Arrhenius`), and for `Glauber()` half of both.  Of second order in $s$; `Metropolis()`
    has a kink, and its limit is of first order.

    **How it fails:** rates grow like $e^{-\Delta E/kT}$ downhill, so a radius over which the loss changes by more than
    some $10\,kT$ makes a stiff generator.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> rate = rx.jump_rate(rx.landscapes.DoubleWell(), 0.5, rx.proposals.Gaussian(0.1), law=rx.Symmetric())
        >>> grid = rx.solvers.Grid(-2.0, 2.0, 64)
        >>> W = rx.solvers.MasterEquation.from_rates(rate, grid, radius=0.4)
        >>> W.shape
        (64,)

        ```
    """
    law = Arrhenius() if law is None else law
    kT = positive(real_array(k, "k"), "k") * positive(real_array(temperature, "temperature"), "temperature")
    given = entropy if callable(entropy) else real_array(entropy, "entropy")
    log_attempt = _LogAttempt(given, real_array(tau0, "tau0"), real_array(k, "k"))
    share = law.separable_share
    if share is None:
        return JumpRate(landscape, jnp.asarray(kT), proposal, law, log_attempt)
    log_arrive = _LogArrive(landscape, jnp.asarray(kT), share)
    return SeparableRate(_LogLeave(log_attempt, log_arrive), proposal.log_density, log_arrive)
