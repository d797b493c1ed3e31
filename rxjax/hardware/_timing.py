"""Seconds that a compiled program takes."""

import time
from collections.abc import Callable

import jax


def best_seconds(f: Callable, *args: object, least: float = 0.05, repeats: int = 3) -> float:
    """The least mean time of `f(*args)` over blocks of calls, each block `least` seconds long or one call.

    The first call, which may compile, is made before.  The least and not the mean: other programs only ever add.
    """
    jax.block_until_ready(f(*args))
    start = time.perf_counter()
    jax.block_until_ready(f(*args))
    once = time.perf_counter() - start
    calls, best = max(1, int(least / max(once, 1e-9))), once
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            out = f(*args)
        jax.block_until_ready(out)
        best = min(best, (time.perf_counter() - start) / calls)
    return best
