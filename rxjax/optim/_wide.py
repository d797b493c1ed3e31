"""Trees of parameters in an accumulator's precision: float32 at least, whatever the parameters are stored in."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._arrays import summation_dtype

# Eight parallel sums: measured best for float32 on one core.
_SLABS = 8


def wide_dtype(dtype: Any) -> Any:
    """`dtype`, real or complex, or its float32 counterpart if it has fewer bits."""
    return dtype if jnp.issubdtype(dtype, jnp.complexfloating) else summation_dtype(dtype)


def scalar_dtype(tree: PyTree) -> Any:
    """The real dtype in which sums over all leaves are kept; JAX's default float for a tree without leaves."""
    dtypes = [jnp.finfo(wide_dtype(x.dtype)).dtype for x in jax.tree.leaves(tree)]
    return np.result_type(*dtypes) if dtypes else jnp.result_type(float)


def check_floating(tree: PyTree, name: str) -> None:
    """Refuse leaves that cannot be moved by a small step."""
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ValueError(
                f"Argument `{name}` must hold real or complex floating-point arrays, but{where} it has dtype "
                f"{jnp.result_type(x)}. Freeze other leaves with `optax.masked` or `equinox.partition`."
            )


def widened(tree: PyTree) -> PyTree:
    """Every leaf as an array of float32 or wider."""
    return jax.tree.map(lambda x: jnp.asarray(x).astype(wide_dtype(jnp.result_type(x))), tree)


def zeros(tree: PyTree) -> PyTree:
    """Zeros of the same shapes, sharded alike, in float32 or wider.  Abstract leaves serve as well as arrays."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=wide_dtype(x.dtype)), tree)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Every leaf in the dtype of its counterpart."""
    return jax.tree.map(lambda x, y: x.astype(jnp.result_type(y)), tree, like)


def inner(first: PyTree, second: PyTree, dtype: Any) -> Array:
    """The real inner product of two trees of wide leaves, as a scalar of `dtype`; zero without leaves."""
    total = jnp.zeros((), dtype)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        pairs = [(a.real, b.real), (a.imag, b.imag)] if jnp.iscomplexobj(a) else [(a, b)]
        for x, y in pairs:
            total += _sum_of_products(x, y).astype(dtype)
    return total


def _sum_of_products(x: Array, y: Array) -> Array:
    """`sum(x * y)`: a plain sum keeps any sharding, where a dot product would have to be told."""
    plain = lambda x, y: jnp.sum(x * y)
    if x.size % _SLABS or x.size < 128 * _SLABS or is_sharded(x):
        return plain(x, y)
    return jax.lax.platform_dependent(x, y, cpu=_sum_in_slabs, default=plain)


def _sum_in_slabs(x: Array, y: Array) -> Array:
    """A CPU's sum to one number runs at a third of the memory's speed; adding whole slabs first runs at full speed."""
    z = (x * y).reshape(_SLABS, -1)
    return jnp.sum(functools.reduce(jnp.add, [z[i] for i in range(_SLABS)]))


def is_sharded(x: Array) -> bool:
    """Whether the type of `x` says that an axis is divided among devices: slabs would cut across it."""
    return any(axis is not None for axis in jax.typeof(x).sharding.spec)


def square(tree: PyTree, dtype: Any) -> Array:
    """The squared Euclidean norm of a tree of wide leaves."""
    return inner(tree, tree, dtype)


def size(tree: PyTree) -> int:
    """The number of real parameters: a complex one counts twice."""
    return sum(x.size * (2 if jnp.iscomplexobj(x) else 1) for x in jax.tree.leaves(tree))


def select(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """`yes` where a scalar condition holds, else `no`, leaf by leaf in the dtype of `no`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
