"""Noise given as `sigma` in `dX = b dt + sigma dW`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._coefficients import TimeDependent
from ._grid import Grid


def diffusion_of(noise: Any, grid: Grid) -> Any:
    """`sigma sigma'/2`, of the kind that `noise` is: an array, a callable or `TimeDependent`."""
    if isinstance(noise, TimeDependent):
        f = noise.f
        return TimeDependent(lambda t, theta: _half_square(_checked(f(t, theta), grid)))
    if callable(noise):
        return lambda theta: _half_square(_checked(noise(theta), grid))
    return _half_square(_checked(jnp.asarray(noise, grid.lower.dtype), grid))


def stratonovich_drift(noise: Callable | TimeDependent, grid: Grid) -> Callable | TimeDependent:
    """What turns a Stratonovich equation into an Ito equation: `(1/2) sum_jk (d_j sigma_ik) sigma_jk`."""
    if isinstance(noise, TimeDependent):
        f = noise.f
        return TimeDependent(lambda t, theta: _correction(lambda x: f(t, x), theta, grid))
    return lambda theta: _correction(noise, theta, grid)


def matrix_of(sigma: Array, dim: int) -> Array:
    """`sigma` as a matrix `(d, m)`."""
    return jnp.diag(jnp.broadcast_to(sigma, (dim,))) if sigma.ndim < 2 else sigma


def _correction(noise: Callable, theta: Array, grid: Grid) -> Array:
    full = lambda x: matrix_of(_checked(noise(x), grid).astype(x.dtype), grid.dim)
    return jnp.einsum("ikj,jk->i", jax.jacfwd(full)(theta), full(theta)) / 2


def _half_square(sigma: Array) -> Array:
    return sigma @ sigma.T / 2 if sigma.ndim == 2 else sigma**2 / 2


def _checked(sigma: Any, grid: Grid) -> Array:
    sigma = jnp.asarray(sigma)
    if sigma.ndim > 2 or (sigma.ndim > 0 and sigma.shape[0] != grid.dim):
        raise ValueError(
            f"Argument `noise` must be a scalar or have shape ({grid.dim},) or ({grid.dim}, m) for m sources of noise, "
            f"but it has shape {sigma.shape}."
        )
    return sigma
