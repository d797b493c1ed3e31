"""Total rate and flow field of a rate density under a proposal of updates (row 8 of the theory)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PyTree

from rxjax_solvers._checks import require

from ._arrays import real_array, real_arrays, summation_dtype
from ._known import at_once_if_known, positive
from ._limits import exponential, times_rate
from ._rates import log_attempt_frequency
from .proposals import AbstractProposal, Box, Gaussian


def log_total_rate(
    gradient: PyTree,
    temperature: ArrayLike,
    proposal: AbstractProposal,
    *,
    entropy: ArrayLike = 0.0,
    tau0: ArrayLike = 1.0,
    k: ArrayLike = 1.0,
) -> Float[Array, ""]:
    r"""Logarithm of the total rate, $\log \int \rho(\delta) q(\delta)\,d\delta = S/k - \log\tau_0 + \log M(-g/kT)$.

    Finite where [`total_rate`][] overflows; the same arguments.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.log_total_rate(jnp.array([3.0, 4.0]), 0.01, rx.proposals.Gaussian(0.1)))
    1250.0

    ```
    """
    tilt, _, attempt = _tilt(gradient, temperature, proposal, entropy, tau0, k)
    return attempt + proposal.log_mgf(tilt)


def total_rate(
    gradient: PyTree,
    temperature: ArrayLike,
    proposal: AbstractProposal,
    *,
    entropy: ArrayLike = 0.0,
    tau0: ArrayLike = 1.0,
    k: ArrayLike = 1.0,
) -> Float[Array, ""]:
    r"""Total rate of leaving a point, $\int \rho(\delta) q(\delta)\,d\delta = A\,\mathrm{E}_q[e^{-g\cdot\delta/kT}]$.

    **Arguments:** as for [`flow_field`][].

    **Returns:** a rate in units of $1/\tau_0$, never below the attempt frequency $A$, which it equals where the
    gradient is zero.  For a Gaussian proposal it is $A\,e^{s^2|g|^2 / 2(kT)^2}$.  Infinite where it overflows:
    [`log_total_rate`][] is then still finite.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.total_rate(jnp.array([3.0, 4.0]), 0.5, rx.proposals.Gaussian(0.1)).round(4))
    1.6487

    ```
    """
    return exponential(log_total_rate(gradient, temperature, proposal, entropy=entropy, tau0=tau0, k=k))


def flow_field(
    gradient: PyTree,
    temperature: ArrayLike,
    proposal: AbstractProposal,
    *,
    entropy: ArrayLike = 0.0,
    tau0: ArrayLike = 1.0,
    k: ArrayLike = 1.0,
) -> PyTree:
    r"""Flow field or mean velocity, $\mathrm{E}[\delta] = \int \delta\,\rho(\delta) q(\delta)\,d\delta$.

    Without a proposal density $q$ the integral of the rate density over all updates diverges.  With $\lambda = -g/kT$
    it is $A\,\nabla M(\lambda)$, in closed form for every proposal; for a Gaussian one
    $-A\,(s^2/kT)\,g\,e^{s^2|g|^2 / 2(kT)^2}$.

    **Arguments:**

    - `gradient`: $g$, of shape `(d,)`, or an array of any shape or a PyTree whose entries together are the $d$ axes.
    - `temperature`: $T > 0$, a scalar; `jax.vmap` over many.
    - `proposal`: `rx.proposals.Gaussian`, `Box` or `Ball`, or your own.
    - `entropy`, `tau0`, `k`: as for [`attempt_frequency`][]; scalars.

    **Returns:** the flow, shaped like `gradient`, in units of the parameters per $\tau_0$.  It points downhill: along
    $-g$ for proposals that know no direction (Gaussian of one width, ball), towards the corner for a box.  Where the
    total rate overflows its entries are infinite; $\log$ of the rate and the mean jump
    `proposal.tilted_mean(-gradient / kT)` apart are then still finite.

    Good values: widths of the proposal with $s|g|/kT$ up to 1 and over which the gradient hardly turns.  In the limit
    of small widths it is gradient descent, $v = -(2D/kT)\,g$ with $D = A s^2/2$: twice as fast as the Fokker-Planck
    drift of the same diffusion, since the law behind it has its equilibrium at half the temperature (see
    [`Arrhenius`][]).

    **Raises:** `ValueError` (inside `jit`, a run-time error) for a temperature that is not positive, a gradient that is
    not finite or overflows over $kT$, or shapes that do not fit.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.flow_field(jnp.array([3.0, 4.0]), 0.5, rx.proposals.Gaussian(0.1)).round(4))
    [-0.0989 -0.1319]

    ```
    """
    tilt, unravel, attempt = _tilt(gradient, temperature, proposal, entropy, tau0, k)
    rate = exponential(attempt + proposal.log_mgf(tilt))
    # An axis without slope has no flow, also where the total rate overflows.
    return unravel(times_rate(rate, proposal.tilted_mean(tilt)))


def _tilt(
    gradient: PyTree,
    temperature: ArrayLike,
    proposal: AbstractProposal,
    entropy: ArrayLike,
    tau0: ArrayLike,
    k: ArrayLike,
) -> tuple[Array, Callable[[Array], PyTree], Array]:
    """The tilt -g/kT as a vector, the way back to the gradient's structure, and the logarithm of A."""
    flat, unravel = ravel_pytree(jax.tree.map(lambda g: real_array(g, "gradient"), gradient))
    if flat.size == 0:
        raise ValueError("Argument `gradient` must hold at least one number, but it holds none.")
    widths = {Gaussian: "std", Box: "half_width"}
    width = getattr(proposal, widths.get(type(proposal), ""), flat)
    if width.ndim and width.shape != flat.shape:
        raise ValueError(
            f"Argument `proposal` must have one width, or one for each of the {flat.size} numbers of `gradient`, but "
            f"its `{widths[type(proposal)]}` has shape {width.shape}."
        )
    dtype = flat.dtype
    temperature, entropy, tau0, k = real_arrays(temperature=temperature, entropy=entropy, tau0=tau0, k=k)
    for name, x in (("temperature", temperature), ("entropy", entropy), ("tau0", tau0), ("k", k)):
        if x.ndim:
            raise ValueError(f"Argument `{name}` must be a scalar, but it has shape {x.shape}. Vmap over many.")
    temperature = positive(temperature, "temperature", "The flow has no limit at zero temperature.")
    tilt = _over(flat.astype(summation_dtype(dtype)), positive(k, "k") * temperature)
    return tilt, lambda flow: unravel(flow.astype(dtype)), log_attempt_frequency(entropy, tau0, k)


@at_once_if_known
def _over(gradient: Array, kT: Array) -> Array:
    tilt = -gradient / kT
    faults = [(~jnp.isfinite(gradient), "is not finite"), (~jnp.isfinite(tilt), "overflows over kT")]
    remedy = "Take float64 or a higher `temperature`."
    return require(tilt, "gradient", "be finite, over kT too", faults, remedy, None)
