"""How much of a whole network's update survives a number format."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree, Shaped

from rxjax_solvers._checks import one_of

from ._bits import asarray
from ._formats import resolve
from ._grid import Format, checked_scale, scale_for
from ._survival import outcome, unfit


class SurvivalReport(eqx.Module):
    """The outcome of `rx.quantization.report`: plain arrays of shape `()`, to be logged or averaged.

    - `fraction`: share of the updates that survive, by count.  Zero updates are not counted: they lose nothing.
    - `fraction_abs`, `fraction_squared`: the same share weighted by `|delta|` and by `delta**2`, that is, of the path
      length and of the squared length of the step.  All three are 0 where every update is zero.
    - `size`: numbers looked at.
    - `nonzero`: those with an update, the denominator of `fraction`.
    - `overflows`: updates that push a weight beyond the largest number of the format.
    - `excluded`: weights that are NaN or too large for the format, or whose update is not finite.  They enter none of
      the fractions: look here before believing them.
    """

    fraction: Float[Array, ""]
    fraction_abs: Float[Array, ""]
    fraction_squared: Float[Array, ""]
    size: Float[Array, ""]
    nonzero: Float[Array, ""]
    overflows: Float[Array, ""]
    excluded: Float[Array, ""]


_TILE = 1024  # a plain float32 sum of 10^8 terms stops growing; one over tiles does not


def _tiled(x: Shaped[Array, "..."], fill: int) -> Shaped[Array, "..."]:
    """`x` with a last axis of at most `_TILE`, filled up where it must be."""
    x = x.reshape(-1) if x.ndim == 0 else x
    length = x.shape[-1]
    if length <= 2 * _TILE:
        return x
    tiles = -(-length // _TILE)
    if tiles * _TILE > length:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, tiles * _TILE - length)], constant_values=fill)
    return x.reshape(*x.shape[:-1], tiles, _TILE)


@jax.custom_jvp
def _row_sums(terms: tuple[Float[Array, "..."], ...]) -> Float[Array, "n ..."]:
    """Sums over the last axis, all in one loop: each sum by itself would repeat the rounding that all of them need."""
    zeros = tuple(jnp.zeros((), x.dtype) for x in terms)
    add = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))
    return jnp.stack(jax.lax.reduce(terms, zeros, add, (terms[0].ndim - 1,)))


@_row_sums.defjvp
def _row_sums_jvp(primals, tangents):
    return _row_sums(*primals), jnp.stack([jnp.sum(x, axis=-1) for x in tangents[0]])


def _one(
    w: Shaped[Array, "..."],
    delta: Shaped[Array, "..."],
    form: Format | None,
    rounding: str,
    scale: Float[Array, ""] | None,
    unit: Float[Array, ""],
) -> Float[Array, "9"]:
    """The sums over one leaf, in the order of their use in `report`."""
    form = resolve(w.dtype) if form is None else form
    size_of_leaf = w.size
    # Filled up by weights without an update, which are counted nowhere.
    w, delta = _tiled(w, 1), _tiled(delta, 0)
    chance, before, after = outcome(w, delta, form, rounding, scale_for(w, form, scale))
    dtype = unit.dtype
    size = jnp.abs(delta.astype(dtype))
    nan, large = unfit(w, before)
    good = ~(nan | large) & jnp.isfinite(size)
    chance = jnp.where(good, chance.astype(dtype), 0.0)
    size = jnp.where(good, size, 0.0) / unit
    # Zero or not is asked of the update itself: in units of the largest one it may underflow.
    moved = good & (delta != 0)
    terms = chance, moved, chance * size, size, chance * size**2, size**2, good & after.overflow, ~good
    sums = _row_sums(tuple(x.astype(dtype) for x in terms))
    return jnp.append(jnp.sum(sums, axis=tuple(range(1, sums.ndim))), jnp.asarray(size_of_leaf, dtype))


def report(
    params: PyTree[Shaped[ArrayLike, "..."]],
    updates: PyTree[Shaped[ArrayLike, "..."]],
    dtype: object = None,
    *,
    rounding: str = "nearest",
    scale: Shaped[ArrayLike, ""] | None = None,
) -> SurvivalReport:
    """The share of a network's update that survives a number format: by count, by `|delta|` and by `delta**2`.

    The three differ because rounding loses the smallest updates first.  By count most of an update can be lost while by
    `delta**2` most of it survives.

    **Arguments:**

    - `params`: the weights, any PyTree.  Leaves of integers and Booleans are passed over.
    - `updates`: what the optimizer adds to them, of the same structure and shapes.
    - `dtype`: one of `rx.quantization.FORMATS`, as a name or as a dtype; `None` asks each leaf for its own dtype.
    - `rounding`, `scale`: as in `survival`.  With `"stochastic"` the shares are expectations.  Without `scale`, integer
        formats take one scale for each leaf, `max|params|` over the largest integer.

    **Returns:**

    A `SurvivalReport`.  It is computed on the device, without a callback, so it can stand in a compiled training step;
    sums are taken in float32 at least.  For a report layer by layer, map this function over the layers.

    **Raises:** `ValueError` if the two trees differ, or for an unknown format or rounding.  Bad numbers raise nothing:
    they are counted in `excluded`.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax.quantization as rq
        >>> params = {"w": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array(0.5)}
        >>> updates = {"w": jnp.array([0.01, 0.001, 0.02]), "b": jnp.array(0.001)}
        >>> outcome = rq.report(params, updates, "bfloat16")
        >>> print(f"{outcome.fraction:.2f} {outcome.fraction_abs:.3f} {outcome.fraction_squared:.3f}")
        0.50 0.938 0.996

        ```
    """
    one_of(rounding, "rounding", ("nearest", "stochastic"))
    known = None if dtype is None else resolve(dtype)
    weights, structure = jax.tree.flatten(params)
    deltas, other = jax.tree.flatten(updates)
    if structure != other:
        raise ValueError(
            f"Argument `updates` must have the structure of `params`, but it is {other} beside {structure}."
        )
    pairs = []
    for w, delta in zip(weights, deltas, strict=True):
        w, delta = asarray(w, "params"), asarray(delta, "updates")
        if w.shape != delta.shape:
            raise ValueError(
                f"Argument `updates` must have the shapes of `params`, but one has {delta.shape} beside {w.shape}."
            )
        if jnp.issubdtype(w.dtype, jnp.inexact):
            pairs.append((w, delta))
    return _report(pairs, known, rounding, checked_scale(scale))


@functools.partial(jax.jit, static_argnames=("known", "rounding"))
def _report(
    pairs: list[tuple[Array, Array]], known: Format | None, rounding: str, scale: Float[Array, ""] | None
) -> SurvivalReport:
    wide = jnp.dtype(jnp.float64 if any(d.dtype == jnp.float64 for _, d in pairs) else jnp.float32)
    # |delta| is measured in units of the largest one, for squares of small updates underflow.
    unit = jnp.zeros((), wide)
    for _, delta in pairs:
        size = jnp.abs(delta.astype(wide))
        unit = jnp.maximum(unit, jnp.max(jnp.where(jnp.isfinite(size), size, 0.0), initial=0.0))
    unit = jnp.where(unit > 0, unit, 1.0)
    rows = [_one(w, delta, known, rounding, scale, unit) for w, delta in pairs]
    sums = jnp.sum(jnp.stack(rows), axis=0) if rows else jnp.zeros(9, wide)
    survived, nonzero, kept_abs, all_abs, kept_squared, all_squared, overflows, excluded, size = sums

    def share(part: Float[Array, ""], whole: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)

    return SurvivalReport(
        share(survived, nonzero),
        share(kept_abs, all_abs),
        share(kept_squared, all_squared),
        size,
        nonzero,
        overflows,
        excluded,
    )
