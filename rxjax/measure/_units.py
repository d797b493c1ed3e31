"""Noise and signal from the gradients of independent units (examples or micro-batches), with jackknife errors."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import one_of, require

from ._estimate import Estimate


class Moments(NamedTuple):
    """What the gradients `g_k` of `n` units say about their mean `G`."""

    squares: Float[Array, "n"]  # |g_k - G|^2
    work: Float[Array, "n"]  # G . (g_k - G)
    mean_square: Float[Array, ""]  # |G|^2


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
    examples = jnp.asarray(dataset_size, float)
    faults = [(examples < max(drawn, 2), "is not")]
    examples = require(examples, "dataset_size", f"be a number of at least {max(drawn, 2)} examples", faults)
    return Population(size, examples)


def noise_and_signal(moments: Moments, drawn: Population) -> tuple[Estimate, Estimate, Estimate]:
    """`tr Sigma_1`, `|G|^2` and their ratio.  The jackknife leaves out one unit at a time, in closed form."""
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
        return trace, signal, jnp.where(signal > 0, trace / jnp.where(signal > 0, signal, 1), jnp.inf)

    values = estimates(total, moments.mean_square, n)
    if n < 3:
        unknown = lambda x: Estimate(x, jnp.full_like(x, jnp.inf))
        return unknown(values[0]), unknown(values[1]), unknown(values[2])
    without_squares = total - moments.squares * (n / (n - 1))
    without_mean = moments.mean_square - 2 * moments.work / (n - 1) + moments.squares / (n - 1) ** 2
    left_out = estimates(without_squares, without_mean, n - 1)
    share = jnp.ones((), dtype)
    if drawn.examples is not None:
        share = 1 - drawn.size * n / drawn.examples.astype(dtype)

    def error(x: Array) -> Array:
        # Where a ratio is infinite with one unit left out, nothing is known about it.
        known = jnp.all(jnp.isfinite(x))
        apart = jnp.where(known, x, 0)
        spread = jnp.sum((apart - jnp.mean(apart)) ** 2) * share * ((n - 1) / n)
        return jnp.where(known, jnp.sqrt(jnp.maximum(spread, 0)), jnp.inf)

    trace, signal, ratio = (Estimate(x, error(y)) for x, y in zip(values, left_out, strict=True))
    return trace, signal, ratio
