"""Directions for a plane: random ones, and those through given solutions."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree, Shaped

from rxjax_solvers._checks import require

from ._base import Numbers
from ._plane import PlaneLandscape, plane
from ._trees import difference, dot, moving, norm, plus, scaled, wide


def random_directions(
    key: PRNGKeyArray | Shaped[Array, "..."],
    params: PyTree,
    k: int = 2,
    filter_normalised: bool = True,
    *,
    filter_axis: int = 0,
    vectors: bool | None = None,
) -> tuple[PyTree, ...]:
    r"""Random Gaussian directions through `params`, filter by filter as large as the filters themselves:

    $$d_{ij} \leftarrow \frac{d_{ij}}{|d_{ij}|} |p_{ij}|$$

    for the $j$-th filter of the $i$-th layer, the weights into one output (Li, Xu, Taylor, Studer and Goldstein,
    NeurIPS 2018, section 4).  A network with ReLU or normalisation layers computes the same function when filters are
    rescaled; this makes pictures of two networks comparable.

    **Arguments:**

    - `key`: a key of `jax.random`.
    - `params`: a PyTree; only its floating arrays count.
    - `k`: how many directions.  Nearly orthogonal to each other where there are many parameters; not made so.
    - `filter_normalised`: `False` gives plain standard normal entries.
    - `filter_axis`: the axis of the outputs: 0 for Equinox and PyTorch layouts, -1 for Flax and Haiku kernels.
    - `vectors`: whether leaves with fewer than two axes (biases, scales of normalisation layers) move too, each as one
        filter.  Left out, they stay as in the paper, unless `filter_normalised=False`.

    **Returns:** `k` PyTrees with arrays where `params` has floating arrays and `None` elsewhere.

    **Raises:** `ValueError` if nothing could move.

    **Good values:** with filter normalisation bounds of $\pm 1$ show a whole basin: at 1 the noise is as large as the
    weights.

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp
        >>> import rxjax as rx
        >>> params = {"weight": jnp.array([[3.0, 4.0], [0.0, 1.0]]), "bias": jnp.ones(2)}
        >>> (d,) = rx.landscapes.random_directions(jax.random.key(0), params, k=1)
        >>> print(jnp.linalg.norm(d["weight"], axis=1).round(4), d["bias"])
        [5. 1.] [0. 0.]

        ```
    """
    if k < 1:
        raise ValueError(f"Argument `k` must be at least 1, but it is {k}.")
    vectors = not filter_normalised if vectors is None else vectors
    leaves, structure = jtu.tree_flatten(moving(params))
    if not leaves:
        raise ValueError("Argument `params` must hold at least one floating array, but it holds none.")
    if not vectors and all(leaf.ndim < 2 for leaf in leaves):
        raise ValueError(
            "Argument `params` must have a leaf with two axes or more, but it has vectors only, which filter "
            "normalisation leaves where they are. Type `vectors=True` to move them."
        )
    drawn = _draw(key, leaves, k, filter_normalised, filter_axis, vectors)
    return tuple(jtu.tree_unflatten(structure, direction) for direction in drawn)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _draw(
    key: Array, leaves: list[Array], k: int, normalise: bool, filter_axis: int, vectors: bool
) -> list[list[Array]]:
    """The leaves of each direction, in float32 at least."""
    leaves = [leaf.astype(wide(leaf.dtype)) for leaf in leaves]
    # One draw for all leaves: a generator for each would take seconds to compile.
    sizes = [leaf.size * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in leaves]
    dtype = max((leaf.real.dtype for leaf in leaves), key=lambda d: jnp.finfo(d).bits)
    noise = jnp.split(jr.normal(key, (k, sum(sizes)), dtype), np.cumsum(sizes)[:-1], axis=1)
    return [
        [_shape(part[i], leaf, normalise, filter_axis, vectors) for part, leaf in zip(noise, leaves, strict=True)]
        for i in range(k)
    ]


def _shape(noise: Array, leaf: Array, normalise: bool, filter_axis: int, vectors: bool) -> Array:
    """Flat noise in the shape, dtype and filter norms of `leaf`."""
    is_vector = leaf.ndim < 2
    if is_vector and not vectors:
        return jnp.zeros_like(leaf)
    noise = noise.astype(leaf.real.dtype)
    if jnp.iscomplexobj(leaf):
        noise = math.sqrt(0.5) * jax.lax.complex(noise[: leaf.size], noise[leaf.size :])
    noise = noise.reshape(leaf.shape)
    if not normalise:
        return noise
    axes = None if is_vector else tuple(i for i in range(leaf.ndim) if i != filter_axis % leaf.ndim)
    length = lambda x: jnp.sqrt(jnp.sum(jnp.abs(x) ** 2, axis=axes, keepdims=True))
    return noise * (length(leaf) / length(noise)).astype(leaf.dtype)


def plane_through(
    loss_fn: Callable[..., Any],
    params_a: PyTree,
    params_b: PyTree,
    params_c: PyTree = None,
    *,
    bounds: Numbers | None = None,
    margin: float = 0.5,
    batch_size: int = 16,
    names: Sequence[str] | None = None,
) -> PlaneLandscape:
    r"""The line through two solutions, or the plane through three, with orthonormal directions (Gram–Schmidt):

    $$d_1 = \frac{b - a}{|b - a|}, \qquad d_2 \propto (c - a) - \langle c - a, d_1 \rangle\, d_1, \quad |d_2| = 1$$

    (Garipov et al., NeurIPS 2018, appendix A.1).  Distances on the plane are distances between parameters.  The origin
    is `params_a`.

    **Arguments:**

    - `loss_fn`: `params -> ()`.
    - `params_a`, `params_b`, `params_c`: solutions of the same structure; without `params_c` a line.
    - `bounds`: `(k, 2)`.  `None` is the box of the solutions, widened on every side by `margin` times its extent.
    - `margin`: see `bounds`.
    - `batch_size`, `names`: as in `rx.landscapes.plane`.

    **Returns:** a `PlaneLandscape` whose `anchors` are the coordinates of `params_a`, `params_b` and `params_c`:
    `(2, 1)` or `(3, 2)`.

    **Raises:** `ValueError` if two solutions coincide or three lie on one line to working precision.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> import rxjax as rx
        >>> a, b, c = jnp.array([0.0, 0.0, 1.0]), jnp.array([0.0, 3.0, 1.0]), jnp.array([4.0, 1.0, 1.0])
        >>> surface = rx.landscapes.plane_through(lambda p: jnp.sum(p**2), a, b, c)
        >>> print(surface.anchors)
        [[0. 0.]
         [3. 0.]
         [1. 4.]]
        >>> print(surface.embed(surface.anchors[2]))
        [4. 1. 1.]

        ```
    """
    to_b = difference(params_b, params_a, "params_b", "params_a")
    to_c = None if params_c is None else difference(params_c, params_a, "params_c", "params_a")
    directions, length, along, height, floor = _orthonormal(to_b, to_c)
    fault = [(~(length > 0), "does not, or is not finite")]
    length = require(length, "params_b", "differ from `params_a`", fault, "Take two different solutions.")
    zero = jnp.zeros_like(length)
    if params_c is None:
        anchors = jnp.stack([zero, length])[:, None]
    else:
        fault = [(~(height > floor), "does not, or is not finite")]
        must = "lie off the line through `params_a` and `params_b`"
        height = require(height, "params_c", must, fault, "Leave it out for a line.")
        anchors = jnp.stack([jnp.stack([zero, zero]), jnp.stack([length, zero]), jnp.stack([along, height])])
    if bounds is None:
        if not (math.isfinite(margin) and margin >= 0):
            raise ValueError(f"Argument `margin` must be finite and not negative, but it is {margin}.")
        low, high = jnp.min(anchors, axis=0), jnp.max(anchors, axis=0)
        room = margin * (high - low)
        bounds = jnp.stack([low - room, high + room], axis=1)
    return plane(loss_fn, params_a, directions, bounds=bounds, batch_size=batch_size, names=names, anchors=anchors)


@jax.jit
def _orthonormal(to_b: PyTree, to_c: PyTree) -> tuple[list[PyTree], Array, Array, Array, Array]:
    """Directions, `|b - a|`, the coordinates of `c`, and the height below which `c` counts as on the line."""
    length = norm(to_b)
    first = scaled(1.0 / length, to_b)
    if to_c is None:
        return [first], length, length, length, length
    along = dot(first, to_c)
    across = plus(to_c, [-along], [first])
    # A second pass: one alone loses the right angle where c is almost on the line.
    across = plus(across, [-dot(first, across)], [first])
    height = norm(across)
    floor = 100.0 * jnp.finfo(height.dtype).eps * norm(to_c)
    return [first, scaled(1.0 / height, across)], length, along, height, floor
