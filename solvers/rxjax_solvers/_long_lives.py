"""Functions of where a long life starts, kept so that their differences are right.

Times grow with `e^(E_b/kT)`, and rounding of them covers how they differ within a well, which is all that rates act on.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._factor import Factor, assemble
from ._factorization import Elimination
from ._multigrid import IterativeElimination
from ._region import Region


class Apart(eqx.Module):
    """`u = home + beyond` outside of a target, with `home` that of the state where lives are spent most."""

    home: Float[Array, ""]
    beyond: Float[Array, "*shape"]

    def backward(self, factor: Factor) -> Float[Array, "*shape"]:
        """`A^T u`, for derivatives with respect to the factor."""
        return self.home * _lost(factor) + factor.backward(self.beyond)


def apart(factor: Factor, b: Float[Array, "*shape"], u: Float[Array, "*shape"]) -> Apart:
    """The two parts of `u` with `A^T u = b`; one more factor, and only the sum where solves are iterations."""
    if isinstance(factor.elimination, IterativeElimination):
        return Apart(jnp.zeros((), u.dtype), u)
    spent = factor.elimination.solve(factor.keep.astype(u.dtype) / u.size)
    most = jnp.arange(spent.size).reshape(spent.shape) == jnp.argmax(jnp.where(factor.keep, spent, -1))
    most = most & factor.keep
    ends = Region(~factor.keep | most, factor.extra, jnp.zeros_like(u))
    home = jnp.sum(jnp.where(most, u, 0))
    soon = assemble(factor.generator, [ends], factor.shift, Elimination())
    return Apart(home, soon.transpose_solve(b - home * _lost(factor)))


def _lost(factor: Factor) -> Float[Array, "*shape"]:
    """The rate at which lives end."""
    return factor.backward(factor.keep.astype(factor.extra.dtype))
