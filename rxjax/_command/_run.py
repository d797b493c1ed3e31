"""One run of `rxjax flow`: settings in, a flow and its timings out."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import landscapes
from .._flow import Flow, probability_flow
from .._hyperparameters import Hyperparameters
from .._temperature import noise_scale
from ..solvers import RESULTS, Grid
from . import _parse
from ._errors import Refusal
from ._problems import Defaults, Problem, Ready
from ._progress import BarMeter, Stages, interruptible

_MOST_STEPS = 2**16


@dataclass(frozen=True)
class Run:
    """A flow, what it was made from, and how long it took."""

    flow: Flow
    problem: Problem
    ready: Ready
    settings: Defaults
    measured: bool
    noise_scale: float
    seconds: dict[str, float]


class OnGrid(eqx.Module):
    """A landscape whose values in the cells are known already; elsewhere it is asked."""

    landscape: Any
    energy: jax.Array

    def __call__(self, theta):
        return self.landscape(theta)

    def evaluate(self, points):
        if points.shape[:-1] == self.energy.shape:
            return self.energy
        return landscapes.evaluate(self.landscape, points)


def settle(problem: Problem, given: dict[str, Any]) -> Defaults:
    """The problem's defaults under the options given; refuses what is wrong before anything is computed."""
    settings = replace(problem.defaults, **{k: v for k, v in given.items() if v is not None})
    # A rate not known yet stands for any: the other fields are checked beside it.
    _hyperparameters(settings if settings.learning_rate is not None else replace(settings, learning_rate=1.0))
    if settings.covariance is not None and min(settings.covariance) < 0:
        raise Refusal(
            f"Argument `--covariance` must be non-negative, but it is {settings.covariance}.  It is the variance of "
            "one example's gradient along each axis."
        )
    if settings.std is not None and min(settings.std) <= 0:
        raise Refusal(f"Argument `--std` must be positive, but it is {min(settings.std):g}.")
    return settings


def compute(problem: Problem, given: dict[str, Any], bounds: Any, boundary: str, frames: int, stages: Stages) -> Run:
    """Carry the run through."""
    seconds = {}
    settings = settle(problem, given)
    shape = _parse.shape(settings.shape or "", problem.dim, frames)
    Grid(0.0, 1.0, shape, boundary=boundary)
    stages.say(problem.preparing)
    begin = time.perf_counter()

    def prepare():
        ready = problem.prepare(None if bounds is None else np.asarray(bounds, np.float64))
        box = np.asarray(ready.landscape.bounds, np.float64)
        grid = Grid(box[:, 0], box[:, 1], shape, boundary=boundary)
        energy = landscapes.require_finite_values(landscapes.evaluate(ready.landscape, grid.points))
        return ready, grid, energy.astype(grid.lower.dtype)

    ready, grid, energy = interruptible(prepare)
    seconds["prepare"] = time.perf_counter() - begin
    settings = settle(replace(problem, defaults=ready.defaults), given)
    hyperparameters = _hyperparameters(settings)
    start, std = _each(settings.start, grid.dim), _each(settings.std, grid.dim)
    check_start(start, grid, given["start"] is not None, lambda key: f"Argument `--{key}`")
    end = _parse.positive(settings.time, "--time")
    assert end is not None and settings.learning_rate is not None
    measured = settings.covariance is None
    sigma1 = ready.covariance if measured else jnp.asarray(_each(settings.covariance, grid.dim), energy.dtype)
    # Squares: the fall into a well is fast, the way out of it slow.
    ts = np.asarray(end * np.linspace(0.0, 1.0, frames) ** 2, energy.dtype)
    if not np.all(np.diff(ts) > 0):
        raise Refusal(f"Argument `--time` must be within the range of {energy.dtype.name}, but it is {end:g}.")
    # Neither the rate may vanish nor the number of steps overflow.
    limits = np.finfo(energy.dtype)
    least = max(float(limits.tiny), end / float(limits.max))
    if settings.learning_rate < least:
        raise Refusal(
            f"Argument `--learning-rate` must be {least:.2g} or more to reach the end within the range of "
            f"{energy.dtype.name}, but it is {settings.learning_rate:g}."
        )

    @eqx.filter_jit
    def flow(ground, hyperparameters, sigma1, p0, ts):
        meter = BarMeter(stages.done)
        return probability_flow(
            ground, hyperparameters, sigma1, grid, p0, ts, progress_meter=meter, max_steps=_MOST_STEPS, throw=False
        )

    arguments = (OnGrid(ready.landscape, energy), hyperparameters, sigma1, grid.gaussian(start, std), jnp.asarray(ts))
    stages.say("Compiling")
    begin = time.perf_counter()
    program = interruptible(lambda: flow.lower(*arguments).compile())
    seconds["compile"] = time.perf_counter() - begin
    stages.say("Solving", total=1.0)
    begin = time.perf_counter()
    result = interruptible(lambda: jax.block_until_ready(program(*arguments)))
    seconds["run"] = time.perf_counter() - begin
    _check(result)
    scale = float(
        noise_scale(settings.learning_rate, settings.dataset_size, settings.batch_size, momentum=settings.momentum)
    )
    return Run(result, problem, ready, settings, measured, scale, seconds)


def _hyperparameters(settings: Defaults) -> Hyperparameters:
    names = ("learning_rate", "batch_size", "dataset_size", "momentum")
    return Hyperparameters(**{name: asdict(settings)[name] for name in names})


def check_start(start: np.ndarray, grid: Grid, given: bool, named: Callable[[str], str]) -> None:
    """Refuse a start outside the bounds, by the name of what was given: itself, or the bounds beside the usual one."""
    lower, upper = np.asarray(grid.lower), np.asarray(grid.upper)
    if np.all((start >= lower) & (start <= upper)):
        return
    box = ", ".join(f"{low:g}:{high:g}" for low, high in zip(lower, upper, strict=True))
    if given:
        raise Refusal(f"{named('start')} must lie within the bounds {box}, but it is {_listed(start)}.")
    raise Refusal(
        f"{named('bounds')} must hold the usual start {_listed(start)} where none is given, but they are {box}.  Give "
        f"a start as well, {_listed((lower + upper) / 2)} say."
    )


def _each(values: tuple[float, ...] | None, dim: int) -> np.ndarray:
    assert values is not None
    return np.broadcast_to(np.asarray(values, np.float64), (dim,))


def _listed(values: np.ndarray) -> str:
    return ",".join(f"{x:g}" for x in values)


def _check(flow: Flow) -> None:
    """Refuse a solve that did not arrive or did not stay finite."""
    if not bool(flow.result == RESULTS.successful):
        raise Refusal(
            f"The solve stopped: {' '.join(RESULTS[flow.result].split())}  Give a shorter --time, "
            "a coarser --shape or --precision 64."
        )
    if not bool(jnp.all(jnp.isfinite(flow.ps))):
        raise Refusal("The density is not finite at the end of the solve.  Give --precision 64 or narrower --bounds.")
