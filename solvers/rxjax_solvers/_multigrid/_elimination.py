"""Solves by iteration, where elimination is out of reach or slower."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._elimination import AbstractElimination
from .._fokker_planck import FokkerPlanck
from .._generator import AbstractGenerator
from .._results import RESULTS
from ._approximation import AbstractApproximation
from ._iteration import conjugate_gradients, minimal_residuals
from ._jumps import Scaled
from ._levels import grid_levels

# How well the occupation that weighs functions is known.
_ROUGH = 1e-2


class IterativeElimination(AbstractElimination):
    """Conjugate directions preconditioned by one cycle of multigrid, or by the diagonal.

    - `weight`: of each state in the inner product for functions: where the process spends its time.
    """

    approximation: AbstractApproximation
    weight: Float[Array, "*shape"]
    tol: Float[Array, ""]
    max_steps: int = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)

    fault: ClassVar[RESULTS] = RESULTS.unsolved

    def __init__(
        self,
        generator: AbstractGenerator,
        loss: Float[Array, "*shape"],
        keep: Bool[Array, "*shape"],
        tol: Float[Array, ""],
        max_steps: int,
    ):
        on_grid = isinstance(generator, FokkerPlanck)
        self.approximation = grid_levels(generator, loss, keep) if on_grid else Scaled(generator, loss, keep)
        self.tol, self.max_steps = tol, max_steps
        self.symmetric = isinstance(generator, FokkerPlanck) and generator.log_gibbs is not None
        if isinstance(generator, FokkerPlanck) and generator.log_gibbs is not None:
            likely = jnp.where(keep, generator.log_gibbs, -jnp.inf)
            self.weight = jnp.exp(likely - jnp.max(likely))
        else:
            even = jnp.where(keep, jnp.ones_like(loss), 0)
            spent, _ = self._iterate(even, False, jnp.ones_like(loss), jnp.asarray(_ROUGH, loss.dtype))
            spent = jnp.abs(spent) / jnp.max(jnp.abs(spent))
            self.weight = jnp.where(jnp.isfinite(spent), spent, 1) ** 2

    def solve(self, b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        x, found = self._iterate(b, False, jnp.ones_like(b), self.tol)
        return jnp.where(found, x, jnp.nan)

    def transpose_solve(self, b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        x, found = self._iterate(b, True, self.weight, self.tol)
        return jnp.where(found, x, jnp.nan)

    def _iterate(self, b: Array, backward: bool, weight: Array, tol: Array) -> tuple[Array, Array]:
        apply = lambda x: self.approximation.apply(x, backward)
        cycle = lambda r: self.approximation.cycle(r, backward)
        if backward and self.symmetric:
            return conjugate_gradients(apply, cycle, _within(b), weight, b, tol, max_steps=self.max_steps)
        error = _backward_error(b) if backward else _forward_error
        return minimal_residuals(apply, cycle, error, weight, b, tol, max_steps=self.max_steps)


def _forward_error(missing: Array, x: Array) -> Array:
    """Of densities: in the sum of absolute values."""
    return _ratio(jnp.sum(jnp.abs(missing)), jnp.sum(jnp.abs(x)))


def _backward_error(b: Array):
    """Of functions: of every value by itself if none can be negative, else of the largest."""
    size = _size(b)
    return lambda missing, x: jnp.max(_ratio(jnp.abs(missing), size(x)))


def _within(b: Array):
    """Whether that error is at most `tol`, without a division."""
    size = _size(b)
    return lambda missing, x, tol: jnp.all(jnp.abs(missing) <= tol * size(x))


def _size(b: Array):
    """What an error of a function counts against."""
    positive = jnp.all(b >= 0)

    def size(x: Array) -> Array:
        x = jnp.abs(x)
        return jnp.where(positive, x, jnp.max(x))

    return size


def _ratio(part: Array, whole: Array) -> Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), jnp.where(part > 0, jnp.inf, 0))
