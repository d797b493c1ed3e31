"""The finest grid that a budget allows."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..hardware._memory import as_bytes, available_memory, written
from ..hardware._timing import best_seconds
from ._estimate import memory_of

Shape = tuple[int, ...]

# Relative errors that answers keep: of the solvers in L1, after some tens of steps.
_KEEPS = {"float32": 1e-5, "float64": 1e-12}
# Points computed together when probing, and the most that are proposed.
_PROBED, _MOST = 8, 1024


@dataclass(frozen=True)
class Proposal:
    """What to run.

    - `shape`, `dtype`, `chunk`: the grid, the precision, and how many points of a sweep to compute together.
    - `seconds`, `memory`: what that takes in all, compiled already.
    - `fits`: whether it is within the budget.  If not, it is the cheapest that was offered, and `excess` tells for
        "seconds", "memory" and "precision" how many times more it takes than it may.
    """

    shape: Shape
    dtype: str
    chunk: int
    seconds: float
    memory: int
    fits: bool
    excess: dict[str, float]

    def __str__(self) -> str:
        cells = "x".join(map(str, self.shape))
        what = f"{cells} cells in {self.dtype}, chunks of {self.chunk}: {self.seconds:.3g} s, {written(self.memory)}"
        if self.fits:
            return what
        over = ", ".join(f"{name} {times:.3g} times" for name, times in self.excess.items() if times > 1)
        return f"Nothing fits; the cheapest, {what}, exceeds the budget: {over}"


def fit(
    make: Callable[[Shape, Any], tuple[Callable, Sequence[Any]]],
    shapes: Sequence[Shape],
    *,
    seconds: float | int = math.inf,
    memory: int | str | None = None,
    precision: float = 1e-5,
    points: int = 1,
) -> Proposal:
    """The finest grid, the chunk and the dtype with which a solve or a sweep stays within a budget.

    The two coarsest grids are run, and seconds extrapolated from them as a power of the number of cells; memory is the
    compiler's own account of each grid, which is compiled from the finest on until one fits.

    **Arguments:**

    - `make`: `(shape, dtype) -> (fn, args)`: the function of one point and its arguments there, for a grid.
    - `shapes`: grids to choose from, of ascending numbers of cells.
    - `seconds`: in all, for all points.
    - `memory`: bytes, or a text like "1 GiB"; what is free if not given.
    - `precision`: the largest relative error from rounding: 1e-5 and more allow float32, down to 1e-12 float64 does.
    - `points`: of the sweep.

    **Returns:** a `Proposal`; look at `fits`.

    **How it fails:** a solve whose steps grow more numerous on finer grids takes longer than the power law says; offer
    coarse grids that are near enough to the fine ones.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> make = lambda shape, dtype: (lambda x: jnp.fft.fft2(x).real, [jnp.ones(shape, dtype)])
        >>> found = rx.budget.fit(make, [(32, 32), (64, 64), (512, 512)], memory="1 MiB", points=4)
        >>> found.shape, found.dtype, found.chunk, found.fits
        ((64, 64), 'float32', 4, True)

        ```
    """
    sizes = [math.prod(s) for s in shapes]
    if not sizes or any(b <= a for a, b in zip([0, *sizes], sizes, strict=False)):
        raise ValueError(f"Argument `shapes` must be grids of ascending numbers of cells, but it is {list(shapes)}.")
    if not (seconds > 0 and precision > 0 and points >= 1):
        raise ValueError(
            f"Arguments `seconds`, `precision` and `points` must be positive, but they are {seconds}, {precision} and "
            f"{points}."
        )
    limit = available_memory() if memory is None else as_bytes(memory)
    dtype = "float32" if precision >= _KEEPS["float32"] else "float64"
    too_coarse = _KEEPS[dtype] / precision
    # Double precision is needed to try it, and only here.
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
        batch = min(points, _PROBED)
        tried = [best_seconds(*_batched(make(s, jnp.dtype(dtype)), batch)) / batch for s in shapes[:2]]
        power = math.log(tried[1] / tried[0]) / math.log(sizes[1] / sizes[0]) if len(tried) > 1 else 1.0
        for shape, size in reversed(list(zip(shapes, sizes, strict=True))):
            each = tried[-1] * (size / sizes[len(tried) - 1]) ** max(power, 0.0)
            if max(each * points / seconds, too_coarse) > 1 and shape != shapes[0]:
                continue
            one, slope = _memory(make(shape, jnp.dtype(dtype)))
            chunk = min(points, _MOST, int((limit - one + slope) // max(slope, 1)))
            if chunk >= 1 or shape == shapes[0]:
                break
    chunk = max(chunk, 1)
    used = one + (chunk - 1) * slope
    excess = {"seconds": each * points / seconds, "memory": used / limit, "precision": too_coarse}
    return Proposal(tuple(shape), dtype, chunk, each * points, used, max(excess.values()) <= 1, excess)


def _batched(made: tuple[Callable, Sequence[Any]], batch: int) -> tuple[Any, ...]:
    """A compiled program of so many equal points, and its arguments."""
    fn, args = made
    spread = lambda x: jnp.broadcast_to(x, (batch, *jnp.shape(x)))
    spread_args = jax.tree.map(spread, tuple(args))
    return jax.jit(jax.vmap(fn)).lower(*spread_args).compile(), *spread_args


def _memory(made: tuple[Callable, Sequence[Any]]) -> tuple[int, int]:
    """Bytes of one point, and of each further one."""
    fn, args = made

    def program(batch):
        abstract = lambda x: jax.ShapeDtypeStruct((batch, *jnp.shape(x)), jnp.result_type(x))
        return memory_of(jax.jit(jax.vmap(fn)).lower(*jax.tree.map(abstract, tuple(args))).compile())

    one, more = program(1), program(_PROBED)
    return one, max(0, (more - one) // (_PROBED - 1))
