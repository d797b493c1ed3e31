"""Statistics of minima and barriers: the density of minima and the distribution of barrier heights (rows 14 and 15)."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Shaped

from rxjax_solvers._checks import finite, one_of, positive, require

from ._arrays import real_array, real_arrays, widened
from ._barriers import Barriers
from ._minima import Minima

STATISTICS = ("anderson_darling", "kolmogorov_smirnov")


class MinimaDensity(eqx.Module):
    r"""The density of minima over energy, $\rho_m(E) = e^{S(E)/k}$.

    - `energies`: `(bins,)`, where the density is given: centres of the bins, or the points asked for.
    - `density`: `(bins,)`, minima per unit of energy (and of volume, if a volume was given).  It integrates to their
        number (per volume).
    - `entropy`: `(bins,)`, $S(E) = k \log\rho_m$; minus infinity where the density is zero.
    - `error`: `(bins,)`, the standard error of the density if minima fall independently (Poisson).
    - `bandwidth`: the width of a bin, or the standard deviation of the kernel.
    """

    energies: Float[Array, " bins"]
    density: Float[Array, " bins"]
    entropy: Float[Array, " bins"]
    error: Float[Array, " bins"]
    bandwidth: Float[Array, ""]


def minima_density(
    energies: Shaped[ArrayLike, "..."] | Minima,
    *,
    method: str = "histogram",
    bins: int = 20,
    limits: tuple[ArrayLike, ArrayLike] | None = None,
    bandwidth: ArrayLike | None = None,
    at: Shaped[ArrayLike, " bins"] | None = None,
    volume: ArrayLike = 1.0,
    k: ArrayLike = 1.0,
) -> MinimaDensity:
    r"""Density of minima and their entropy, $\rho_m(E) = e^{S(E)/k}$, from the energies of the minima found.

    **Arguments:**

    - `energies`: `(n,)`, or what [`find_minima`][] returned (its padding is left out).
    - `method`: `"histogram"`, or `"kernel"`: a Gaussian on each energy, smooth and differentiable in the energies.
    - `bins`: how many bins, or points for the kernel.
    - `limits`: the lowest and highest energy of the bins.  If not given, those of the minima, and for a kernel three
        bandwidths beyond.  Minima outside are not counted.
    - `bandwidth`: the standard deviation of the kernel.  If not given, Silverman's $1.06\, s\, n^{-1/5}$ with the
        standard deviation $s$ of the energies: too wide where there are several groups.
    - `at`: `(bins,)`, the energies at which the kernel density is wanted, in place of `bins` and `limits`.
    - `volume`: of the box that was searched; the density is then per unit volume as well.
    - `k`: the constant in the entropy.

    **Returns:** a `MinimaDensity`.  The entropy is that of a density, so its zero depends on the units of energy and
    volume; differences do not.

    Good values: bins or bandwidth such that ten minima or more fall into each.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for energies that are not finite, none at all, fewer than
    two where a width must be guessed, limits that do not ascend, or a bandwidth or volume that is not positive.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> result = rx.minima_density(jnp.array([0.0, 0.4, 0.5, 1.0]), bins=2)
        >>> print(result.energies, result.density, result.entropy.round(3))
        [0.25 0.75] [4. 4.] [1.386 1.386]

        ```
    """
    one_of(method, "method", ("histogram", "kernel"))
    if bins < 1:
        raise ValueError(f"Argument `bins` must be at least 1, but it is {bins}.")
    if isinstance(energies, Minima):
        mask, values = energies.mask, jnp.where(energies.mask, energies.energies, 0)
    else:
        values = jnp.atleast_1d(real_array(energies, "energies"))
        if values.ndim != 1:
            raise ValueError(f"Argument `energies` must have shape (n,), but it has shape {values.shape}.")
        mask = jnp.ones(values.shape, bool)
    if not values.size:
        raise ValueError("Argument `energies` must hold at least one energy, but it holds none.")
    values = finite(values, "energies")
    dtype = values.dtype
    volume = positive(jnp.asarray(volume, dtype), "volume")
    k = positive(jnp.asarray(k, dtype), "k")
    weights = mask.astype(dtype)
    if method == "histogram":
        for name, value in (("at", at), ("bandwidth", bandwidth)):
            if value is not None:
                raise ValueError(f'Argument `{name}` must come with method="kernel", but the method is "histogram".')
        low, high = _limits(values, mask, limits, jnp.zeros((), dtype))
        return _binned(values, weights, low, high, volume, k, bins)
    width = _silverman(values, weights) if bandwidth is None else jnp.asarray(bandwidth, dtype)
    width = positive(width, "bandwidth", "Give one if all minima have the same energy.")
    if at is None:
        low, high = _limits(values, mask, limits, 3 * width)
        at = low + (high - low) * jnp.linspace(0.0, 1.0, bins, dtype=dtype)
    at = finite(jnp.atleast_1d(jnp.asarray(at, dtype)), "at")
    return _smoothed(values, weights, width, at, volume, k)


@functools.partial(jax.jit, static_argnums=6)
def _binned(
    values: Array, weights: Array, low: Array, high: Array, volume: Array, k: Array, bins: int
) -> MinimaDensity:
    width = (high - low) / bins
    # The highest energy belongs to the last bin, as in numpy.histogram.
    place = jnp.clip(jnp.floor((values - low) / width), 0, bins - 1)
    weights = jnp.where((values >= low) & (values <= high), weights, 0)
    steps = jnp.arange(bins, dtype=values.dtype)
    counts = jnp.sum(jnp.where(place[:, None] == steps[None, :], weights[:, None], 0), axis=0)
    density, error = counts / (width * volume), jnp.sqrt(counts) / (width * volume)
    return MinimaDensity(low + width * (steps + 0.5), density, _entropy(density, k), error, width)


@jax.jit
def _smoothed(values: Array, weights: Array, width: Array, at: Array, volume: Array, k: Array) -> MinimaDensity:
    z = (at[:, None] - values[None, :]) / width
    peak = jnp.exp(-0.5 * z**2) / (math.sqrt(2 * math.pi) * width * volume)
    density = jnp.sum(weights[None, :] * peak, axis=1)
    error = jnp.sqrt(jnp.sum(weights[None, :] * peak**2, axis=1))
    return MinimaDensity(at, density, _entropy(density, k), error, width)


def _entropy(density: Array, k: Array) -> Array:
    empty = density == 0
    return jnp.where(empty, -jnp.inf, k * jnp.log(jnp.where(empty, 1, density)))


def _limits(values: Array, mask: Array, limits: tuple | None, margin: Array) -> tuple[Array, Array]:
    if limits is None:
        low = jnp.min(jnp.where(mask, values, jnp.inf)) - margin
        high = jnp.max(jnp.where(mask, values, -jnp.inf)) + margin
    else:
        low, high = (jnp.asarray(x, values.dtype) for x in limits)
    faults = [(~(jnp.isfinite(low) & jnp.isfinite(high)), "is not finite"), (~(low < high), "is not above the lowest")]
    remedy = "Give `limits`, if all minima have the same energy."
    return low, require(high, "limits", "be finite, the highest above the lowest energy", faults, remedy)


def _silverman(values: Array, weights: Array) -> Array:
    n = jnp.sum(weights)
    n = require(n, "energies", "hold two minima or more", [(n < 2, "holds fewer")], "Give a `bandwidth`.")
    mean = jnp.sum(weights * values) / n
    spread = jnp.sum(weights * (values - mean) ** 2) / (n - 1)
    return 1.06 * jnp.sqrt(jnp.where(spread > 0, spread, 0)) * n**-0.2


def expected_minima_density(
    length_scale: ArrayLike, energy: ArrayLike | None = None, *, std: ArrayLike = 1.0
) -> Float[Array, "..."]:
    r"""Expected number of minima per unit length of a one-dimensional Gaussian process with RBF covariance.

    For $\sigma^2 e^{-x^2 / 2\ell^2}$ it is $\sqrt3 / (2\pi\ell)$; with an energy $E$, the number per unit length and
    energy, whose integral over $E$ is that: the $\rho_m(E)$ to compare [`minima_density`][] with.

    **Arguments:**

    - `length_scale`: $\ell > 0$.
    - `energy`: $E$, relative to the mean of the process; any shape.
    - `std`: $\sigma > 0$.

    **Returns:** the density, in the shape of the arguments.

    ??? cite "References"

        S. O. Rice, Bell Syst. Tech. J. 24, 46 (1945), sec. 3.6; D. E. Cartwright and M. S. Longuet-Higgins,
        Proc. R. Soc. A 237, 212 (1956), with spectral width $\varepsilon^2 = 2/3$ for this covariance.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> print(rx.expected_minima_density(1.0).round(4), rx.expected_minima_density(1.0, -1.0).round(4))
        0.2757 0.1158

        ```
    """
    if energy is None:
        (length,) = real_arrays(length_scale=length_scale)
        return math.sqrt(3) / (2 * math.pi * positive(length, "length_scale"))
    length, energy, std = (widened(x) for x in real_arrays(length_scale=length_scale, energy=energy, std=std))
    std = positive(std, "std")
    depth = -finite(energy, "energy") / std
    width = math.sqrt(2.0 / 3.0)
    narrow = width * jnp.exp(-0.5 * (depth / width) ** 2) / math.sqrt(2 * math.pi)
    wide = math.sqrt(1.0 / 3.0) * depth * jnp.exp(-0.5 * depth**2) * ndtr(depth / math.sqrt(2.0))
    total = math.sqrt(3) / (2 * math.pi * positive(length, "length_scale"))
    # Far above the mean the two terms cancel to less than their rounding.
    return total * jnp.maximum(narrow + wide, 0) / std


class BarrierFit(eqx.Module):
    r"""The exponential law fitted to barriers, $P(E_b) = e^{-E_b/E_0} / E_0$.

    - `scale`: $E_0$, its maximum-likelihood estimate: the mean barrier.
    - `interval`: `(2,)`, the exact confidence interval of $E_0$.
    - `p_value`: the probability that exponential barriers fit worse than these do; small means "not exponential".
    - `statistic`: the distance between the barriers and the fitted law, by the test chosen.
    - `log_likelihood`: of the barriers under the fitted law.
    - `count`: how many barriers there were.
    """

    scale: Float[Array, ""]
    interval: Float[Array, "2"]
    p_value: Float[Array, ""]
    statistic: Float[Array, ""]
    log_likelihood: Float[Array, ""]
    count: int = eqx.field(static=True)


def fit_barrier_distribution(
    barriers: Shaped[ArrayLike, "..."] | Barriers,
    *,
    confidence: float = 0.95,
    statistic: str = "anderson_darling",
    samples: int = 2000,
    key: PRNGKeyArray | Shaped[Array, "..."] | None = None,
) -> BarrierFit:
    r"""Fit the exponential law of barriers, $P(E_b) = e^{-E_b/E_0} / E_0$, and test it.

    The estimate is the mean; $2 n \hat E_0 / E_0$ has a $\chi^2$ law with $2n$ degrees of freedom, which gives the
    interval; the p-value comes from a parametric bootstrap in which $E_0$ is fitted anew to each sample, as it must be
    (the tables of these tests hold for a known $E_0$ only).

    **Arguments:**

    - `barriers`: heights $E_b > 0$, any shape, three or more; or what [`find_barriers`][] returned, of which the lowest
        saddle between each pair of minima counts, forth and back.
    - `confidence`: of the interval.
    - `statistic`: `"anderson_darling"`, which sees the tails, or `"kolmogorov_smirnov"`.
    - `samples`: of the bootstrap; the p-value is a multiple of $1/(1 + \text{samples})$ and at least that.
    - `key`: a key of `jax.random` for the bootstrap; a fixed one if not given.

    **Returns:** a `BarrierFit`.

    **How it fails:** heights of one landscape are not independent (the way forth and back share a saddle), which makes
    the interval too narrow and the p-value too small.  A p-value that is not small does not show that the law is
    exponential: ten barriers can hardly tell it from a Gaussian.

    **Raises:** `ValueError` for fewer than three barriers; outside and inside `jit` for one that is not positive and
    finite.

    !!! example

        ```python
        >>> import jax, rxjax as rx
        >>> fit = rx.fit_barrier_distribution(2.0 * jax.random.exponential(jax.random.key(0), (200,)))
        >>> bool(fit.interval[0] < 2.0 < fit.interval[1]), bool(fit.p_value > 0.05)
        (True, True)

        ```
    """
    # Here, since it would take a tenth of the time that importing this package takes.
    from scipy.special import gammaincinv

    one_of(statistic, "statistic", STATISTICS)
    if not 0 < confidence < 1:
        raise ValueError(f"Argument `confidence` must lie between 0 and 1, but it is {confidence}. Type 0.95, say.")
    if samples < 1:
        raise ValueError(f"Argument `samples` must be at least 1, but it is {samples}.")
    values = _lowest(barriers) if isinstance(barriers, Barriers) else real_array(barriers, "barriers")
    values = values.reshape(-1)
    n = values.shape[0]
    if n < 3:
        raise ValueError(
            f"Argument `barriers` must hold at least 3 barriers for a fit that can be tested, but it holds {n}."
        )
    values = positive(values, "barriers")
    tails = np.array([(1 + confidence) / 2, (1 - confidence) / 2])
    scale, seen, likelihood = _fitted(values, statistic)
    interval = scale * jnp.asarray(n / gammaincinv(n, tails), values.dtype)
    drawn = _bootstrap(jr.key(0) if key is None else key, n, samples, statistic, values.dtype)
    worse = jnp.sum(drawn >= jax.lax.stop_gradient(seen)).astype(values.dtype)
    return BarrierFit(scale, interval, (1 + worse) / (1 + samples), seen, likelihood, n)


def _lowest(barriers: Barriers) -> Array:
    """Heights over the lowest saddle of each pair of minima, forth and back."""
    pairs = np.asarray(barriers.pairs).reshape(-1, 2)
    # Rows come lowest first.
    rows = np.unique(pairs, axis=0, return_index=True)[1] if len(pairs) else np.zeros(0, int)
    return barriers.heights[np.sort(rows)]


@functools.partial(jax.jit, static_argnums=1)
def _fitted(values: Array, statistic: str) -> tuple[Array, Array, Array]:
    """The mean of the values, their distance from the law that it fits, and how likely they are under it."""
    scale = jnp.mean(values)
    likelihood = -values.shape[0] * (jnp.log(scale) + 1)
    return scale, _distance(statistic, jnp.sort(values / scale)), likelihood


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _bootstrap(key: Array, n: int, samples: int, statistic: str, dtype: np.dtype) -> Float[Array, " samples"]:
    """The distances of exponential samples of `n` from the law fitted to each."""

    def one(key):
        sample = jr.exponential(key, (n,), dtype)
        return _distance(statistic, jnp.sort(sample / jnp.mean(sample)))

    return jax.lax.map(one, jr.split(key, samples), batch_size=min(samples, 256))


def _distance(statistic: str, x: Array) -> Array:
    return _anderson_darling(x) if statistic == "anderson_darling" else _kolmogorov_smirnov(x)


def _anderson_darling(x: Array) -> Array:
    """The distance of sorted `x` from the exponential law of mean 1, weighted towards the tails."""
    n = x.shape[0]
    odd = 2 * jnp.arange(n, dtype=x.dtype) + 1
    log_below = jnp.log(-jnp.expm1(-jnp.maximum(x, jnp.finfo(x.dtype).tiny)))
    return -n - jnp.sum(odd * (log_below - x[::-1])) / n


def _kolmogorov_smirnov(x: Array) -> Array:
    """The largest distance between the distribution of sorted `x` and the exponential law of mean 1."""
    n = x.shape[0]
    below, step = -jnp.expm1(-x), jnp.arange(n + 1, dtype=x.dtype) / n
    return jnp.maximum(jnp.max(step[1:] - below), jnp.max(below - step[:-1]))
