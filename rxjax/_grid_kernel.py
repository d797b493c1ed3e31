"""Loops over the points of a grid in which slopes are evaluated once a point and stay in the processor's cache."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

# Points evaluated at once: their slopes fit the second level of cache.
_CACHED = 4096
# A function of at most so many additions and multiplications is cheaper to evaluate anew than to fetch from memory.
_CHEAP_OPERATIONS = 64
_ARITHMETIC = dict.fromkeys(("add", "add_any", "sub", "mul", "neg", "max", "min", "abs", "sign", "square"), 1)
_ARITHMETIC |= {"integer_pow": 2, "div": 4, "select_n": 1, "gt": 1, "lt": 1, "ge": 1, "le": 1, "eq": 1, "ne": 1}
_FREE = {"broadcast_in_dim", "concatenate", "convert_element_type", "copy", "expand_dims", "iota", "pad", "reshape"}
_FREE |= {"slice", "split", "squeeze", "stack", "stop_gradient", "transpose", "unstack"}
_INNER = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint"}


class Rows(NamedTuple):
    """A grid seen as rows along its last axis, and how many rows and points of a row are evaluated at once."""

    axes: tuple[Array, ...]
    rows: int
    together: int
    batch: int


def rows_of(axes: Sequence[Array], bytes_per_point: int, memory_limit: int, batch_size: int | None) -> Rows:
    """Cut a grid into blocks whose evaluation fits the cache and the memory limit."""
    last = axes[-1].shape[0]
    allowed = max(1, memory_limit // max(bytes_per_point, 1))
    allowed = allowed if batch_size is None else min(allowed, batch_size)
    rows = math.prod(x.shape[0] for x in axes[:-1])
    together = max(1, min(rows, min(allowed, _CACHED) // last))
    return Rows(tuple(axes), rows, together, min(allowed, last))


def slopes(fn: Callable, dim: int) -> Callable:
    """`f(x_1, ..., x_d)`, the `d` partial derivatives of `fn` as separate numbers.

    Forward mode, since it lets a compiler see what depends on one coordinate only; reverse mode for functions that
    have no forward derivative.
    """

    def forward(*xs):
        push = jax.linearize(lambda *xs: fn(jnp.stack(xs)), *xs)[1]
        return tuple(push(*(jnp.full_like(x, i == j) for j, x in enumerate(xs))) for i in range(dim))

    def reverse(*xs):
        gradient = jax.grad(fn)(jnp.stack(xs))
        return tuple(gradient[i] for i in range(dim))

    try:
        jax.eval_shape(forward, *[jax.ShapeDtypeStruct((), jnp.result_type(float))] * dim)
    except TypeError:
        return reverse
    return forward


def cost(fn: Callable, dim: int, dtype: Any) -> tuple[int, bool]:
    """Bytes of all intermediate results of `fn` at one point, and whether it is cheap arithmetic throughout."""
    jaxpr = jax.make_jaxpr(fn)(*[jax.ShapeDtypeStruct((), dtype)] * dim)
    size, operations, cheap = _count(jaxpr.jaxpr)
    return size, cheap and operations <= _CHEAP_OPERATIONS


def _count(jaxpr: Any) -> tuple[int, int, bool]:
    """Bytes, operations, and whether there is nothing but arithmetic."""
    size, operations, cheap = 0, 0, True
    for equation in jaxpr.eqns:
        name, results = equation.primitive.name, [getattr(x.aval, "size", 1) for x in equation.outvars]
        size += sum(n * x.aval.dtype.itemsize for n, x in zip(results, equation.outvars, strict=True))
        inner = [p for p in map(_as_jaxpr, equation.params.values()) if p is not None]
        for sub in inner:
            more = _count(sub)
            size, operations, cheap = size + more[0], operations + more[1], cheap and more[2]
        if name == "reduce_sum":
            operations += equation.invars[0].aval.size
        elif name in _ARITHMETIC:
            operations += _ARITHMETIC[name] * sum(results)
        else:
            cheap &= name in (_INNER if inner else _FREE)
    return size, operations, cheap


def _as_jaxpr(x: Any) -> Any:
    return getattr(x, "jaxpr", x) if hasattr(getattr(x, "jaxpr", x), "eqns") else None


def everywhere(fn: Callable, axes: Sequence[Array]) -> Any:
    """`fn(x_1, ..., x_d)` at every point of the grid, in one expression for the compiler to fuse."""
    for i in reversed(range(len(axes))):
        fn = jax.vmap(fn, in_axes=tuple(0 if j == i else None for j in range(len(axes))))
    return fn(*axes)


def in_blocks(fn: Callable, grid: Rows, fields: Sequence[Array], reduce: Callable, outputs: Sequence[tuple]) -> list:
    """Fill arrays of the grid block by block.

    `fn(x_1, ..., x_d)` is evaluated at the points of a block of rows, `reduce` takes its values there (`(rows, last)`
    each) with those of `fields`, and returns one block for every `(before, after, dtype)` of `outputs`, of shape
    `(*before, rows, last, *after)`.  Fields are numbers, or arrays of the grid's shape.
    """
    last, together = grid.axes[-1].shape[0], grid.together
    fields = [x.reshape(grid.rows, last) if x.ndim else x for x in fields]
    counts = [x.shape[0] for x in grid.axes[:-1]]

    def at(*leading):
        row = lambda x: fn(*leading, x)
        return (
            jax.vmap(row)(grid.axes[-1]) if grid.batch >= last else lax.map(row, grid.axes[-1], batch_size=grid.batch)
        )

    def block(i, filled):
        first = jnp.minimum(i * together, grid.rows - together)
        index = first + jnp.arange(together, dtype=first.dtype)
        leading = []
        for axis, n in zip(reversed(grid.axes[:-1]), reversed(counts), strict=True):
            leading.insert(0, axis[index % n])
            index = index // n
        values = jax.vmap(at)(*leading) if leading else jax.tree.map(lambda x: x[None], at())
        here = [lax.dynamic_slice_in_dim(x, first, together) if x.ndim else x for x in fields]
        return reduce(values, here, first, filled)

    # Not `lax.empty`, which `vmap` copies for each of its members: `jax.jacfwd` and `jax.hessian` refuse that.
    filled = [jnp.zeros((*before, grid.rows, last, *after), dtype) for before, after, dtype in outputs]
    filled = lax.fori_loop(0, -(-grid.rows // together), block, filled)
    shape = tuple(x.shape[0] for x in grid.axes)
    return [x.reshape(*before, *shape, *after) for x, (before, after, _) in zip(filled, outputs, strict=True)]
