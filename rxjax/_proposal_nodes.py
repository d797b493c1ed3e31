"""Quadrature nodes for integrals over the updates of a proposal, and SGD's own proposal."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from rxjax_solvers._checks import finite, require

from ._arrays import real_arrays, summation_dtype
from ._covariance import check_covariance
from .proposals import Ball, Box, Gaussian


class SGDUpdates(eqx.Module):
    r"""The updates of SGD at one learning rate, $\delta = m + Fz$ with standard normal $z$: see [`SGDProposal`][]."""

    mean: Float[Array, " d"]
    factor: Float[Array, "..."]

    def transport(self, normals: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Updates made of standard normal numbers."""
        if self.factor.ndim < 2:
            return self.mean[None] + normals * self.factor[None]
        return self.mean[None] + jnp.matmul(normals, self.factor.T, precision=jax.lax.Precision.HIGHEST)

    def sample(self, key: PRNGKeyArray, shape: tuple[int, int]) -> Float[Array, "n d"]:
        """Independent updates of shape `(n, d)`."""
        return self.transport(jax.random.normal(key, shape, self.mean.dtype))


class SGDProposal(eqx.Module):
    r"""The proposal of SGD as a function of the learning rate, $\delta \sim N(-\eta g, \eta^2 C)$.

    **Arguments:**

    - `gradient`: $g$ of the full loss, shape `(d,)`.
    - `covariance`: $C$ of the mini-batch gradient, shape `(d, d)` and positive definite, its diagonal `(d,)`, or a
      number for a multiple of the identity (these two may hold zeros).

    Call it with a learning rate for an object with `sample(key, shape)`.  Unlike `rx.proposals` it is not centred at
    zero: it already carries the drift that an Arrhenius factor would give them.

    ```python
    >>> import jax, jax.numpy as jnp, rxjax as rx
    >>> sgd = rx.SGDProposal(jnp.array([1.0, 2.0]), 0.01)
    >>> print([f"{x:.2f}" for x in sgd(0.1).sample(jax.random.key(0), (10_000, 2)).mean(axis=0)])
    ['-0.10', '-0.20']

    ```
    """

    gradient: Float[Array, " d"]
    factor: Float[Array, "..."]

    def __init__(self, gradient: ArrayLike, covariance: ArrayLike):
        g, c = real_arrays(gradient=gradient, covariance=covariance)
        if g.ndim != 1:
            raise ValueError(f"Argument `gradient` must have shape (d,), but it has shape {g.shape}.")
        dtype = summation_dtype(jnp.result_type(g, c))
        c = check_covariance(c, "covariance", g.shape[0]).astype(dtype)
        self.gradient = finite(g, "gradient").astype(dtype)
        if c.ndim < 2:
            none = c == 0
            self.factor = jnp.broadcast_to(jnp.where(none, 0.0, jnp.sqrt(jnp.where(none, 1.0, c))), g.shape)
        else:
            factor = jnp.linalg.cholesky(c)
            remedy = "Add a small multiple of the identity to a singular one, or give its diagonal."
            # A pivot of exactly zero is finite, but has no derivative.
            faults = [(~(jnp.diagonal(factor) > 0), "is singular")]
            self.factor = require(factor, "covariance", "be positive definite", faults, remedy)

    def __call__(self, learning_rate: ArrayLike) -> SGDUpdates:
        eta = jnp.asarray(learning_rate, self.gradient.dtype)
        return SGDUpdates(-eta * self.gradient, eta * self.factor)


def proposal_nodes(proposal: Any, dim: int, order: int) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """Nodes and weights of a rule for the mean over a proposal; exact for polynomials of degree `2 order - 3`."""
    if dim > 3:
        raise ValueError(
            f'Argument `method` must be "monte_carlo" beyond 3 dimensions, but it is "quadrature" in {dim}.'
        )
    if isinstance(proposal, Ball):
        nodes, weights = _ball(dim, order)
        return proposal.radius * jnp.asarray(nodes, proposal.radius.dtype), jnp.asarray(weights)
    if isinstance(proposal, Box):
        nodes, weights = _tensor(*np.polynomial.legendre.leggauss(order), dim)
        width = proposal.half_width
        return jnp.broadcast_to(width, (dim,))[None] * jnp.asarray(nodes, width.dtype), jnp.asarray(weights)
    if isinstance(proposal, Gaussian | SGDUpdates):
        nodes, weights = _tensor(*np.polynomial.hermite_e.hermegauss(order), dim)
        if isinstance(proposal, SGDUpdates):
            return proposal.transport(jnp.asarray(nodes, proposal.mean.dtype)), jnp.asarray(weights)
        width = proposal.std
        return jnp.broadcast_to(width, (dim,))[None] * jnp.asarray(nodes, width.dtype), jnp.asarray(weights)
    known = "that of SGDProposal, or a Gaussian, Box or Ball,"
    raise ValueError(
        f"Argument `proposal` must give {known} for quadrature, but it gives {type(proposal).__name__}. "
        'Use `method="monte_carlo"`.'
    )


def _tensor(x: np.ndarray, w: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The product rule in `dim` dimensions, its weights scaled to sum 1."""
    nodes = np.stack(np.meshgrid(*[x] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    weights = np.stack(np.meshgrid(*[w / w.sum()] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    return nodes, np.prod(weights, axis=-1)


def _ball(dim: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """The unit ball in polar coordinates: Gauss in the radius and the height, even spacing around."""
    x, w = np.polynomial.legendre.leggauss(order)
    if dim == 1:
        return x[:, None], w / w.sum()
    radius, radial = (x + 1) / 2, w * ((x + 1) / 2) ** (dim - 1)
    around = 2 * np.pi * (np.arange(2 * order) + 0.5) / (2 * order)
    circle = np.stack([np.cos(around), np.sin(around)], axis=-1)
    if dim == 2:
        directions, angular = circle, np.ones(2 * order)
    else:
        flat = np.sqrt(1 - x**2)[:, None, None] * circle[None]
        height = np.broadcast_to(x[:, None, None], (order, 2 * order, 1))
        directions = np.concatenate([flat, height], axis=-1).reshape(-1, 3)
        angular = np.repeat(w, 2 * order)
    nodes = (radius[:, None, None] * directions[None]).reshape(-1, dim)
    weights = (radial[:, None] * angular[None]).ravel()
    return nodes, weights / weights.sum()
