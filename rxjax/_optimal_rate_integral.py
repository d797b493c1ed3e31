"""The framework's optimal learning rate as it stands: an integral over updates, maximised over the rate (row 16)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from rxjax_solvers._checks import finite, non_negative, one_of, positive, require
from rxjax_solvers._program import program

from ._arrays import real_array, real_arrays
from ._maximise import derivatives, maximise
from ._proposal_nodes import proposal_nodes
from ._rate_laws import AbstractRateLaw


class OptimalRate(eqx.Module):
    r"""The outcome of [`optimal_learning_rate_integral`][].

    - `learning_rate`: the maximiser found between the bounds.
    - `standard_error`: of `learning_rate`, from the finite number of sampled updates; zero for quadrature, and NaN at
      a bound, where there is no maximum to be uncertain about.
    - `value`: the integral there, in units of $e^{\mathrm{log\_scale}}$ times the loss, for an attempt frequency of 1.
    - `log_scale`: the logarithm of the largest rate factor met; kept apart, since the factor itself may overflow.
    - `bound`: 0 for a maximum inside the bounds; -1 or 1 where the integral is largest at the lower or the upper one.
    """

    learning_rate: Float[Array, ""]
    standard_error: Float[Array, ""]
    value: Float[Array, ""]
    log_scale: Float[Array, ""]
    bound: Int[Array, ""]

    @property
    def at_bound(self) -> Bool[Array, "..."]:
        """Whether the maximum lies at a bound: then `learning_rate` says more about the bounds than about the loss."""
        return self.bound != 0


def optimal_learning_rate_integral(
    loss: Callable[[Array], ArrayLike],
    theta: ArrayLike,
    proposal: Callable[[Array], Any],
    bounds: tuple[ArrayLike, ArrayLike],
    *,
    rate_law: AbstractRateLaw | None = None,
    temperature: ArrayLike | Callable[[Array], ArrayLike] | None = None,
    k: ArrayLike = 1.0,
    method: str = "monte_carlo",
    key: PRNGKeyArray | None = None,
    num_samples: int = 4096,
    order: int = 24,
    num_rates: int = 33,
) -> OptimalRate:
    r"""Optimal learning rate by its definition, for any loss, proposal and rate law.

    $$\eta_{opt} = \mathrm{argmax}_\eta \int \rho(\theta, \delta; \eta)\, [L(\theta) - L(\theta + \delta)]\, d\delta.$$

    $\rho = A\, q_\eta(\delta)\, f$ with a proposal density $q_\eta$ and the factor $f$ of a rate law.  The integral is
    taken over the updates of the proposal, by quadrature or by Monte Carlo with the SAME random numbers at every
    $\eta$, so that it is a smooth function of $\eta$.  It is evaluated at `num_rates` rates evenly spaced in
    $\log \eta$; a golden-section search refines the best of them, and one Newton step polishes it to rounding.

    **Arguments:**

    - `loss`: a callable `theta -> ()`.
    - `theta`: where, shape `(d,)`.
    - `proposal`: a callable that gives for a learning rate the proposal at it.  `SGDProposal(g, C)` is that of SGD;
      `lambda eta: rx.proposals.Box(2 * eta)` makes one of the family `rx.proposals`; for Monte Carlo any object with
      `sample(key, shape)` serves whose samples are a smooth function of the rate at a fixed key.
    - `bounds`: the lowest and the highest rate looked at, both positive.
    - `rate_law`: a member of the family `rx.Arrhenius`, `rx.Metropolis`, ...; `None` is the constant law, $f = 1$.
    - `temperature`: $T$, a number or a callable of $\eta$; needed with a rate law.
    - `k`: the scaling constant.
    - `method`: `"monte_carlo"` (any dimension, needs `key`) or `"quadrature"` (up to 3 dimensions, for the proposals of
      `rx.proposals` and `SGDProposal`).
    - `key`, `num_samples`: for Monte Carlo.
    - `order`: nodes per axis for quadrature.  The Arrhenius factor moves the mass of a Gaussian by
      $s^2 |g|/kT$; take `order` well above the square of that over $s$.  Nothing says how wrong a rule is: compare two.
      `Metropolis`, with a kink along a level of the loss that no rule follows, and `Glauber` at low temperature were
      wrong by 7 % and 1 % at the default, in a plane with a Gaussian at $kT = 0.1$, and by 1 % and 0.4 % at 96.
    - `num_rates`: rates looked at first; more where the integral may have several maxima.

    **Returns:** an [`OptimalRate`][].  LOOK AT `bound`: a proposal of fixed width has no optimum inside, since at
    $kT = (\eta/2)\,\mathrm{tr}\,C$ its Arrhenius rate diverges as $\eta \to 0$, and the answer is then the lower bound.
    `learning_rate` is differentiable with respect to everything `loss`, `proposal` and `temperature` depend on, by the
    implicit function theorem; at a bound only with respect to the bound.

    The whole is one program, compiled for each loss, proposal and law, and kept until what these functions read, by
    name, is another object: give numbers that vary as leaves of an `eqx.Module`, which needs no other program.

    Monte Carlo weighs few of its samples much more than all others when the rate factor varies by many orders of
    magnitude: `standard_error` then is large, and not to be trusted itself.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for bounds that are not positive and ascending, a missing
    key or temperature, a loss that is not finite at `theta` or an integral that is not finite.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> g, h, c = jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0]), jnp.array([0.5, 0.1])
    >>> loss = lambda theta: jnp.sum(h * theta**2) / 2
    >>> sgd = rx.SGDProposal(g, c)
    >>> best = rx.optimal_learning_rate_integral(loss, g / h, sgd, (1e-3, 10.0), method="quadrature")
    >>> print(f"{best.learning_rate:.4f}", best.bound)
    0.3623 0
    >>> print(f"{rx.optimal_learning_rate(g, h, c):.4f}")
    0.3623

    ```

    Source: the framework's definition of the optimal learning rate, with the gain counted positive for a decrease.
    """
    one_of(method, "method", ("monte_carlo", "quadrature"))
    if method == "monte_carlo" and key is None:
        raise ValueError("Argument `key` must be given for Monte Carlo, but it is None. Pass `jax.random.key(0)`.")
    if rate_law is not None and temperature is None:
        raise ValueError("Argument `temperature` must be given with a rate law, but it is None.")
    if num_rates < 3 or num_samples < 2 or order < 2:
        raise ValueError(
            "Arguments `num_rates`, `num_samples` and `order` must be at least 3, 2 and 2, but they are "
            f"{num_rates}, {num_samples} and {order}."
        )
    theta = real_array(theta, "theta")
    if theta.ndim != 1:
        raise ValueError(f"Argument `theta` must have shape (d,), but it has shape {theta.shape}.")
    theta = finite(theta, "theta")
    lower, upper = (x.astype(theta.dtype) for x in real_arrays(lower=bounds[0], upper=bounds[1]))
    lower = positive(lower, "bounds")
    upper = require(positive(upper, "bounds"), "bounds", "ascend", [(upper <= lower, "does not")])
    here = finite(jnp.asarray(loss(theta)), "loss", "It is evaluated at `theta`.")
    if rate_law is not None:
        # Refused here, where the values are known.
        k = positive(k, "k")
        if not callable(temperature):
            assert temperature is not None
            temperature = non_negative(temperature, "temperature")
    chosen = _Nodes(method, num_samples, order)
    best, integrals = _best(
        loss, theta, here, proposal, (lower, upper), rate_law, temperature, k, key, chosen, num_rates
    )
    remedy = "The integral over the updates is not a number: take a narrower proposal or narrower bounds."
    faults = [(jnp.isnan(integrals), "is not")]
    rate = require(best.learning_rate, "loss", "be finite", faults, remedy, shown=integrals)
    return eqx.tree_at(lambda best: best.learning_rate, best, rate)


class _Nodes(NamedTuple):
    """How the integral over the updates is taken."""

    method: str
    num_samples: int
    order: int


@program
def _best(
    loss: Callable[[Array], ArrayLike],
    theta: Array,
    here: Array,
    proposal: Callable[[Array], Any],
    bounds: tuple[Array, Array],
    rate_law: AbstractRateLaw | None,
    temperature: ArrayLike | Callable[[Array], ArrayLike] | None,
    k: ArrayLike,
    key: PRNGKeyArray | None,
    nodes: _Nodes,
    num_rates: int,
) -> tuple[OptimalRate, Array]:
    """The outcome, and the integrals at the rates looked at first."""
    lower, upper = bounds

    def updates(eta: Array) -> tuple[Array, Array]:
        """Updates, shape (n, d), and their weights, which sum to 1."""
        law = proposal(eta)
        if nodes.method == "monte_carlo":
            assert key is not None
            delta = law.sample(key, (nodes.num_samples, theta.shape[0]))
            return delta.astype(theta.dtype), jnp.full(nodes.num_samples, 1 / nodes.num_samples, theta.dtype)
        delta, weight = proposal_nodes(law, theta.shape[0], nodes.order)
        return delta.astype(theta.dtype), weight.astype(theta.dtype)

    def contributions(eta: Array) -> tuple[Array, Array]:
        """Weight times gain of each update, and the logarithm of its rate factor."""
        delta, weight = updates(eta)
        gain = here - jax.vmap(lambda d: jnp.asarray(loss(theta + d)))(delta)
        law = rate_law
        if law is None:
            return weight * gain, jnp.zeros_like(weight)
        t = temperature(eta) if callable(temperature) else temperature
        energy = jax.vmap(lambda d: law.energy_change(loss, theta, d))(delta)
        return weight * gain, law.log_factor(energy, jnp.asarray(t), k=k)

    def scaled(eta: Array) -> tuple[Array, Array]:
        gain, log_factor = contributions(eta)
        largest = jnp.max(log_factor)
        return jnp.sum(gain * jnp.exp(log_factor - largest)), largest

    rates = jnp.exp(jnp.linspace(jnp.log(lower), jnp.log(upper), num_rates)).at[0].set(lower).at[-1].set(upper)
    integrals, scales = jax.lax.map(scaled, rates)
    log_scale = jax.lax.stop_gradient(jnp.max(scales))
    integrals = integrals * jnp.exp(scales - log_scale)

    def terms(eta: Array) -> Array:
        gain, log_factor = contributions(eta)
        return gain * jnp.exp(log_factor - log_scale)

    eta, bound = maximise(lambda eta: jnp.sum(terms(eta)), rates, integrals)
    slope, bend = derivatives(terms, jax.lax.stop_gradient(eta))
    error = jnp.zeros_like(eta)
    if nodes.method == "monte_carlo":
        error = jnp.std(slope, ddof=1) * nodes.num_samples**0.5 / jnp.abs(jnp.sum(bend))
    error = jax.lax.stop_gradient(jnp.where(bound == 0, error, jnp.nan))
    return OptimalRate(eta, error, jnp.sum(terms(eta)), log_scale, bound), integrals
