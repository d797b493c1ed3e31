"""Hessian-vector products of a loss over a PyTree, on flat vectors of float32 or wider."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._arrays import summation_dtype
from ..landscapes._callable import one_number
from ..optim._wide import is_sharded


class FlatLoss(NamedTuple):
    """A loss as a function of one flat vector."""

    origin: Array  # (d,), float32 or wider: the parameters
    gradient: Callable  # () -> g (d,)
    expand: Callable  # () -> (g (d,), the function v (d,) -> H v (d,)), linearised once for all products


def moving_part(params: PyTree) -> tuple[PyTree, PyTree]:
    """`params` as (floating arrays, all else), each with `None` in place of the other."""
    params = jax.tree.map(lambda x: jnp.asarray(x) if eqx.is_inexact_array(x) else x, params)
    moved, fixed = eqx.partition(params, eqx.is_inexact_array)
    leaves = jax.tree.leaves(moved)
    if not leaves:
        raise ValueError("Argument `params` must hold at least one floating array, but it holds none.")
    if any(jnp.iscomplexobj(x) for x in leaves):
        raise ValueError(
            "Argument `params` must be real, but it holds a complex array. Write it as a pair of real arrays."
        )
    return moved, fixed


def shaped_like(params: PyTree, flat: Array) -> PyTree:
    """A flat vector as a tree like the parameters, in its own dtype."""
    moved, _ = moving_part(params)
    leaves, structure = jax.tree.flatten(moved)
    ends = [0]
    for x in leaves:
        ends.append(ends[-1] + x.size)
    parts = [flat[a:b].reshape(x.shape) for x, a, b in zip(leaves, ends[:-1], ends[1:], strict=True)]
    return jax.tree.unflatten(structure, parts)


def flat_loss(loss_fn: Callable, params: PyTree, batch: PyTree) -> FlatLoss:
    """`loss_fn(params, batch)` around `params`; products are taken in the dtype of the parameters."""
    moved, fixed = moving_part(params)
    origin, narrow, flat = _flattened(moved)
    slope = jax.grad(lambda p: one_number(loss_fn(eqx.combine(p, fixed), batch), "loss_fn"))

    def expand() -> tuple[Array, Callable]:
        gradient, bend = jax.linearize(slope, moved)
        return flat(gradient), lambda v: flat(bend(narrow(v)))

    return FlatLoss(origin, lambda: flat(slope(moved)), expand)


def flat_values(loss_fn: Callable, params: PyTree, batch: PyTree) -> tuple[Callable, Array, Callable]:
    """The loss as a function of any flat vector `(d,)`, the vector of `params`, and what flattens a tree like it."""
    moved, fixed = moving_part(params)
    origin, narrow, flat = _flattened(moved)
    loss = lambda v: one_number(loss_fn(eqx.combine(narrow(v), fixed), batch), "loss_fn")
    return lambda v: jnp.asarray(loss(v)).astype(v.dtype), origin, flat


def _flattened(moved: PyTree) -> tuple[Array, Callable, Callable]:
    """The flat vector of a tree, float32 or wider, the way back to the tree's own dtypes, and the way there.

    Under explicit sharding flat vectors are whole on every device, and the way back spreads them as the tree is.
    """
    wide = jax.tree.map(lambda x: sharded(x.astype(summation_dtype(x.dtype)), None), moved)
    # Leaves of several dtypes are raveled into the widest.
    origin, unravel = ravel_pytree(wide)
    narrow = lambda v: jax.tree.map(lambda x, p: sharded(x.astype(p.dtype), p), unravel(v), moved)
    flat = lambda tree: ravel_pytree(jax.tree.map(lambda x: sharded(x.astype(origin.dtype), None), tree))[0]
    return origin, narrow, flat


def sharded(x: Array, like: Array | None) -> Array:
    """`x` with the explicit sharding of another array of its shape, or whole on every device."""
    if not is_sharded(x) and (like is None or not is_sharded(like)):
        return x
    return jax.sharding.reshard(x, jax.P() if like is None else jax.typeof(like).sharding.spec)
