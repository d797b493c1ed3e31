"""Candidates for saddles on elastic bands between minima."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from rxjax_solvers._program import program

# FIRE's usual constants (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006).
_WAIT, _FASTER, _SLOWER, _MIXING = 5, 1.1, 0.5, 0.1


def search_bands(
    landscape: Callable, minima: np.ndarray, pairs: np.ndarray, curvature: float, key: Array, images: int, steps: int
) -> np.ndarray:
    """The tops of relaxed bands between the minima of each pair, `(c, d)`."""
    ends = jnp.asarray(minima[pairs])
    # Padded to a power of two, so that few programs are compiled.
    rows = 2 ** int(np.ceil(np.log2(len(pairs))))
    ends = jnp.concatenate([ends, jnp.broadcast_to(ends[:1], (rows - len(pairs), *ends.shape[1:]))])
    bands, energies = (np.asarray(x)[: len(pairs)] for x in _relax(landscape, ends, curvature, key, images, steps))
    inner = energies[:, 1:-1]
    with np.errstate(invalid="ignore"):
        top = (inner >= energies[:, :-2]) & (inner >= energies[:, 2:])
    return bands[:, 1:-1][top & np.isfinite(inner)]


@program
def _relax(
    landscape: Callable, ends: Array, curvature: float, key: Array, images: int, steps: int
) -> tuple[Float[Array, "pairs images d"], Float[Array, "pairs images"]]:
    """Nudged elastic bands with a climbing image, by FIRE, all at once."""
    values = jax.vmap(jax.value_and_grad(landscape))
    time = jnp.asarray(1.0 / curvature**0.5, ends.dtype)
    spring = jnp.asarray(0.1 * curvature, ends.dtype)

    def one(two, key):
        share = jnp.linspace(0.0, 1.0, images, dtype=two.dtype)[:, None]
        line = two[0][None, :] * (1 - share) + two[1][None, :] * share
        length = jnp.linalg.norm(two[1] - two[0])
        # A straight band may lie on a line of symmetry, from which no force leads away.
        kick = jr.normal(key, two.shape[1:], two.dtype)
        kick = 0.05 * length * kick / jnp.linalg.norm(kick)
        band = line + kick[None, :] * jnp.sin(jnp.pi * share)
        farthest = 0.2 * length / images

        def relax(i, state):
            band, pace = state
            energies, gradients = values(band)
            force, _ = nudged(band, energies, gradients, spring, i > steps // 2)
            move, pace = fire(force, pace, time, farthest)
            return band + move, pace

        band = jax.lax.fori_loop(0, steps, relax, (band, at_rest(band, time)))[0]
        return band, jax.vmap(landscape)(band)

    return jax.vmap(one)(ends, jr.split(key, ends.shape[0]))


class Pace(NamedTuple):
    """Where FIRE stands."""

    speed: Array  # like the band
    step: Array
    mixing: Array
    waited: Array


def at_rest(band: Array, time: Array) -> Pace:
    """The start of FIRE, with a tenth of its longest step."""
    return Pace(jnp.zeros_like(band), 0.1 * time, jnp.asarray(_MIXING, band.dtype), jnp.zeros((), jnp.int32))


def fire(force: Array, pace: Pace, time: Array, farthest: Array) -> tuple[Array, Pace]:
    """The next move of a band `(images, d)`, no image farther than `farthest`; steps of at most `time`."""
    speed, step, mixing, waited = pace
    power = jnp.sum(force * speed)
    along = jnp.linalg.norm(speed) / jnp.maximum(jnp.linalg.norm(force), jnp.finfo(force.dtype).tiny)
    speed = jnp.where(power > 0, (1 - mixing) * speed + mixing * along * force, 0)
    waited = jnp.where(power > 0, waited + 1, 0)
    faster = jnp.where(waited > _WAIT, jnp.minimum(_FASTER * step, time), step)
    step = jnp.where(power > 0, faster, jnp.maximum(_SLOWER * step, 1e-3 * time))
    mixing = jnp.where(power > 0, jnp.where(waited > _WAIT, 0.99 * mixing, mixing), _MIXING)
    speed = speed + step * force
    move = step * speed
    longest = jnp.max(jnp.linalg.norm(move, axis=1))
    limit = jnp.minimum(1.0, farthest / jnp.maximum(longest, jnp.finfo(move.dtype).tiny))
    # A cap on the move caps the speed with it, or it would push on forever.
    return limit * move, Pace(limit * speed, step, mixing, waited)


def nudged(band: Array, energies: Array, gradients: Array, spring: Array, climbs: Array) -> tuple[Array, Array]:
    """The force on each image, with the springs and without them; none on the ends.

    Tangents as in Henkelman and Jonsson, J. Chem. Phys. 113, 9978 (2000), eqs. 8 to 11; the climbing image as in
    Henkelman, Uberuaga and Jonsson, J. Chem. Phys. 113, 9901 (2000), eq. 5.
    """
    ahead, behind = band[2:] - band[1:-1], band[1:-1] - band[:-2]
    here, after, before = energies[1:-1], energies[2:], energies[:-2]
    rises, falls = jnp.abs(after - here), jnp.abs(before - here)
    most, least = jnp.maximum(rises, falls), jnp.minimum(rises, falls)
    upper = after > before
    mixed = jnp.where(upper, most, least)[:, None] * ahead + jnp.where(upper, least, most)[:, None] * behind
    climbing, falling = (after > here) & (here > before), (after < here) & (here < before)
    tangent = jnp.where(climbing[:, None], ahead, jnp.where(falling[:, None], behind, mixed))
    norm = jnp.linalg.norm(tangent, axis=1, keepdims=True)
    tangent = tangent / jnp.maximum(norm, jnp.finfo(band.dtype).tiny)

    slope = gradients[1:-1]
    along = jnp.sum(slope * tangent, axis=1, keepdims=True) * tangent
    stretch = jnp.linalg.norm(ahead, axis=1) - jnp.linalg.norm(behind, axis=1)
    top = jnp.arange(here.shape[0]) == jnp.argmax(here)
    free = jnp.where((top & climbs)[:, None], 2 * along - slope, along - slope)
    springs = jnp.where((top & climbs)[:, None], 0, spring * stretch[:, None] * tangent)
    inside = ((1, 1), (0, 0))
    return jnp.pad(free + springs, inside), jnp.pad(free, inside)
