"""What `NAME` may be, and settings for each that make a telling picture in seconds."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ._errors import Refusal

# Named here, not imported: the help text must not wait for JAX.
TOYS = ("double-well", "muller-brown", "himmelblau", "styblinski-tang", "rastrigin", "rosenbrock", "quadratic")
NAMES = (*TOYS, "digits")
_CELLS = {1: "256", 2: "128", 3: "48"}


@dataclass(frozen=True)
class Defaults:
    """Settings of a run, each of which an option overrides.  `None` is settled when the landscape is known."""

    learning_rate: float | None = None
    batch_size: float = 1.0
    dataset_size: float = 1000.0
    momentum: float = 0.0
    covariance: tuple[float, ...] | None = None
    shape: str | None = None
    time: float | None = None
    start: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Ready:
    """A landscape with all that is needed to let a density flow over it."""

    landscape: Any
    covariance: Any
    defaults: Defaults
    names: tuple[str, ...] | None = None
    points: dict[str, tuple[float, ...]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """What a name stands for.  `prepare(bounds)` may be slow: it trains networks or measures scales."""

    title: str
    file: str
    dim: int
    defaults: Defaults
    prepare: Callable[[Any], Ready]
    preparing: str = "Measuring the landscape"


def find(name: str, dim: int | None, bounds: Any, seed: int) -> Problem:
    """The problem called `name`."""
    if ":" in name:
        from ._own import own_landscape

        return own_landscape(name, dim, bounds)
    if name == "digits":
        return _digits(dim, seed)
    if name in TOYS:
        return _toy(name, dim)
    close = difflib.get_close_matches(name, NAMES, n=2, cutoff=0.5)
    hint = f"  Did you mean {' or '.join(close)}?" if close else ""
    raise Refusal(
        f"Argument `NAME` must be one of {', '.join(NAMES)}, or module:function of your own, but it is {name!r}.{hint}"
    )


def cells(dim: int) -> str:
    """A number of cells along each axis that takes seconds."""
    return _CELLS[dim]


def _toy(name: str, dim: int | None) -> Problem:
    import numpy as np

    from .. import landscapes

    fixed = {"muller-brown": landscapes.MullerBrown, "himmelblau": landscapes.Himmelblau}
    family = {
        "double-well": lambda d: landscapes.DoubleWell(dim=d),
        "styblinski-tang": landscapes.StyblinskiTang,
        "rastrigin": landscapes.Rastrigin,
        "rosenbrock": landscapes.Rosenbrock,
        "quadratic": lambda d: landscapes.Quadratic(_ladder(np, d)),
    }
    least = 2 if name == "rosenbrock" else 1
    if name in fixed and dim not in (None, 2):
        raise Refusal(f"Argument `--dim` must be 2 for {name}, but it is {dim}.")
    dim = 2 if dim is None else dim
    if not least <= dim <= 3:
        raise Refusal(f"Argument `--dim` must be from {least} to 3 for {name}, but it is {dim}.")
    landscape = fixed[name]() if name in fixed else family[name](dim)
    defaults = _DEFAULTS[name]
    defaults = replace(defaults, shape=cells(dim) if defaults.shape is None or dim != 2 else defaults.shape)
    assert defaults.start is not None
    defaults = replace(defaults, start=(*defaults.start, defaults.start[-1])[:dim])

    def prepare(bounds):
        return Ready(landscapes.as_landscape(landscape, bounds=bounds), None, defaults)

    return Problem(landscape.name, name, dim, defaults, prepare)


def _ladder(np: Any, dim: int) -> Any:
    """A Hessian with eigenvalues 3 and 0.3 on oblique axes; further axes have 1."""
    hessian = np.eye(dim)
    if dim > 1:
        hessian[:2, :2] = [[1.65, 1.35], [1.35, 1.65]]
    return hessian


# Learning rate times curvature stays below 0.2, and kT is a fraction of the barriers: the density falls into a well
# first and then leaks out of it.
_DEFAULTS = {
    "double-well": Defaults(0.02, 4.0, covariance=(120.0,), time=30.0, start=(-1.4, 1.8), std=(0.25,)),
    "muller-brown": Defaults(2e-5, 8.0, covariance=(1.2e7,), time=0.05, start=(-0.2, 1.1), std=(0.1,)),
    "himmelblau": Defaults(1e-3, 8.0, covariance=(1.6e5,), time=2.0, start=(0.0, 0.0), std=(0.5,)),
    "styblinski-tang": Defaults(2e-3, 4.0, covariance=(4e4,), time=8.0, start=(2.0, 3.0), std=(0.4,)),
    "rastrigin": Defaults(4e-4, 4.0, covariance=(1e5,), shape="160", time=4.0, start=(3.0, 2.0), std=(0.15,)),
    "rosenbrock": Defaults(1e-4, 4.0, covariance=(2.4e5,), time=0.8, start=(-1.2, 1.0), std=(0.12,)),
    "quadratic": Defaults(0.02, 4.0, covariance=(120.0,), time=10.0, start=(-2.0, -1.0), std=(0.2,)),
}


def _digits(dim: int | None, seed: int) -> Problem:
    if dim not in (None, 2):
        raise Refusal(f"Argument `--dim` must be 2 for digits, the plane through three solutions, but it is {dim}.")
    defaults = Defaults(0.3, 1.0, 1797.0, 0.9, shape="64", time=900.0, std=(1.2,))

    def prepare(bounds):
        import numpy as np

        from .. import landscapes
        from .._digits import NAMES as SOLUTIONS, digits_plane

        found = digits_plane(seed)
        anchors = np.asarray(found.landscape.anchors, np.float64)
        pairs = ("A–B", "B–C", "C–A")
        listed = lambda values, form: ", ".join(format(float(v), form) for v in values)
        facts = {
            f"training accuracy at {', '.join(SOLUTIONS)}": listed(found.accuracies, ".1%"),
            f"loss at {', '.join(SOLUTIONS)}": listed(found.losses, ".3f"),
            f"barrier on the lines {', '.join(pairs)}": listed(found.barriers, ".3f"),
        }
        landscape = found.landscape if bounds is None else landscapes.as_landscape(found.landscape, bounds=bounds)
        # The mean of the three networks' weights lies on a hill: where does SGD go from there?
        start = tuple(float(x) for x in anchors.mean(axis=0))
        points: dict[str, tuple[float, ...]] = {
            name: tuple(float(x) for x in a) for name, a in zip(SOLUTIONS, anchors, strict=True)
        }
        return Ready(landscape, found.covariance, replace(defaults, start=start), found.landscape.names, points, facts)

    title = "plane through three networks trained on digits"
    return Problem(title, "digits", 2, defaults, prepare, "Training three networks and measuring their plane")
