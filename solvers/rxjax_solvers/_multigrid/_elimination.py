"""Solves by iteration, where elimination is out of reach or slower."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import lax
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
# Cycles of conjugate gradients for densities before minimal residuals, where weights span more than numbers do.
_TRIED = 50


class IterativeElimination(AbstractElimination):
    """Conjugate directions preconditioned by one cycle of multigrid, or by the diagonal.

    - `log_weight`: of each state in the inner product for functions: where the process spends its time.  With detailed
        balance densities have the inverse weight.
    """

    approximation: AbstractApproximation
    log_weight: Float[Array, "*shape"]
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
            self.log_weight = likely - jnp.max(likely)
        else:
            even = jnp.where(keep, jnp.ones_like(loss), 0)
            rough = jnp.asarray(_ROUGH, loss.dtype)
            spent, _ = self._residuals(even, False, _relative, jnp.ones_like(loss), rough, max_steps)
            spent = jnp.abs(spent) / jnp.max(jnp.abs(spent))
            # States that are not kept count too: what a derivative asks of them would else never be found.
            self.log_weight = jnp.where(keep, 2 * jnp.log(jnp.where(jnp.isfinite(spent), spent, 1)), 0)

    def solve(self, b: Float[Array, "*shape"], error: Float[Array, ""] | None = None) -> Float[Array, "*shape"]:
        forward = _relative if error is None else _absolute
        residuals = lambda most: self._residuals(b, False, forward, jnp.ones_like(b), error, most)
        if self.symmetric:
            x, found = self._balanced(b, forward, error)
            # Under `vmap` both sides are computed, the second in no step where the first has found all.
            most = jnp.where(found, 0, self.max_steps)
            x, found = lax.cond(found, lambda _: (x, found), residuals, most)
        else:
            x, found = residuals(self.max_steps)
        return jnp.where(found, x, jnp.nan)

    def transpose_solve(
        self, b: Float[Array, "*shape"], error: Float[Array, ""] | None = None
    ) -> Float[Array, "*shape"]:
        weight = jnp.exp(self.log_weight)
        if self.symmetric:
            within = _within(b) if error is None else lambda missing, x, tol: _largest(missing, x) <= tol
            x, found = self._gradients(b, True, within, weight, error, self.max_steps)
        else:
            backward = _backward_error(b) if error is None else _largest
            x, found = self._residuals(b, True, backward, weight, error, self.max_steps)
        return jnp.where(found, x, jnp.nan)

    def _balanced(self, b: Array, forward: Any, error: Array | None) -> tuple[Array, Array]:
        """A density, by detailed balance: symmetric in the inverse weight, as far as numbers reach."""
        # Logarithms of weights, centred, so that with products of two densities they stay numbers.
        reach = 600 if b.dtype == jnp.float64 else 60
        height = jnp.where(jnp.isfinite(self.log_weight), -self.log_weight, 0)
        weight = jnp.exp(jnp.minimum(height, reach) - reach / 2)
        most = jnp.where(jnp.max(height) <= reach, self.max_steps, min(self.max_steps, _TRIED))
        size = jnp.max(jnp.abs(b))
        size = jnp.where(size > 0, size, 1)
        within = lambda missing, x, tol: forward(missing, x) <= tol
        error = None if error is None else error / size
        x, found = self._gradients(b / size, False, within, weight, error, most)
        return x * size, found

    def _gradients(self, b: Array, backward: bool, within: Any, weight: Array, error: Array | None, most: Any):
        apply, cycle = self._directed(backward)
        tol = self.tol if error is None else error
        # What rounding leaves behind matters only where all digits are asked for.
        return conjugate_gradients(apply, cycle, within, weight, b, tol, max_steps=most, checked=error is None)

    def _residuals(self, b: Array, backward: bool, missing: Any, weight: Array, error: Array | None, most: Any):
        apply, cycle = self._directed(backward)
        tol = self.tol if error is None else error
        return minimal_residuals(apply, cycle, missing, weight, b, tol, max_steps=most)

    def _directed(self, backward: bool):
        return lambda x: self.approximation.apply(x, backward), lambda r: self.approximation.cycle(r, backward)


def _absolute(missing: Array, x: Array) -> Array:
    """Of densities: in the sum of absolute values, as it is."""
    del x
    return jnp.sum(jnp.abs(missing))


def _largest(missing: Array, x: Array) -> Array:
    """Of functions: of the largest value, as it is."""
    del x
    return jnp.max(jnp.abs(missing))


def _relative(missing: Array, x: Array) -> Array:
    """Of densities: in the sum of absolute values, relative."""
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
