"""Conjugate directions: conjugate gradients, and minimal residuals where nothing is symmetric."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._sums import total

Operator = Callable[[Array], Array]

# Without symmetry so many directions are remembered; then, or when the residual has fallen by this, they start anew.
_MEMORY, _SPAN = 30, 1e-8


class _Gradients(NamedTuple):
    """`x` and its residual, `fresh` if computed from `x` and not along the way; the direction `p` and its image."""

    x: Array
    residual: Array
    fresh: Array
    p: Array
    image: Array
    norm: Array
    found: Array
    steps: Array


def conjugate_gradients(
    apply: Operator,
    precondition: Operator,
    within: Callable[[Array, Array, Array], Array],
    weight: Float[Array, "*shape"],
    b: Float[Array, "*shape"],
    tol: Float[Array, ""],
    *,
    max_steps: Int[ArrayLike, ""],
    checked: bool = True,
) -> tuple[Float[Array, "*shape"], Bool[Array, ""]]:
    """`x` with `apply(x) = b`, and whether it was found; `apply` is symmetric in the inner product with `weight`.

    Hestenes and Stiefel 1952.  `precondition(residual)` is an estimate of what is missing from `x`; it is found when
    that is `within(missing, x, tol)`, for the residual computed afresh if it is to be `checked`.
    """

    def step(s: _Gradients) -> _Gradients:
        missing = precondition(s.residual)
        near = within(missing, s.x, jnp.where(s.fresh, tol, tol / 2) if checked else tol)
        found = s.fresh & near if checked else near
        image = apply(missing)
        # A residual computed afresh holds rounding that the directions so far know nothing of.
        follow = (s.norm > 0) & ~s.fresh
        along = jnp.where(follow, total(weight * s.p * image) / jnp.where(follow, s.norm, 1), 0)
        p, image = missing - along * s.p, image - along * s.image
        norm = total(weight * p * image)
        length = total(weight * p * s.residual) / jnp.where(norm > 0, norm, 1)
        length = jnp.where(found | (norm <= 0), 0, length)
        x = s.x + jnp.where(found, missing, length * p)
        # Rounding lets the residual of the iteration drift away from that of x.
        renew = near & ~s.fresh & checked
        residual = lax.cond(renew, lambda: b - apply(x), lambda: s.residual - length * image)
        return _Gradients(x, residual, renew, p, image, norm, found, s.steps + 1)

    none, zero = jnp.zeros_like(b), jnp.zeros((), b.dtype)
    start = _Gradients(none, b, jnp.array(True), none, none, zero, jnp.array(False), jnp.zeros((), jnp.int32))
    end = lax.while_loop(lambda s: ~s.found & (s.steps < max_steps), step, start)
    return end.x, end.found


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


def minimal_residuals(
    apply: Operator,
    precondition: Operator,
    error: Callable[[Array, Array], Array],
    weight: Float[Array, "*shape"],
    b: Float[Array, "*shape"],
    tol: Float[Array, ""],
    *,
    max_steps: Int[ArrayLike, ""],
) -> tuple[Float[Array, "*shape"], Bool[Array, ""]]:
    """`x` with `apply(x) = b`, and whether it was found.

    Each direction is the preconditioned image of the last one, its own image orthogonal to those before in the inner
    product with `weight` (Young and Jea 1980): the smallest residual in all of them.  `precondition(residual)` is an
    estimate of what is missing from `x`; it is found when `error(missing, x)` is at most `tol` for the residual of `x`
    itself.
    """
    shape, dtype = b.shape, b.dtype
    inner = lambda a, b: total(weight * a * b)

    def step(s: _State) -> _State:
        missing = precondition(s.last)
        left = error(missing, s.x)
        found = s.fresh & (left <= tol)
        image = apply(missing)
        along = jnp.matmul(s.images, (weight * image).ravel(), precision=lax.Precision.HIGHEST)
        along = jnp.where(s.norms > 0, along / jnp.where(s.norms > 0, s.norms, 1), 0)
        p = missing - jnp.matmul(along, s.ps, precision=lax.Precision.HIGHEST).reshape(shape)
        image = image - jnp.matmul(along, s.images, precision=lax.Precision.HIGHEST).reshape(shape)
        norm = inner(image, image)
        length = jnp.where(found | (norm <= 0), 0, inner(image, s.residual) / jnp.where(norm > 0, norm, 1))
        x = s.x + length * p
        along_the_way = s.residual - length * image
        used = s.used + 1
        fall = jnp.clip(tol / (4 * left), _SPAN, 0.1)
        goal = jnp.where(s.fresh, fall**2 * inner(s.residual, s.residual), s.goal)
        renew = (inner(along_the_way, along_the_way) <= goal) | (used == _MEMORY)
        # Rounding lets the residual of the iteration drift away from that of x.
        residual = lax.cond(renew, lambda: b - apply(x), lambda: along_the_way)
        return _State(
            x,
            residual,
            jnp.where(renew, residual, image / jnp.sqrt(jnp.where(norm > 0, norm, 1))),
            renew,
            goal,
            s.ps.at[s.used].set(p.ravel()),
            s.images.at[s.used].set(image.ravel()),
            jnp.where(renew, 0, s.norms.at[s.used].set(norm)),
            jnp.where(renew, 0, used),
            found,
            s.steps + 1,
        )

    none, zero = jnp.zeros((_MEMORY, b.size), dtype), jnp.zeros((), jnp.int32)
    start = _State(
        jnp.zeros_like(b), b, b, jnp.array(True), jnp.zeros((), dtype), none, none, jnp.zeros(_MEMORY, dtype), zero,
        jnp.array(False), zero,
    )  # fmt: skip
    end = lax.while_loop(lambda s: ~s.found & (s.steps < max_steps), step, start)
    return end.x, end.found
