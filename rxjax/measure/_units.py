"""Noise and signal from the gradients of independent units (examples or micro-batches), with their errors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import one_of, require

from .._arrays import real_array, size_of
from ..optim._wide import safe_root
from ._estimate import Estimate


class Moments(NamedTuple):
    """What the gradients `g_k` of `n` units say about their mean `G`."""

    squares: Float[Array, "n"]  # |g_k - G|^2
    work: Float[Array, "n"]  # G . (g_k - G)
    mean_square: Float[Array, ""]  # |G|^2
    grouping: Float[Array, ""] | float = 0.0  # standard deviation of the sum of squares by which examples share a unit


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
        if dataset_size is not None:
            raise ValueError(
                'Argument `dataset_size` must come with sampling="without_replacement", but the sampling is '
                '"with_replacement", for which it makes no difference.'
            )
        return Population(size, None)
    if dataset_size is None:
        raise ValueError('Argument `dataset_size` must be given for `sampling="without_replacement"`, but it is None.')
    examples = real_array(dataset_size, "dataset_size")
    if examples.ndim:
        raise ValueError(f"Argument `dataset_size` must be one number, but it has shape {examples.shape}.")
    faults = [(~jnp.isfinite(examples), "is not finite"), (examples < max(drawn, 2), "is not")]
    examples = require(examples, "dataset_size", f"be a number of at least {max(drawn, 2)} examples", faults)
    return Population(size, examples)


def grouping_deviation(apart: Float[Array, "n d"], size: int) -> Array:
    """Deviation of the sum of the `|a_k|^2` over all ways to put the same examples into `n` units of `size`.

    Its square is `2 (n-1) (size-1)/size tr C^2`, with `C` the covariance of a unit, and `tr C^2` is estimated without
    bias by the mean of `((a_i - a_j).(a_k - a_l))^2/4` over four different units (Himeno and Yamada 2014).  Fewer than
    four have none; the scatter of the squares stands in, which holds what differs from example to example too.
    """
    n, unit = apart.shape[0], size_of(apart)
    apart = apart / unit
    squares = jnp.sum(apart**2, axis=1)
    if n < 4:
        return unit * (unit * safe_root(n * jnp.var(squares, ddof=1)))
    products = jnp.matmul(apart, apart.T, precision=jax.lax.Precision.HIGHEST)
    sums = (n - 2) * jnp.sum(products**2) + jnp.sum(squares) ** 2 / (n - 1) - n * jnp.sum(squares**2)
    variance = 2 * (n - 1) * (size - 1) / size * jnp.maximum(sums, 0) / (n * (n - 2) * (n - 3))
    return unit * (unit * safe_root(variance))


def noise_and_signal(moments: Moments, drawn: Population) -> tuple[Estimate, Estimate, Estimate]:
    """`tr Sigma_1`, `|G|^2` and their ratio.

    The jackknife leaves out one unit at a time, in closed form.  Out of a finite data set its variance goes with the
    share that was not seen, but for what comes of the grouping of the examples into units, which is always there.
    """
    n = moments.squares.shape[0]
    dtype = moments.squares.dtype
    # In units of the largest, or the squares of these squares would be out of range.
    unit = size_of(jnp.append(moments.squares, moments.mean_square))
    moments = Moments(*(x / unit for x in moments))
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
        return unknown(unit * values[0]), unknown(unit * values[1]), unknown(values[2])
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
        variance = spread + seen * (slope * moments.grouping) ** 2
        return jnp.where(known, jnp.sqrt(jnp.maximum(variance, 0)), jnp.inf)

    units = unit, unit, 1
    trace, signal, ratio = (
        Estimate(u * x, u * error(y, z)) for u, x, y, z in zip(units, values, left_out, slopes, strict=True)
    )
    return trace, signal, ratio
