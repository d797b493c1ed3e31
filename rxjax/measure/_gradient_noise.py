"""Gradient and gradient noise of a network, from single examples or from micro-batches."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from rxjax_solvers._checks import one_of
from rxjax_solvers._program import program

from ..landscapes._callable import one_number
from ..landscapes._trees import match
from ._curvature import flat_loss, flat_values, moving_part, shaped_like
from ._estimate import Estimate
from ._scatter import LowRank, Scatter
from ._units import Moments, Population, grouping_deviation, noise_and_signal, population


class GradientNoise(eqx.Module):
    r"""What [`gradient_noise`][] measured.

    - `trace`: $\mathrm{tr}\,\Sigma_1$, the total variance of the gradient of ONE example.
    - `squared_gradient`: $|G|^2$ of the full loss; it may come out negative where the noise hides the gradient.
    - `ratio`: `trace` over `squared_gradient`, the critical batch size; see [`critical_batch_size`][].
    - `diagonal`: the variance of each entry of one example's gradient, shaped like the parameters, or `None`.
    - `low_rank`: the largest eigenpairs of $\Sigma_1$, a [`LowRank`][], or `None`.
    - `projected`: $d_i^\top \Sigma_1 d_j$ for the directions given, or `None`.

    The first three are [`Estimate`][]s: `value` and `standard_error`.
    """

    trace: Estimate
    squared_gradient: Estimate
    ratio: Estimate
    diagonal: PyTree | None
    low_rank: LowRank | None = None
    projected: Float[Array, "m m"] | None = None


def gradient_noise(
    loss_fn: Callable,
    params: PyTree,
    batch: PyTree,
    *,
    route: str = "per_example",
    micro_batch_size: int | None = None,
    chunk_size: int | None = None,
    sampling: str = "with_replacement",
    dataset_size: ArrayLike | None = None,
    diagonal: bool = False,
    rank: int = 0,
    directions: Sequence[PyTree] | None = None,
) -> GradientNoise:
    r"""Size of the gradient $|G|^2$ and of its noise $\mathrm{tr}\,\Sigma_1$, both unbiased, with standard errors.

    From the gradients $g_k$ of $n$ units of $b$ examples each, single ones or micro-batches,

    $$\mathrm{tr}\,\Sigma_1 \approx \frac{b}{n-1}\sum_k |g_k - \bar g|^2, \qquad
      |G|^2 \approx |\bar g|^2 - \frac{\mathrm{tr}\,\Sigma_1}{b n}.$$

    Standard errors are those of the jackknife over units (the one of $|G|^2$ is too large by up to the root of two
    where the noise hides the gradient).  Out of a finite data set their variance goes with the share that was not
    seen, but for the part of it that comes of which examples share a micro-batch, $2\,\mathrm{tr}\,C^2$ of a
    micro-batch's covariance $C$ over the number of them: the one error left where the micro-batches are all the data.

    **Arguments:**

    - `loss_fn`: `loss_fn(params, batch)`, the MEAN loss over the examples of a batch, of one example too.
    - `params`: any PyTree (dicts, Equinox modules, Flax parameters); its real floating arrays are the parameters.
    - `batch`: a PyTree of arrays with a leading axis over examples.
    - `route`:
        - `"per_example"`: two passes over single examples, `chunk_size` gradients in memory at a time.  The most
          precise; the cost is one gradient of the batch and one gradient of each example by itself.
        - `"micro_batches"`: one pass over micro-batches of `micro_batch_size`, all of whose gradients are kept in
          memory; the cost is one gradient of the batch, and `"without_replacement"` the products of every two of
          them.  It equals the two-batch formula of [`noise_from_two_batches`][] averaged over all small batches
          within the large one.
    - `micro_batch_size`: $b$, which must divide the batch, leaving two micro-batches at least.
      They are taken as the examples lie: shuffle data that lie in blocks of like ones, or the noise is too large and
      its error too small.
    - `chunk_size`: single gradients held at a time, 32 if not given; for `"per_example"` alone.
    - `sampling`: how the examples came out of the data.  `"with_replacement"` for independent draws, fresh data too;
      `"without_replacement"` out of `dataset_size` examples, which includes the batches of one epoch and the whole
      data set (then the errors are zero, but for the grouping into micro-batches, and $\Sigma_1$ has the
      normalisation $1/N$).
    - `dataset_size`: $N$, for `"without_replacement"` alone.
    - `diagonal`: return the variance of each entry too; one more tree like the parameters.
    - `rank`: return that many of the largest eigenpairs of $\Sigma_1$, through the Gram matrix of the centred
      gradients.  From single examples the eigenpairs are merged chunk by chunk, with `2 rank + 24` vectors in memory.
    - `directions`: PyTrees like the parameters, of any length; return the covariance along them, as on a plane.

    **Returns:** a [`GradientNoise`][], in the units of a squared gradient, summed in float32 at least.

    Good values: 200 single examples, or 8 to 30 micro-batches.  **How it fails:** a loss that is not a mean over
    examples (batch normalisation, a sum) has no gradient of one example.  A penalty on the weights is a part of every
    example's loss: it adds to $|G|^2$ and not to the noise.  Few micro-batches: the error of the trace is about
    $\sqrt{2/(n-1)}$ of it where few directions carry the noise.  The largest eigenvalues of a sample's covariance are
    biased upward where the units are few (about $\mathrm{tr}\,\Sigma_1/n$); `diagonal` and `projected` are unbiased.

    **Raises:** `ValueError` for an unknown route or sampling, a `micro_batch_size` with single examples, a
    `chunk_size` with micro-batches, a `dataset_size` without need, fewer than two units, a `rank` beyond what the units
    span, or directions unlike the parameters.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> loss = lambda p, x: jnp.mean((p["w"] - x) ** 2) / 2
    >>> data = jnp.array([1.0, 2.0, 3.0, 6.0])
    >>> noise = rx.measure.gradient_noise(loss, {"w": jnp.array(0.0)}, data)
    >>> print(f"{noise.trace.value:.3f} {noise.squared_gradient.value:.3f}")
    4.667 7.833

    ```

    Source: McCandlish et al., "An empirical model of large-batch training" (2018), appendix A.
    """
    one_of(route, "route", ("per_example", "micro_batches"))
    if route == "per_example" and micro_batch_size is not None:
        raise ValueError(
            'Argument `micro_batch_size` must come with route="micro_batches", but the route is "per_example".'
        )
    if route == "micro_batches" and chunk_size is not None:
        raise ValueError(
            'Argument `chunk_size` must come with route="per_example", but the route is "micro_batches", all of whose '
            "gradients are held."
        )
    chunk_size = 32 if chunk_size is None else chunk_size
    size = 1 if route == "per_example" else micro_batch_size
    count = count_units(batch, size, least=2)
    if chunk_size < 1:
        raise ValueError(f"Argument `chunk_size` must be at least 1, but it is {chunk_size}.")
    if rank < 0:
        raise ValueError(f"Argument `rank` must not be negative, but it is {rank}.")
    if directions is not None and not len(directions):
        raise ValueError("Argument `directions` must hold at least one direction, but it holds none.")
    assert size is not None
    drawn = population(size, count, sampling, dataset_size)
    single = route == "per_example"
    return _measured(loss_fn, params, batch, drawn, min(chunk_size, count), single, diagonal, rank, directions)


def count_units(batch: PyTree, size: int | None, least: int) -> int:
    """The number of examples in `batch`, refused unless it makes `least` units of `size` examples or more."""
    count = leading_axis(batch, "batch", "examples")
    if size is None or size < 1 or count % size:
        raise ValueError(f"Argument `micro_batch_size` must divide the {count} examples of `batch`, but it is {size}.")
    if count // size < least:
        words = {2: "two", 3: "three"}[least]
        raise ValueError(f"Argument `batch` must hold at least {words} units, but it holds {count} examples.")
    return count


def leading_axis(tree: PyTree, name: str, over: str) -> int:
    """The length of the first axis, one for all arrays of `tree`."""
    sizes = {x.shape[0] if jnp.ndim(x) else 0 for x in jax.tree.leaves(tree) if eqx.is_array_like(x)}
    if len(sizes) != 1:
        raise ValueError(f"Argument `{name}` must hold arrays with one leading axis over {over}, but it has {sizes}.")
    if sizes == {0}:
        raise ValueError(f"Argument `{name}` must hold arrays with {over} along the first axis, but it holds none.")
    return sizes.pop()


@program
def _measured(
    loss_fn: Callable,
    params: PyTree,
    batch: PyTree,
    drawn: Population,
    chunk: int,
    single: bool,
    diagonal: bool,
    rank: int,
    directions: Sequence[PyTree] | None,
) -> GradientNoise:
    batch = jax.tree.map(jnp.asarray, batch)
    _, origin, flat = flat_values(loss_fn, params, batch)
    along = None
    if directions is not None:
        along = jnp.stack([flat(match(d, params, "directions", "params")) for d in directions])
    units = jax.tree.leaves(batch)[0].shape[0] // drawn.size
    if rank > min(units - 1, origin.size):
        raise ValueError(
            f"Argument `rank` must be at most {min(units - 1, origin.size)} for {units} units and {origin.size} "
            f"parameters, but it is {rank}."
        )
    if single:
        # A few more rows than asked for keep what later chunks may raise.
        scatter = Scatter.zero(origin, diagonal, along, min(2 * rank + 8, units) if rank else 0)
        moments, scatter = _from_examples(loss_fn, params, batch, chunk, scatter, along)
    else:
        scatter = Scatter.zero(origin, diagonal, along, rank)
        gradients = micro_gradients(loss_fn, params, in_parts(batch, drawn.size))
        apart = gradients - jnp.mean(gradients, axis=0)[None, :]
        moments = moments_of(gradients)
        if drawn.examples is not None:
            moments = moments._replace(grouping=grouping_deviation(apart, drawn.size))
        scatter = scatter.plus(apart, along)
    share = 1.0 if drawn.examples is None else (drawn.examples - 1) / drawn.examples
    scale = jnp.asarray(drawn.size * share / (units - 1)).astype(origin.dtype)
    return GradientNoise(
        *noise_and_signal(moments, drawn),
        None if scatter.diagonal is None else shaped_like(params, scale * scatter.diagonal),
        scatter.low_rank(params, rank, scale),
        None if scatter.projected is None else scale * scatter.projected,
    )


def _from_examples(
    loss_fn: Callable, params: PyTree, batch: PyTree, chunk: int, scatter: Scatter, directions: Array | None
) -> tuple[Moments, Scatter]:
    """Two passes in chunks: the mean, then the distances from it, so that no digits cancel."""
    n = jax.tree.leaves(batch)[0].shape[0]
    # The last chunk is filled up by examples of weight zero.
    index = jnp.arange(-(-n // chunk) * chunk).reshape(-1, chunk)
    take = lambda i: jax.tree.map(lambda x: x[jnp.minimum(i, n - 1)], batch)
    alone = lambda p, e: one_number(loss_fn(p, jax.tree.map(lambda x: x[None], e)), "loss_fn")
    each = lambda p, examples: jax.vmap(lambda e: alone(p, e))(examples)
    origin = flat_values(loss_fn, params, batch)[1]

    def add(total, i):
        weighted = lambda p, examples: jnp.sum(jnp.where(i < n, each(p, examples), 0))
        return total + flat_loss(weighted, params, take(i)).gradient(), None

    mean = jax.lax.scan(add, jnp.zeros_like(origin), index)[0] / n

    def measure(scatter, i):
        single = lambda e: flat_loss(lambda p, e: each(p, e)[0], params, jax.tree.map(lambda x: x[None], e)).gradient()
        apart = jnp.where((i < n)[:, None], jax.vmap(single)(take(i)) - mean[None, :], 0)
        sums = jnp.sum(apart**2, axis=1), jnp.sum(apart * mean[None, :], axis=1)
        return scatter.plus(apart, directions), sums

    scatter, (squares, work) = jax.lax.scan(measure, scatter, index)
    return Moments(squares.reshape(-1)[:n], work.reshape(-1)[:n], jnp.sum(mean**2)), scatter


def in_parts(batch: PyTree, size: int) -> PyTree:
    """A batch as micro-batches of `size` examples, as they lie: a second leading axis."""
    return jax.tree.map(lambda x: jnp.asarray(x).reshape(x.shape[0] // size, size, *x.shape[1:]), batch)


def micro_gradients(loss_fn: Callable, params: PyTree, parts: PyTree) -> Array:
    """The gradient of each micro-batch, flat, one row each; one after the other."""
    moved, fixed = moving_part(params)
    slope = jax.grad(lambda p, part: one_number(loss_fn(eqx.combine(p, fixed), part), "loss_fn"))
    # Flattened all at once: inside the loop each gradient would be copied twice.
    flat = flat_values(loss_fn, params, parts)[2]
    return jax.vmap(flat)(jax.lax.map(lambda part: slope(moved, part), parts))


def moments_of(gradients: Array) -> Moments:
    """The moments of gradients in rows."""
    mean = jnp.mean(gradients, axis=0)
    apart = gradients - mean[None, :]
    return Moments(jnp.sum(apart**2, axis=1), jnp.sum(apart * mean[None, :], axis=1), jnp.sum(mean**2))
