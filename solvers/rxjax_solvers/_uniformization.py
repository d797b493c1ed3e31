"""`exp(t W) p` as a mean over a Poisson number of steps of a discrete chain."""

from typing import Any, ClassVar

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Shaped

from ._checks import check_times, one_of, positive
from ._compiled import compiled
from ._first_order import once
from ._generator import AbstractGenerator, check_generator

# The chain's rate lies above the fastest outflow by this share: no state's chance to stay falls below zero by rounding.
_MARGIN = 1e-3
# States that a reverse pass keeps on the way, to recompute the others from.
_CHECKPOINTS = 64

DIRECTIONS = ("reverse", "forward")


class Uniformization(eqx.Module):
    r"""Uniformisation: $e^{tW} p = \sum_k e^{-qt} \frac{(qt)^k}{k!} (1 + W/q)^k p$ with $q \geq \max_i |W_{ii}|$.

    Every term is a density, every weight a probability: nothing is subtracted, so nothing turns negative, mass holds to
    rounding, and what the truncation leaves out has a rigorous bound.  For any generator with bounded rates that does
    not depend on time.  Work: `q t` products with `W`, and some $6\sqrt{q\,t}$ for each interval between save times.

    **Arguments:**

    - `tol`: bound of the truncation error at the last time, as a sum of absolute values relative to that of `p0`.  If
        not given 1e-10, and 1e-6 in float32.
    - `max_terms`: products with `W` allowed in all; if more are needed the result is `max_steps_reached`.
    - `differentiate`: "reverse" for `jax.grad` (a checkpointed loop: memory of 64 densities for each interval, each
        product computed a few times), "forward" for `jax.jvp` and `jax.jacfwd`.

    **Good values:** `q t` up to 1e4.  **How it fails:** on fine grids `q` grows like $4D/h^2$ and in deep wells the
    horizon does: it is then exact but slow, and implicit methods are better.  In float32 rounding adds about
    $10^{-7}\sqrt{q\,t}$ to the mass.

    ??? cite "References"

        A. Jensen, Scand. Actuarial J. 1953, 87.  B. L. Fox and P. W. Glynn, Commun. ACM 31, 440 (1988).  The tails are
        bounded by S. Bernstein's inequality.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.MasterEquation.from_edges([0, 1], [1, 0], [1.0, 3.0], size=2)
        >>> ps, result, stats = rxs.Uniformization().run(W, jnp.array([1.0, 0.0]), jnp.array([0.0, 0.5, 5.0]))
        >>> print(ps[:, 1].round(4), stats["num_steps"])  # (1 - exp(-4 t))/4
        [0.     0.2162 0.25  ] 61

        ```
    """

    tol: Float[Array, ""] | float | None = None
    max_terms: int = eqx.field(static=True, default=10_000_000)
    differentiate: str = eqx.field(static=True, default="reverse")

    preserves_mass: ClassVar[bool] = True
    preserves_positivity: ClassVar[bool] = True

    def __check_init__(self):
        one_of(self.differentiate, "differentiate", DIRECTIONS)
        if self.max_terms < 1:
            raise ValueError(f"Argument `max_terms` must be at least 1, but it is {self.max_terms}.")

    def run(
        self, generator: AbstractGenerator, p0: Float[Array, "*shape"], ts: Float[Array, " times"]
    ) -> tuple[Float[Array, "times *shape"], diffrax.RESULTS, dict[str, Any]]:
        """The densities at all times, what came of it, and `stats`; see [`uniformization`][]."""
        ps, stats = _unchecked(generator, p0, ts, self.tol, self.max_terms, self.differentiate)
        complete = stats["num_steps"] <= self.max_terms
        result = diffrax.RESULTS.where(complete, diffrax.RESULTS.successful, diffrax.RESULTS.max_steps_reached)
        return ps, result, stats


def uniformization(
    generator: AbstractGenerator,
    p0: Float[Array, "*shape"],
    ts: Shaped[Array, " times"],
    tol: Shaped[ArrayLike, ""] | None = None,
    *,
    max_terms: int = 10_000_000,
    differentiate: str = "reverse",
) -> tuple[Float[Array, "times *shape"], dict[str, Array]]:
    """`exp((ts[i] - ts[0]) W) p0` at all times, with the arguments of [`Uniformization`][].

    **Returns:** the densities, `ps[0] == p0` exactly, and `stats`: `num_steps`, the products with `W` that were needed
    (beyond `max_terms` the later densities are incomplete and must not be used); `rate`, the chain's `q`; and
    `error_bound`, that of the truncation at the last time, relative to the mass of `p0`.

    Derivatives are those of the truncated sum with respect to rates, `p0` and `ts`.

    **Raises:** `ValueError` for what is no generator, one that depends on time or has another shape, and (inside
    `jit`, a run-time error) times that do not ascend or a `tol` that is not positive.
    """
    check_generator(generator)
    if p0.shape != generator.shape:
        raise ValueError(
            f"Argument `p0` must have the generator's shape {generator.shape}, but it has shape {p0.shape}."
        )
    return _unchecked(generator, p0, check_times(jnp.asarray(ts)), tol, max_terms, differentiate)


def _unchecked(
    generator: AbstractGenerator, p0: Array, ts: Array, tol: Any, max_terms: int, differentiate: str
) -> tuple[Array, dict[str, Array]]:
    """For times that ascend."""
    if generator.time_dependent:
        raise ValueError(
            "Argument `generator` must not depend on time for uniformisation, but it does.  Use Strang(), or freeze "
            "it: `generator.at(t)`."
        )
    dtype = p0.dtype
    if tol is None:
        tol = 1e-10 if dtype == jnp.float64 else 1e-6
    tol = positive(jnp.asarray(tol, dtype), "tol", "Typical: 1e-10, in float32 1e-6.")
    ts = jnp.asarray(ts)
    if differentiate == "reverse":
        remedy = 'take `jax.jacfwd` twice with `Uniformization(differentiate="forward")`.'
        generator, p0, ts = once((generator, p0, ts), remedy)
    return _means(generator, p0, ts, tol, max_terms, differentiate)


@compiled
def _means(
    generator: AbstractGenerator, p0: Array, ts: Array, tol: Array, max_terms: int, differentiate: str
) -> tuple[Array, dict[str, Array]]:
    dtype = p0.dtype
    q = (1 + _MARGIN) * jnp.max(lax.stop_gradient(generator.outflow()))
    q = jnp.where(q > 0, q, 1).astype(dtype)
    intervals = max(ts.shape[0] - 1, 1)
    # Two tails in each interval, and what is left is scaled to weight 1, which doubles the error.
    log_share = jnp.log(4 * intervals / lax.stop_gradient(tol))

    # Recomputed in a reverse pass: only the densities at the save times are kept between intervals.
    @jax.checkpoint
    def interval(p, used, dt):
        mean = q * dt
        first, last = _window(lax.stop_gradient(mean), log_share, max_terms)
        p = _poisson_mean(generator, p, q, mean, first, jnp.minimum(last, max_terms - used), differentiate)
        return p, used + jnp.minimum(last, max_terms + 1 - used)

    def advance(carry, dt):
        p, used = interval(*carry, dt)
        return (p, used), p

    (_, used), later = lax.scan(advance, (p0, jnp.zeros((), jnp.int32)), jnp.diff(ts).astype(dtype))
    complete = used <= max_terms
    stats = dict(num_steps=used, rate=q, error_bound=jnp.where(complete, lax.stop_gradient(tol), jnp.inf))
    return jnp.concatenate([p0[None], later]), stats


def _window(mean: Array, log_share: Array, max_terms: int) -> tuple[Array, Array]:
    """First and last term to sum: each tail of the Poisson law beyond them is below `exp(-log_share)`."""
    below = jnp.sqrt(2 * mean * log_share)
    above = log_share / 3 + jnp.sqrt(log_share**2 / 9 + 2 * mean * log_share)
    # Two terms more on either side pay for the rounding of these numbers.
    first = jnp.clip(jnp.floor(mean - below) - 2, 0, max_terms)
    last = jnp.clip(jnp.ceil(mean + above) + 2, 0, max_terms + 1)
    return first.astype(jnp.int32), last.astype(jnp.int32)


def _poisson_mean(
    generator: AbstractGenerator, p: Array, q: Array, mean: Array, first: Array, last: Array, differentiate: str
) -> Array:
    """Mean of `(1 + W/q)^k p` over a Poisson number `k` between `first` and `last`."""

    def go_on(carry):
        return carry[0] < last

    def term(carry):
        k, p, weight, total, weights = carry
        k = k + 1
        p = p + generator.apply(p) / q
        # Weights relative to that of the first term: their ratios are exact, and their sum is divided out.
        weight = jnp.where(k > first, weight * mean / k.astype(p.dtype), (k == first).astype(p.dtype))
        return k, p, weight, total + weight * p, weights + weight

    weight = (first == 0).astype(p.dtype)
    carry = (jnp.zeros((), jnp.int32), p, weight, weight * p, weight)
    if differentiate == "forward":
        carry = lax.while_loop(go_on, term, carry)
    else:
        carry = eqxi.while_loop(go_on, term, carry, kind="checkpointed", checkpoints=_CHECKPOINTS)
    _, p, _, total, weights = carry
    # Where no term fell into the window (too few were allowed) the last one is what there is.
    none = weights == 0
    return jnp.where(none, p, total / jnp.where(none, 1, weights))
