"""Trees of parameters in an accumulator's precision: float32 at least, whatever the parameters are stored in."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, PyTree

from .._arrays import summation_dtype

# Measured best for float32 on one core: below _SMALL lanes added up, then blocks, _NARROW ones from _CACHED on; rows or
# slabs where blocks do not fit.
_SMALL, _CACHED, _SLABS, _LANES, _FOLDS, _BLOCK, _NARROW = 1024, 2**15, 8, 64, 2, 16, 16
_TOGETHER, _SUMMED = 2, 8


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
    return inners([(first, second)], dtype)[0]


def inners(pairs: list[tuple[PyTree, PyTree]], dtype: Any) -> list[Any]:
    """The inner products of many pairs of trees, all alike: a CPU does one after all others at little cost."""
    real = lambda x: [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    parts = lambda tree: [part for x in jax.tree.leaves(tree) for part in real(x)]
    products = [list(zip(parts(a), parts(b), strict=True)) for a, b in pairs]
    if not products[0]:
        return [jnp.zeros((), dtype)] * len(pairs)
    # A plain sum keeps any sharding, where a dot product would have to be told.
    plain = lambda products: [
        functools.reduce(jnp.add, [jnp.sum(x * y).astype(dtype) for x, y in each]) for each in products
    ]
    if any(is_sharded(x) or is_sharded(y) for each in products for x, y in each):
        return plain(products)
    # Told here, since a branch by platform sees one array in two places as two.
    groups = _sharing(pairs)
    return jax.lax.platform_dependent(products, cpu=lambda all: _sums_on_a_cpu(all, groups, dtype), default=plain)


def _sharing(pairs: list[tuple[PyTree, PyTree]]) -> list[list[int]]:
    """The numbers of the pairs, those with a tree in common together."""
    groups: list[list[int]] = []
    for i, pair in enumerate(pairs):
        known = [group for group in groups if any(a is b for j in group for a in pairs[j] for b in pair)]
        if known:
            known[0].append(i)
        else:
            groups.append([i])
    return groups


def _sums_on_a_cpu(products: list[list[tuple[Array, Array]]], groups: list[list[int]], dtype: Any) -> list[Array]:
    """Every product of two arrays as one row of numbers, rows added leaf by leaf, and of all pairs at once."""
    fence = jax.lax.optimization_barrier
    by_leaf = [_rows_of_sums(list(leaf), groups) for leaf in zip(*products, strict=True)]
    # In two steps, each too short for XLA to split it again.  Of all leaves at once it would compile a single kernel.
    parts = []
    for i in range(0, len(by_leaf), _SUMMED):
        some = zip(*by_leaf[i : i + _SUMMED], strict=True)
        rows = [functools.reduce(jnp.add, [row.astype(dtype) for row in each]) for each in some]
        parts.append(jnp.stack(_sums_at_once([row.reshape(2, _FOLDS, -1) for row in rows])))
    total = jnp.sum(fence(functools.reduce(jnp.add, parts)), (1, 2))
    return [total[i] for i in range(len(products))]


def _rows_of_sums(leaf: list[tuple[Array, Array]], groups: list[list[int]]) -> list[Array]:
    """For each product its row: all by one sum if the leaf stays in the cache, else those that share an array."""
    n = leaf[0][0].size
    if n < _SMALL or jax.device_count() > 1:
        return [_row_of_sums(x, y) for x, y in leaf]
    if n < _CACHED and n % _LANES == 0:
        return _sums_of_blocks(leaf, (-1, math.gcd(n // _LANES, _BLOCK), _LANES))
    block = next((b for b in range(_BLOCK, _BLOCK // 2, -1) if n % (2 * b * _NARROW) == 0), 0)
    if n < _CACHED or not block:
        return [_row_of_sums(x, y) for x, y in leaf]
    rows: dict[int, Array] = {}
    for group in groups:
        some = [leaf[i] for i in group]
        if _has_rows(some[0][0]):
            some = [(_row_major(x), _row_major(y)) for x, y in some]
        rows |= zip(group, _sums_of_blocks(some, (-1, block, _NARROW)), strict=True)
    return [rows[i] for i in range(len(leaf))]


def _sums_of_blocks(products: list[tuple[Array, Array]], shape: tuple[int, int, int]) -> list[Array]:
    """For each product its row, by blocks that XLA adds in parallel, short enough to be unrolled."""
    parts = _sums_at_once([(x * y).reshape(shape) for x, y in products])
    return [_folded(part) for part in jax.lax.optimization_barrier(parts)]


def _sums_at_once(arrays: list[Array]) -> list[Array]:
    """The sums over the middle axis of arrays of one shape, in one pass and as a kernel of their own.

    XLA takes a sum of several numbers as it is, and divides or joins a sum of one at will: its two halves are two.
    """
    if len(arrays) > 1 or arrays[0].shape[0] % 2:
        return _sums_of_several(arrays)
    return [jnp.concatenate(_sums_of_several(jnp.split(arrays[0], 2)))]


@jax.custom_jvp
def _sums_of_several(arrays: list[Array]) -> list[Array]:
    """One sum of several numbers, of arrays of one shape over their middle axis.

    JAX's own rule, which it takes inside of loops that are differentiated backwards, needs all tangents, as a barrier
    gives them.
    """
    arrays = jax.lax.optimization_barrier(arrays)
    zeros = [jnp.zeros((), x.dtype) for x in arrays]
    return jax.lax.reduce(arrays, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], (1,))


@_sums_of_several.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    """JAX differentiates such a sum only once."""
    return _sums_of_several(*primals), [jnp.sum(t, 1) for t in tangents[0]]


def _row_of_sums(x: Array, y: Array) -> Array:
    """Numbers, `_LANES` of them, whose sum is that of `x * y`.

    A CPU's sum to one number runs at a third of the memory's speed or less: most axes are summed in parallel first.
    Barriers keep XLA from joining this sum and the last one.  Slabs alone are summed without gathering a matrix that
    is divided among devices behind our back.
    """
    fence, alone = jax.lax.optimization_barrier, jax.device_count() == 1
    if x.size < _SMALL and alone:
        return _folded(x * y)
    if _has_rows(x):
        return _folded(fence(jnp.sum(fence(_row_major(x) * _row_major(y)), 1)))
    if x.size < _SMALL or x.size % _SLABS:
        return _folded(jnp.sum(x * y))
    z = (x * y).reshape(_SLABS, -1)
    return _folded(jnp.sum(functools.reduce(jnp.add, [z[i] for i in range(_SLABS)])))


def _folded(x: Array) -> Array:
    """An array as `_LANES` sums; a short one by additions that XLA joins with what is done to these."""
    x = jnp.pad(x.reshape(-1), (0, -x.size % _LANES if x.size else _LANES)).reshape(-1, _LANES)
    if x.size > _SMALL:
        return jax.lax.optimization_barrier(jnp.sum(x, 0))
    return functools.reduce(jnp.add, [x[i] for i in range(len(x))])


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


@jax.custom_jvp
def safe_root(x: Array) -> Array:
    """The square root of a sum of squares or an average of such, whose slope is zero where all of them are zero."""
    return jnp.sqrt(x)


@safe_root.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    """Squares at their smallest do not move: the slope of the root, infinite, would make NaN of that.

    Written without this rule's function, since JAX drops the rules of what is kept of a loop for reverse mode.
    """
    still = primals[0] == 0
    root = jnp.sqrt(jnp.where(still, 1, primals[0]))
    return jnp.where(still, 0, root), jnp.where(still, 0, tangents[0] / (2 * root))


def size(tree: PyTree) -> int:
    """The number of real parameters: a complex one counts twice."""
    return sum(x.size * (2 if jnp.iscomplexobj(x) else 1) for x in jax.tree.leaves(tree))


def select(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """`yes` where a scalar condition holds, else `no`, leaf by leaf in the dtype of `no`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def in_turns(step: Callable[..., tuple[Array, Array]], condition: Array, *trees: PyTree) -> tuple[PyTree, PyTree]:
    """The two trees of what `step(condition, *leaves)` returns, where on a CPU two leaves wait for the two before them.

    XLA gives half of more than eight kernels that are ready at once to another thread.  Where parameters are few, its
    waking up takes longer than they do, and one kernel of a large array is divided among threads anyway.
    """
    results: list[tuple[Array, Array]] = []
    for i, leaves in enumerate(zip(*map(jax.tree.leaves, trees), strict=True)):
        if i and i % _TOGETHER == 0:
            condition = _after(condition, results[-1][1])
        results.append(step(condition, *leaves))
    treedef = jax.tree.structure(trees[0])
    first, second = ([each[k] for each in results] for k in range(2))
    return jax.tree.unflatten(treedef, first), jax.tree.unflatten(treedef, second)


def _after(condition: Array, x: Array) -> Array:
    """The same condition, which a CPU does not know before `x`: no number is greater than infinity.

    A division, since XLA computes anything simpler again, with all conditions before it, in each kernel that needs it.
    """
    if jax.device_count() > 1 or not x.size:
        return condition
    first = x[(0,) * x.ndim].real
    late = lambda condition, first: condition.astype(first.dtype) / (1 + (first > jnp.inf).astype(first.dtype)) > 0
    return jax.lax.platform_dependent(condition, first, cpu=late, default=lambda condition, _: condition)


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
