"""Loss, drift and gradient noise of a network on a plane, and the diffusion that they make."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree, Shaped

from rxjax_solvers import FokkerPlanck, Grid, Ito, NegativeGradient
from rxjax_solvers._checks import is_traced, require, seen
from rxjax_solvers._compiled import compiled
from rxjax_solvers._grid import evaluate
from rxjax_solvers._program import program

from .._hyperparameters import Hyperparameters
from .._interpolation import LogCubic
from .._temperature import batch_covariance
from ..landscapes import PlaneLandscape
from ..landscapes._callable import check_bounds, one_number
from ..measure._gradient_noise import leading_axis

# Variances and one minus squared correlations are kept above this share of the largest, for their logarithms.
_LEAST = 1e-6


class MeasuredPlane(eqx.Module):
    r"""What was measured on a lattice over a plane, by [`measure_plane`][].

    - `landscape`: the plane itself; `points`: `(*shape, k)`, the lattice, ends included.
    - `loss`: `(*shape)`; `drift`: `(*shape, k)`, $-\nabla L$ in the plane.
    - `sigma1`: `(*shape, k, k)`, the covariance of one example's gradient in the plane, $d_i^\top \Sigma_1 d_j$.
    - `variances`: `theta (k,) -> (k,)`, its diagonal between the points: the `covariance` of `rx.probability_flow`.
    - `correlations`: `theta (k,) -> (k (k-1)/2,)`, between the axes, on the scale of their logarithmic odds.
    """

    landscape: PlaneLandscape
    points: Float[Array, "*shape k"]
    loss: Float[Array, "*shape"]
    drift: Float[Array, "*shape k"]
    sigma1: Float[Array, "*shape k k"]
    variances: LogCubic
    correlations: LogCubic | None

    def covariance(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        r"""$\Sigma_1$ of one example's gradient in the plane, at any point: symmetric and positive definite."""
        spread = jnp.sqrt(self.variances(theta))
        matrix = jnp.diag(jnp.ones_like(spread))
        if self.correlations is not None:
            row, column = jnp.triu_indices(spread.shape[0], 1)
            r = _tanh_of_log(self.correlations(theta))
            matrix = matrix.at[row, column].set(r).at[column, row].set(r)
        return spread[:, None] * matrix * spread[None, :]

    def generator(self, hyperparameters: Hyperparameters, grid: Grid, *, cross: bool = True) -> FokkerPlanck:
        r"""The diffusion of SGD on the plane: $dX = -\nabla L\,dt + \sqrt{2D}\,dW$ with $D = (\eta/2)\,C(\theta)$.

        In Itô's sense, and in time units of learning rate x steps ($\eta/(1-\mu)$ x steps with momentum).  For
        `rx.solvers.solve`, `mean_first_passage_time`, `committor` and the others.

        **Arguments:**

        - `hyperparameters`: a learning rate and how batches are drawn.
        - `grid`: the cells, in the coordinates of the plane and within the measured bounds.
        - `cross`: whether noise is correlated between the axes.  A tensor that is too anisotropic for the cells is
            refused by `FokkerPlanck`; `False` keeps the variances along the axes only.

        **Returns:** a `FokkerPlanck`.

        **Raises:** `ValueError` for a grid of another dimension, or with cells outside of what was measured.
        """
        dtype = grid.lower.dtype
        lattice = self.points.reshape(-1, self.points.shape[-1])
        if grid.dim != lattice.shape[1]:
            raise ValueError(
                f"Argument `grid` must have the plane's dimension {lattice.shape[1]}, but it has dimension {grid.dim}."
            )
        low, high = seen(jnp.min(lattice, axis=0)), seen(jnp.max(lattice, axis=0))
        first, last = (seen(jnp.stack([axis[end] for axis in grid.axes]).astype(low.dtype)) for end in (0, -1))
        outside = ((first < low) | (last > high), "has cells outside of them")
        remedy = "Give `measure_plane` wider `bounds`."
        energy = evaluate(self.landscape, grid.points, "landscape", [()])
        energy = require(energy, "grid", "lie within the measured bounds", [outside], remedy, f"{low} to {high}")
        rate = (hyperparameters.learning_rate / (1 - hyperparameters.momentum)).astype(dtype)
        factor = rate / 2 * batch_covariance(jnp.ones((), dtype), hyperparameters).astype(dtype)
        noise = self.covariance if cross and self.correlations is not None else self.variances
        # Compiled as a whole: operation by operation it would take many times as long.
        diffusion = jax.jit(lambda theta: factor * noise(theta).astype(dtype))
        return FokkerPlanck(NegativeGradient(energy), diffusion, grid, Ito())


def measure_plane(
    landscape: PlaneLandscape,
    example_loss: Callable,
    data: PyTree,
    *,
    shape: int | tuple[int, ...] = 17,
    bounds: Shaped[ArrayLike, "..."] | None = None,
    chunk_size: int = 256,
) -> MeasuredPlane:
    r"""Loss, drift and the covariance of one example's gradient on a lattice over a plane through a network,

    $$\Sigma_1(\theta)_{ij} = \frac1N \sum_n (s_{ni} - \bar s_i)(s_{nj} - \bar s_j), \qquad
      s_{ni} = \langle d_i, \nabla \ell_n \rangle,$$

    the slopes $s_{ni}$ of all examples by one forward-mode pass an axis, without any example's full gradient.

    **Arguments:**

    - `landscape`: from `rx.landscapes.plane` or `plane_through`, with ORTHONORMAL directions ([`orthonormal`][]).
    - `example_loss`: `example_loss(params, example) -> ()`, the loss of one example.  A penalty on the weights, in it
        or left out, is no noise.
    - `data`: a PyTree of arrays with the examples along the first axis.
    - `shape`: points of the lattice along each axis, one number or one an axis, two or more.
    - `bounds`: `(k, 2)`; those of the landscape if not given.
    - `chunk_size`: examples at once, for one point of the plane.

    **Returns:** a `MeasuredPlane`.  Between the points it interpolates cubically, in the logarithm.

    Good values: 17 points across a basin.  **How it fails:** a slice, not a projection: what the other parameters do
    while SGD wanders is left out.  Where the noise vanishes altogether a millionth of its largest value is taken.

    **Raises:** `ValueError` for directions that are not orthonormal, arrays that do not fit, or noise that vanishes
    everywhere or is not finite.

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp, rxjax as rx
        >>> data = jnp.array([[1.0, 0.0, 5.0], [-1.0, 0.0, 5.0], [0.0, 2.0, 5.0], [0.0, -2.0, 5.0]])
        >>> loss = lambda p, x: jnp.sum((p - x) ** 2) / 2
        >>> mean = lambda p: jnp.mean(jax.vmap(lambda x: loss(p, x))(data))
        >>> plane = rx.landscapes.plane(mean, jnp.zeros(3), list(jnp.eye(3)[:2]))
        >>> found = rx.planes.measure_plane(plane, loss, data, shape=3)
        >>> print(found.sigma1[1, 1], found.drift[2, 2])
        [[0.5 0. ]
         [0.  2. ]] [-1. -1.]

        ```
    """
    k = landscape.dim
    sizes = (shape,) * k if isinstance(shape, int) else tuple(shape)
    if len(sizes) != k or min(sizes) < 2:
        raise ValueError(f"Argument `shape` must be 2 or more on each of the {k} axes, but it is {shape}.")
    if chunk_size < 1:
        raise ValueError(f"Argument `chunk_size` must be at least 1, but it is {chunk_size}.")
    count = leading_axis(data, "data", "examples")
    gram = landscape.gram
    off = abs(seen(gram) - np.eye(k, dtype=gram.dtype)).max()
    shown = None if is_traced(off) else f"gram {gram.tolist()}"
    fault = [(~(off < jnp.finfo(gram.dtype).eps ** 0.5), "does not")]
    remedy = "Lay the plane along `rx.planes.orthonormal(directions)`."
    gram = require(gram, "landscape", "have orthonormal directions", fault, remedy, shown)
    box = landscape.bounds if bounds is None else check_bounds(bounds, k)
    # Used, so that the check is not compiled away.
    points = _lattice(box.astype(landscape.bounds.dtype), gram, sizes)
    loss, drift, sigma1 = _at_points(landscape, example_loss, data, points.reshape(-1, k), min(chunk_size, count))
    largest = jnp.max(jnp.abs(sigma1))
    faults = [(~jnp.isfinite(largest), "has one that is not finite"), (largest == 0, "has none at any point")]
    shown = None if is_traced(largest) else f"largest entry {float(largest):.3g}"
    must = "have noise on the plane, a finite covariance of its gradients"
    sigma1 = require(sigma1, "data", must, faults, "Look at `example_loss` and at the bounds.", shown)
    return MeasuredPlane(landscape, points, *_between_points(points, loss, drift, sigma1))


@compiled
def _lattice(box: Array, gram: Array, sizes: tuple[int, ...]) -> Array:
    box = box + (0 * gram[0, 0]).astype(box.dtype)
    ticks = [jnp.linspace(box[i, 0], box[i, 1], n) for i, n in enumerate(sizes)]
    return jnp.stack(jnp.meshgrid(*ticks, indexing="ij"), axis=-1)


@compiled
def _between_points(
    points: Array, loss: Array, drift: Array, sigma1: Array
) -> tuple[Array, Array, Array, LogCubic, LogCubic | None]:
    """What was measured in the shape of the lattice; variances and correlations between its points."""
    sizes, k = points.shape[:-1], points.shape[-1]
    loss, drift, sigma1 = (x.reshape(sizes + x.shape[1:]) for x in (loss, drift, sigma1))
    ends = points[(0,) * k], points[(-1,) * k]
    variance = jnp.diagonal(sigma1, axis1=-2, axis2=-1)
    variance = jnp.maximum(variance, _LEAST * jnp.max(variance))
    correlations = None
    if k > 1:
        spread = jnp.sqrt(variance)
        row, column = jnp.triu_indices(k, 1)
        r = (sigma1 / (spread[..., :, None] * spread[..., None, :]))[..., row, column]
        limit = 1 - _LEAST
        r = jnp.clip(r, -limit, limit)
        correlations = LogCubic(jnp.sqrt((1 + r) / (1 - r)), *ends)
    return loss, drift, sigma1, LogCubic(variance, *ends), correlations


def _tanh_of_log(x: Array) -> Array:
    """`tanh(log x)`: the correlation `r` of `x = sqrt((1 + r)/(1 - r))`."""
    return (x**2 - 1) / (x**2 + 1)


@program
def _at_points(
    landscape: PlaneLandscape, example_loss: Callable, data: PyTree, points: Array, chunk: int
) -> tuple[Array, Array, Array]:
    data = jax.tree.map(jnp.asarray, data)
    count = jax.tree.leaves(data)[0].shape[0]
    # The last chunk is filled up by the last example, which is left out again.
    index = jnp.minimum(jnp.arange(-(-count // chunk) * chunk), count - 1).reshape(-1, chunk)

    def at(theta):
        def slopes(i):
            examples = jax.tree.map(lambda x: x[i], data)
            one = lambda t, e: one_number(example_loss(landscape.embed(t), e), "example_loss")
            losses = lambda t: jax.vmap(lambda e: one(t, e))(examples)
            along = [jax.jvp(losses, (theta,), (axis,))[1] for axis in jnp.eye(theta.size, dtype=theta.dtype)]
            return jnp.stack(along, axis=-1)

        s = jax.lax.map(slopes, index).reshape(-1, theta.size)[:count]
        s = s - jnp.mean(s, axis=0)[None]
        value, slope = jax.value_and_grad(landscape)(theta)
        return value, -slope, jnp.matmul(s.T, s, precision="highest") / count

    return jax.lax.map(at, points)
