"""Walks to stationary points of a landscape, step by step in the eigenvectors of its Hessian."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .landscapes._trees import norm


class Stationary(eqx.Module):
    """Where a walk ended: the point, what the landscape is like there, and whether the walk arrived."""

    point: Float[Array, " d"]
    energy: Float[Array, ""]
    eigenvalues: Float[Array, " d"]
    eigenvectors: Float[Array, "d d"]
    error: Float[Array, ""]
    floor: Float[Array, ""]
    converged: Bool[Array, ""]

    def index(self) -> Int[Array, ""]:
        """The number of downward directions; eigenvalues lost in rounding count as neither up nor down."""
        return jnp.sum(self.eigenvalues < -self.floor).astype(jnp.int32)

    def moved(self, fn: Callable) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The point and its energy, with two derivatives in the parameters of `fn` (implicit function theorem).

        Along modes whose curvature is lost in rounding the motion is not defined: it is left out.
        """
        point, eigenvalues, eigenvectors = jax.lax.stop_gradient((self.point, self.eigenvalues, self.eigenvectors))
        known = jnp.abs(eigenvalues) > self.floor
        # With the Hessian held fixed each Newton step carries one more derivative.
        for _ in range(2):
            slopes = _times(eigenvectors.T, jax.grad(fn)(point))
            step = -_times(eigenvectors, jnp.where(known, slopes / jnp.where(known, eigenvalues, 1), 0))
            point = point + (step - jax.lax.stop_gradient(step))
        return point, fn(point)

    def degenerate(self) -> Bool[Array, ""]:
        """Whether some eigenvalue is lost in rounding."""
        return jnp.any(jnp.abs(self.eigenvalues) <= self.floor)


def still(landscape: Callable, theta: Float[Array, " d"]) -> Callable:
    """The landscape as a constant: what it closes over and holds is differentiated no more, `theta` is."""
    convert, captured = jax.closure_convert(lambda theta: landscape(theta), theta)
    captured = jax.lax.stop_gradient(captured)
    return lambda theta: convert(theta, *captured)


def each(fn: Callable, landscape: Callable, *xs: Array) -> Any:
    """`fn` at every row of `xs`, at once, or as many at a time as the landscape says that memory holds."""
    batch = getattr(landscape, "batch_size", None)
    if batch is None or xs[0].shape[0] <= batch:
        return jax.vmap(fn)(*xs)
    return jax.lax.map(lambda x: fn(*x), xs, batch_size=batch)


def accuracy(dtype: jnp.dtype) -> float:
    """How far from a stationary point, relative to the size of the box, still counts as arrived."""
    return float(jnp.finfo(dtype).eps) ** 0.5


def climb(
    fn: Callable, start: Float[Array, " d"], uphill: int, reach: Array, size: Array, max_steps: int
) -> Stationary:
    """The stationary point near `start`: a maximum along its `uphill` lowest modes, a minimum along the others.

    Newton's method with the sign of each mode set (Cerjan and Miller, J. Chem. Phys. 75, 2800, 1981): with `uphill=0`
    it descends to a minimum, with 1 it climbs to a saddle of index 1, and near either it converges to rounding.
    `reach` is the longest step, `size` that of the box.
    """
    signs = jnp.where(jnp.arange(start.shape[0]) < uphill, 1.0, -1.0).astype(start.dtype)

    def step(slopes, eigenvalues, radius):
        modes = signs * _newton(slopes, eigenvalues, size)
        return modes * jnp.minimum(1.0, radius / _length(modes))

    return _walk(fn, start, step, reach, size, max_steps)


def descend(fn: Callable, start: Float[Array, " d"], reach: Array, size: Array, max_steps: int) -> Stationary:
    """The minimum to which steepest descent from `start` leads.

    Each step follows the exact descent curve of the local quadratic model until the model is no longer true (Page and
    McIver, J. Chem. Phys. 88, 922, 1988), so that it stays in the basin; in the end it is Newton's method.
    """

    def step(slopes, eigenvalues, radius):
        newton = -_newton(slopes, eigenvalues, size)
        settles = jnp.all((eigenvalues > 0) | (newton == 0)) & (_length(newton) <= radius)
        return jnp.where(settles, newton, _along_descent(slopes, eigenvalues, radius))

    return _walk(fn, start, step, reach, size, max_steps)


def _newton(slopes: Array, eigenvalues: Array, size: Array) -> Array:
    """The length of Newton's step along each mode, its sign that of the slope; none along flat modes."""
    eps = jnp.finfo(slopes.dtype).eps
    curvature = jnp.abs(eigenvalues)
    steepest = jnp.max(curvature)
    flat = (curvature <= eps**0.5 * steepest) & (jnp.abs(slopes) <= 100 * eps * steepest * size)
    safe = jnp.where(flat | (curvature == 0), 1, curvature)
    unlimited = jnp.where(slopes == 0, 0, jnp.sign(slopes) * size)
    return jnp.where(flat, 0, jnp.where(curvature == 0, unlimited, slopes / safe))


def _along_descent(slopes: Array, eigenvalues: Array, radius: Array) -> Array:
    """Where the descent curve of a quadratic has come to the distance `radius`, or its end."""

    def at(log_time):
        time = jnp.exp(log_time)
        decay = jnp.maximum(eigenvalues * time, -0.8 * jnp.log(jnp.finfo(slopes.dtype).max))
        safe = jnp.where(decay == 0, 1, decay)
        return jnp.where(slopes == 0, 0, -slopes * time * jnp.where(decay == 0, 1, -jnp.expm1(-safe) / safe))

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        beyond = _length(at(middle)) > radius
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    # The time to go `radius` along the slope alone; curvature changes it by at most the factors of the bracket.
    centre = jnp.log(radius / _length(slopes))
    low, _ = jax.lax.fori_loop(0, 40, halve, (centre - 30.0, centre + 30.0))
    return at(low)


def _walk(fn: Callable, start: Array, step: Callable, reach: Array, size: Array, max_steps: int) -> Stationary:
    """Steps within a radius that shrinks where the quadratic model fails and grows where it holds."""
    eps = jnp.finfo(start.dtype).eps
    reach = jnp.asarray(reach, start.dtype)

    def local(x):
        def slope(x):
            g = jax.grad(fn)(x)
            return g, g

        hessian, g = jax.jacfwd(slope, has_aux=True)(x)
        ok = jnp.all(jnp.isfinite(hessian)) & jnp.all(jnp.isfinite(g))
        # A NaN would stop the eigenvalue routine; the step is refused all the same.
        eigenvalues, vectors = jnp.linalg.eigh(
            jnp.where(ok, (hessian + hessian.T) / 2, jnp.eye(x.shape[0], dtype=x.dtype))
        )
        return g, eigenvalues, vectors, ok

    def advance(state):
        x, g, eigenvalues, vectors, modes, radius, count, _ = state
        proposal = x + _times(vectors, modes)
        new_g, new_eigenvalues, new_vectors, ok = local(proposal)
        surprise = _length(_times(vectors.T, new_g - g) - eigenvalues * modes) / _length(g)
        accept = ok & ((surprise <= 0.5) | (_length(new_g) < 0.5 * _length(g)) | (count == 0))
        pick = lambda a, b: jnp.where(accept, a, b)
        x, g = pick(proposal, x), pick(new_g, g)
        eigenvalues, vectors = pick(new_eigenvalues, eigenvalues), pick(new_vectors, vectors)
        grown = jnp.where((surprise < 0.1) & (count > 0), jnp.minimum(2 * radius, reach), radius)
        radius = jnp.where(accept, grown, jnp.minimum(radius, _length(modes)) / 4)
        slopes = _times(vectors.T, g)
        # At the smallest steps it is rounding at which the model fails: this is as near as the walk gets.
        smallest = 4 * eps * (size + _length(x))
        done = (_length(_newton(slopes, eigenvalues, size)) <= smallest) | (radius < smallest) | (~ok & (count == 0))
        return x, g, eigenvalues, vectors, step(slopes, eigenvalues, radius), radius, count + 1, done

    # The first round evaluates the start: a step of length zero.
    dim = start.shape[0]
    zero, eye = jnp.zeros_like(start), jnp.eye(dim, dtype=start.dtype)
    state = (start, zero, zero, eye, zero, reach, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    state = jax.lax.while_loop(lambda s: (s[6] <= max_steps) & ~s[7], advance, state)
    x, g, eigenvalues, vectors = state[:4]
    error = _length(_newton(_times(vectors.T, g), eigenvalues, size))
    energy = fn(x)
    floor = 100 * dim * eps * jnp.max(jnp.abs(eigenvalues)) + jnp.finfo(start.dtype).tiny
    finite = jnp.isfinite(energy) & jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(g))
    return Stationary(x, energy, eigenvalues, vectors, error, floor, finite & (error <= accuracy(x.dtype) * size))


def is_bottom(fn: Callable, end: Stationary, start_energy: Array, size: Array) -> Bool[Array, ""]:
    """Whether the landscape rises both ways along the flattest mode, where its curvature is lost or nearly so.

    The probe is as long as it takes to rise well above rounding, at most a hundredth of the box.
    """
    dtype = end.point.dtype
    scale = jnp.maximum(jnp.abs(end.energy), jnp.abs(start_energy - end.energy))
    rounding = jnp.finfo(dtype).eps * scale
    flattest = jnp.argmin(end.eigenvalues)
    curvature = jnp.maximum(end.eigenvalues[flattest], jnp.finfo(dtype).tiny)
    probe = jnp.minimum(jnp.sqrt(2e3 * rounding / curvature), size / 100) * end.eigenvectors[:, flattest]
    around = jnp.minimum(fn(end.point + probe), fn(end.point - probe))
    return (end.eigenvalues[flattest] >= -end.floor) & (around >= end.energy - 100 * rounding)


def deduplicate(
    points: Float[Array, "n d"], wanted: Bool[Array, " n"], distance: Array, room: int
) -> tuple[Int[Array, " room"], Int[Array, " n"], Int[Array, ""]]:
    """The first of each cluster of wanted points, in their order, up to `room` of them.

    **Returns:** the indices of the firsts (-1 where there is none), for every point the number of its cluster (-1 for
    an unwanted point and for one that found no room), and how many wanted points found no room.
    """

    def insert(carry, i):
        firsts, count = carry
        known = firsts[:, None] >= 0
        apart = jnp.linalg.norm(jnp.where(known, points[jnp.maximum(firsts, 0)] - points[i][None, :], jnp.inf), axis=1)
        nearest = jnp.argmin(apart).astype(jnp.int32)
        old = apart[nearest] <= distance
        add = wanted[i] & ~old & (count < room)
        firsts = jnp.where(add & (jnp.arange(room, dtype=jnp.int32) == count), i, firsts)
        label = jnp.where(wanted[i], jnp.where(old, nearest, jnp.where(add, count, -1)), -1)
        return (firsts, count + add.astype(jnp.int32)), label

    n = points.shape[0]
    empty = (jnp.full((room,), -1, jnp.int32), jnp.zeros((), jnp.int32))
    (firsts, _), labels = jax.lax.scan(insert, empty, jnp.arange(n, dtype=jnp.int32))
    return firsts, labels, jnp.sum(wanted & (labels < 0)).astype(jnp.int32)


def _times(matrix: Array, x: Array) -> Array:
    """The product in full precision, which accelerators do not give unasked."""
    return jnp.matmul(matrix, x, precision="highest")


def _length(x: Array) -> Array:
    """The Euclidean norm, whatever its square; safe to divide by, since zero becomes the smallest number."""
    return jnp.maximum(norm(x), jnp.finfo(x.dtype).tiny)
