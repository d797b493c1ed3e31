"""Ensembles of stochastic gradient descent, step by step."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree, Shaped

from .._checks import one_of, positive, require
from .._program import program
from ._equation import check_starts

SAMPLING = ("with_replacement", "without_replacement", "epoch")


class Ensemble(eqx.Module):
    """Runs of SGD: `steps (saves,)`, starting with 0, and `thetas (saves, runs, d)`."""

    steps: Int[Array, " saves"]
    thetas: Float[Array, "saves runs d"]


def sgd_ensemble(
    loss: Callable,
    theta0: Shaped[ArrayLike, "runs d"],
    num_steps: int,
    key: PRNGKeyArray,
    *,
    learning_rate: Shaped[ArrayLike, ""],
    data: PyTree = None,
    batch_size: int | None = None,
    noise: Callable | None = None,
    momentum: Shaped[ArrayLike, ""] = 0.0,
    nesterov: bool = False,
    sampling: str = "with_replacement",
    save_every: int = 1,
    observe: Callable | None = None,
) -> Ensemble:
    r"""Real, discrete SGD from many starts: $v \leftarrow \mu v + g$, $\theta \leftarrow \theta - \eta v$.

    **Arguments:**

    - `loss`: with `data` the loss of ONE example, `loss(theta, example) -> ()`; with `noise` the whole loss,
        `loss(theta) -> ()`.
    - `theta0`: where the runs start, shape `(runs, d)`.
    - `num_steps`: how many steps, a multiple of `save_every`.
    - `learning_rate`, `momentum`: $\eta$ and $\mu$; `nesterov` looks ahead, $\theta - \eta (g + \mu v)$.
    - `data`: a PyTree of arrays with the examples along the first axis; `batch_size`: how many in a batch.
    - `noise`: `noise(theta, key) -> (d,)`, added to the gradient of the loss, in place of data.
    - `sampling`: "with_replacement", "without_replacement" (each batch afresh, no example twice in it) or "epoch" (the
        data are shuffled once an epoch and cut into batches; what does not fill a batch is left out).
    - `save_every`: keep every so many steps.
    - `observe`: `theta (d,) -> (m,)`, what is kept of each run in place of its `theta`: for many parameters.

    **Returns:** an `Ensemble`.  Runs differ by their keys alone, batches included.  It differentiates through all
    steps, with the batches held fixed.  Many calls: see `langevin`.

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp, rxjax_solvers as rxs
        >>> noise = lambda theta, key: jax.random.normal(key, theta.shape)
        >>> loss = lambda theta: jnp.sum(theta**2) / 2
        >>> start, key = jnp.zeros((4000, 1)), jax.random.key(0)
        >>> runs = rxs.sgd_ensemble(loss, start, 20, key, learning_rate=0.5, noise=noise, save_every=20)
        >>> print(jnp.abs(jnp.var(runs.thetas[-1]) - 1 / 3) < 0.03)  # eta/(2 - eta)
        True

        ```
    """
    one_of(sampling, "sampling", SAMPLING)
    theta0 = check_starts(theta0, "theta0")
    if (data is None) == (noise is None):
        raise ValueError("Argument `data` must be given, with a loss of one example, or `noise`, but not both.")
    if noise is not None and (batch_size is not None or sampling != "with_replacement"):
        raise ValueError("Argument `noise` must come without `batch_size` and `sampling`, which are those of `data`.")
    if save_every < 1 or num_steps < 1 or num_steps % save_every:
        raise ValueError(
            f"Argument `num_steps` must be a positive multiple of `save_every`, but it is {num_steps} for {save_every}."
        )
    eta = positive(jnp.asarray(learning_rate, theta0.dtype), "learning_rate")
    mu = jnp.asarray(momentum, theta0.dtype)
    mu = require(mu, "momentum", "lie in [0, 1)", [(~((mu >= 0) & (mu < 1)), "does not")])
    data = jax.tree.map(jnp.asarray, data)
    count, size = _counts(data, batch_size)
    batches_of = (count, size, sampling)
    return _runs(loss, noise, observe, data, theta0, eta, mu, key, batches_of, nesterov, num_steps, save_every)


@program
def _runs(
    loss: Callable,
    noise: Callable | None,
    observe: Callable | None,
    data: PyTree,
    theta0: Array,
    eta: Array,
    mu: Array,
    key: PRNGKeyArray,
    batches_of: tuple[int, int, str],
    nesterov: bool,
    num_steps: int,
    save_every: int,
) -> Ensemble:
    count, size, sampling = batches_of
    batches = count // size

    def gradient(theta, key, order, step):
        if noise is not None:
            kick = jnp.asarray(noise(theta, key))
            if kick.shape != theta.shape:
                raise ValueError(f"Argument `noise` must return shape {theta.shape}, but it returns {kick.shape}.")
            return jax.grad(loss)(theta) + kick, order
        if sampling == "with_replacement":
            chosen = jr.randint(key, (size,), 0, count)
        elif sampling == "without_replacement":
            chosen = jr.permutation(key, count)[:size]
        else:
            place = step % batches
            order = lax.cond(place == 0, lambda o: jr.permutation(key, o), lambda o: o, order)
            chosen = lax.dynamic_slice(order, (place * size,), (size,))
        batch = jax.tree.map(lambda x: x[chosen], data)

        def mean(theta):
            losses = jax.vmap(lambda example: loss(theta, example))(batch)
            if losses.ndim != 1:
                raise ValueError(
                    f"Argument `loss` must return a scalar for one example, but it returns shape {losses.shape[1:]}."
                )
            return jnp.mean(losses)

        return jax.grad(mean)(theta), order

    def one(carry, step_and_keys):
        step, keys = step_and_keys
        theta, v, order = carry
        g, order = jax.vmap(gradient, in_axes=(0, 0, 0, None))(theta, keys, order, step)
        v = mu * v + g
        theta = theta - eta * (g + mu * v if nesterov else v)
        return (theta, v, order), None

    runs = theta0.shape[0]

    def block(carry, first):
        steps = first + jnp.arange(save_every)
        keys = jax.vmap(lambda s: jr.split(jr.fold_in(key, s), runs))(steps)
        carry, _ = lax.scan(one, carry, (steps, keys))
        return carry, kept(carry[0])

    kept = (lambda theta: theta) if observe is None else jax.vmap(observe)

    # With one order for all runs `lax.cond` would not be vmapped, but runs must differ.
    order = jnp.broadcast_to(jnp.arange(max(count, 1))[None], (runs, max(count, 1)))
    carry: Any = (theta0, jnp.zeros_like(theta0), order)
    _, later = lax.scan(block, carry, jnp.arange(0, num_steps, save_every))
    return Ensemble(jnp.arange(0, num_steps + 1, save_every), jnp.concatenate([kept(theta0)[None], later]))


def _counts(data: PyTree, batch_size: int | None) -> tuple[int, int]:
    """Numbers of examples, in all and in a batch."""
    if data is None:
        return 1, 1
    lengths = {jnp.shape(x)[0] for x in jax.tree.leaves(data)}
    if len(lengths) != 1:
        raise ValueError(f"Argument `data` must have one number of examples along every first axis, but has {lengths}.")
    (count,) = lengths
    if batch_size is None or not 1 <= batch_size <= count:
        raise ValueError(
            f"Argument `batch_size` must lie between 1 and the number of examples, {count}, but it is {batch_size}."
        )
    return count, batch_size
