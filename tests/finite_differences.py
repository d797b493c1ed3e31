"""One check for every scalar function: its slope against central differences of fourth order, many in one program."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def assert_gradients(cases: Sequence[tuple[Callable, float]], step: float = 1e-3, rtol: float = 1e-6) -> None:
    """`jax.grad(f)(x)` equals differences of `f` at `x` for each case `(f, x)`, in float64.

    The cases share one compiled program: f_i depends on x_i alone, so one gradient of the sum holds every slope.
    """
    functions, xs = zip(*cases, strict=True)
    x = np.array(xs, np.float64)
    h = step * np.maximum(np.abs(x), 1e-2)

    def values(x):
        return jnp.stack([f(x[i]) for i, f in enumerate(functions)])

    @jax.jit
    def both(points):
        def at(x):
            value, pull = jax.vjp(values, x)
            return value, pull(jnp.ones_like(value))[0]

        # One place after the other: the functions are compiled once.
        return jax.lax.map(at, points)

    points = x[None] + h[None] * np.array([-2.0, -1.0, 0.0, 1.0, 2.0])[:, None]
    value, slopes = both(points)
    difference = (value[0] - 8 * value[1] + 8 * value[3] - value[4]) / (12 * h)
    slope = slopes[2]
    np.testing.assert_allclose(slope, difference, rtol=rtol, atol=rtol * 1e-3 * np.max(np.abs(slope)))
