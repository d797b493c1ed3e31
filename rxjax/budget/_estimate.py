"""Seconds, bytes and operations of a program that has not been run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from ..hardware._measure import Hardware, measure
from ..hardware._memory import written
from ..hardware._timing import best_seconds
from ._count import count


@dataclass(frozen=True)
class Estimate:
    """What a program will take.

    - `seconds`: of one run, compiled already.
    - `memory`: bytes of arguments, results and temporaries together, the compiler's own account.
    - `flops`, `bytes_accessed`: XLA's cost analysis, whose loop bodies count once, times the trips of the loops.
    - `open_loops`: loops whose length is known only when they run, such as adaptive time steps; one trip of each is in
        the figures.
    - `calibrated`: whether `seconds` rests on a measured run of the same function, which knows those loops; otherwise
        it is the least time at the device's bandwidth and matrix rate.
    """

    seconds: float
    memory: int
    flops: float
    bytes_accessed: float
    open_loops: int
    calibrated: bool

    def __str__(self) -> str:
        kind = "about" if self.calibrated else "at least"
        loops = f", {self.open_loops} loops of unknown length" if self.open_loops else ""
        return (
            f"{kind} {self.seconds:.3g} s, {written(self.memory)}, {self.flops:.3g} operations, "
            f"{written(self.bytes_accessed)} moved{loops}"
        )


def estimate(
    fn: Callable, *args: Any, probe: Sequence[Any] | None = None, hardware: Hardware | None = None
) -> Estimate:
    """Seconds, bytes and floating-point operations of `fn(*args)`, without running it.

    **Arguments:**

    - `fn`: a function that jits, or is jitted.
    - `args`: its arguments, arrays or `jax.ShapeDtypeStruct`s.
    - `probe`: arguments of a smaller problem for the same function, which is run for calibration: seconds then grow
        from there as the operations or the bytes do, whichever grow more.  Good values: a tenth of the size, with the
        same number of time steps.
    - `hardware`: rates of the device, measured if not given; not used with `probe`.

    **Returns:** an `Estimate`.  With a probe of the same kind, within a factor of two.

    **How it fails:** without a probe it is a bound from below, far below for scans of small steps, whose overhead it
    does not know.  A probe that fits into a cache makes the large run look too fast, up to five times.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax as rx
        >>> product = lambda a: a @ a
        >>> cost = rx.budget.estimate(product, jnp.ones((400, 400)), probe=(jnp.ones((200, 200)),))
        >>> print(f"{cost.flops:.3g} {cost.memory} {cost.calibrated}")
        1.28e+08 1280000 True

        ```
    """
    analysed = _analyse(fn, args)
    compiled, memory, flops, moved, loops = analysed
    if probe is None:
        device = measure() if hardware is None else hardware
        seconds = max(flops / device.matrix_rate, moved / device.copy_bandwidth, device.dispatch_latency)
        return Estimate(seconds, memory, flops, moved, loops, False)
    small, _, small_flops, small_moved, _ = _analyse(fn, probe)
    grown = max(flops / max(small_flops, 1.0), moved / max(small_moved, 1.0))
    return Estimate(grown * best_seconds(small, *probe, repeats=2), memory, flops, moved, loops, True)


def _analyse(fn: Callable, args: Sequence[Any]) -> tuple[Any, int, float, float, int]:
    """The compiled program, its memory, operations, bytes moved and open loops."""
    traced = jax.jit(fn).trace(*args)
    compiled = traced.lower().compile()
    costs: Any = compiled.cost_analysis() or {}
    counted = count(traced.jaxpr.jaxpr)
    trips = counted.work / counted.once if counted.once else 1.0
    flops, moved = (trips * max(0.0, costs.get(key, 0.0)) for key in ("flops", "bytes accessed"))
    return compiled, memory_of(compiled), flops, moved, counted.open_loops


def memory_of(compiled: Any) -> int:
    """Bytes of arguments, results and temporaries of a compiled program."""
    memory = compiled.memory_analysis()
    if memory is None:
        return 0
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(kept + memory.temp_size_in_bytes)
