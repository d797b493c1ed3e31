"""The rate density of a parameter update and its factors (rows 1, 2, 4, 7, 10 and 13 of the theory).

Energies are in the units of the loss, temperatures times `k` too, `tau0` in the unit of time (a step, unless you choose
otherwise).  Rates are computed as logarithms first.  A downhill update has a negative activation energy, so that its
rate exceeds the attempt frequency.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from rxjax_solvers._checks import is_traced, require

from ._arrays import real_array, real_arrays
from ._hyperparameters import check_count
from ._known import finite, non_negative, positive
from ._limits import boltzmann_ratio, exponential
from ._trees import inner, norm, paired_leaves, reduced, unit


def activation_energy(gradient: PyTree, update: PyTree) -> Float[Array, ""]:
    r"""Activation energy of an update, $E_a = |g| |\delta| \cos\alpha$, which is the inner product $g \cdot \delta$.

    This is the change of the loss to first order; [`energy_difference`][] is the exact change.

    **Arguments:**

    - `gradient`: $g$, an array or a PyTree of arrays of any shapes, as `jax.grad` returns it.
    - `update`: $\delta$, of the same structure and shapes: what is ADDED to the parameters.

    **Returns:** a real scalar in the units of the loss, negative for downhill updates, zero for a zero gradient or
    update.  It is summed in float32 at least, also for bfloat16 leaves.  For complex parameters it is
    $\mathrm{Re} \sum g \delta$ without a conjugate, since `jax.grad` of a real loss of $x + iy$ returns $L_x - i L_y$.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.activation_energy({"w": jnp.ones((2, 2)), "b": 3.0}, {"w": -jnp.ones((2, 2)), "b": 0.5}))
    -2.5

    ```
    """
    pairs = paired_leaves(gradient, update, ("gradient", "update"))
    return _finite_arguments(inner(pairs), pairs)


def update_angle(gradient: PyTree, update: PyTree) -> Float[Array, ""]:
    r"""Angle $\alpha$ between gradient and update, in $[0, \pi]$.

    **Arguments:** as for [`activation_energy`][].

    **Returns:** $\alpha$ in radians: below $\pi/2$ uphill, $\pi$ for steepest descent.  It is accurate for nearly
    parallel vectors, where an arc cosine loses half the digits, and never overflows.  Where gradient or update is zero
    it is $\pi/2$, the angle of no change, with gradient zero; so is the gradient at exactly 0 and $\pi$, where the
    angle has a kink.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.update_angle(jnp.array([1.0, 0.0]), jnp.array([-2.0, 2.0])).round(4))
    2.3562

    ```
    """
    pairs = paired_leaves(gradient, update, ("gradient", "update"))
    first, second = unit([g for g, _ in pairs]), unit([u for _, u in pairs])
    apart = norm([a - b for a, b in zip(first, second, strict=True)])
    along = norm([a + b for a, b in zip(first, second, strict=True)])
    undefined = (apart == 0) & (along == 0)
    angle = 2 * jnp.atan2(jnp.where(undefined, 1, apart), jnp.where(undefined, 1, along))
    return _finite_arguments(angle, pairs)


def energy_difference(loss: Callable, theta: PyTree, update: PyTree) -> Float[Array, ""]:
    r"""Exact change of the loss, $\Delta L = L(\theta + \delta) - L(\theta)$.

    **Arguments:**

    - `loss`: a function of `theta` alone that returns a real scalar.
    - `theta`: parameters, an array or a PyTree.
    - `update`: $\delta$, of the same structure and shapes.

    **Returns:** a scalar in the units of the loss.  It is a difference of two evaluations: for updates so small that
    the change is near `eps` times the loss use [`activation_energy`][], to which it then tends.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.energy_difference(lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0]), jnp.array([0.5, -1.0])))
    -1.75

    ```
    """
    paired_leaves(theta, update, ("theta", "update"))
    moved = jax.tree.map(lambda x, u: jnp.asarray(x) + jnp.asarray(u), theta, update)
    return finite(_scalar_loss(loss, moved) - _scalar_loss(loss, theta), "loss", "It is needed at both ends.")


def attempt_frequency(entropy: ArrayLike = 0.0, tau0: ArrayLike = 1.0, k: ArrayLike = 1.0) -> Float[Array, "..."]:
    r"""Attempt frequency, $A = \exp(S/k) / \tau_0$.

    **Arguments:**

    - `entropy`: local entropy $S$, in units of `k`; 0, or [`gaussian_entropy`][] or [`free_entropy`][].
    - `tau0`: attempt time $\tau_0 > 0$.
    - `k`: scaling constant $k > 0$.

    **Returns:** a frequency in units of $1/\tau_0$.  It is infinite beyond $S/k$ of 88 in float32 or 709 in float64:
    [`log_rate_density`][] then still works.

    ```python
    >>> import rxjax as rx
    >>> print(rx.attempt_frequency(), rx.attempt_frequency(0.0, tau0=0.5))
    1.0 2.0

    ```
    """
    return exponential(log_attempt_frequency(entropy, tau0, k))


def log_attempt_frequency(entropy: ArrayLike, tau0: ArrayLike, k: ArrayLike) -> Float[Array, "..."]:
    """The logarithm of [`attempt_frequency`][]."""
    entropy, tau0, k = real_arrays(entropy=entropy, tau0=tau0, k=k)
    return finite(entropy, "entropy") / positive(k, "k") - jnp.log(positive(tau0, "tau0"))


def log_rate_density(
    gradient: PyTree,
    update: PyTree,
    temperature: ArrayLike,
    *,
    entropy: ArrayLike = 0.0,
    tau0: ArrayLike = 1.0,
    k: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    r"""Logarithm of the rate density of an update, $\log\rho = S/k - \log\tau_0 - E_a / (kT)$.

    **Arguments:**

    - `gradient`, `update`: $g$ and $\delta$, arrays or PyTrees, as for [`activation_energy`][].
    - `temperature`: $T \geq 0$, such as [`effective_temperature`][].  Any shape.
    - `entropy`, `tau0`, `k`: as for [`attempt_frequency`][].

    **Returns:** the logarithm, of the shape of `temperature` and `entropy`.  At temperature zero it takes its limit:
    $-\infty$ for uphill updates, $+\infty$ for downhill ones and $S/k - \log\tau_0$ where $E_a = 0$; gradients with
    respect to energy and temperature are defined as zero there.

    Good values: $|E_a|/(kT)$ up to 30 or so.  The gradient must be that of the loss at the starting point, and the
    picture is first order: for updates over which the gradient turns use [`energy_difference`][] with a rate law.
    float32 keeps a relative accuracy of `1e-6 |E_a|/(kT)`.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for a negative or non-finite temperature, a non-finite
    gradient or update, or structures that differ.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> gradient = jnp.array([1.0, 2.0])
    >>> print(rx.log_rate_density(gradient, -0.1 * gradient, temperature=0.25))
    2.0

    ```
    """
    attempt = log_attempt_frequency(entropy, tau0, k)
    return attempt - boltzmann_exponent(activation_energy(gradient, update), temperature, k)


def rate_density(
    gradient: PyTree,
    update: PyTree,
    temperature: ArrayLike,
    *,
    entropy: ArrayLike = 0.0,
    tau0: ArrayLike = 1.0,
    k: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    r"""Rate density of an update, $\rho = A \exp(-E_a / (kT))$.

    The exponential of [`log_rate_density`][], with the same arguments and limits: 0, $A$ or infinity at temperature
    zero by the sign of $E_a$, with gradient zero.  Where it overflows it is infinite and its slope is a large
    finite number; prefer the logarithm there.

    **Returns:** a rate in units of $1/\tau_0$: the density of the update with respect to a proposal of updates, as in
    [`total_rate`][].

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> gradient = jnp.array([1.0, 2.0])
    >>> print(rx.rate_density(gradient, 0.1 * gradient, temperature=0.25).round(4))
    0.1353

    ```
    """
    return exponential(log_rate_density(gradient, update, temperature, entropy=entropy, tau0=tau0, k=k))


def boltzmann_exponent(energy: ArrayLike, temperature: ArrayLike, k: ArrayLike = 1.0) -> Array:
    """`energy / (k temperature)` with its limits at temperature zero, for a finite energy."""
    energy, temperature, k = real_arrays(energy=energy, temperature=temperature, k=k)
    temperature = non_negative(temperature, "temperature", "Zero is the limit without noise.")
    return boltzmann_ratio(energy / positive(k, "k"), temperature)


def transition_probability(rate: ArrayLike, dt: ArrayLike, *, exact: bool = False) -> Float[Array, "..."]:
    r"""Probability that a transition happens within a time step, $P = \rho\, dt$.

    **Arguments:**

    - `rate`: $\rho \geq 0$; infinity is allowed and means "at once".
    - `dt`: time step $\geq 0$, in the unit of $1/\rho$.
    - `exact`: return $1 - e^{-\rho\,dt}$, the probability of at least one transition at a constant rate.

    **Returns:** a probability.  The linear form is the source framework's, an upper bound to the exact one and 5 % too
    high at $\rho\,dt = 0.1$.

    **Raises:** `ValueError` (inside `jit`, a run-time error) where the linear form would exceed 1.

    ```python
    >>> import rxjax as rx
    >>> print(rx.transition_probability(2.0, 0.1), rx.transition_probability(2.0, 0.1, exact=True).round(4))
    0.2 0.1813

    ```
    """
    rate, dt = real_arrays(rate=rate, dt=dt)
    rate = require(rate, "rate", "be non-negative", [(jnp.isnan(rate), "is not a number"), (rate < 0, "is negative")])
    dt = non_negative(dt, "dt")
    # An infinite rate in no time is no transition; a product or a slope with it would be 0 times infinity.
    endless = jnp.isinf(rate)
    expected = jnp.where(endless, jnp.where(dt == 0, 0, jnp.inf), jnp.where(endless, 0, rate) * dt)
    if exact:
        return -jnp.expm1(-expected)
    faults = [(expected > 1, "is so long that the probability would exceed 1")]
    return require(expected, "dt", "keep `rate * dt` at most 1", faults, "Take a smaller step, or `exact=True`.")


def batch_modified_rate(rate: ArrayLike, batch_size: ArrayLike, dataset_size: ArrayLike) -> Float[Array, "..."]:
    r"""Rate modified by the batch size, $\rho' = \rho \sqrt{B/N}$.

    **Arguments:**

    - `rate`: $\rho \geq 0$.
    - `batch_size`, `dataset_size`: $1 \leq B \leq N$.

    **Returns:** the modified rate, equal to `rate` for the full batch.  This is the source framework's rule; it acts
    on top of whatever temperature went into the rate.

    ```python
    >>> import rxjax as rx
    >>> print(rx.batch_modified_rate(3.0, 16, 64))
    1.5

    ```
    """
    rate, batch, data = real_arrays(rate=rate, batch_size=batch_size, dataset_size=dataset_size)
    batch, data = check_count(batch, "batch_size"), check_count(data, "dataset_size")
    batch = require(batch, "batch_size", "be at most `dataset_size`", [(batch > data, "is larger")])
    return non_negative(rate, "rate") * jnp.sqrt(batch / data)


def quantized_rate(rate: ArrayLike, survival: ArrayLike) -> Float[Array, "..."]:
    r"""Quantization-aware rate, $\rho^Q = \rho\, Q(\delta)$.

    **Arguments:**

    - `rate`: $\rho \geq 0$.
    - `survival`: $Q$ in $[0, 1]$, the probability that the update survives rounding, from `rx.quantization.survival`.

    **Returns:** the rate at which the weight really moves; zero where no update survives.

    ```python
    >>> import rxjax as rx
    >>> print(rx.quantized_rate(3.0, 0.5))
    1.5

    ```
    """
    rate, survival = real_arrays(rate=rate, survival=survival)
    faults = [(jnp.isnan(survival), "is not a number"), (survival < 0, "is negative"), (survival > 1, "exceeds 1")]
    return non_negative(rate, "rate") * require(survival, "survival", "lie in [0, 1]", faults, "It is a probability.")


def _finite_arguments(result: Array, pairs: list[tuple[Array, Array]]) -> Array:
    """`result`, if gradient and update are free of NaN and infinity: one check for all leaves."""
    for i, name in enumerate(("gradient", "update")):
        bad = reduced(jnp.any, [jnp.any(~jnp.isfinite(pair[i])) for pair in pairs])
        shown = None if is_traced(bad) else "NaN or infinity"
        result = require(result, name, "be finite", [(bad, "is not finite")], "Look for a step that diverged.", shown)
    return result


def _scalar_loss(loss: Callable, theta: PyTree) -> Array:
    value = real_array(loss(theta), "loss")
    if value.shape != ():
        raise ValueError(f"Argument `loss` must return a scalar, but it returns shape {value.shape}.")
    return value
