"""Inner products, norms and directions of arrays or PyTrees, real or complex, summed in float32 at least."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._arrays import summation_dtype


def paired_leaves(first: PyTree, second: PyTree, names: tuple[str, str]) -> list[tuple[Array, Array]]:
    """The leaves of two PyTrees of one structure and shapes, all real and in the dtype that their sum will have.

    A complex pair becomes two real ones, of real parts and of imaginary parts, the first with a minus sign: `jax.grad`
    of a real loss of x + iy returns L_x - i L_y, so that the inner product of the parts is the change of the loss.
    `None` counts as no leaf, as in the output of `equinox.filter_grad`.
    """
    structure, other = jax.tree.structure(first), jax.tree.structure(second)
    if structure != other:
        raise ValueError(
            f"Argument `{names[1]}` must have the structure of `{names[0]}`, but it has {other} and not {structure}."
        )
    pairs = []
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
        a, b = jnp.asarray(a), jnp.asarray(b)
        if a.shape != b.shape:
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ValueError(
                f"Argument `{names[1]}` must have the shapes of `{names[0]}`, but{where} it has {b.shape} and not "
                f"{a.shape}."
            )
        pairs.append((a, b))
    if not pairs:
        raise ValueError(f"Argument `{names[0]}` must hold at least one array, but it holds none.")
    # Python scalars are weakly typed and adapt to the arrays beside them.
    typed = [x for pair in pairs for x in pair if not x.weak_type]
    dtype = np.result_type(*(_real_dtype(x) for x in typed)) if typed else jnp.result_type(float)
    real = []
    for a, b in pairs:
        real.append((a.real.astype(dtype), b.real.astype(dtype)))
        if jnp.iscomplexobj(a) or jnp.iscomplexobj(b):
            real.append((-a.imag.astype(dtype), b.imag.astype(dtype)))
    return real


def inner(pairs: list[tuple[Array, Array]]) -> Array:
    """The inner product over all pairs of leaves."""
    return reduced(jnp.sum, [jnp.sum(a * b) for a, b in pairs])


def norm(leaves: list[Array]) -> Array:
    """The Euclidean norm of all leaves together, with gradient zero at zero."""
    squares = reduced(jnp.sum, [jnp.sum(jnp.square(x)) for x in leaves])
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def unit(leaves: list[Array]) -> list[Array]:
    """The leaves divided by their common norm; zero stays zero, with gradient zero.  No overflow, no underflow."""
    size = jax.lax.stop_gradient(reduced(jnp.max, [jnp.max(jnp.abs(x), initial=0) for x in leaves]))
    zero = size == 0
    scaled = [x / jnp.where(zero, 1, size) for x in leaves]
    # The length is at least 1, unless everything is zero.
    length = jnp.where(zero, 1, norm(scaled))
    return [jnp.where(zero, 0, x / length) for x in scaled]


def reduced(reduce: Callable, parts: Sequence[Array]) -> Array:
    """`reduce` of scalars of one dtype, one a leaf: a sum, a maximum, any.

    Eight at a time and behind barriers: of all at once XLA makes one kernel, whose compilation takes minutes.
    """
    while len(parts) > 1:
        some = [parts[i : i + 8] for i in range(0, len(parts), 8)]
        parts = [reduce(jax.lax.optimization_barrier(jnp.stack(each))) for each in some]
    return parts[0]


def _real_dtype(x: Array) -> Any:
    """The real dtype in which a leaf is summed; integers take JAX's default float."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.result_type(float)
    return summation_dtype(jnp.finfo(x.dtype).dtype)
