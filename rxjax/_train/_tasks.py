"""The tasks: data, a network, a loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PyTree

from .. import _digits
from ._chars import chars_task
from ._task import Task


class _Split(NamedTuple):
    """Scikit-learn's digits, shuffled once and for all."""

    train: tuple[Array, Array]
    valid: tuple[Array, Array]


def _split() -> _Split:
    data = _digits.load()
    order = jr.permutation(jr.key(20), data.x.shape[0])
    x, y = data.x[order], data.y[order]
    return _Split((x[:1500], y[:1500]), (x[1500:], y[1500:]))


def _draw(data: tuple[Array, Array], key: Array, size: int) -> tuple[Array, Array]:
    index = jr.randint(key, (size,), 0, data[0].shape[0])
    return data[0][index], data[1][index]


def _scored(network: Callable) -> tuple[Callable, Callable]:
    """The mean cross-entropy of the scores of a network, and the share of labels that score highest."""

    def loss(params: PyTree, batch: tuple[Array, Array]) -> Array:
        x, y = batch
        scores = jax.nn.log_softmax(network(params, x))
        return -jnp.mean(jnp.take_along_axis(scores, y[:, None], axis=1))

    def accuracy(params: PyTree, batch: tuple[Array, Array]) -> Array:
        x, y = batch
        return jnp.mean((jnp.argmax(network(params, x), axis=1).astype(y.dtype) == y).astype(jnp.float32))

    return loss, accuracy


def _mlp() -> Task:
    loss, accuracy = _scored(_digits.network)
    split = _split()
    return Task("digits-mlp", 1000, 32, lambda key: _digits.initial(key, 64), loss, accuracy, _draw, *split)


def _convolved(params: PyTree, x: Array) -> Array:
    """Two convolutions of stride two on 8x8 pixels, then a linear layer."""
    h = x.reshape(-1, 8, 8, 1)
    for name in ("first", "second"):
        kernel, bias = params[name]["weight"], params[name]["bias"]
        h = jax.lax.conv_general_dilated(h, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        h = jax.nn.relu(h + bias[None, None, None, :])
    return jnp.matmul(h.reshape(h.shape[0], -1), params["output"]["weight"]) + params["output"]["bias"][None, :]


def _cnn() -> Task:
    def init(key: Array) -> PyTree:
        shapes = {"first": (3, 3, 1, 8), "second": (3, 3, 8, 16), "output": (64, 10)}
        params: dict[str, Any] = {}
        for k, (name, shape) in zip(jr.split(key, 3), shapes.items(), strict=True):
            inputs = shape[0] if len(shape) == 2 else shape[0] * shape[1] * shape[2]
            # He's variance behind a ReLU, Lecun's behind none.
            gain = 2.0 if name != "output" else 1.0
            weight = jr.normal(k, shape, jnp.float32) * (gain / inputs) ** 0.5
            params[name] = {"weight": weight, "bias": jnp.zeros(shape[-1], jnp.float32)}
        return params

    loss, accuracy = _scored(_convolved)
    return Task("digits-cnn", 600, 32, init, loss, accuracy, _draw, *_split())


TASKS: dict[str, Callable[[], Task]] = {"digits-mlp": _mlp, "digits-cnn": _cnn, "chars": chars_task}
