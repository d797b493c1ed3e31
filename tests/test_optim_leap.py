"""The leap of the rate at the third step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rxjax import optim as RATE


@pytest.mark.parametrize(("sign", "leap", "factor"), [(1, 10.0, 10.0), (-1, 10.0, 0.1), (1, 3.0, 3.0), (1, 1.0, 1.0)])
def test_the_third_step_leaps_as_the_gauge_says(sign, leap, factor):
    """Up where the gradient keeps its direction, down where it turns round at every step."""
    optimizer = RATE.rate_control(optax.sgd(1.0), 100, leap=leap, trust=10.0)
    params, state, rates = jnp.ones(3), optimizer.init(jnp.ones(3)), []
    for t in range(3):
        updates, state = optimizer.update(jnp.full(3, 1.0 * sign**t), state, params)
        params: Any = optax.apply_updates(params, updates)
        rates.append(optax.tree.get(state, "controlled_rate"))
    assert rates[1] == rates[0] == pytest.approx(0.01)
    assert rates[2] / rates[1] == pytest.approx(factor)


@pytest.mark.parametrize(
    ("total", "growth", "leap"),
    [
        (None, 0.08, 10),
        (200, 0.08, 10),
        (400, 0.08, 100 * np.exp(-3.2)),
        (600, 0.08, 1),
        (600, 0.04, 100 * np.exp(-2.4)),
    ],
)
def test_the_leap_is_what_a_short_run_lacks(total, growth, leap):
    """A hundredfold growth takes a tenth of the run, or the third step makes up for it, by ten at most."""

    def third(total):
        optimizer = RATE.rate_control(optax.sgd(1.0), total, growth=growth, trust=10.0, clip=1e9)
        params, state = jnp.ones(3), optimizer.init(jnp.ones(3))
        for _ in range(3):
            _, state = optimizer.update(jnp.ones(3), state, params)
        return optax.tree.get(state, "controlled_rate")

    assert third(total) == pytest.approx(0.01 * leap, rel=1e-6)
    if total is not None:
        assert jax.jit(third)(total) == pytest.approx(0.01 * leap, rel=1e-6)
