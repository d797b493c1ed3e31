"""A tanh network 2-3-1 fitted to random numbers, small enough to find its minima one by one."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np

import rxjax as rx

HIDDEN, POINTS = 3, 20
DIM = 4 * HIDDEN + 1


def find(decay: float, starts: int = 1500):
    """The loss as a function of 13 parameters, with weight decay, and its minima from many starts."""
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.uniform(-1, 1, (POINTS, 2)))
    y = jnp.asarray(generator.standard_normal(POINTS))

    def loss(p):
        w, b, a = p[: 2 * HIDDEN].reshape(2, HIDDEN), p[2 * HIDDEN : 3 * HIDDEN], p[3 * HIDDEN : 4 * HIDDEN]
        return jnp.mean((jnp.tanh(x @ w + b) @ a + p[-1] - y) ** 2) / 2 + decay / 2 * jnp.sum(p**2)

    points = 2 * np.asarray(jr.normal(jr.key(0), (starts, DIM)))
    return loss, rx.find_minima(loss, starts=points, bounds=jnp.tile(jnp.array([-40.0, 40.0]), (DIM, 1)))
