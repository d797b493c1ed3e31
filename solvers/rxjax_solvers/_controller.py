"""Step sizes for densities."""

from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Shaped

from ._checks import non_negative
from ._sums import total

_SAFETY = 0.9
_MIN_FACTOR, _MAX_FACTOR = 0.2, 5.0
# The first step moves about this share of the mass.
_FIRST_CHANGE = 0.02


class DensityController(diffrax.AbstractAdaptiveStepSizeController[Any, Any]):
    """Keeps each step's error, in the total-variation sense, below `atol + rtol * change over the step`.

    Norms are sums of absolute values over that of the first density.  A density always has norm 1, so an error
    relative to it means nothing; what a step changes does.  While the density moves fast, errors may be a small share
    of the motion: they relax with it.  Near a stationary law the change vanishes and `atol` rules.  Steps land exactly
    on `step_ts`, the last stretch before each in equal parts.

    **Good values:** `rtol=1e-3`, `atol=1e-5` (the defaults of `solve`) keep the error of `Strang()`, whose result is an
    order better than its estimate, below 1e-6; `rtol=0` for strictly absolute control.  In float32 `atol` below 1e-5 is
    lost in rounding.

    **Raises:** `ValueError` for a tolerance that is negative or not finite.
    """

    rtol: Shaped[Array, ""]
    atol: Shaped[Array, ""]
    step_ts: Float[Array, "times"] | None

    def __init__(
        self, rtol: Shaped[ArrayLike, ""], atol: Shaped[ArrayLike, ""], step_ts: Float[Array, "times"] | None = None
    ):
        self.rtol, self.atol = non_negative(rtol, "rtol"), non_negative(atol, "atol")
        self.step_ts = step_ts

    @staticmethod
    def norm(y) -> Array:  # pyright: ignore[reportIncompatibleVariableOverride]
        return total(jnp.abs(y))

    def wrap(self, direction):
        if self.step_ts is None:
            return self
        # Backwards, diffrax counts time from -t0 to -t1.
        return eqx.tree_at(lambda c: c.step_ts, self, jnp.where(direction > 0, self.step_ts, -self.step_ts))

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        t0 = jnp.asarray(t0)
        if dt0 is None:
            rate = self.norm(lax.stop_gradient(func(terms, t0, y0, args))) / self.norm(y0)
            dt0 = jnp.asarray(_FIRST_CHANGE / jnp.maximum(rate, jnp.finfo(y0.dtype).tiny), t0.dtype)
        state = (self.norm(lax.stop_gradient(y0)), t1)
        return self._land(t0, dt0, t1), state

    def _land(self, t, h, t_end):
        """The end of a step of about `h` from `t`: on the next landing time, or half-way to it, or before."""
        target = t_end
        if self.step_ts is not None:
            times = self.step_ts.astype(t.dtype)
            target = jnp.min(jnp.where(times > t, times, t_end))
        left = target - t
        between = lax.stop_gradient(jnp.where(2 * h < left, t + h, t + left / 2))
        return jnp.where(h * (1 + 1e-3) >= left, target, between)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        del args
        if y_error is None:
            raise RuntimeError("DensityController needs a solver with an error estimate, such as Strang().")
        scale, t_end = controller_state
        t0, t1 = jnp.asarray(t0), jnp.asarray(t1)
        y0, y1, error = lax.stop_gradient((y0, y1_candidate, y_error))
        allowed = self.atol * scale + self.rtol * self.norm(y1 - y0)
        ratio = self.norm(error) / allowed
        keep = ratio <= 1
        tiny = jnp.finfo(y0.dtype).tiny
        factor = jnp.clip(_SAFETY * jnp.maximum(ratio, tiny) ** (-1 / error_order), _MIN_FACTOR, _MAX_FACTOR)
        # A step that is nearly right is kept as it is.
        factor = jnp.where(keep & (factor > 1) & (factor < 1.2), 1, factor)
        # Non-finite candidates shrink the step.
        factor = jnp.where(jnp.isfinite(ratio), factor, _MIN_FACTOR)
        h = (t1 - t0) * factor.astype(t0.dtype)
        next_t0 = jnp.where(keep, t1, t0)
        stuck = ~keep & (t0 + h <= t0)
        result = diffrax.RESULTS.where(stuck, diffrax.RESULTS.dt_min_reached, diffrax.RESULTS.successful)
        return keep, next_t0, self._land(next_t0, h, t_end), False, controller_state, result
