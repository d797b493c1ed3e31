"""The barrier between two solutions of a network: an elastic band of networks, relaxed until it lies in the pass."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PyTree

import rxjax_solvers
from rxjax_solvers._program import program

from .._arrays import size_of
from .._barriers._band import Pace, at_rest, fire, nudged
from ..landscapes._trees import match
from ._curvature import flat_values, shaped_like
from ._lambda_max import largest_eigenvalue

_STILL_MOVING = """
The band between the two networks has not come to rest: the barrier found is that of no saddle yet.

(a) It takes more steps: raise `steps`; `residual` tells how far it is from `tolerance`; or

(b) the loss is rough on the scale of the images: raise `images`; or

(c) the valley is flat over most of its width: any path through it has about this barrier. Loosen `tolerance`, or take
the path as it is with `throw=False`: its highest loss is that of a real path; or

(d) the loss or its gradient is not finite on the way: `straight` and `losses` show where.
""".strip()


class RESULTS(rxjax_solvers.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """Outcomes of measurements: those of the solvers and our own."""

    successful = ""
    still_moving = _STILL_MOVING


class PathBetween(eqx.Module):
    """What [`barrier_between`][] found.

    - `heights`: the barrier from `params_a` and from `params_b`: the highest loss on the path above the loss there.
    - `losses`: along the path, one an image, the two ends included.
    - `between`: the loss halfway between each image and the next.  Where it exceeds both by much, raise `images`.
    - `straight`: along the straight line, at as many even points.
    - `lengths`: of the path from `params_a` to each image.
    - `highest`: the image with the highest loss; a saddle of the loss unless it is an end.
    - `params`: the images, a tree like the parameters with a leading axis, float32 at least.
    - `residual`: the largest force on any image over the steepest gradient of the straight line.
    - `steps`: taken.
    """

    heights: Float[Array, "2"]
    losses: Float[Array, "images"]
    between: Float[Array, "images-1"]
    straight: Float[Array, "images"]
    lengths: Float[Array, "images"]
    highest: Int[Array, ""]
    params: PyTree
    residual: Float[Array, ""]
    steps: Int[Array, ""]


def barrier_between(
    loss_fn: Callable,
    params_a: PyTree,
    params_b: PyTree,
    batch: PyTree,
    *,
    images: int = 16,
    steps: int = 2000,
    tolerance: float = 0.01,
    key: Array | None = None,
    throw: bool = True,
) -> Any:
    r"""The loss barrier between two networks, on a path of least loss instead of the straight line between them.

    A nudged elastic band: images of the network, joined by springs along the path, slide down across it; the highest
    climbs to the saddle.  The height is that of ONE local path, so no lower than the lowest barrier.

    **Arguments:**

    - `loss_fn`, `batch`: as in [`lambda_max`][]; one fixed batch, or all the data.
    - `params_a`, `params_b`: two trained networks of one architecture, held fixed; what is no floating array is taken
      from `params_a`.
    - `images`: the two ends included, three or more.  Memory: six times `images` networks.
    - `steps`: at most; each costs `images - 2` gradients, taken one after the other.
    - `tolerance`: at rest, where the force across the path (at the highest image the whole gradient) is below this
      times the steepest gradient on the straight line.
    - `key`: of the small kick off the straight line, which may be a line of symmetry; fixed if not given.
    - `throw`: with `False` return `(path, result)`, where `result` is `RESULTS.successful` or `RESULTS.still_moving`.

    **Returns:** a [`PathBetween`][], losses in the units of the loss.

    Good values: 16 images; 500 steps lower the barrier of a small network most of the way.  **How it fails:** flat
    directions relax slowly, so that a real network seldom comes to rest; its barrier is still that of a real path.  Of
    several humps on the way only the highest is climbed.  Networks alike but for the order of their units have barriers
    too.

    **Raises:** `ValueError` for networks that do not match; a run-time error if the band is not at rest after `steps`.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> loss = lambda p, _: (p["x"] ** 2 - 1) ** 2 + (p["y"] - p["x"] ** 2) ** 2
    >>> a, b = ({"x": jnp.array(x), "y": jnp.array(1.0)} for x in (-1.0, 1.0))
    >>> path = rx.measure.barrier_between(loss, a, b, None, images=9)
    >>> print(path.heights.round(2), path.straight.max().round(2))
    [1. 1.] 2.0

    ```

    Source: Henkelman, Uberuaga and Jonsson (2000); Draxler et al., "Essentially no barriers in neural network energy
    landscape" (2018).
    """
    if images < 3:
        raise ValueError(f"Argument `images` must be at least 3, but it is {images}.")
    if steps < 1:
        raise ValueError(f"Argument `steps` must be at least 1, but it is {steps}.")
    if not 0 < tolerance < 1:
        raise ValueError(f"Argument `tolerance` must lie between 0 and 1, but it is {tolerance}.")
    target = match(params_b, params_a, "params_b", "params_a")
    key = jr.key(0) if key is None else key
    path, result = _measured(loss_fn, params_a, target, batch, images, steps, tolerance, key)
    if not throw:
        return path, result
    heights = result.error_if(path.heights, result != RESULTS.successful)
    return eqx.tree_at(lambda p: p.heights, path, heights)


class _Band(NamedTuple):
    points: Array  # (images, d)
    pace: Pace
    residual: Array
    climbs: Array
    steps: Array


@program
def _measured(
    loss_fn: Callable,
    params: PyTree,
    target: PyTree,
    batch: PyTree,
    images: int,
    steps: int,
    tolerance: float,
    key: Array,
) -> tuple[PathBetween, RESULTS]:
    loss, first, flat = flat_values(loss_fn, params, batch)
    last = flat(target)
    share = jnp.linspace(0.0, 1.0, images, dtype=first.dtype)[:, None]
    line = first[None, :] * (1 - share) + last[None, :] * share
    # Image by image, so that the activations of one network alone are in memory.
    values = lambda band: jax.lax.map(jax.value_and_grad(loss), band)
    straight, slopes = values(line)
    # In units of the steepest slope: the squares of forces are out of range long before the loss is.
    unit = size_of(slopes)
    relative = lambda band: jax.tree.map(lambda x: x / unit, values(band))
    first_loss, last_loss = straight[:1] / unit, straight[-1:] / unit
    scale = jnp.max(jnp.linalg.norm(slopes / unit, axis=1))

    def sharpness(x):
        gradient, product = jax.linearize(jax.grad(loss), x)
        value = largest_eigenvalue(product, gradient, 10, key).value / unit
        return jnp.where(jnp.isnan(value), 0, value)

    stiff = jnp.max(jax.lax.map(sharpness, jnp.stack([first, line[images // 2], last])))
    # A loss without upward curvature anywhere, or none that is finite: the gradient's scale over the length stands in.
    length = jnp.linalg.norm(last - first)
    tiny = jnp.finfo(first.dtype).tiny
    stiff = jnp.maximum(stiff, jnp.maximum(1e-3 * scale / jnp.maximum(length, tiny), tiny))
    time, spring, farthest = 1 / jnp.sqrt(stiff), 0.1 * stiff, 0.2 * length / images
    kick = jr.normal(key, first.shape, first.dtype)
    kick = 0.05 * length * kick / jnp.linalg.norm(kick)

    def relax(band: _Band) -> _Band:
        points, pace = band.points, band.pace
        losses, gradients = relative(points[1:-1])
        losses = jnp.concatenate([first_loss, losses, last_loss])
        gradients = jnp.pad(gradients, ((1, 1), (0, 0)))
        # The higher end is the top of a path without a hump.
        hump = jnp.max(losses) > jnp.maximum(losses[0], losses[-1])
        climbs = band.climbs | (band.steps > steps // 4)
        force, free = nudged(points, losses, gradients, spring, climbs & hump)
        residual = jnp.max(jnp.linalg.norm(free, axis=1)) / jnp.maximum(scale, tiny)
        # Between equal networks there is no way to go.
        residual = jnp.where(length == 0, 0, residual)
        move, pace = fire(force, pace, time, farthest)
        done = climbs & (residual <= tolerance)
        points = jnp.where(done, points, points + move)
        # A band that is at rest before its highest image climbs has still to do so.
        seen = jnp.where(climbs, residual, 2.0)
        return _Band(points, pace, seen, climbs | (residual <= 4 * tolerance), band.steps + 1)

    points = line + kick[None, :] * jnp.sin(jnp.pi * share)
    points = points.at[-1].set(last)
    two = jnp.full((), 2.0, first.dtype)
    start = _Band(points, at_rest(points, time), two, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    goes_on = lambda band: (band.steps < steps) & (band.residual > tolerance)
    end = jax.lax.while_loop(goes_on, relax, start)
    halfway = (end.points[1:] + end.points[:-1]) / 2
    final = jax.lax.map(loss, jnp.concatenate([end.points, halfway]))
    losses, between = final[:images], final[images:]
    moved = jnp.linalg.norm(jnp.diff(end.points, axis=0), axis=1)
    path = PathBetween(
        heights=jnp.max(losses) - losses[jnp.array([0, -1])],
        losses=losses,
        between=between,
        straight=straight,
        lengths=jnp.concatenate([jnp.zeros_like(moved[:1]), jnp.cumsum(moved)]),
        highest=jnp.argmax(losses),
        params=jax.vmap(lambda v: shaped_like(params, v))(end.points),
        residual=end.residual,
        steps=end.steps,
    )
    return path, RESULTS.where(end.residual <= tolerance, RESULTS.successful, RESULTS.still_moving)
