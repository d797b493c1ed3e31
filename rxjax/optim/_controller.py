"""The controller of the learning rate: from five sums over all parameters to the rate of this step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from ._arguments import check_setting
from ._wide import safe_root

GROWTH, CONTROLLED = 0, 1


class Settings(NamedTuple):
    """What the controller is told once."""

    target: ArrayLike
    total_steps: ArrayLike | None = None
    learning_rate: ArrayLike | Callable | None = None
    window: ArrayLike | None = None
    decay: ArrayLike = 0.9
    growth: ArrayLike = 0.08
    backoff: ArrayLike = 0.7
    trust: ArrayLike = 0.1
    initial_step: ArrayLike = 1e-2
    leap: ArrayLike | None = None
    clip: ArrayLike | None = None
    scale_floor: ArrayLike = 1e-2


class Sums(NamedTuple):
    """Inner products over all parameters, and how many they are."""

    gradient_displacement: Array  # shape=(): Re<g, xi>
    gradient: Array  # shape=(): |g|^2
    displacement: Array  # shape=(): |xi|^2
    update: Array  # shape=(): |u|^2
    params: Array  # shape=(): |theta|^2
    size: int


_COUNTS = ("steps", "phase")
_NUMBERS = (
    "drift",
    "spread",
    "gauge",
    "log_rate",
    "temperature",
    "learning_rate",
    "controlled_rate",
    "update_length",
    "shortening",
)
_KEYS = jax.tree_util.GetAttrKey("counts"), jax.tree_util.GetAttrKey("numbers")


def _stacked(scalars: list[Array]) -> Array:
    """Along a new last axis, by choices: of more than eight to concatenate XLA makes each in a kernel of its own."""
    place = jnp.arange(len(scalars))
    out = scalars[0][..., None]
    for k, x in enumerate(scalars[1:], 1):
        out = jnp.where(place == k, x[..., None], out)
    return out


@jax.tree_util.register_pytree_with_keys_class
class ControllerState(tuple):
    """The scalars of the controller, read by name as those of a named tuple, and carried as two arrays.

    A call of a compiled step pays for each array that it hands over.  All scalars have shape () and, unless said, the
    accumulators' dtype; a batch of states gives batches of scalars, a state of `jax.ShapeDtypeStruct` gives those.

    - `steps`, int32: steps taken, skipped ones not counted
    - `drift`, `spread`: moving averages of -<g, xi> and of |g||xi|
    - `gauge`: sqrt(2 w) drift / spread
    - `log_rate`: -<g, xi> / temperature, of this step
    - `temperature`: (learning_rate / 2) |g||u|
    - `learning_rate`: the rate that multiplied the base update in this step
    - `controlled_rate`: the same before annealing and shortening; 0 until something has moved
    - `update_length`: geometric moving average of |u|; 0 until something has moved
    - `shortening`: factor on the rate of the next step, 1 unless |u| was longer than its average
    - `phase`, int32: 0 growth, 1 controlled
    """

    __slots__ = ()
    _fields = ("steps", *_NUMBERS, "phase")

    steps = property(lambda self: self._scalar("steps"))
    drift = property(lambda self: self._scalar("drift"))
    spread = property(lambda self: self._scalar("spread"))
    gauge = property(lambda self: self._scalar("gauge"))
    log_rate = property(lambda self: self._scalar("log_rate"))
    temperature = property(lambda self: self._scalar("temperature"))
    learning_rate = property(lambda self: self._scalar("learning_rate"))
    controlled_rate = property(lambda self: self._scalar("controlled_rate"))
    update_length = property(lambda self: self._scalar("update_length"))
    shortening = property(lambda self: self._scalar("shortening"))
    phase = property(lambda self: self._scalar("phase"))

    def __new__(cls, **scalars: ArrayLike):
        """A state from all of its scalars, by name."""
        pack = lambda names: _stacked([jnp.asarray(scalars[name]) for name in names])
        return cls.tree_unflatten(None, (pack(_COUNTS), pack(_NUMBERS)))

    def __iter__(self):
        return (getattr(self, name) for name in self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index):
        return tuple(self)[index]

    def __repr__(self) -> str:
        return f"ControllerState({', '.join(f'{name}={x}' for name, x in self._asdict().items())})"

    def __reduce__(self):
        return type(self).tree_unflatten, (None, self._arrays())

    def _arrays(self) -> tuple:
        return tuple(tuple.__iter__(self))

    def _scalar(self, name: str) -> Any:
        counts, numbers = self._arrays()
        part, i = (counts, _COUNTS.index(name)) if name in _COUNTS else (numbers, _NUMBERS.index(name))
        if isinstance(part, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(part.shape[:-1], part.dtype)
        # Trees of shardings, masks or names have no array here: the whole has what each part has.
        return part[..., i] if hasattr(part, "ndim") else part

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def _replace(self, **scalars: ArrayLike) -> "ControllerState":
        return type(self)(**{**self._asdict(), **scalars})

    def tree_flatten(self):
        """The two arrays: counts and numbers."""
        return self._arrays(), None

    def tree_flatten_with_keys(self):
        """The same, each with its name."""
        return tuple(zip(_KEYS, self._arrays(), strict=True)), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> "ControllerState":
        """Of whatever the leaves have been mapped to."""
        return tuple.__new__(cls, children)


def make_settings(
    total_steps: ArrayLike | None, target: ArrayLike | None, clip: ArrayLike | None = None, **others: Any
) -> Settings:
    """Settings with the defaults that depend on whether the horizon is known."""
    if target is None:
        target = -0.3 if total_steps is None else -0.5
    if clip is None and total_steps is not None:
        clip = 1.0
    if total_steps is not None:
        check_setting(total_steps, "total_steps")
        if others.get("learning_rate") is not None:
            raise ValueError(
                "Argument `learning_rate` must come without `total_steps`, but both were given. A fixed rate is not "
                "annealed: give a schedule of your own."
            )
    check_setting(target, "target", -float("inf"))
    if clip is not None:
        check_setting(clip, "clip", 1.0, closed=True)
    settings = Settings(target, total_steps, clip=clip, **others)
    if settings.window is not None:
        check_setting(settings.window, "window", 1.0, closed=True)
    check_setting(settings.decay, "decay", 0.0, 1.0, closed=True)
    check_setting(settings.backoff, "backoff", 0.0, 1.0 + 1e-9)
    if settings.learning_rate is not None and not callable(settings.learning_rate):
        check_setting(settings.learning_rate, "learning_rate", closed=True)
    for name in ("growth", "trust", "initial_step", "scale_floor"):
        check_setting(getattr(settings, name), name)
    if settings.leap is None:
        return settings._replace(leap=_default_leap(settings.total_steps, settings.growth))
    check_setting(settings.leap, "leap", 1.0, closed=True)
    return settings


def _default_leap(total_steps: ArrayLike | None, growth: ArrayLike) -> ArrayLike:
    """What growth by a factor of 100 lacks after a tenth of the run, between 1 and 10."""
    if total_steps is None:
        return 10.0
    growth, steps = jnp.asarray(growth), jnp.asarray(total_steps)
    return jnp.clip(100 * jnp.exp(-growth * (steps / 10).astype(growth.dtype)), 1, 10)


def initial_state(dtype: Any) -> ControllerState:
    """Zeros, each array in a buffer of its own so that the state can be donated."""
    arrays = jnp.zeros(len(_COUNTS), jnp.int32), jnp.zeros(len(_NUMBERS), dtype)
    return ControllerState.tree_unflatten(None, arrays)


def window_length(settings: Settings, state: ControllerState) -> Array:
    """`w` of this step: the window given, or as long as the run so far, 8 at least."""
    dtype = state.drift.dtype
    if settings.window is not None:
        return jnp.asarray(settings.window, dtype)
    return jnp.maximum(8, state.steps.astype(dtype))


def control(settings: Settings, state: ControllerState, sums: Sums) -> ControllerState:
    """One step of the controller."""
    dtype = state.drift.dtype
    tiny = jnp.finfo(dtype).tiny
    t = state.steps
    steps = t.astype(dtype)
    w = window_length(settings, state)
    squares = jnp.stack([sums.gradient, sums.displacement, sums.update, sums.params])
    gradient, displacement, update, length = safe_root(squares)
    work = -sums.gradient_displacement
    decay = jnp.asarray(settings.decay, dtype)
    # Both averages start at zero: their ratio is that of averages without bias from the first step on.
    drift = decay * state.drift + (1 - decay) * work
    spread = decay * state.spread + (1 - decay) * gradient * displacement
    # Nothing over nothing is nothing, and so is its slope: over the smallest number that would overflow.
    still = (spread == 0) & (drift == 0)
    gauge = jnp.sqrt(2 * w) * drift / jnp.where(still, 1, jnp.maximum(spread, tiny))

    controlled = state.phase == CONTROLLED
    hit = controlled | ((gauge < 0) & (t > 4))
    if settings.learning_rate is None:
        radius = jnp.maximum(length, jnp.asarray(settings.scale_floor).astype(dtype) * sums.size**0.5)
        rate = _next_rate(settings, state, radius, update, gauge, controlled, hit)
        applied = rate * jnp.where(state.update_length > 0, state.shortening, 1)
    else:
        given = settings.learning_rate
        rate = applied = jnp.asarray(given(t) if callable(given) else given).astype(dtype)
    if settings.total_steps is not None:
        applied = jnp.maximum(0, 1 - steps / jnp.asarray(settings.total_steps).astype(dtype)) * applied
    temperature = applied / 2 * gradient * update
    moving = temperature > 0
    log_rate = jnp.where(moving, work / jnp.where(moving, temperature, 1), 0)
    average, shortening = _smoothed(update, state.update_length, decay, settings.clip)
    phase = jnp.where(hit, CONTROLLED, GROWTH).astype(jnp.int32)
    counted = jnp.where(t < jnp.iinfo(jnp.int32).max, t + 1, t)
    return ControllerState(
        steps=counted,
        drift=drift,
        spread=spread,
        gauge=gauge,
        log_rate=log_rate,
        temperature=temperature,
        learning_rate=applied,
        controlled_rate=rate,
        update_length=average,
        shortening=shortening,
        phase=phase,
    )


def _smoothed(update: Array, length: Array, decay: Array, clip: ArrayLike | None) -> tuple[Array, Array]:
    """The geometric moving average of |u|, and by what the next step is shortened where |u| was longer than that.

    The next one, not this one: a factor that depends on this step's noise would move the place where steps cancel.
    """
    known = (update > 0) & (length > 0)
    # By ratios, so that a loss times a power of two changes no bit.
    ratio = jnp.where(known, update, 1) / jnp.where(known, length, 1)
    average = jnp.where(known, length * ratio ** (1 - decay), jnp.where(update > 0, update, length))
    if clip is None:
        return average, jnp.ones_like(average)
    return average, jnp.minimum(1, jnp.asarray(clip).astype(ratio.dtype) / ratio)


def _next_rate(
    settings: Settings,
    state: ControllerState,
    radius: Array,
    update: Array,
    gauge: Array,
    controlled: Array,
    hit: Array,
) -> Array:
    """The controlled rate: started, moved by the gauge, kept in the trust region, backed off once."""
    dtype = update.dtype
    target, growth, backoff, trust, initial, leap = (
        jnp.asarray(x).astype(dtype)
        for x in (
            settings.target,
            settings.growth,
            settings.backoff,
            settings.trust,
            settings.initial_step,
            settings.leap,
        )
    )
    steps = state.steps.astype(dtype)
    # The radius is max(rms(theta), floor) sqrt(d); over |u|, the rate at which one step is as long as the parameters.
    moves = update > 0
    whole = radius / jnp.where(moves, update, 1)
    gain = jnp.where(hit, jnp.minimum(growth, 2 / (steps + 1)), growth)
    # Once, after two small steps: a rate far too low costs a short run much, and the gauge already tells.
    gain = jnp.where(state.steps == 2, jnp.log(leap), gain)
    factor = jnp.where(state.steps >= 2, jnp.exp(gain * jnp.clip(gauge - target, -1, 1)), 1)
    rate = state.controlled_rate * factor
    rate = jnp.where((state.controlled_rate == 0) & moves, initial * whole, rate)
    rate = jnp.where(moves, jnp.minimum(rate, trust * whole), rate)
    return rate * jnp.where(hit & ~controlled, backoff, 1)
