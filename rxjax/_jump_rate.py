"""Rate densities of jumps over a landscape, in the form that a master equation takes."""

from collections.abc import Callable
from typing import Any

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

    Made by [`jump_rate`][].  Its parts are fields, so it differentiates in all of them.
    """

    landscape: Callable
    temperature: Float[Array, ""]
    proposal: AbstractProposal
    law: AbstractRateLaw
    log_attempt: Callable

    def log_density(self, theta: ArrayLike, delta: ArrayLike) -> Float[Array, ""]:
        """The logarithm of the rate density."""
        energy = self.law.energy_change(self.landscape, theta, delta)
        factor = self.law.log_factor(energy, self.temperature)
        return self.log_attempt(theta) + self.proposal.log_density(delta) + factor

    def __call__(self, theta: ArrayLike, delta: ArrayLike) -> Float[Array, ""]:
        """The rate density, in 1/(tau0 x volume)."""
        return exponential(self.log_density(theta, delta))


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

    **Returns:** a function of `theta` and `delta`, both of shape `(d,)`.

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
    attempt: Any = (lambda _: entropy) if not callable(entropy) else entropy
    log_attempt = lambda theta: log_attempt_frequency(attempt(theta), tau0, k)
    share = law.separable_share
    if share is None:
        return JumpRate(landscape, jnp.asarray(kT), proposal, law, log_attempt)
    return SeparableRate(
        lambda theta: log_attempt(theta) + share * landscape(theta) / kT,
        proposal.log_density,
        lambda theta: -share * landscape(theta) / kT,
    )
