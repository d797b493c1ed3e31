"""Trees of parameters in an accumulator's precision: float32 at least, whatever the parameters are stored in."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, PyTree

from .._arrays import summation_dtype

# Measured best for float32 on one core: below _SMALL a plain sum, from _CACHED on rows, or slabs read once.
_SMALL, _CACHED, _SLABS = 1024, 2**15, 8


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
    if x.size < _SMALL or is_sharded(x):
        return plain(x, y)
    return jax.lax.platform_dependent(x, y, cpu=_sum_on_a_cpu, default=plain)


def _sum_on_a_cpu(x: Array, y: Array) -> Array:
    """A CPU's sum to one number runs at a third of the memory's speed or less: most axes are summed in parallel first.

    Barriers keep XLA from joining the two sums into one again.  Slabs alone are summed without gathering a matrix that
    is divided among devices behind our back.
    """
    fence = jax.lax.optimization_barrier
    if _has_rows(x):
        return jnp.sum(fence(jnp.sum(fence(_row_major(x) * _row_major(y)), 1)))
    for block in ((32, 64), (8, 32)):
        if x.size < _CACHED and x.size % math.prod(block) == 0 and jax.device_count() == 1:
            z = fence((x * y).reshape(-1))
            return jnp.sum(fence(jnp.sum(z.reshape(-1, *block), 1)))
    if x.size % _SLABS:
        return jnp.sum(x * y)
    z = (x * y).reshape(_SLABS, -1)
    return jnp.sum(functools.reduce(jnp.add, [z[i] for i in range(_SLABS)]))


def _has_rows(x: Array) -> bool:
    """Whether sums over the rows of `x` are best: a large matrix with rows of some length, on the only device."""
    return x.ndim == 2 and x.size >= _CACHED and x.shape[1] >= 128 and jax.device_count() == 1


def _row_major(x: Array) -> Array:
    """Gradients are often the transpose of a product to XLA, whose rows it would sum as columns."""
    return with_layout_constraint(x, Layout((0, 1)))


def in_rows(tree: PyTree) -> PyTree:
    """The same tree, its large matrices laid out as `inner` wants them on a CPU, for use there and elsewhere."""
    one = lambda x: jax.lax.platform_dependent(x, cpu=_row_major, default=lambda x: x)
    return jax.tree.map(lambda x: one(x) if _has_rows(x) and not is_sharded(x) else x, tree)


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


def replace_unless(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    """As `select`, for a condition that seldom fails: a CPU neither reads nor writes the trees while it holds."""
    same = lambda a, b: jax.typeof(a) == jax.typeof(b)
    if not jax.tree.leaves(new) or not all(map(same, jax.tree.leaves(new), jax.tree.leaves(old))):
        return select(condition, new, old)
    return jax.lax.platform_dependent(condition, new, old, cpu=_loop_unless, default=select)


@jax.custom_jvp
def _loop_unless(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    """A loop without a round leaves `new` in its buffers, where `lax.cond` and `select` would copy it."""
    body = lambda carry: (jnp.ones_like(carry[0]), old)
    return jax.lax.while_loop(lambda carry: ~carry[0], body, (condition, new))[1]


@_loop_unless.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    """Loops cannot be differentiated backwards; the tangents of counters are left as they are."""
    condition, new, old = primals
    real = lambda a: a.dtype != jax.dtypes.float0
    move = lambda a, b: jnp.where(condition, a, b) if real(a) else a
    return _loop_unless(condition, new, old), jax.tree.map(move, tangents[1], tangents[2])
