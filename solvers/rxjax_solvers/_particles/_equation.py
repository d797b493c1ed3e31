"""A stochastic differential equation as particles need it: Ito, with a matrix for the noise."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import finite, non_negative, not_finite, require, seen
from .._coefficients import NegativeGradient, TimeDependent
from .._convention import AbstractConvention, AntiIto, Ito, check_convention

Coefficient = Any


class Equation(NamedTuple):
    """What a user gave, checked; constants are arrays, so that another value is no other program."""

    drift: Coefficient
    diffusion: Coefficient
    noise: Coefficient
    convention: AbstractConvention


def check_equation(
    drift: Coefficient, diffusion: Coefficient, noise: Coefficient, convention: AbstractConvention | None
) -> Equation:
    """Outside of the program of a verb, where values are known.

    **Raises:** `ValueError` for both or neither of `diffusion` and `noise`, noise that varies without a convention, a
    diffusion that is negative or not semi-definite, and a potential given as an array.
    """
    if (diffusion is None) == (noise is None):
        raise ValueError("Argument `diffusion` must be given or `noise`, but not both.")
    if convention is None:
        if _varies(diffusion if noise is None else noise):
            raise ValueError(
                "Argument `convention` must be Ito(), Stratonovich() or AntiIto() when the noise is a function, but it "
                "is None.  SGD noise is drawn at the start of a step: Ito()."
            )
        convention = AntiIto()
    check_convention(convention)
    if noise is not None:
        noise = noise if _varies(noise) else jnp.asarray(noise)
    elif not _varies(diffusion):
        diffusion = jnp.asarray(diffusion)
        diffusion = non_negative(diffusion, "diffusion") if diffusion.ndim < 2 else _semi_definite(diffusion)
    if isinstance(drift, NegativeGradient):
        if not _varies(drift.potential):
            raise ValueError(
                "Argument `drift` must have a callable potential for particles, but it is an array of cells."
            )
        drift = NegativeGradient(drift.potential, jnp.asarray(drift.mobility))
    elif not _varies(drift):
        drift = jnp.asarray(drift)
    return Equation(drift, diffusion, noise, convention)


def ito_form(equation: Equation, dim: int) -> tuple[Callable, Callable]:
    """`b(t, theta) -> (d,)` and `sigma(t, theta) -> (d, m)` of `dX = b dt + sigma dW` in Ito's sense."""
    drift, diffusion, noise, convention = equation
    given = diffusion if noise is None else noise
    varies, given = _varies(given), _function(given)

    def spread(t, theta):
        value = jnp.asarray(given(t, theta), theta.dtype)
        if value.ndim > 2 or (value.ndim and value.shape[0] != dim):
            raise ValueError(
                f"Argument `{'diffusion' if noise is None else 'noise'}` must be a scalar or have {dim} rows, but it "
                f"has shape {value.shape}."
            )
        if noise is None and value.ndim == 2 and value.shape[1] != dim:
            raise ValueError(f"Argument `diffusion` must be a square matrix, but it has shape {value.shape}.")
        return value if value.ndim == 2 else jnp.broadcast_to(value, (dim,))

    def sigma(t, theta):
        value = spread(t, theta)
        if noise is None:
            return jnp.diag(_roots(2 * value)) if value.ndim < 2 else _root(2 * value)
        return jnp.diag(value) if value.ndim < 2 else value

    force = _drift(drift)
    if not varies or isinstance(convention, Ito):
        return force, sigma

    def tensor(t, theta):
        if noise is not None:
            return sigma(t, theta) @ sigma(t, theta).T / 2
        value = spread(t, theta)
        return jnp.diag(value) if value.ndim < 2 else value

    def correction(t, theta):
        # By the diffusion itself wherever possible: where it vanishes, its root has no slope.
        if isinstance(convention, AntiIto):
            return jnp.einsum("ijj->i", jax.jacfwd(lambda x: tensor(t, x))(theta))
        if noise is None and jax.eval_shape(spread, t, theta).ndim < 2:
            return jnp.einsum("ii->i", jax.jacfwd(lambda x: spread(t, x))(theta)) / 2
        return jnp.einsum("ikj,jk->i", jax.jacfwd(lambda x: sigma(t, x))(theta), sigma(t, theta)) / 2

    return lambda t, theta: force(t, theta) + correction(t, theta), sigma


def _semi_definite(tensor: Array) -> Array:
    """A constant tensor that has a root."""
    tensor = _as_floating(tensor)
    if tensor.ndim != 2 or tensor.shape[0] != tensor.shape[1]:
        raise ValueError(f"Argument `diffusion` must be a square matrix, but it has shape {tensor.shape}.")
    size = jnp.max(jnp.abs(tensor)) * 64 * jnp.finfo(tensor.dtype).eps
    faults = [
        not_finite(seen(tensor)),
        (jnp.abs(tensor - tensor.T) > size, "is not symmetric"),
        (jnp.linalg.eigvalsh(tensor) < -size, "has a negative eigenvalue"),
    ]
    return require(tensor, "diffusion", "be symmetric and positive semi-definite", faults)


def check_starts(x0: Any, name: str) -> Array:
    """Where particles or runs start, finite and of shape `(n, d)`."""
    x0 = jnp.asarray(x0)
    if x0.ndim != 2:
        raise ValueError(f"Argument `{name}` must have shape (n, d), one row a start, but it has shape {x0.shape}.")
    return finite(_as_floating(x0), name)


def _as_floating(x: Array) -> Array:
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def _varies(coefficient: Coefficient) -> bool:
    return callable(coefficient) or isinstance(coefficient, TimeDependent)


def _function(coefficient: Coefficient) -> Callable:
    if isinstance(coefficient, TimeDependent):
        return coefficient.f
    if callable(coefficient):
        return lambda _, theta: coefficient(theta)
    return lambda _, theta: jnp.asarray(coefficient, theta.dtype)


def _drift(drift: Coefficient) -> Callable:
    if not isinstance(drift, NegativeGradient):
        f, constant = _function(drift), () if _varies(drift) else ((),)

        def given(t, theta):
            value = jnp.asarray(f(t, theta), theta.dtype)
            if value.shape not in (theta.shape, *constant):
                raise ValueError(
                    f"Argument `drift` must have shape {theta.shape}, one number per axis, but it has shape "
                    f"{value.shape}."
                )
            return jnp.broadcast_to(value, theta.shape)

        return given
    potential = _function(drift.potential)
    mobility = drift.mobility

    def f(t, theta):
        m = jnp.asarray(mobility, theta.dtype)
        if m.shape not in ((), theta.shape, theta.shape * 2):
            raise ValueError(
                f"Argument `mobility` must be a scalar or have shape {theta.shape}, one number per axis, or "
                f"{theta.shape * 2}, but it has shape {m.shape}."
            )
        slope = jax.grad(lambda x: potential(t, x))(theta)
        return -(m @ slope if m.ndim == 2 else m * slope)

    return f


def _roots(values: Float[Array, " d"]) -> Float[Array, " d"]:
    """Roots of non-negative numbers, whose slope at a zero beside others is none; where all are zero it is infinite."""
    rooted = (values > 0) | ~jnp.any(values > 0)
    return jnp.where(rooted, jnp.sqrt(jnp.where(rooted, values, 1)), 0)


def _root(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """A lower triangular root of a positive semi-definite matrix, with zeros for directions without noise.

    Slopes as those of `_roots`.
    """
    n = matrix.shape[0]
    size = jnp.trace(matrix)
    still = size <= 0
    rows = [[jnp.zeros((), matrix.dtype)] * n for _ in range(n)]
    for j in range(n):
        pivot = matrix[j, j] - sum(rows[j][k] ** 2 for k in range(j))
        noisy = pivot > 0
        root = jnp.sqrt(jnp.where(noisy, pivot, 1))
        for i in range(j, n):
            rest = matrix[i, j] - sum(rows[i][k] * rows[j][k] for k in range(j))
            rows[i][j] = jnp.where(noisy, rest / root, 0)
    nothing = jnp.where(still, jnp.sqrt(jnp.where(still, size, 1)), 0)
    return jnp.stack([jnp.stack(row) for row in rows]) + nothing * jnp.eye(n, dtype=matrix.dtype)
