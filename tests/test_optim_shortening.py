"""Steps after long updates are shortened, which moves no place where steps cancel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizers import RATE


@pytest.mark.parametrize(("clip", "factor"), [(None, 0.25), (2.0, 0.5), (5.0, 1.0)])
def test_the_step_after_a_long_update_is_shortened(clip, factor):
    """Not the long one itself; with a horizon, and after nothing that is not longer than the average."""
    for optimizer, short in ((RATE.rate_control(optax.sgd(1.0), 10**6, clip=clip), factor), (RATE.rate_sgd(), 1.0)):
        params, state, seen = jnp.ones(3), optimizer.init(jnp.ones(3)), []
        for size in (0.0, 1.0, 1.0, 4.0, 1.0, 0.0, 1.0):
            updates, state = optimizer.update(jnp.array([size, 0, 0]), state, params)
            params: Any = optax.apply_updates(params, updates)
            controller = optax.tree.get(state, "ControllerState")
            seen.append(controller.learning_rate / jnp.where(size > 0, controller.controlled_rate, 1))
        np.testing.assert_allclose(np.array(seen)[[1, 2, 3, 4, 6]], [1, 1, 1, short, 1], rtol=1e-5)


@pytest.mark.usefixtures("long_runs")
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_shortened_steps_have_no_bias(momentum):
    """Under noise with a long tail on one side the mean is found, not a number nearer to the median of .69."""
    optimizer = RATE.rate_sgd(1000, momentum=momentum)

    def run(key):
        def step(carry, key):
            params, state = carry
            updates, state = optimizer.update(params - jax.random.exponential(key, (1,)), state, params)
            return (optax.apply_updates(params, updates), state), None

        start = jnp.full(1, 0.5)
        (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, 1000))
        return jnp.asarray(params)[0]

    found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(2), 100))
    assert abs(np.mean(found) - 1) < 4 * np.std(found) / 10 < 0.05
