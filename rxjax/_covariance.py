"""Covariances given as a number, a diagonal or a matrix: checks and the few products the theory takes with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from rxjax_solvers._checks import finite, is_traced, non_negative, require

from ._arrays import real_array, summation_dtype
from ._known import at_once_if_known


@at_once_if_known
def check_covariance(covariance: ArrayLike, name: str = "covariance", dim: int | None = None) -> Array:
    """`covariance` if it is finite and positive semi-definite.

    **Arguments:**

    - `covariance`: shape `()` for a multiple of the identity, `(d,)` for a diagonal, `(d, d)` for a matrix.
    - `name`: the argument's name as the user typed it.
    - `dim`: what `d` must be, if known.

    A lowest eigenvalue below zero by no more than `32 d eps` times the largest is rounding and passes: estimates from
    fewer than `d` examples are singular.
    """
    c = real_array(covariance, name)
    if c.ndim > 2 or (c.ndim == 2 and c.shape[0] != c.shape[1]):
        raise ValueError(f"Argument `{name}` must have shape (), (d,) or (d, d), but it has shape {c.shape}.")
    if dim is not None and c.ndim > 0 and c.shape[0] != dim:
        raise ValueError(
            f"Argument `{name}` must have shape (), ({dim},) or ({dim}, {dim}) for {dim} parameters, "
            f"but it has shape {c.shape}."
        )
    if c.ndim < 2:
        return non_negative(c, name)
    c = check_symmetric(c, name)
    xp, fixed = _fixed(c)
    eigenvalues = xp.linalg.eigvalsh(xp.where(xp.isfinite(fixed), fixed, 0))
    low, high = xp.min(eigenvalues), xp.max(xp.abs(eigenvalues))
    tolerance = 32 * c.shape[0] * jnp.finfo(c.dtype).eps
    shown = None if is_traced(low) else f"lowest eigenvalue {low:.6g}"
    faults = [(low < -tolerance * high, "has a negative eigenvalue")]
    return require(c, name, "be positive semi-definite", faults, "No noise has a negative variance.", shown)


@at_once_if_known
def check_symmetric(matrix: Array, name: str) -> Array:
    """A square `matrix` if it is finite and symmetric to rounding."""
    matrix = finite(matrix, name)
    xp, fixed = _fixed(matrix)
    skew = xp.max(xp.abs(fixed - fixed.T), initial=0)
    tolerance = 32 * matrix.shape[0] * jnp.finfo(matrix.dtype).eps
    faults = [(skew > tolerance * xp.max(xp.abs(fixed), initial=0), "is not")]
    return require(matrix, name, "be symmetric", faults, "Take `(x + x.T) / 2` if that is what is meant.")


def _fixed(matrix: Array) -> tuple[Any, Any]:
    """`matrix` for a check, without its gradient, and the library to check it with: a known one need not compile."""
    if is_traced(matrix):
        return jnp, jax.lax.stop_gradient(matrix).astype(summation_dtype(matrix.dtype))
    return np, np.asarray(matrix, np.float64)


def times(matrix: Array, vector: Array) -> Array:
    """`matrix @ vector` for a matrix given as a number, a diagonal or in full; exact products on every device."""
    return matrix * vector if matrix.ndim < 2 else jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def product_diagonal(a: Array, b: Array) -> Array:
    """The diagonal of `a @ b` for symmetric `a` and `b`, each a number, a diagonal or a matrix."""
    if a.ndim == 2 and b.ndim == 2:
        return jnp.sum(a * b, axis=1)
    a, b = (jnp.diagonal(x) if x.ndim == 2 else x for x in (a, b))
    return a * b
