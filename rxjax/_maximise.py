"""Maximisation over one bounded variable inside compiled code, differentiable at its result."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_GOLDEN = (math.sqrt(5.0) - 1) / 2


def maximise(
    f: Callable[[Array], Array], points: Float[Array, " n"], values: Float[Array, " n"]
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The maximiser of `f` between the first and the last of ascending `points`, and -1, 0 or 1 for where it lies.

    `values` are those of `f` at the points.

    The best of the points brackets a golden-section search, so `f` must have one maximum between the neighbours of
    that one.  Comparing values finds a maximum to the square root of rounding only; a Newton step on the slope does
    the rest, and with a second one carries two derivatives of the result (implicit function theorem).
    """
    best = jnp.argmax(values)
    first, last = points[jnp.maximum(best - 1, 0)], points[jnp.minimum(best + 1, points.shape[0] - 1)]
    steps = math.ceil(math.log(float(jnp.finfo(points.dtype).eps)) / 2 / math.log(_GOLDEN))

    def shrink(_, state):
        low, left, right, high, at_left, at_right = state
        rises = at_right > at_left
        low, high = jnp.where(rises, left, low), jnp.where(rises, high, right)
        new = jnp.where(rises, low + _GOLDEN * (high - low), high - _GOLDEN * (high - low))
        at_new = f(new)
        return (
            low,
            jnp.where(rises, right, new),
            jnp.where(rises, new, left),
            high,
            jnp.where(rises, at_right, at_new),
            jnp.where(rises, at_new, at_left),
        )

    left, right = last - _GOLDEN * (last - first), first + _GOLDEN * (last - first)
    state = jax.lax.fori_loop(0, steps, shrink, (first, left, right, last, f(left), f(right)))
    found, at_found = (state[1] + state[2]) / 2, jnp.maximum(state[4], state[5])
    # At a bound the search runs into it without reaching it.
    at_low, at_high = (best == 0) & (values[0] >= at_found), (best == points.shape[0] - 1) & (values[-1] >= at_found)
    found = jax.lax.stop_gradient(found)
    slope, bend = derivatives(f, found)
    bend = jax.lax.stop_gradient(bend)
    peaked = bend < 0
    step = jnp.where(peaked, -slope / jnp.where(peaked, bend, -1.0), 0.0)
    # A step out of all proportion to the bracket meets a kink, not a maximum.
    meets = peaked & (jnp.abs(step) <= 0.05 * (last - first))
    polished = found + jnp.where(meets, step, 0.0)
    # With the bend held fixed a step carries one derivative: another one the second.
    slope = jax.jvp(f, (polished,), (jnp.ones_like(polished),))[1]
    step = jnp.where(meets, -slope / jnp.where(peaked, bend, -1.0), 0.0)
    polished = polished + jnp.where(jnp.abs(step) <= 0.05 * (last - first), step, 0.0)
    result = jnp.where(at_low, points[0], jnp.where(at_high, points[-1], polished))
    return result, jnp.where(at_low, -1, jnp.where(at_high, 1, 0))


def derivatives(f: Callable[[Array], Array], x: Float[Array, ""]) -> tuple[Array, Array]:
    """First and second derivative of `f`, an array of any shape, by forward differentiation."""
    one = jnp.ones_like(x)
    first = lambda x: jax.jvp(f, (x,), (one,))[1]
    return jax.jvp(first, (x,), (one,))
