"""What of a flow goes on paper: which times, which axes, which loss levels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._flow import Flow


@dataclass(frozen=True)
class Frames:
    """A flow on one or two axes, as NumPy arrays.

    - `ts`, `steps`: `(times,)`; `ps`: `(times, *shape)`, integrated over the axes that are not shown.
    - `energy`: `(*shape)`, the least loss over the axes that are not shown.
    - `edges`: the cell faces of each axis shown; `names`: their labels.
    """

    ts: np.ndarray
    steps: np.ndarray
    ps: np.ndarray
    energy: np.ndarray
    edges: tuple[np.ndarray, ...]
    names: tuple[str, ...]

    @property
    def dim(self) -> int:
        return len(self.edges)

    @property
    def centers(self) -> tuple[np.ndarray, ...]:
        return tuple((e[1:] + e[:-1]) / 2 for e in self.edges)

    def title(self, i: int) -> str:
        steps = self.steps[i]
        count = f"{steps:,.0f}" if steps >= 1 or steps == 0 else f"{steps:.2g}"
        return f"t = {short(float(self.ts[i]))}  ({count} step{'' if count == '1' else 's'})"


def short(t: float) -> str:
    """A time in three digits, in powers of ten only where it is very small or large."""
    if t != 0 and not 1e-4 <= abs(t) < 1e6:
        return f"{t:.2e}"
    return np.format_float_positional(t, precision=3, fractional=False, trim="-")


def frames(flow: Flow, axes: Sequence[int] | None = None, names: Sequence[str] | None = None) -> Frames:
    """The flow on the chosen axes, the first two if none are."""
    grid = flow.grid
    ps, energy = np.asarray(flow.ps), np.asarray(flow.energy)
    if ps.ndim != grid.dim + 1:
        raise ValueError(
            f"Argument `flow` must be one flow, but its densities have shape {ps.shape} on a grid of {grid.dim} axes.  "
            "Take one of a batch with `jax.tree.map(lambda x: x[0], flow)`."
        )
    if not np.all(np.isfinite(ps)):
        raise ValueError(
            "Argument `flow` must hold finite densities, but it holds one that is not: look at `flow.result`, or solve "
            "with `throw=True` to see why."
        )
    shown = tuple(range(min(grid.dim, 2))) if axes is None else tuple(axes)
    if not 1 <= len(shown) <= 2 or len(set(shown)) < len(shown) or not set(shown) <= set(range(grid.dim)):
        raise ValueError(
            f"Argument `axes` must be one or two different axes out of 0 to {grid.dim - 1}, but it is {shown}."
        )
    if names is not None and len(names) != grid.dim:
        raise ValueError(
            f"Argument `names` must hold {grid.dim} labels, one for each axis of the grid, but it holds {len(names)}."
        )
    labels = [rf"$\theta_{i + 1}$" for i in range(grid.dim)] if names is None else list(names)
    others = tuple(i for i in range(grid.dim) if i not in shown)
    if others:
        ps = ps.sum(axis=tuple(i + 1 for i in others)) * np.prod([float(grid.spacing[i]) for i in others])
        energy = energy.min(axis=others)
    if shown == (1, 0) or (len(shown) == 2 and shown[0] > shown[1]):
        ps, energy = np.swapaxes(ps, 1, 2), energy.T
    return Frames(
        ts=np.asarray(flow.ts),
        steps=np.asarray(flow.steps),
        ps=ps,
        energy=energy,
        edges=tuple(np.asarray(grid.edges[i]) for i in shown),
        names=tuple(labels[i] for i in shown),
    )


def nearest(ts: np.ndarray, times: float | Sequence[float] | np.ndarray) -> list[int]:
    """Indices of the saved times nearest to `times`, each once."""
    wanted = np.atleast_1d(np.asarray(times, np.float64))
    slack = 1e-6 * max(abs(ts[-1]), abs(ts[0]))
    if wanted.ndim != 1 or wanted.size == 0 or not np.all((wanted >= ts[0] - slack) & (wanted <= ts[-1] + slack)):
        raise ValueError(
            f"Argument `times` must be one or more times between {ts[0]:.4g} and {ts[-1]:.4g}, the first and the last "
            f"of the flow, but it is {times}."
        )
    picked = [int(np.argmin(np.abs(ts - t))) for t in wanted]
    return list(dict.fromkeys(picked))


def telling(ps: np.ndarray, n: int) -> list[int]:
    """Up to `n` indices of densities as unlike each other as can be, the first and the last among them.

    Each next one is the farthest from those chosen (Gonzalez 1985), in L1 and in the order of saving alike: the
    spacing of the times that were asked for says something too.
    """
    flat = ps.reshape(len(ps), -1)
    flat = flat / (flat[0].sum() or 1.0)
    order = np.linspace(0.0, 1.0, len(ps))
    distance = lambda i: np.abs(flat - flat[i]).sum(axis=1) + 1.5 * np.abs(order - order[i])
    picked = [0, len(ps) - 1]
    away = np.minimum(distance(0), distance(-1))
    while len(picked) < min(n, len(ps)):
        picked.append(int(np.argmax(away)))
        away = np.minimum(away, distance(picked[-1]))
    return sorted(set(picked))


def loss_levels(energy: np.ndarray, most: int = 13) -> np.ndarray:
    """Loss values for contour lines: dense near the lowest loss, and spread over the picture whatever its scale.

    Fewer where the loss is rough, so that lines do not hide the density.
    """
    low, middle, high = np.min(energy), np.median(energy), np.quantile(energy, 0.9)
    if not high > low:
        return np.array([])
    slopes = [np.diff(energy, axis=i) > 0 for i in range(energy.ndim)]
    turns = np.mean([np.mean(np.sum(s != np.roll(s, 1, i), axis=i)) for i, s in enumerate(slopes)])
    n = int(np.clip(45 / max(turns, 1.0), 3, most))
    # Half of the lines below the median: (1/2)^power is where it lies between low and high.
    power = np.clip(np.log(max((middle - low) / (high - low), 1e-9)) / np.log(0.5), 1.0, 6.0)
    return low + (high - low) * (np.arange(1, n + 1) / n) ** power
