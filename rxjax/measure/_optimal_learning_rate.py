"""The learning rate that gains most in the next step of a network."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PyTree

from rxjax_solvers._program import program

from .._arrays import real_array, size_of
from .._hyperparameters import check_count
from ..landscapes._trees import norm
from ._curvature import flat_loss
from ._estimate import Estimate
from ._gradient_noise import count_units, in_parts, micro_gradients
from ._units import Population, population


class StepRates(eqx.Module):
    r"""What [`optimal_learning_rate`][] found, as [`Estimate`][]s: `value` and `standard_error`.

    - `optimal`: $\eta_{opt}(B)$ at the batch size asked for.
    - `maximal`: $\eta_{max} = |G|^2/(G^\top H G)$, its limit for large batches.
    - `noise_batch`: $B_{noise} = \mathrm{tr}(H\Sigma_1)/(G^\top H G)$, the batch size at which the optimal rate is half
      the maximal one.
    """

    optimal: Estimate
    maximal: Estimate
    noise_batch: Estimate


class Moment(NamedTuple):
    """An unbiased estimate and what each of `n` micro-batches adds to it, in first order."""

    value: Float[Array, ""]
    parts: Float[Array, "n"]

    def times(self, weight: Array) -> "Moment":
        return Moment(weight * self.value, weight * self.parts)

    def plus(self, other: "Moment", weight: Array | float) -> "Moment":
        return Moment(self.value + weight * other.value, self.parts + weight * other.parts)

    def over(self, other: "Moment") -> Estimate:
        """Their ratio, with the standard error of the infinitesimal jackknife; infinite where `other` is at most 0."""
        n, none = self.parts.shape[0], other.value <= 0
        below = jnp.where(none, 1, other.value)
        value = self.value / below
        error = norm(self.parts - value * other.parts) / (n * (n - 1)) ** 0.5 / below
        return Estimate(jnp.where(none, jnp.inf, value), jnp.where(none, jnp.inf, error))


def optimal_learning_rate(
    loss_fn: Callable,
    params: PyTree,
    batch: PyTree,
    batch_size: ArrayLike,
    *,
    micro_batch_size: int,
    sampling: str = "with_replacement",
    dataset_size: ArrayLike | None = None,
    key: Array | None = None,
) -> StepRates:
    r"""The learning rate of SGD at the current point that lowers the loss most in ONE step, on the quadratic model,

    $$\eta_{opt}(B) = \frac{|G|^2}{G^\top H G + \mathrm{tr}(H\Sigma_1)/B} = \frac{\eta_{max}}{1 + B_{noise}/B}.$$

    From the gradients $g_k$ and Hessians $H_k$ of micro-batches.  Each of $|G|^2$, $G^\top H G$ and
    $\mathrm{tr}(H\Sigma_1)$ is UNBIASED: $H_k$ only ever meets gradients of other micro-batches.  Their ratios are
    biased by one over the number of micro-batches, relative to the squared error.  Out of a finite data set the bias of
    $G^\top H G$ is of second order in one over the examples, and none is left in the first two on all the data.

    **Arguments:**

    - `loss_fn`: `loss_fn(params, batch)`, the MEAN loss over the examples of a batch.
    - `params`: any PyTree; its real floating arrays are the parameters.
    - `batch`: a PyTree of arrays with a leading axis over examples.
    - `batch_size`: $B$ of the step, drawn with replacement; a number.
    - `micro_batch_size`: must divide the batch, leaving three micro-batches at least.  Their gradients are all kept in
      memory.
    - `sampling`, `dataset_size`: how the examples came out of the data, as in [`gradient_noise`][].
    - `key`: the examples are put in random order first, for data often lie in blocks of like ones; fixed if not given.

    **Returns:** a [`StepRates`][]; rates have the units of squared parameters over the loss, as $\eta$, and
    `noise_batch` is in examples.  The cost is a gradient and three Hessian-vector products of the batch, about eight
    gradients.  A rate is infinite where the curvature along the step is not positive.

    Good values: 16 micro-batches.  **How it fails:** near a minimum $|G|^2$ is lost in its noise: the rate is then zero
    within its error and may come out negative.  Few micro-batches carry the trace of few noisy directions, and the
    errors are then too small.  The best single step is far too timid a rate for a whole run, see
    [`rxjax.optimal_learning_rate`][].

    **Raises:** `ValueError` (inside `jit`, a run-time error) for batches that do not fit or a `batch_size` below 1.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> loss = lambda w, x: jnp.mean((w - x) ** 2)
    >>> data = jnp.array([1.0, 2.0, 3.0, 6.0])
    >>> found = rx.measure.optimal_learning_rate(loss, jnp.array(0.0), data, batch_size=2, micro_batch_size=1)
    >>> print(f"{found.optimal.value:.3f} {found.maximal.value:.3f} {found.noise_batch.value:.3f}")
    0.380 0.520 0.742

    ```

    Source: McCandlish et al., "An empirical model of large-batch training" (2018), eqs. 2.7 and 2.8.
    """
    size = check_count(real_array(batch_size, "batch_size"), "batch_size")
    if size.ndim:
        raise ValueError(f"Argument `batch_size` must be one number, but it has shape {size.shape}. Vmap over many.")
    drawn = population(micro_batch_size, count_units(batch, micro_batch_size, least=3), sampling, dataset_size)
    return _measured(loss_fn, params, batch, size, drawn, jr.key(0) if key is None else key)


@program
def _measured(
    loss_fn: Callable, params: PyTree, batch: PyTree, batch_size: Array, drawn: Population, key: Array
) -> StepRates:
    order = jr.permutation(key, jax.tree.leaves(batch)[0].shape[0])
    batch = jax.tree.map(lambda x: jnp.asarray(x)[order], batch)
    square, curve, spread, _ = step_moments(loss_fn, params, batch, drawn)
    met = curve.plus(spread, 1 / batch_size.astype(curve.value.dtype))
    return StepRates(square.over(met), square.over(curve), spread.over(curve))


def step_moments(
    loss_fn: Callable, params: PyTree, batch: PyTree, drawn: Population
) -> tuple[Moment, Moment, Moment, Array]:
    r"""$|G|^2$, $G^\top H G$ and $\mathrm{tr}(H\Sigma_1)$ from micro-batches of examples in random order.

    All in units of the square of the gradients' size, which is last: those of a third power would be out of range.
    """
    unit = drawn.size
    parts = in_parts(batch, unit)
    gradients = micro_gradients(loss_fn, params, parts)
    n, size = gradients.shape[0], size_of(gradients)
    gradients = gradients / size
    mean = jnp.mean(gradients, axis=0)
    apart = gradients - mean[None, :]

    def bend(total, one):
        part, own, following = one
        product = flat_loss(loss_fn, params, part).expand()[1]
        # Two vectors leave out the micro-batch whose Hessian they meet; the mean of all is the first and its own share.
        others = mean - own / (n - 1)
        contrast = following - (n * mean - (mean + own) - following) / (n - 2)
        bent, rest = product(others), product(own) / (n - 1)
        whole = jnp.sum(mean * (bent + rest))
        return total + (bent + rest) / n, (jnp.sum(others * bent), whole, jnp.sum(contrast * product(contrast)))

    neighbours = (parts, apart, jnp.roll(gradients, -1, axis=0))
    bent, (along, whole, across) = jax.lax.scan(bend, jnp.zeros_like(mean), neighbours)
    # Of the whole data set, this share was not seen; the variance of what is estimated goes with it.
    share = unseen = jnp.ones((), mean.dtype)
    if drawn.examples is not None:
        examples = drawn.examples.astype(mean.dtype)
        share, unseen = (examples - 1) / examples, 1 - unit * n / examples
    squares = jnp.sum(apart**2, axis=1)
    one = unit * jnp.sum(squares) / (n - 1)
    noise = Moment(one, unit * n / (n - 1) * squares - one)
    # The noise of a contrast is mostly that of its first member.
    across = jnp.roll(across, 1) * (unit * (n - 2) / (n - 1))
    spread = Moment(jnp.mean(across), across - jnp.mean(across))
    square = Moment(jnp.sum(mean**2), 2 * jnp.sum(apart * mean[None, :], axis=1))
    curve = Moment(jnp.mean(along), along - jnp.mean(along) + 2 * jnp.sum(apart * bent[None, :], axis=1))
    curve = curve.plus(spread, -1 / (unit * (n - 1)))
    # Without noise of its own the product of the means would do: the correction goes with what was not seen.
    curve = Moment(jnp.mean(whole) + unseen * (curve.value - jnp.mean(whole)), curve.parts)
    square = square.plus(noise, -unseen / (unit * n))
    known = jnp.sqrt(unseen)
    square, curve = (Moment(m.value, known * m.parts) for m in (square, curve))
    return square, curve, spread.times(share), size
