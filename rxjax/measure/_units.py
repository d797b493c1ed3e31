"""Noise and signal from the gradients of independent units (examples or micro-batches), with their errors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import one_of, require

from .._arrays import real_array
from ._estimate import Estimate


class Moments(NamedTuple):
    """What the gradients `g_k` of `n` units say about their mean `G`."""

    squares: Float[Array, "n"]  # |g_k - G|^2
    work: Float[Array, "n"]  # G . (g_k - G)
    mean_square: Float[Array, ""]  # |G|^2
    grouping: Float[Array, ""] | float = 0.0  # variance of the sum of squares by which examples share a unit


class Population(NamedTuple):
    """How the units were drawn: `size` examples in each, without replacement out of `examples` if that is given."""

    size: int
    examples: Array | None


def population(size: int, drawn: int, sampling: str, dataset_size: ArrayLike | None) -> Population:
    """The checked sampling scheme of `drawn` examples in units of `size`."""
    one_of(
        sampling,
        "sampling",
        ("with_replacement", "without_replacement"),
        'The batches of ONE reshuffled epoch are drawn "without_replacement".',
    )
    if sampling == "with_replacement":
        return Population(size, None)
    if dataset_size is None:
        raise ValueError('Argument `dataset_size` must be given for `sampling="without_replacement"`, but it is None.')
    examples = real_array(dataset_size, "dataset_size")
    if examples.ndim:
        raise ValueError(f"Argument `dataset_size` must be one number, but it has shape {examples.shape}.")
    faults = [(~jnp.isfinite(examples), "is not finite"), (examples < max(drawn, 2), "is not")]
    examples = require(examples, "dataset_size", f"be a number of at least {max(drawn, 2)} examples", faults)
    return Population(size, examples)


def grouping_variance(apart: Float[Array, "n d"], size: int) -> Array:
    """Variance of the sum of the `|a_k|^2` over all ways to put the same examples into `n` units of `size`.

    It is `2 (n-1) (size-1)/size tr C^2`, with `C` the covariance of a unit, and `tr C^2` is estimated without bias by
    the mean of `((a_i - a_j).(a_k - a_l))^2/4` over four different units (Himeno and Yamada 2014).  Fewer than four
    have none; the scatter of the squares stands in, which holds what differs from example to example too.
    """
    n = apart.shape[0]
    squares = jnp.sum(apart**2, axis=1)
    if n < 4:
        return n * jnp.var(squares, ddof=1)
    products = jnp.matmul(apart, apart.T, precision=jax.lax.Precision.HIGHEST)
    sums = (n - 2) * jnp.sum(products**2) + jnp.sum(squares) ** 2 / (n - 1) - n * jnp.sum(squares**2)
    return 2 * (n - 1) * (size - 1) / size * jnp.maximum(sums, 0) / (n * (n - 2) * (n - 3))


def noise_and_signal(moments: Moments, drawn: Population) -> tuple[Estimate, Estimate, Estimate]:
    """`tr Sigma_1`, `|G|^2` and their ratio.

    The jackknife leaves out one unit at a time, in closed form.  Out of a finite data set its variance goes with the
    share that was not seen, but for what comes of the grouping of the examples into units, which is always there.
    """
    n = moments.squares.shape[0]
    dtype = moments.squares.dtype
    total = jnp.sum(moments.squares)

    def estimates(total: Array, mean_square: Array, n: int) -> tuple[Array, Array, Array]:
        one = drawn.size * total / (n - 1)  # of one example
        trace, rest = one, 1 / jnp.asarray(drawn.size * n, dtype)
        if drawn.examples is not None:
            whole = drawn.examples.astype(dtype)
            trace, rest = one * (whole - 1) / whole, rest - 1 / whole
        signal = mean_square - one * rest
        hidden = signal <= 0
        return trace, signal, jnp.where(hidden, jnp.inf, trace / jnp.where(hidden, 1, signal))

    values = estimates(total, moments.mean_square, n)
    if n < 3:
        unknown = lambda x: Estimate(x, jnp.full_like(x, jnp.inf))
        return unknown(values[0]), unknown(values[1]), unknown(values[2])
    without_squares = total - moments.squares * (n / (n - 1))
    without_mean = moments.mean_square - 2 * moments.work / (n - 1) + moments.squares / (n - 1) ** 2
    left_out = estimates(without_squares, without_mean, n - 1)
    seen = jnp.zeros((), dtype)
    if drawn.examples is not None:
        seen = drawn.size * n / drawn.examples.astype(dtype)
    slopes = jax.jvp(lambda t: estimates(t, moments.mean_square, n), (total,), (jnp.ones_like(total),))[1]

    def error(x: Array, slope: Array) -> Array:
        # Where a ratio is infinite with one unit left out, nothing is known about it.
        known = jnp.all(jnp.isfinite(x))
        apart = jnp.where(known, x, 0)
        spread = jnp.sum((apart - jnp.mean(apart)) ** 2) * (1 - seen) * ((n - 1) / n)
        variance = spread + seen * slope**2 * moments.grouping
        return jnp.where(known, jnp.sqrt(jnp.maximum(variance, 0)), jnp.inf)

    trace, signal, ratio = (Estimate(x, error(y, z)) for x, y, z in zip(values, left_out, slopes, strict=True))
    return trace, signal, ratio
