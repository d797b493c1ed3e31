"""Real SGD of a network, seen on a plane."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from rxjax_solvers import sgd_ensemble
from rxjax_solvers._checks import is_traced
from rxjax_solvers._program import program

from .._arrays import summation_dtype
from .._hyperparameters import Hyperparameters
from ..landscapes import PlaneLandscape
from ..landscapes._trees import match
from ..measure._curvature import moving_part
from ..measure._gradient_noise import leading_axis


class PlaneRuns(eqx.Module):
    r"""Runs of SGD from one start, projected on a plane.

    - `steps`: `(saves,)`, from 0; `times`: the same times the learning rate ($\eta/(1-\mu)$ with momentum), the unit of
        the flow.
    - `coordinates`: `(saves, runs, k)`, of the nearest point of the plane.
    - `moved`: `(saves, runs)`, the distance from the start over ALL parameters.

    All in float32 at least, also for parameters of half precision.
    """

    steps: Int[Array, " saves"]
    times: Float[Array, " saves"]
    coordinates: Float[Array, "saves runs k"]
    moved: Float[Array, "saves runs"]

    @property
    def leak(self) -> Float[Array, " saves"]:
        r"""The share of the motion that the plane does not see: $1 - \sum|\Delta\theta|^2/\sum|\Delta p|^2$ over runs.

        From 0, all motion on the plane, to 1; 0 before anything has moved.
        """
        seen = jnp.sum((self.coordinates - self.coordinates[:1]) ** 2, axis=(1, 2))
        total = jnp.sum(self.moved**2, axis=1)
        still = total == 0
        return jnp.where(still, 0, 1 - seen / jnp.where(still, 1, total))


def sgd_on_plane(
    landscape: PlaneLandscape,
    example_loss: Callable,
    data: PyTree,
    start: PyTree,
    hyperparameters: Hyperparameters,
    num_steps: int,
    key: PRNGKeyArray | Shaped[Array, "..."],
    *,
    runs: int = 100,
    save_every: int = 1,
) -> PlaneRuns:
    r"""An ensemble of real SGD runs of the whole network, all from one start, kept by its coordinates on a plane.

    Nothing is projected but what is kept: each run moves through all parameters.

    **Arguments:**

    - `landscape`: the plane, with orthonormal directions.
    - `example_loss`: `example_loss(params, example) -> ()`, with any penalty on the weights.
    - `data`: a PyTree of arrays with the examples along the first axis.
    - `start`: parameters, a PyTree like the plane's own; good: a minimum, or a point of its basin.
    - `hyperparameters`: learning rate, batch size, momentum and sampling; concrete numbers.
    - `num_steps`: a multiple of `save_every`.
    - `runs`: all at once in memory, with their batches.
    - `save_every`: 1 for exit times; `k + 1` numbers a run and save are kept.

    **Returns:** a `PlaneRuns`.

    **Raises:** `ValueError` for a start unlike the plane's parameters, data of another size than the hyperparameters
    say, several hyperparameters, and steps, saves or runs that are not there.

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp, rxjax as rx
        >>> data = jnp.array([[1.0, 0.0, 1.0], [-1.0, 0.0, -1.0]])
        >>> loss = lambda p, x: jnp.sum((p - x) ** 2) / 2
        >>> plane = rx.landscapes.plane(lambda p: jnp.sum(p**2) / 2, jnp.zeros(3), list(jnp.eye(3)[:2]))
        >>> hyper = rx.Hyperparameters(0.1, batch_size=1, dataset_size=2)
        >>> found = rx.planes.sgd_on_plane(plane, loss, data, jnp.zeros(3), hyper, 20, jax.random.key(0), runs=8)
        >>> print(found.coordinates.shape, found.leak[-1].round(3))
        (21, 8, 2) 0.5

        ```
    """
    if is_traced(hyperparameters.batch_size):
        raise ValueError(
            "Argument `hyperparameters` must have a batch size that is known while compiling, but it is traced: make "
            "them outside `jit`."
        )
    batch_size = np.asarray(hyperparameters.batch_size)
    if batch_size.ndim or batch_size % 1:
        raise ValueError(f"Argument `hyperparameters` must have one whole batch size, but it is {batch_size}.")
    eta, mu = hyperparameters.learning_rate, hyperparameters.momentum
    if eta.ndim or mu.ndim:
        raise ValueError(
            f"Argument `hyperparameters` must have one learning rate and momentum, but their shapes are {eta.shape} "
            f"and {mu.shape}."
        )
    if runs < 1:
        raise ValueError(f"Argument `runs` must be at least 1, but it is {runs}.")
    size, count = int(batch_size), leading_axis(data, "data", "examples")
    known = not is_traced(hyperparameters.dataset_size)
    if known and np.any(np.asarray(hyperparameters.dataset_size) != count):
        raise ValueError(
            f"Argument `hyperparameters` must have the {count} examples of `data` as `dataset_size`, but has "
            f"{float(hyperparameters.dataset_size):g}."
        )
    match(start, landscape.params, "start", "landscape.params")
    steps, kept = _ensemble(
        landscape, example_loss, data, start, eta, mu, key, num_steps, size, hyperparameters.sampling, runs, save_every
    )
    rate = (eta / (1 - mu)).astype(kept.dtype)
    return PlaneRuns(steps, rate * steps.astype(kept.dtype), kept[..., :-1], kept[..., -1])


@program
def _ensemble(
    landscape: PlaneLandscape,
    example_loss: Callable,
    data: PyTree,
    start: PyTree,
    eta: Array,
    mu: Array,
    key: Array,
    num_steps: int,
    size: int,
    sampling: str,
    runs: int,
    save_every: int,
) -> tuple[Array, Array]:
    moved, fixed = moving_part(start)
    origin, unravel = ravel_pytree(moved)
    whole = lambda theta: eqx.combine(unravel(theta), fixed)
    # Runs of half precision are seen, and their times told, in single.
    wide = summation_dtype(origin.dtype)

    def observe(theta):
        place = landscape.project(whole(theta))
        distance = jnp.sqrt(jnp.sum((theta.astype(wide) - origin.astype(wide)) ** 2))
        return jnp.concatenate([place.astype(wide), distance[None]])

    out = sgd_ensemble(
        lambda theta, example: example_loss(whole(theta), example),
        jnp.tile(origin, (runs, 1)),
        num_steps,
        key,
        learning_rate=eta,
        momentum=mu,
        data=data,
        batch_size=size,
        sampling=sampling,
        save_every=save_every,
        observe=observe,
    )
    return out.steps, out.thetas
