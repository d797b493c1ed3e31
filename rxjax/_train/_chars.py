"""Next character of the language reference that Python carries in its standard library, by a small transformer."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree

from ._task import Task

LENGTH, WIDTH, HEADS, BLOCKS = 64, 48, 4, 2
_VALID_WINDOWS = 128


def _text() -> str:
    """The topics of `help()`; present in every installation."""
    from pydoc_data import topics

    return "\n".join(topics.topics[name] for name in sorted(topics.topics))


def _codes() -> tuple[np.ndarray, int]:
    """Characters as numbers, the rare ones as one."""
    text = _text()
    letters = sorted(c for c in set(text) if c.isascii())
    number = {c: i + 1 for i, c in enumerate(letters)}
    return np.array([number.get(c, 0) for c in text], np.int32), len(letters) + 1


def _norm(x: Array) -> Array:
    """Mean zero and variance one over the last axis."""
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)


def _attend(block: PyTree, x: Array) -> Array:
    """Causal attention in heads, on (batch, length, width)."""
    batch, length, width = x.shape
    q, k, v = jnp.split(jnp.matmul(_norm(x), block["qkv"]), 3, axis=-1)
    heads = lambda z: z.reshape(batch, length, HEADS, width // HEADS)
    score = jnp.einsum("bihd,bjhd->bhij", heads(q), heads(k)) / (width // HEADS) ** 0.5
    past = jnp.tril(jnp.ones((length, length), bool))[None, None]
    weight = jax.nn.softmax(jnp.where(past, score, -jnp.inf), axis=-1)
    mixed = jnp.einsum("bhij,bjhd->bihd", weight, heads(v)).reshape(x.shape)
    return jnp.matmul(mixed, block["mix"])


def _scores(params: PyTree, x: Array) -> Array:
    """Scores of the next character at every place, from (batch, length) characters."""
    h = params["letters"][x] + params["places"][None, : x.shape[1]]
    for block in params["blocks"]:
        h = h + _attend(block, h)
        h = h + jnp.matmul(jax.nn.gelu(jnp.matmul(_norm(h), block["up"])), block["down"])
    return jnp.matmul(_norm(h), params["out"])


def _loss(params: PyTree, batch: Array) -> Array:
    scores = jax.nn.log_softmax(_scores(params, batch[:, :-1]))
    return -jnp.mean(jnp.take_along_axis(scores, batch[:, 1:, None], axis=-1))


def _accuracy(params: PyTree, batch: Array) -> Array:
    guess = jnp.argmax(_scores(params, batch[:, :-1]), axis=-1)
    return jnp.mean((guess.astype(batch.dtype) == batch[:, 1:]).astype(jnp.float32))


def _windows(codes: Array, starts: Array) -> Array:
    return codes[starts[:, None] + jnp.arange(LENGTH + 1, dtype=starts.dtype)[None, :]]


def _draw(codes: Array, key: Array, size: int) -> Array:
    return _windows(codes, jr.randint(key, (size,), 0, codes.shape[0] - LENGTH))


def chars_task() -> Task:
    """About 700,000 characters; the last tenth is for validation."""
    codes, letters = _codes()
    cut = len(codes) * 9 // 10
    held = jnp.asarray(codes[cut:])
    starts = jnp.linspace(0, held.shape[0] - LENGTH - 1, _VALID_WINDOWS).astype(jnp.int32)

    def init(key: Array) -> PyTree:
        def normal(key: Array, inputs: int, outputs: int, gain: float = 1.0) -> Array:
            return gain * jr.normal(key, (inputs, outputs), jnp.float32) / inputs**0.5

        first, second, third, *rest = jr.split(key, 3 + BLOCKS)
        blocks = []
        for k in rest:
            a, b, c, d = jr.split(k, 4)
            # What is added to the stream is small at the start.
            small = 1 / (2 * BLOCKS) ** 0.5
            blocks.append(
                {
                    "qkv": normal(a, WIDTH, 3 * WIDTH),
                    "mix": normal(b, WIDTH, WIDTH, small),
                    "up": normal(c, WIDTH, 4 * WIDTH),
                    "down": normal(d, 4 * WIDTH, WIDTH, small),
                }
            )
        return {
            "letters": 0.3 * jr.normal(first, (letters, WIDTH), jnp.float32),
            "places": 0.3 * jr.normal(second, (LENGTH, WIDTH), jnp.float32),
            "blocks": blocks,
            "out": normal(third, WIDTH, letters),
        }

    return Task("chars", 1000, 16, init, _loss, _accuracy, _draw, jnp.asarray(codes[:cut]), _windows(held, starts))
