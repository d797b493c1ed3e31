"""The network of the studies: one hidden layer of tanh on scikit-learn's digits, pooled to 4x4 pixels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from rxjax import _digits

PIXELS, HIDDEN, CLASSES = 16, 8, 10
DECAY = 1e-2


class Digits(NamedTuple):
    """Inputs and labels, the examples along the first axis."""

    x: Array
    y: Array


def data(examples: int = 1024) -> Digits:
    loss = _digits.load()
    images = loss.x[:examples].reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4))
    return Digits(images.reshape(-1, PIXELS).astype(float) * 2, loss.y[:examples])


def initial(key: Array) -> dict:
    """Normal weights of variance one over the number of inputs, no biases."""
    a, b = jr.split(key)
    return {
        "hidden": {"weight": jr.normal(a, (PIXELS, HIDDEN)) / PIXELS**0.5, "bias": jnp.zeros(HIDDEN)},
        "output": {"weight": jr.normal(b, (HIDDEN, CLASSES)) / HIDDEN**0.5, "bias": jnp.zeros(CLASSES)},
    }


FLAT, UNRAVEL = ravel_pytree(initial(jr.key(0)))


def loss(params: dict, batch: Digits) -> Array:
    """Mean cross-entropy over a batch, and weight decay."""
    scores = jax.nn.log_softmax(_digits.network(params, batch.x))
    decay = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
    return DECAY / 2 * decay - jnp.mean(jnp.take_along_axis(scores, batch.y[:, None], axis=1))


def example_loss(params: dict, example: Digits) -> Array:
    """The loss of one example."""
    return loss(params, jax.tree.map(lambda x: x[None], example))


def flat_loss(theta: Array, batch: Digits) -> Array:
    """`loss` of one flat vector of parameters."""
    return loss(UNRAVEL(theta), batch)


def train(theta: Array, batch: Digits, key: Array, *, eta: float, size: int, steps: int) -> Array:
    """Runs of plain SGD from each row of `theta`, batches drawn with replacement."""
    return runs(theta, batch, key, eta, size, steps)[0]


def runs(theta: Array, batch: Digits, key: Array, eta: float, size: int, steps: int) -> tuple[Array, Array]:
    """The last parameters of each run, and the full loss after every 64th step, `(steps // 64, runs)`."""
    count = batch.x.shape[0]

    @jax.jit
    def go(theta, key, eta):
        def one(theta, key):
            chosen = jr.randint(key, (size,), 0, count)
            return theta - eta * jax.grad(flat_loss)(theta, jax.tree.map(lambda x: x[chosen], batch))

        def step(theta, key):
            return jax.vmap(one)(theta, jr.split(key, theta.shape[0])), None

        def block(theta, key):
            theta, _ = jax.lax.scan(step, theta, jr.split(key, steps // max(1, steps // 64)))
            return theta, jax.vmap(lambda t: flat_loss(t, batch))(theta)

        return jax.lax.scan(block, theta, jr.split(key, max(1, steps // 64)))

    return go(theta, key, jnp.asarray(eta))
