"""The loss of a real network on a line, plane or space through its parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rxjax_solvers._checks import is_traced, require
from rxjax_solvers._program import program

from ._base import AbstractLandscape, Numbers, box, check_theta, default_float
from ._callable import check_bounds, check_output, evaluate, without_leaf
from ._trees import difference, dot, match, norm, plus, trainable

_AXES = ("theta_1", "theta_2", "theta_3")


class PlaneLandscape(AbstractLandscape):
    r"""The loss of a model in the coordinates of a plane through its parameters:

    $$L(\theta) = \mathrm{loss}\Big(p_0 + \sum_{i=1}^k \theta_i d_i\Big), \qquad k \in \{1, 2, 3\}$$

    Made by `rx.landscapes.plane` and `rx.landscapes.plane_through`.  A landscape like any other, with these besides:

    - `params`, `directions`: $p_0$ and $d_i$, PyTrees.
    - `gram`: `(k, k)`, the inner products $\langle d_i, d_j \rangle$ over all parameters.
    - `anchors`: `(n, k)`, the coordinates of the solutions it was laid through, or `None`.
    - `names`: `k` axis labels.
    - `batch_size`: how many points `evaluate` takes at once.

    `minima` and `saddles` are `None`: a minimum of the network is a minimum on the plane, but training seldom ends in
    one exactly.  `anchors` holds what is known.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> import rxjax as rx
        >>> params = {"w": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}
        >>> along_w = {"w": jnp.array([1.0, 0.0]), "b": jnp.array(0.0)}
        >>> line = rx.landscapes.plane(lambda p: jnp.sum(p["w"] ** 2) + p["b"], params, [along_w])
        >>> line.dim, line(jnp.array([2.0])).item()
        (1, 13.5)

        ```
    """

    loss_fn: Callable[..., Any]
    params: PyTree
    directions: tuple[PyTree, ...]
    gram: Float[Array, "k k"]
    bounds: Float[Array, "k 2"]
    anchors: Float[Array, "n k"] | None
    dim: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    name = "plane"
    minima = None
    saddles = None

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        params: PyTree,
        directions: tuple[PyTree, ...],
        gram: Array,
        bounds: Array,
        anchors: Array | None,
        batch_size: int,
        names: tuple[str, ...],
    ):
        """Takes what `rx.landscapes.plane` has checked."""
        self.loss_fn, self.params, self.directions, self.gram = loss_fn, params, directions, gram
        self.bounds, self.anchors, self.batch_size, self.names = bounds, anchors, batch_size, names
        self.dim = len(directions)

    def _value(self, theta: Float[Array, " k"]) -> Float[Array, ""]:
        return jnp.asarray(self.loss_fn(self.embed(theta))).astype(theta.dtype)

    def embed(self, theta: Numbers) -> PyTree:
        r"""The parameters $p_0 + \sum_i \theta_i d_i$ at a point of the plane.

        **Arguments:**

        - `theta`: the coordinates, `(k,)`.

        **Returns:** a PyTree like `params`.  Every leaf keeps its dtype; what is no floating array passes through.

        !!! example

            ```python
            >>> import jax.numpy as jnp
            >>> import rxjax as rx
            >>> line = rx.landscapes.plane(jnp.sum, jnp.zeros(3), [jnp.array([1.0, 2.0, 3.0])])
            >>> print(line.embed(jnp.array([0.5])))
            [0.5 1.  1.5]

            ```
        """
        theta = check_theta(theta, self.dim)
        return plus(self.params, [theta[i] for i in range(self.dim)], self.directions)

    def project(self, params: PyTree) -> Float[Array, " k"]:
        r"""The coordinates of the point of the plane nearest to `params`: $\theta = G^{-1} \langle d, p - p_0 \rangle$.

        Least squares over all parameters with the Gram matrix $G$, refined once.  Sums run in float32 at least.

        **Arguments:**

        - `params`: a PyTree like the plane's own, such as a point of a training path.

        **Returns:** $\theta$, `(k,)`.

        !!! example

            ```python
            >>> import jax.numpy as jnp
            >>> import rxjax as rx
            >>> line = rx.landscapes.plane(jnp.sum, jnp.zeros(3), [jnp.array([0.0, 2.0, 0.0])])
            >>> print(line.project(jnp.array([7.0, 1.0, 0.0])))
            [0.5]

            ```
        """
        return _project(difference(params, self.params, "params", "plane.params"), self.directions, self.gram)[0]

    def residual(self, params: PyTree) -> Float[Array, ""]:
        r"""How far `params` lies outside the plane: $\min_\theta |p - p_0 - \sum_i \theta_i d_i|$.

        **Arguments:**

        - `params`: a PyTree like the plane's own.

        **Returns:** the Euclidean norm over all parameters, `()`.  Zero, to rounding, on the plane.

        !!! example

            ```python
            >>> import jax.numpy as jnp
            >>> import rxjax as rx
            >>> line = rx.landscapes.plane(jnp.sum, jnp.zeros(3), [jnp.array([0.0, 2.0, 0.0])])
            >>> line.residual(jnp.array([7.0, 1.0, 0.0])).item()
            7.0

            ```
        """
        return _project(difference(params, self.params, "params", "plane.params"), self.directions, self.gram)[1]

    def evaluate(self, points: Numbers) -> Array:
        """The loss at many points, `batch_size` of them at a time, so that memory stays bounded on any grid.

        Compiled once for a shape of `points`.

        **Arguments:**

        - `points`: `(*shape, k)`, such as `grid.points`.

        **Returns:** the losses, `(*shape)`.

        !!! example

            ```python
            >>> import jax.numpy as jnp
            >>> import rxjax as rx
            >>> line = rx.landscapes.plane(lambda p: jnp.sum(p**2), jnp.zeros(3), [jnp.ones(3)], batch_size=2)
            >>> print(line.evaluate(jnp.linspace(-1.0, 1.0, 5)[:, None]))
            [3.   0.75 0.   0.75 3.  ]

            ```
        """
        return evaluate(self, points)

    def gradient(self, theta: Numbers) -> Float[Array, " k"]:
        r"""$\partial L / \partial \theta_i = \langle \nabla \mathrm{loss}, d_i \rangle$, in one reverse pass.

        **Arguments:**

        - `theta`: the coordinates, `(k,)`.

        **Returns:** the gradient in the plane's coordinates, `(k,)`.

        !!! example

            ```python
            >>> import jax.numpy as jnp
            >>> import rxjax as rx
            >>> line = rx.landscapes.plane(lambda p: jnp.sum(p**2), jnp.zeros(3), [jnp.ones(3)])
            >>> print(line.gradient(jnp.array([0.5])))
            [3.]

            ```
        """
        return _gradient(self, check_theta(theta, self.dim))


@program
def _gradient(landscape: PlaneLandscape, theta: Array) -> Array:
    return jax.grad(landscape)(theta)


@jax.jit
def _project(offset: PyTree, directions: tuple[PyTree, ...], gram: Array) -> tuple[Array, Array]:
    """Coordinates of the nearest point of the plane, and the distance to it."""
    solve = lambda x: jnp.linalg.solve(gram, jnp.stack([dot(d, x).astype(gram.dtype) for d in directions]))
    without = lambda theta: plus(offset, list(-theta), directions)
    theta = solve(offset)
    # Refined once: the Gram matrix squares the condition number.
    theta = theta + solve(without(theta))
    return theta, norm(without(theta))


def plane(
    loss_fn: Callable[..., Any],
    params: PyTree,
    directions: Sequence[PyTree],
    *,
    bounds: Numbers | None = None,
    batch_size: int = 16,
    names: Sequence[str] | None = None,
    anchors: Numbers | None = None,
) -> PlaneLandscape:
    r"""The loss of a real network on a plane through its parameters,

    $$L(\theta) = \mathrm{loss}\Big(p_0 + \sum_{i=1}^k \theta_i d_i\Big), \qquad k \in \{1, 2, 3\}$$

    The parameters may be any PyTree: nested dictionaries, an Equinox module, a single array.  Floating arrays move;
    integers, Python numbers, functions and `None` pass through untouched, and each leaf keeps its dtype.

    **Arguments:**

    - `loss_fn`: `params -> ()`, the loss over whatever data it closes over.  Use all the data or one fixed batch.
    - `params`: $p_0$, the point of the plane at $\theta = 0$.
    - `directions`: one to three PyTrees $d_i$ like `params`.  They need be neither normalised nor orthogonal.  See
        `rx.landscapes.random_directions` and `rx.landscapes.plane_through`; Hessian eigenvectors and differences of
        training checkpoints serve too.
    - `bounds`: `(k, 2)`, or `(2,)` for every axis.  `None` is $\pm 1$: one direction's length each way.
    - `batch_size`: points evaluated at once by `evaluate`.  Each holds a copy of the parameters and of the activations:
        16 is good for a small network on a CPU, 1 for a large one, 64 and more on a GPU.
    - `names`: `k` axis labels.
    - `anchors`: `(n, k)`, coordinates of points to remember, such as known solutions.

    **Returns:** a `PlaneLandscape`.

    **Raises:** `ValueError` for directions that do not fit `params`, are zero, not finite or linearly dependent to
    working precision, or a loss that is no scalar; `TypeError` for one that is no real floating number.

    !!! example

        ```python
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> import rxjax as rx
        >>> key = jax.random.key(0)
        >>> model = eqx.nn.Linear(4, 3, key=key)
        >>> x = jnp.linspace(-1.0, 1.0, 32).reshape(8, 4)
        >>> loss = lambda model: jnp.mean((jax.vmap(model)(x) - x[:, :3] ** 2) ** 2)
        >>> directions = rx.landscapes.random_directions(key, model, 2)
        >>> surface = rx.landscapes.plane(loss, model, directions, bounds=(-0.5, 0.5))
        >>> bool(surface(jnp.zeros(2)) == loss(model)), surface.gradient(jnp.zeros(2)).shape
        (True, (2,))

        ```
    """
    if not isinstance(directions, (list, tuple)):
        raise TypeError(f"Argument `directions` must be a list of PyTrees, but it is a {type(directions).__name__}.")
    k = len(directions)
    if not 1 <= k <= 3:
        raise ValueError(f"Argument `directions` must hold one to three PyTrees, but it holds {k}.")
    names = _AXES[:k] if names is None else tuple(names)
    if len(names) != k:
        raise ValueError(f"Argument `names` must hold {k} labels, one a direction, but it holds {len(names)}.")
    if batch_size < 1:
        raise ValueError(f"Argument `batch_size` must be at least 1, but it is {batch_size}.")
    matched = tuple(match(d, params, f"directions[{i}]", "params") for i, d in enumerate(directions))
    params = trainable(params)
    check_output(loss_fn, params, "loss_fn", "the parameters")
    bounds = box(k, -1.0, 1.0) if bounds is None else check_bounds(bounds, k)
    if anchors is not None:
        anchors = jnp.asarray(anchors, default_float())
        if anchors.ndim != 2 or anchors.shape[1] != k:
            raise ValueError(f"Argument `anchors` must have shape (n, {k}), but it has shape {anchors.shape}.")
    return PlaneLandscape(without_leaf(loss_fn), params, matched, _gram(matched), bounds, anchors, batch_size, names)


def _gram(directions: tuple[PyTree, ...]) -> Float[Array, "k k"]:
    """The Gram matrix, refused if the directions do not span as many dimensions as they are."""
    gram, lengths, lowest, floor = _inner_products(directions)
    faults = [
        (~jnp.all(jnp.isfinite(lengths)), "holds entries that are not finite, or overflows"),
        (~jnp.all(lengths > 0), "holds one that is zero everywhere"),
        (~(lowest > floor), "holds one that is a combination of the others"),
    ]
    shown = None if is_traced(gram) else f"lengths {lengths}"
    return require(gram, "directions", "be linearly independent", faults, "Drop it, or take another.", shown)


@jax.jit
def _inner_products(directions: tuple[PyTree, ...]) -> tuple[Array, Array, Array, Array]:
    """The Gram matrix, the lengths, the lowest eigenvalue of the cosines and the least that it may be."""
    gram = jnp.stack([jnp.stack([dot(a, b) for b in directions]) for a in directions])
    lengths = jnp.sqrt(jnp.diagonal(gram))
    good = jnp.isfinite(lengths) & (lengths > 0)
    unit = jnp.where(good, lengths, 1.0)
    both = good[:, None] & good[None, :]
    cosines = jnp.where(both, gram / unit[:, None] / unit[None, :], jnp.eye(len(directions), dtype=gram.dtype))
    return gram, lengths, jnp.linalg.eigvalsh(cosines)[0], jnp.full((), 100.0 * jnp.finfo(gram.dtype).eps)
