"""Sums and products over PyTrees of parameters, in which only floating arrays count."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from .._trees import reduced
from ._base import widest


def trainable(params: PyTree) -> PyTree:
    """`params` with its floating NumPy arrays as JAX arrays."""
    return jtu.tree_map(lambda x: jnp.asarray(x) if eqx.is_inexact_array(x) else x, params)


def moving(params: PyTree) -> PyTree:
    """The leaves that a direction can move: floating and complex arrays.  `None` in place of all else."""
    return jtu.tree_map(jnp.asarray, eqx.filter(params, eqx.is_inexact_array))


def wide(dtype: Any) -> np.dtype:
    """The dtype to add up in: the leaf's own, float32 at least."""
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32 else dtype


def match(tree: PyTree, like: PyTree, name: str, like_name: str) -> PyTree:
    """The moving part of `tree`, laid out like that of `like` and in the dtypes in which the two are added.

    **Raises:** `ValueError` or `TypeError` unless the arrays have the same places and shapes in both.
    """
    places = _by_place(moving(like))
    if not places:
        raise ValueError(f"Argument `{like_name}` must hold at least one floating array, but it holds none.")
    found = _by_place(moving(tree))
    for place in [*(p for p in places if p not in found), *(p for p in found if p not in places)]:
        lacks = "lacks one" if place in places else f"has one that `{like_name}` lacks"
        raise ValueError(
            f"Argument `{name}` must have a floating array wherever `{like_name}` has one, but it {lacks} at {place}."
        )
    for place, leaf in places.items():
        other = found[place]
        if other.shape != leaf.shape:
            raise ValueError(
                f"Argument `{name}` must have the shapes of `{like_name}`, but at {place} it has {other.shape} in "
                f"place of {leaf.shape}."
            )
        if jnp.iscomplexobj(other) and not jnp.iscomplexobj(leaf):
            raise TypeError(f"Argument `{name}` must be real where `{like_name}` is, but at {place} it is complex.")
    # Rebuilt on the structure of `like`: whatever else `tree` carries is dropped.
    leaves = [found[place].astype(wide(leaf.dtype)) for place, leaf in places.items()]
    return jtu.tree_unflatten(jtu.tree_structure(moving(like)), leaves)


def _by_place(tree: PyTree) -> dict[str, Array]:
    return {jtu.keystr(path) or "the root": leaf for path, leaf in jtu.tree_flatten_with_path(tree)[0]}


def plus(params: PyTree, weights: Sequence[Array], directions: Sequence[PyTree]) -> PyTree:
    """`params + sum_i weights_i directions_i`; every leaf keeps its dtype and is added up in float32 at least."""
    moved, fixed = eqx.partition(params, eqx.is_inexact_array)

    def add(leaf: Array, *parts: Array) -> Array:
        dtype = wide(leaf.dtype)
        real = jnp.zeros((), dtype).real.dtype
        total = jnp.asarray(leaf).astype(dtype)
        for weight, part in zip(weights, parts, strict=True):
            total = total + weight.astype(real).astype(dtype) * part.astype(dtype)
        return total.astype(leaf.dtype)

    return eqx.combine(jtu.tree_map(add, moved, *directions), fixed)


def difference(params: PyTree, origin: PyTree, name: str, origin_name: str) -> PyTree:
    """`params - origin` over the moving leaves, in float32 at least."""
    matched = match(params, origin, name, origin_name)
    return jtu.tree_map(lambda x, y: x - y.astype(x.dtype), matched, moving(origin))


def scaled(weight: Array, tree: PyTree) -> PyTree:
    """`weight * tree`; every leaf keeps its dtype."""
    return plus(jtu.tree_map(jnp.zeros_like, tree), [weight], [tree])


def dot(a: PyTree, b: PyTree) -> Array:
    """The real inner product over all moving leaves, summed in float32 at least."""
    parts = [jnp.sum(jnp.real(jnp.conj(x) * y)) for x, y in zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True)]
    return _reduced(jnp.sum, parts)


def norm(tree: PyTree) -> Array:
    """The Euclidean norm over all moving leaves, without overflow or underflow of the squares; gradient 0 at 0."""
    leaves = [jnp.abs(x) for x in jtu.tree_leaves(tree)]
    scale = jax.lax.stop_gradient(_reduced(jnp.max, [jnp.max(x, initial=0.0) for x in leaves]))
    scale = jnp.where(scale == 0, 1.0, scale)
    square = _reduced(jnp.sum, [jnp.sum((x / scale.astype(x.dtype)) ** 2) for x in leaves])
    zero = square == 0
    return jnp.where(zero, 0.0, scale * jnp.sqrt(jnp.where(zero, 1.0, square)))


def _reduced(reduce: Callable, parts: Sequence[Array]) -> Array:
    """`reduce` of scalars of several floating dtypes in the widest of them."""
    return reduced(reduce, widest(*parts))
