"""Rate laws: how the change of energy enters a rate, and which equilibrium follows (section 2 of the theory)."""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from rxjax_solvers._checks import one_of

from ._arrays import real_arrays
from ._known import finite, non_negative, positive
from ._rates import activation_energy, boltzmann_exponent, energy_difference


class AbstractRateLaw(eqx.Module):
    r"""A factor $f(\Delta E / kT)$ in the rate $A(\theta)\,q(\delta)\,f$ of a jump from $\theta$ to $\theta + \delta$.

    For a symmetric proposal, $q(\delta) = q(-\delta)$, a law with $f(x)/f(-x) = e^{-T x / T_{eq}}$ obeys detailed
    balance with respect to $e^{-L/kT_{eq}}/A$: the Gibbs law at [`equilibrium_temperature`][], where `A` is constant.
    A new law is one subclass with these three methods and `separable_share`.
    """

    @property
    @abstractmethod
    def separable_share(self) -> float | None:
        r"""`a` if $f = e^{a L(\theta)/kT} e^{-a L(\theta+\delta)/kT}$, a factor of each end; else `None`."""

    @abstractmethod
    def log_factor(
        self, energy_change: ArrayLike, temperature: ArrayLike, *, k: ArrayLike = 1.0
    ) -> Float[Array, "..."]:
        r"""$\log f$, elementwise, for a change of energy and $T \geq 0$; at zero temperature its limit."""

    @abstractmethod
    def equilibrium_temperature(self, temperature: ArrayLike) -> Float[Array, "..."]:
        r"""$T_{eq}$ of the Gibbs law that the jumps at temperature $T$ leave invariant; $kT$ gives $kT_{eq}$."""

    @abstractmethod
    def energy_change(self, loss: Callable, theta: PyTree, update: PyTree) -> Float[Array, ""]:
        """The energy that the law is to be given for a jump from `theta` by `update`."""

    def log_equilibrium(
        self, energy: ArrayLike, temperature: ArrayLike, *, entropy: ArrayLike = 0.0, k: ArrayLike = 1.0
    ) -> Float[Array, "..."]:
        r"""Logarithm of the equilibrium density, $-E/kT_{eq} - S/k$, up to a constant, for $A = e^{S/k}/\tau_0$.

        A larger attempt frequency leaves a place faster, so a large entropy makes a place LESS occupied.
        """
        energy, entropy, k = real_arrays(energy=energy, entropy=entropy, k=k)
        equilibrium = positive(self.equilibrium_temperature(temperature), "temperature")
        k = positive(k, "k")
        return -finite(energy, "energy") / (k * equilibrium) - finite(entropy, "entropy") / k


class Arrhenius(AbstractRateLaw):
    r"""The source framework's law, $f = e^{-E_a/kT}$: its equilibrium is the Gibbs law at HALF the temperature.

    **Arguments:**

    - `energy`: `"inner_product"` for the literal $E_a = g\cdot\delta$, or `"difference"` for
      $\Delta L = L(\theta + \delta) - L(\theta)$.

    With the difference, forward and backward rates are in the ratio $e^{-2\Delta L/kT}$: exact detailed balance at
    $kT/2$.  The inner product has no detailed balance at finite $\delta$, since the gradients at both ends differ; it
    shares the equilibrium to leading order in the size of the jumps.  Either drifts at $v = -(2D/kT) \nabla L$.  For
    long jumps its rates grow without bound downhill; the other laws' do not, or grow half as fast.

    ```python
    >>> import rxjax as rx
    >>> law = rx.Arrhenius(energy="difference")
    >>> print(law.log_factor(0.5, 0.25), law.equilibrium_temperature(0.25))
    -2.0 0.125

    ```
    """

    energy: str = eqx.field(static=True, default="inner_product")

    def __check_init__(self):
        one_of(self.energy, "energy", ("inner_product", "difference"))

    @property
    def separable_share(self) -> float | None:
        return 1.0 if self.energy == "difference" else None

    def log_factor(
        self, energy_change: ArrayLike, temperature: ArrayLike, *, k: ArrayLike = 1.0
    ) -> Float[Array, "..."]:
        return -_exponent(energy_change, temperature, k)

    def equilibrium_temperature(self, temperature: ArrayLike) -> Float[Array, "..."]:
        return _temperature(temperature) / 2

    def energy_change(self, loss: Callable, theta: PyTree, update: PyTree) -> Float[Array, ""]:
        if self.energy == "difference":
            return energy_difference(loss, theta, update)
        return activation_energy(jax.grad(loss)(theta), update)


class Symmetric(AbstractRateLaw):
    r"""$f = e^{-\Delta L/2kT}$: detailed balance with the Gibbs law at $kT$ itself.

    The smooth law whose diffusion limit is the Fokker-Planck equation with $v = -(D/kT) \nabla L$; the exponentially
    fitted face rates of a grid are of this kind.

    ```python
    >>> import rxjax as rx
    >>> print(rx.Symmetric().log_factor(0.5, 0.25), rx.Symmetric().equilibrium_temperature(0.25))
    -1.0 0.25

    ```
    """

    @property
    def separable_share(self) -> float | None:
        return 0.5

    def log_factor(
        self, energy_change: ArrayLike, temperature: ArrayLike, *, k: ArrayLike = 1.0
    ) -> Float[Array, "..."]:
        return -_exponent(energy_change, temperature, k) / 2

    def equilibrium_temperature(self, temperature: ArrayLike) -> Float[Array, "..."]:
        return _temperature(temperature)

    def energy_change(self, loss: Callable, theta: PyTree, update: PyTree) -> Float[Array, ""]:
        return energy_difference(loss, theta, update)


class Metropolis(AbstractRateLaw):
    r"""$f = \min(1, e^{-\Delta L/kT})$: detailed balance with the Gibbs law at $kT$, and no rate above $A q$.

    Downhill jumps all have the same rate; the slope has a kink at $\Delta L = 0$, where it is taken as half.

    ```python
    >>> import rxjax as rx
    >>> print(rx.Metropolis().log_factor(0.5, 0.25), rx.Metropolis().log_factor(-0.5, 0.25))
    -2.0 0.0

    ```
    """

    @property
    def separable_share(self) -> float | None:
        return None

    def log_factor(
        self, energy_change: ArrayLike, temperature: ArrayLike, *, k: ArrayLike = 1.0
    ) -> Float[Array, "..."]:
        return jnp.minimum(-_exponent(energy_change, temperature, k), 0)

    def equilibrium_temperature(self, temperature: ArrayLike) -> Float[Array, "..."]:
        return _temperature(temperature)

    def energy_change(self, loss: Callable, theta: PyTree, update: PyTree) -> Float[Array, ""]:
        return energy_difference(loss, theta, update)


class Glauber(AbstractRateLaw):
    r"""$f = 1/(1 + e^{\Delta L/kT})$: detailed balance with the Gibbs law at $kT$, bounded and smooth.

    At zero temperature it is 1 downhill, 0 uphill and 1/2 on the level.

    ```python
    >>> import rxjax as rx
    >>> print(rx.Glauber().log_factor(0.0, 0.25).round(4))
    -0.6931

    ```
    """

    @property
    def separable_share(self) -> float | None:
        return None

    def log_factor(
        self, energy_change: ArrayLike, temperature: ArrayLike, *, k: ArrayLike = 1.0
    ) -> Float[Array, "..."]:
        return -jax.nn.softplus(_exponent(energy_change, temperature, k))

    def equilibrium_temperature(self, temperature: ArrayLike) -> Float[Array, "..."]:
        return _temperature(temperature)

    def energy_change(self, loss: Callable, theta: PyTree, update: PyTree) -> Float[Array, ""]:
        return energy_difference(loss, theta, update)


def _exponent(energy_change: ArrayLike, temperature: ArrayLike, k: ArrayLike) -> Array:
    (energy,) = real_arrays(energy_change=energy_change)
    return boltzmann_exponent(finite(energy, "energy_change"), temperature, k)


def _temperature(temperature: ArrayLike) -> Array:
    (t,) = real_arrays(temperature=temperature)
    return non_negative(t, "temperature")
