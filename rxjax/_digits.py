"""A real network: a small perceptron on handwritten digits, and the plane through three of its solutions."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PyTree

from ._interpolation import LogCubic
from .landscapes import PlaneLandscape, plane_through

HIDDEN, CLASSES = 32, 10
WEIGHT_DECAY = 3e-3
NAMES = ("A", "B", "C")
# Widens the box of the solutions by this share of its extent, on every side.
_MARGIN = 0.35


class CrossEntropy(eqx.Module):
    r"""The mean cross-entropy of the network over the data, and weight decay $(\lambda/2) |p|^2$.

    - `x`: `(n, pixels)`; `y`: `(n,)`, the labels.
    """

    x: Float[Array, "n pixels"]
    y: Int[Array, "n"]

    def examples(self, params: PyTree) -> Float[Array, "n"]:
        """The loss of each example, without weight decay, which is not noisy."""
        scores = jax.nn.log_softmax(network(params, self.x))
        return -jnp.take_along_axis(scores, self.y[:, None], axis=1)[:, 0]

    def __call__(self, params: PyTree) -> Float[Array, ""]:
        squares = sum(jnp.sum(p * p) for p in jax.tree.leaves(params))
        return jnp.mean(self.examples(params)) + WEIGHT_DECAY / 2 * squares

    def accuracy(self, params: PyTree) -> Float[Array, ""]:
        """The share of examples whose label scores highest."""
        right = jnp.argmax(network(params, self.x), axis=1).astype(self.y.dtype) == self.y
        return jnp.mean(right.astype(self.x.dtype))


class DigitsPlane(NamedTuple):
    """The plane through three solutions with what was measured on it."""

    landscape: PlaneLandscape
    covariance: LogCubic  # Sigma_1 along the two axes of the plane: theta (2,) -> (2,)
    losses: Float[Array, "3"]
    accuracies: Float[Array, "3"]
    barriers: Float[Array, "3"]  # highest loss on the straight lines A-B, B-C, C-A, above that of their upper ends
    dataset_size: int


def network(params: PyTree, x: Float[Array, "n pixels"]) -> Float[Array, "n classes"]:
    """Scores of the classes: one hidden layer of tanh."""
    hidden = jnp.tanh(jnp.matmul(x, params["hidden"]["weight"]) + params["hidden"]["bias"][None, :])
    return jnp.matmul(hidden, params["output"]["weight"]) + params["output"]["bias"][None, :]


def initial(key: Array, pixels: int) -> PyTree:
    """Normal weights of variance one over the number of inputs, no biases."""

    def layer(key, inputs, outputs):
        weight = jr.normal(key, (inputs, outputs), jnp.float32) / inputs**0.5
        return {"weight": weight, "bias": jnp.zeros(outputs, jnp.float32)}

    first, second = jr.split(key)
    return {"hidden": layer(first, pixels, HIDDEN), "output": layer(second, HIDDEN, CLASSES)}


@eqx.filter_jit
def train(
    loss: CrossEntropy, key: Array, networks: int = 3, steps: int = 1200, batch_size: int = 32, rate: float = 0.5
) -> PyTree:
    """`networks` trained one after the other, each from its own start and batches; leaves get a leading axis.

    Plain SGD, batches drawn with replacement, the learning rate falling linearly from `rate` to zero.
    """
    n, pixels = loss.x.shape
    rates = jnp.linspace(rate, 0.0, steps, endpoint=False, dtype=loss.x.dtype)

    def step(params, now):
        batch, eta = now
        gradient = jax.grad(CrossEntropy(loss.x[batch], loss.y[batch]))(params)
        return jax.tree.map(lambda p, g: p - eta * g, params, gradient), None

    def one(key):
        k_start, k_batches = jr.split(key)
        batches = jr.randint(k_batches, (steps, batch_size), 0, n)
        return jax.lax.scan(step, initial(k_start, pixels), (batches, rates))[0]

    return jax.lax.map(one, jr.split(key, networks))


@eqx.filter_jit
def projected_covariance(plane: PlaneLandscape, loss: CrossEntropy, points: Array) -> Float[Array, "points k"]:
    r"""The variance over examples of the slope along each axis of the plane, $d_i^\top \Sigma_1 d_i$.

    One forward-mode pass an axis gives the slopes of all examples at once.
    """

    def at(theta):
        params = plane.embed(theta)
        slopes = [jax.jvp(loss.examples, (params,), (d,))[1] for d in plane.directions]
        return jnp.stack([jnp.var(s) for s in slopes])

    return jax.lax.map(at, points, batch_size=16)


def load() -> CrossEntropy:
    """Scikit-learn's 1797 digits of 8x8 pixels, grey values from about -0.3 to 0.7."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = jnp.asarray(images, jnp.float32) / 16
    return CrossEntropy(x - jnp.mean(x), jnp.asarray(labels, jnp.int32))


def digits_plane(seed: int = 0, *, steps: int = 1200, lattice: int = 25, examples: int | None = None) -> DigitsPlane:
    r"""Train three networks from different seeds and measure loss and gradient noise on the plane through them.

    A slice, not a projection: on the plane, forces and noise out of it are left out, and of the noise on it the
    variances along the two axes are kept.  Independent solutions are separated by barriers there.

    **Arguments:**

    - `seed`: of the three starts and all batches.
    - `steps`: of training.
    - `lattice`: points along each axis where the gradient covariance is measured; it is interpolated between.
    - `examples`: how many digits to use; all 1797 if not given.
    """
    loss = load()
    if examples is not None:
        loss = CrossEntropy(loss.x[:examples], loss.y[:examples])
    trained = train(loss, jr.key(seed), steps=steps)
    solutions = [jax.tree.map(lambda p, i=i: p[i], trained) for i in range(3)]
    landscape = plane_through(loss, *solutions, margin=_MARGIN, batch_size=32, names=("towards B", "towards C"))
    bounds, anchors = landscape.bounds, landscape.anchors
    assert anchors is not None
    ticks = [jnp.linspace(low, high, lattice) for low, high in bounds]
    points = jnp.stack(jnp.meshgrid(*ticks, indexing="ij"), axis=-1)
    variance = projected_covariance(landscape, loss, points.reshape(-1, 2)).astype(bounds.dtype)
    # No noise at all has no logarithm; a millionth of the largest is none beside it.
    variance = jnp.maximum(variance, 1e-6 * jnp.max(variance)).reshape(lattice, lattice, 2)
    along = jnp.linspace(0.0, 1.0, 33, dtype=anchors.dtype)[None, :, None]
    lines = anchors[:, None, :] * (1 - along) + jnp.roll(anchors, -1, axis=0)[:, None, :] * along
    heights = landscape.evaluate(lines)
    return DigitsPlane(
        landscape=landscape,
        covariance=LogCubic(variance, bounds[:, 0], bounds[:, 1]),
        losses=heights[:, 0],
        accuracies=jnp.stack([loss.accuracy(p) for p in solutions]),
        barriers=jnp.max(heights, axis=1) - jnp.maximum(heights[:, 0], heights[:, -1]),
        dataset_size=loss.x.shape[0],
    )
