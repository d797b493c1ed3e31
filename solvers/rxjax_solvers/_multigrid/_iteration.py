"""Conjugate directions: conjugate gradients, and minimal residuals where nothing is symmetric."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Operator = Callable[[Array], Array]

# Without symmetry so many directions are remembered; then, or when the residual has fallen by this, they start anew.
_MEMORY, _SPAN = 30, 1e-8


class _State(NamedTuple):
    """`x` and its residual, `fresh` if computed from `x` and not along the way; directions `p` and their images `A p`.

    `last` is what the next direction is made of, `goal` the squared residual at which the directions start anew, after
    `used` of them at most.
    """

    x: Array
    residual: Array
    last: Array
    fresh: Array
    goal: Array
    ps: Array
    images: Array
    norms: Array
    used: Array
    found: Array
    steps: Array


def iterate(
    apply: Operator,
    precondition: Operator,
    error: Callable[[Array, Array], Array],
    weight: Float[Array, "*shape"],
    b: Float[Array, "*shape"],
    tol: Float[Array, ""],
    *,
    symmetric: bool,
    max_steps: int,
) -> tuple[Float[Array, "*shape"], Bool[Array, ""]]:
    """`x` with `apply(x) = b`, and whether it was found.

    Symmetric: conjugate gradients in the inner product with `weight` (Hestenes and Stiefel 1952).  Else each direction
    is the preconditioned image of the last one, its own image orthogonal to those before (Young and Jea 1980): the
    smallest residual in all of them.  `precondition(residual)` is an estimate of what is missing from `x`; it is found
    when `error(missing, x)` is at most `tol` for the residual computed afresh.
    """
    shape, dtype = b.shape, b.dtype
    memory = 1 if symmetric else _MEMORY
    inner = lambda a, b: jnp.sum(weight * a * b)

    def step(s: _State) -> _State:
        missing = precondition(s.last)
        left = error(missing, s.x)
        found = s.fresh & (left <= tol)
        image = apply(missing)
        tests = s.ps if symmetric else s.images
        along = jnp.matmul(tests, (weight * image).ravel(), precision=lax.Precision.HIGHEST)
        along = jnp.where(s.norms > 0, along / jnp.where(s.norms > 0, s.norms, 1), 0)
        p = missing - jnp.matmul(along, s.ps, precision=lax.Precision.HIGHEST).reshape(shape)
        image = image - jnp.matmul(along, s.images, precision=lax.Precision.HIGHEST).reshape(shape)
        test = p if symmetric else image
        norm = inner(test, image)
        length = jnp.where(found | (norm <= 0), 0, inner(test, s.residual) / jnp.where(norm > 0, norm, 1))
        x = s.x + length * p
        along_the_way = s.residual - length * image
        used = s.used + 1
        if symmetric:
            goal, renew = s.goal, ~s.fresh & (left <= tol / 2)
        else:
            fall = jnp.clip(tol / (4 * left), _SPAN, 0.1)
            goal = jnp.where(s.fresh, fall**2 * inner(s.residual, s.residual), s.goal)
            renew = (inner(along_the_way, along_the_way) <= goal) | (used == memory)
        # Rounding lets the residual of the iteration drift away from that of x.
        residual = lax.cond(renew, lambda: b - apply(x), lambda: along_the_way)
        at = s.used % memory
        return _State(
            x,
            residual,
            residual if symmetric else jnp.where(renew, residual, image / jnp.sqrt(jnp.where(norm > 0, norm, 1))),
            renew,
            goal,
            s.ps.at[at].set(p.ravel()),
            s.images.at[at].set(image.ravel()),
            jnp.where(renew, 0, s.norms.at[at].set(norm)),
            jnp.where(renew, 0, used),
            found,
            s.steps + 1,
        )

    none, zero = jnp.zeros((memory, b.size), dtype), jnp.zeros((), jnp.int32)
    start = _State(
        jnp.zeros_like(b), b, b, jnp.array(True), jnp.zeros((), dtype), none, none, jnp.zeros(memory, dtype), zero,
        jnp.array(False), zero,
    )  # fmt: skip
    end = lax.while_loop(lambda s: ~s.found & (s.steps < max_steps), step, start)
    return end.x, end.found
