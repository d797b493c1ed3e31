"""Krylov spaces, and exponentials of what a generator looks like in one."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Degree of the rational approximation of exp, right to rounding for norms up to 1.
_PADE_DEGREE = 8
# Products that add less than so many roundings to the space add nothing.
_NOTHING = 32


class Krylov(eqx.Module):
    """An orthonormal basis of `b, K b, K^2 b, ...` and `K` in it.

    - `basis`: (m + 1, n), rows; `projected`: (m + 1, m), `K basis[j] = sum_i projected[i, j] basis[i]`.
    - `norm`: of `b = norm basis[0]`.
    - `used`: how many columns have been computed.
    """

    basis: Float[Array, "m1 n"]
    projected: Float[Array, "m1 m"]
    norm: Float[Array, ""]
    used: Int[Array, ""]


def start(b: Float[Array, "n"], size: int) -> Krylov:
    """The space of `b` alone, with room for `size` products."""
    norm = jnp.sqrt(jnp.sum(b**2))
    basis = jnp.zeros((size + 1, b.size), b.dtype).at[0].set(b / jnp.where(norm > 0, norm, 1))
    return Krylov(basis, jnp.zeros((size + 1, size), b.dtype), norm, jnp.zeros((), jnp.int32))


def extend(
    krylov: Krylov,
    apply: Callable[[Array], Array],
    steps: int | Int[Array, ""],
    dimension: int | Int[Array, ""] | None = None,
) -> Krylov:
    """`steps` further products with `apply`, orthogonalised twice; images of `apply` fill `dimension` at most."""
    dimension = krylov.basis.shape[1] if dimension is None else dimension

    def step(j, krylov):
        j = krylov.used
        w = apply(krylov.basis[j])
        scale = jnp.sqrt(jnp.sum(w**2))
        column = jnp.zeros(krylov.basis.shape[0], w.dtype)
        norm = before = scale
        for _ in range(2):
            along = jnp.matmul(krylov.basis, w, precision=lax.Precision.HIGHEST)
            w = w - jnp.matmul(along, krylov.basis, precision=lax.Precision.HIGHEST)
            column = column + along
            before, norm = norm, jnp.sqrt(jnp.sum(w**2))
        # Nothing new but rounding, much of it within the space (Daniel, Gragg, Kaufman and Stewart 1976): the space is
        # invariant, and what follows stays zero.
        new = (norm > _NOTHING * jnp.finfo(w.dtype).eps * scale) & (norm > before / 2)
        new = new & (j + 1 < dimension)
        norm = jnp.where(new, norm, 0)
        column = column.at[j + 1].set(norm)
        basis = krylov.basis.at[j + 1].set(jnp.where(new, w / jnp.where(new, norm, 1), 0))
        return Krylov(basis, krylov.projected.at[:, j].set(column), krylov.norm, j + 1)

    return lax.fori_loop(0, steps, step, krylov)


def exponential(a: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """`exp(a)` for a small matrix of any norm: a rational approximation, squared as often as needed."""
    norm = jnp.max(jnp.sum(jnp.abs(a), axis=0))
    squarings = jnp.ceil(jnp.log2(jnp.maximum(norm, 0.5))).astype(jnp.int32) + 1
    a = a * jnp.exp2(-squarings.astype(a.dtype))
    eye = jnp.eye(a.shape[0], dtype=a.dtype)
    power, even, odd, weight = eye, eye, jnp.zeros_like(a), 1.0
    for k in range(1, _PADE_DEGREE + 1):
        weight *= (_PADE_DEGREE - k + 1) / (k * (2 * _PADE_DEGREE - k + 1))
        power = power @ a
        even, odd = (even + weight * power, odd) if k % 2 == 0 else (even, odd + weight * power)
    # Squaring exp(a) - 1 keeps the slow modes, whose factor is near 1.
    small = 2 * jnp.linalg.solve(even - odd, odd)
    _, small = lax.while_loop(lambda c: c[0] < squarings, lambda c: (c[0] + 1, 2 * c[1] + c[1] @ c[1]), (0, small))
    return small + eye


def evolve(a: Float[Array, "m m"], first: Float[Array, "m"], ts: Float[Array, "times"]) -> Float[Array, "times m"]:
    """`exp(t a) first` at ascending times from 0 on."""

    def advance(carry, t):
        before, dt, step, y = carry
        # Evenly spaced times share one exponential.
        same = jnp.abs(t - before - dt) <= 16 * jnp.finfo(t.dtype).eps * jnp.abs(t)
        dt, step = lax.cond(same, lambda: (dt, step), lambda: (t - before, exponential((t - before) * a)))
        y = step @ y
        return (t, dt, step, y), y

    zero = jnp.zeros_like(ts[0])
    return lax.scan(advance, (zero, zero, jnp.eye(a.shape[0], dtype=a.dtype), first), ts)[1]


def inner_integral(
    a: Float[Array, "k k"], b: Float[Array, "m m"], x: Float[Array, "k"], y: Float[Array, "m"], t: Float[Array, ""]
) -> Float[Array, "k m"]:
    """`int_0^t exp((t - s) a) x (exp(s b) y)' ds`, from one exponential (Van Loan 1978)."""
    k, m = a.shape[0], b.shape[0]
    block = jnp.zeros((k + m, k + m), a.dtype)
    block = block.at[:k, :k].set(a).at[k:, k:].set(b.T).at[:k, k:].set(jnp.outer(x, y))
    return exponential(t * block)[:k, k:]


def inverse_generator(krylov: Krylov, rate: Float[Array, ""]) -> tuple[Array, Array]:
    """`W` in the basis where `K = (1 - W/rate)^-1`, and `K^-1`; unused directions stand still."""
    m = krylov.projected.shape[1]
    used = jnp.arange(m, dtype=jnp.int32) < krylov.used
    both = used[:, None] & used[None]
    h = jnp.where(both, krylov.projected[:m], jnp.eye(m, dtype=krylov.projected.dtype))
    # A direction that broke down holds nothing.
    h = h + jnp.diag(jnp.where(jnp.sum(jnp.abs(h), axis=0) > 0, 0, 1).astype(h.dtype))
    inverse = jnp.linalg.inv(h)
    return jnp.where(both, rate * (jnp.eye(m, dtype=h.dtype) - inverse), 0), inverse
