"""A landscape of the user's own, given as `module:function`."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import landscapes
from ._errors import Refusal, one_line
from ._problems import Defaults, Problem, Ready, cells

# Points along each axis of the lattice that tells the scale of the loss.
_SAMPLE = {1: 129, 2: 33, 3: 17}


def own_landscape(name: str, dim: int | None, bounds: Any) -> Problem:
    """The problem of a function found in the current folder or among installed modules."""
    fn = load(name)
    own_bounds: Any = getattr(fn, "bounds", None)
    own_dim = getattr(fn, "dim", None)
    if bounds is None and own_bounds is None:
        raise Refusal(
            f"Argument `--bounds` must be given for {name}, which has no `bounds` of its own: low:high for each axis, "
            "like --bounds=-2:2,-3:3, but it is missing."
        )
    if bounds is None:
        dim = np.shape(own_bounds)[0] if np.ndim(own_bounds) == 2 else dim
    elif dim is None:
        dim = own_dim if own_dim is not None and len(bounds) == 1 else len(bounds)
    if bounds is not None and len(bounds) not in (1, dim):
        raise Refusal(
            f"Argument `--bounds` must hold one range or {dim}, one for each axis, but it holds {len(bounds)}."
        )
    if dim not in (1, 2, 3):
        raise Refusal(f"Argument `NAME` must be a landscape of 1 to 3 coordinates, but {name} has {dim}.")
    box = own_bounds if bounds is None else np.broadcast_to(np.asarray(bounds, np.float64), (dim, 2))
    landscape = landscapes.as_landscape(_guarded(fn, name), dim=dim, bounds=box, name=name)

    def prepare(bounds):
        del bounds
        return Ready(landscape, None, _scaled(landscape, dim))

    return Problem(name, name.replace(":", "."), dim, Defaults(shape=cells(dim)), prepare)


def load(name: str, argument: str = "Argument `NAME`") -> Callable:
    """The object `module:attribute`, that `argument` named."""
    module_name, _, attribute = name.partition(":")
    parts = [*module_name.split("."), *attribute.split(".")]
    if not all(part.isidentifier() for part in parts):
        hint = "  Leave out the ending .py." if module_name.endswith(".py") else ""
        raise Refusal(f"{argument} must read module:function, but it is {name!r}.{hint}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise Refusal(f"{argument} must name a module that imports, but {one_line(error)}.") from None
        raise Refusal(
            f"{argument} must name a module in the current folder or an installed one, but there is no module "
            f"{error.name!r}."
        ) from None
    except (Exception, SystemExit) as error:
        raise Refusal(
            f"{argument} must name a module that imports, but {module_name} raised {type(error).__name__}: "
            f"{one_line(error)}"
        ) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, [n for n in dir(found) if not n.startswith("_")], n=2)
            hint = f"  Did you mean {' or '.join(close)}?" if close else ""
            raise Refusal(f"{argument} must name a function of {module_name}, but it has no {part!r}.{hint}")
        found = getattr(found, part)
    if isinstance(found, type) or not callable(found):
        what = "a class: name an instance" if isinstance(found, type) else f"a {type(found).__name__}"
        raise Refusal(f"{argument} must name a function of a point or a landscape, but {name} is {what}.")
    return found


def _guarded(fn: Callable, name: str) -> Callable:
    """`fn` with its own errors turned into refusals; a landscape stays what it is."""
    if isinstance(fn, landscapes.AbstractLandscape):
        return fn
    # These speak of JAX's tracing; `as_landscape` has words for them.
    tracing = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)

    def call(theta):
        try:
            return fn(theta)
        except tracing:
            raise
        except Exception as error:
            raise Refusal(
                f"Argument `NAME` must be a landscape of theta, of shape {theta.shape} here, but {name} raised "
                f"{type(error).__name__}: {one_line(error)}"
            ) from None

    return call


def _scaled(landscape: Any, dim: int) -> Defaults:
    """Settings from the landscape's own scales: its width and how far the loss rises.

    Temperature a twentieth of the rise; the time to slide down the width three times; a thousand steps for each.
    """
    bounds = np.asarray(landscape.bounds, np.float64)
    ticks = [np.linspace(low, high, _SAMPLE[dim]) for low, high in bounds]
    points = jnp.asarray(np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1))
    values = landscapes.require_finite_values(landscapes.evaluate(landscape, points))
    rise = float(np.median(values) - np.min(values)) or 1.0
    width = bounds[:, 1] - bounds[:, 0]
    time = float(np.prod(width) ** (2 / dim)) / rise
    digits = lambda x: float(f"{x:.2g}")
    rate = digits(time / 1000)
    return replace(
        Defaults(),
        learning_rate=rate,
        covariance=(digits(rise / 10 / rate),),
        shape=cells(dim),
        time=digits(3 * time),
        # Rounded by the width: far out a number of two digits may lie outside.
        start=tuple(float(f"{low + float(f'{x:.3g}'):.12g}") for low, x in zip(bounds[:, 0], 0.4 * width, strict=True)),
        std=tuple(digits(x) for x in width / 16),
    )
