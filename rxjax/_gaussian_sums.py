"""Integrals of a positive function by sums relative to a Gaussian, in the log domain."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PRNGKeyArray

_NEWTON_STEPS = 20


class Gaussian(NamedTuple):
    """The law of `mean + scale z` for a standard normal `z`."""

    mean: Array  # (d,)
    scale: Array  # (d, d), or () for a multiple of the identity

    def at(self, z: Array) -> Array:
        """The point of a standard normal `z`."""
        if self.scale.ndim == 0:
            return self.mean + self.scale * z
        return self.mean + jnp.matmul(self.scale, z, precision=jax.lax.Precision.HIGHEST)

    def log_det(self) -> Array:
        """The logarithm of the scale's determinant."""
        if self.scale.ndim == 0:
            return self.mean.shape[0] * jnp.log(self.scale)
        return jnp.linalg.slogdet(self.scale)[1]


def gaussian_at_maximum(log_integrand: Callable, start: Array, gamma: Array) -> Gaussian:
    """The Gaussian of the integrand's curvature at the local maximum that a damped Newton method finds from `start`.

    It is a place to put nodes, not a part of the answer, so no gradient runs through it.
    """
    convert, captured = jax.closure_convert(log_integrand, start)
    captured = [jax.lax.stop_gradient(x) for x in captured]
    start, gamma = jax.lax.stop_gradient((start, gamma))

    def energy(x: Array) -> Array:
        return -convert(x, *captured)

    def curvature(x: Array) -> tuple[Array, Array]:
        return jnp.linalg.eigh(jax.hessian(energy)(x))

    def step(_: ArrayLike, x: Array) -> Array:
        values, vectors = curvature(x)
        # Directions of negative curvature are followed downhill too; flat ones by a long but finite step.
        stiffness = jnp.abs(values)
        floor = jnp.maximum(gamma, 1e-6 * jnp.max(stiffness))
        stiffness = jnp.maximum(stiffness, jnp.where(floor > 0, floor, 1))
        move = -vectors @ ((vectors.T @ jax.grad(energy)(x)) / stiffness)
        # The lowest eigenvector leaves the top of a barrier, where the gradient vanishes.
        escape = vectors[:, 0] / jnp.sqrt(stiffness[0])
        lengths = 2.0 ** -jnp.arange(12, dtype=x.dtype)
        moves = jnp.concatenate([0 * move[None], lengths[:, None] * move[None], lengths[:, None] * escape[None]])
        trials = x[None] + moves
        energies = jax.vmap(energy)(trials)
        return trials[jnp.nanargmin(jnp.where(jnp.isnan(energies), jnp.inf, energies))]

    mean = jax.lax.fori_loop(0, _NEWTON_STEPS, step, start)
    values, vectors = curvature(mean)
    # Concave directions are held by the spring alone; nodes are spread there, but not without bound.
    least = jnp.maximum(gamma / 16, 1e-6 * jnp.max(values))
    # Nothing holds the integrand where it is flat without a spring: the result is then not a number.
    values = jnp.where(least > 0, jnp.maximum(values, least), jnp.nan)
    return Gaussian(mean, vectors / jnp.sqrt(values)[None, :])


def log_sum_over_nodes(log_integrand: Callable, gaussian: Gaussian, order: int, chunk: int) -> tuple[Array, Array]:
    """The logarithm of the integral by a Gauss-Hermite product rule of `order` nodes an axis, and its error.

    Neighbouring orders disagree where the nodes are too coarse, distant ones where they are too few: the error is the
    larger difference to the rules of one node less and of a quarter less.
    """
    dim, dtype = gaussian.mean.shape[0], gaussian.mean.dtype
    rules = [_product_rule(n, dim) for n in (order, order - 1, -(-3 * order // 4))]
    z = jnp.asarray(np.concatenate([nodes for nodes, _ in rules]), dtype)
    terms = jax.lax.map(lambda z: log_integrand(gaussian.at(z)), z, batch_size=min(chunk, z.shape[0]))
    sums, first = [], 0
    for nodes, log_weights in rules:
        last = first + len(nodes)
        sums.append(jax.scipy.special.logsumexp(terms[first:last] + jnp.asarray(log_weights, dtype)))
        first = last
    error = jnp.maximum(jnp.abs(sums[0] - sums[1]), jnp.abs(sums[0] - sums[2]))
    return sums[0] + dim / 2 * math.log(2) + gaussian.log_det(), error


def _product_rule(order: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and log weights for an integrand from which the Gaussian is NOT divided out, in float64."""
    nodes, weights = np.polynomial.hermite.hermgauss(order)
    log_weights = np.log(weights) + nodes**2
    points = math.sqrt(2) * np.stack(np.meshgrid(*[nodes] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    return points, sum(np.meshgrid(*[log_weights] * dim, indexing="ij"), np.zeros(())).reshape(-1)


def log_mean_over_samples(
    log_weight: Callable, gaussian: Gaussian, key: PRNGKeyArray, num_samples: int, chunk: int
) -> tuple[Array, Array]:
    """The logarithm of the integral by importance sampling, and its standard error.

    `log_weight(x, z)` is the integrand at `x = gaussian.at(z)` with `exp(-|z|^2 / 2)` divided out.
    """
    dim, dtype = gaussian.mean.shape[0], gaussian.mean.dtype

    def term(key: PRNGKeyArray) -> Array:
        z = jax.random.normal(key, (dim,), dtype)
        return log_weight(gaussian.at(z), z)

    terms = jax.lax.map(term, jax.random.split(key, num_samples), batch_size=min(chunk, num_samples))
    log_mean = jax.scipy.special.logsumexp(terms) - math.log(num_samples)
    error = jnp.std(jnp.exp(terms - log_mean), ddof=1) / math.sqrt(num_samples)
    return log_mean + dim / 2 * math.log(2 * math.pi) + gaussian.log_det(), error
