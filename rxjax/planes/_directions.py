"""Directions of a plane from the path of training, and orthonormal ones from any."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from rxjax_solvers._checks import is_traced, require

from .._arrays import summation_dtype
from ..landscapes._trees import match, moving


class PrincipalDirections(eqx.Module):
    """The axes along which a path of parameters varies most.

    - `directions`: `k` PyTrees, orthonormal over all parameters, the largest variance first.
    - `center`: the mean of the points, a PyTree like the parameters.
    - `shares`: `(k,)`, the share of the variance of the path along each.
    """

    directions: tuple[PyTree, ...]
    center: PyTree
    shares: Float[Array, " k"]


def principal_directions(path: PyTree, k: int = 2) -> PrincipalDirections:
    r"""Principal components of a path of parameters, the directions of largest variance:

    $$\frac1n \sum_t (p_t - \bar p)(p_t - \bar p)^\top d_i = \lambda_i d_i, \qquad |d_i| = 1.$$

    **Arguments:**

    - `path`: a PyTree like the parameters, whose floating arrays have one more axis in front, over the points.
    - `k`: how many directions.

    **Returns:** a `PrincipalDirections`; `rx.landscapes.plane(loss, found.center, found.directions)` lays the plane.
    Signs are such that the path ends on the positive side.

    **How it fails:** the components of a random walk in many dimensions look like cosines of time and hold most of its
    variance (60 % the first): a large share does not show that the path is flat.  Take points of a stationary stretch
    for the plane of its noise.

    **Raises:** `ValueError` for fewer than `k + 1` points, or a path that does not span `k` directions.

    ??? cite "References"

        J. Antognini and J. Sohl-Dickstein, NeurIPS 2018: principal components of random walks.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> path = {"w": jnp.array([[0.0, 0.0], [2.0, 1.0], [4.0, 1.0], [6.0, 0.0]])}
        >>> found = rx.planes.principal_directions(path, k=1)
        >>> print(found.center["w"], f"{found.shares[0]:.3f}")
        [3.  0.5] 0.952

        ```
    """
    moved = moving(path)
    lengths = {x.shape[0] if x.ndim else 0 for x in jax.tree.leaves(moved)}
    if len(lengths) != 1:
        raise ValueError(f"Argument `path` must hold arrays with one leading axis over points, but it has {lengths}.")
    if not 1 <= k < lengths.pop():
        raise ValueError(f"Argument `path` must hold more points than directions, but `k` is {k}.")
    _, unravel = _flatten(jax.tree.map(lambda x: x[0], moved))
    center, vectors, variances = _components(moved, k)
    total = jnp.sum(variances)
    if k > len(variances):
        raise ValueError(f"Argument `path` must span {k} directions, but it has {len(variances)} parameters.")
    fault = [(~(variances[k - 1] > 100 * jnp.finfo(total.dtype).eps ** 2 * total), "does not, or is not finite")]
    vectors = require(vectors, "path", f"span {k} directions", fault, "Ask for fewer.", None)
    fixed = eqx.filter(path, eqx.is_inexact_array, inverse=True)
    return PrincipalDirections(
        tuple(unravel(v) for v in vectors), eqx.combine(unravel(center), fixed), variances[:k] / total
    )


def orthonormal(directions: Sequence[PyTree]) -> tuple[PyTree, ...]:
    r"""Orthonormal directions that span the same plane, $\langle d_i, d_j\rangle = \delta_{ij}$ (Gram–Schmidt).

    Distances on the plane are then distances between parameters, and the noise on it is that of the parameters.

    **Arguments:**

    - `directions`: PyTrees of one structure, such as `rx.landscapes.random_directions` gives.

    **Returns:** as many PyTrees.

    **Raises:** `ValueError` for trees that do not match, or directions that are linearly dependent to working
    precision.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> first, second = rx.planes.orthonormal([jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0])])
        >>> print(first, second)
        [0.6 0.8] [-0.8  0.6]

        ```
    """
    if not len(directions):
        raise ValueError("Argument `directions` must hold at least one direction, but it holds none.")
    matched = (match(d, directions[0], f"directions[{i}]", "directions[0]") for i, d in enumerate(directions))
    flat = [_flatten(d) for d in matched]
    rows = jnp.stack([x for x, _ in flat])
    if rows.shape[0] > rows.shape[1]:
        raise ValueError(
            f"Argument `directions` must hold at most {rows.shape[1]}, the number of parameters, but it holds "
            f"{rows.shape[0]}."
        )
    q, r = jnp.linalg.qr(rows.T)
    diagonal, lengths = jnp.diagonal(r), jnp.sqrt(jnp.sum(rows**2, axis=1))
    fault = [(~(jnp.abs(diagonal) > 100 * jnp.finfo(r.dtype).eps * lengths), "holds one that is not")]
    shown = None if is_traced(lengths) else f"lengths {lengths}"
    q = require(q * jnp.sign(diagonal)[None], "directions", "be linearly independent", fault, "Drop it.", shown)
    return tuple(unravel(column) for (_, unravel), column in zip(flat, q.T, strict=True))


def _flatten(tree: PyTree) -> tuple[Array, Callable]:
    """A tree as one vector of float32 or wider, and the way back."""
    return ravel_pytree(jax.tree.map(lambda x: x.astype(summation_dtype(x.dtype)), tree))


@eqx.filter_jit
def _components(path: PyTree, k: int) -> tuple[Array, Array, Array]:
    """Mean, the first `k` axes as rows, and the variances along all."""
    points = jax.vmap(lambda p: _flatten(p)[0])(path)
    center = jnp.mean(points, axis=0)
    apart = points - center[None]
    _, sizes, axes = jnp.linalg.svd(apart, full_matrices=False)
    end = jnp.sum(axes[:k] * apart[-1][None], axis=1)
    return center, axes[:k] * jnp.where(end < 0, -1, 1)[:, None].astype(axes.dtype), sizes**2 / points.shape[0]
