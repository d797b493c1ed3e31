"""Sweeps: against loops, within a memory, over devices, and as the number of points grows.  Writes sweep.md beside it.

A grid of learning rates and batch sizes on a double well of 256 cells: the exact mean escape time and the density at
time 2, in float64.  The loop is the library's own call for one point, as a user would write it, once as it stands and
once under `jit`, timed on a sample of the points.  Memory is the peak resident set of a process of its own, less what
it held when the sweep began, with all modules loaded: compiling, the chunk and the results.  Virtual devices share the
cores of the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__)


def problem():
    import jax
    import jax.numpy as jnp

    import rxjax as rx

    jax.config.update("jax_enable_x64", True)
    grid = rx.solvers.Grid(-2.0, 2.0, 256)
    well = rx.landscapes.DoubleWell()
    p0 = grid.gaussian(-1.0, 0.2)

    def escape(learning_rate, batch_size):
        run = rx.Hyperparameters(learning_rate, batch_size, 1e6)
        W = rx.solvers.FokkerPlanck.from_potential(well, grid, run.learning_rate / 2 * rx.batch_covariance(20.0, run))
        tau, result = rx.solvers.mean_first_passage_time(W, lambda x: x[0] >= 1, throw=False)
        return {"time": jnp.interp(-1.0, grid.axes[0], tau), "result": result}

    def both(learning_rate, batch_size):
        run = rx.Hyperparameters(learning_rate, batch_size, 1e6)
        flow = rx.probability_flow(well, run, 20.0, grid, p0, jnp.array([0.0, 2.0]), throw=False)
        return escape(learning_rate, batch_size) | {"density": flow.ps[-1], "flow": flow.result}

    return escape, both


def axes(n) -> dict[str, Any]:
    import numpy as np

    return dict(learning_rate=np.geomspace(0.01, 0.1, n), batch_size=np.linspace(1.0, 4.0, n))


def loop_row(n):
    """The sweep, and the two loops on a sample."""
    import jax

    import rxjax as rx

    _, both = problem()
    seen = []
    tick = lambda done, total: seen.append((time.perf_counter(), done))
    start = time.perf_counter()
    data = rx.sweep(both, progress=tick, **axes(n))
    whole = time.perf_counter() - start
    # Without compiling: the second run of the same chunks.
    again = rx.sweep(both, progress=tick, **axes(n))
    first = next(i for i in range(len(seen) - 1, -1, -1) if seen[i][1] == 0)
    steady = seen[-1][0] - seen[first][0]
    settings = [(float(a), float(b)) for a in data.learning_rate[:: n // 4] for b in data.batch_size[:: n // 4]]
    compiled = jax.jit(both)
    jax.block_until_ready(compiled(*settings[0]))
    start = time.perf_counter()
    for s in settings:
        jax.block_until_ready(compiled(*s))
    jitted = (time.perf_counter() - start) / len(settings)
    start = time.perf_counter()
    for s in settings[:3]:
        jax.block_until_ready(both(*s))
    plain = (time.perf_counter() - start) / 3
    assert bool((again.status == "ok").all())
    return dict(points=n * n, whole=whole, steady=steady, jitted=jitted * n * n, plain=plain * n * n)


def memory_row(n, limit):
    """The peak resident set of this process beyond what it held before."""
    import rxjax as rx

    _, both = problem()

    def resident(name):
        (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name)]
        return int(line.split()[1]) / 1024

    sweep = rx.sweep  # loads xarray
    before = resident("VmRSS")
    data = sweep(both, memory=limit, chunk=n * n, **axes(n))
    attributes = {k: int(data.attrs[k]) for k in ("chunk", "chunk_bytes", "memory_limit")}
    return attributes | dict(before=before, peak=resident("VmHWM"))


def device_row(n, devices):
    import rxjax as rx

    _, both = problem()
    seen = []
    tick = lambda done, total: seen.append((time.perf_counter(), done))
    rx.sweep(both, devices=devices, chunk=32 * devices, progress=tick, **axes(n))
    return dict(rate=n * n / (seen[-1][0] - seen[0][0]))


def growth_row(n):
    import numpy as np

    import rxjax as rx

    escape, _ = problem()
    seen = []
    rates = np.geomspace(0.01, 0.1, n)
    rx.sweep(escape, learning_rate=rates, batch_size=[2.0], progress=lambda d, t: seen.append((time.perf_counter(), d)))
    return dict(points=n, seconds=seen[-1][0] - seen[0][0], chunks=len(seen) - 1)


def child(name, *arguments, devices=1, cores=1):
    """One row, measured in a process of its own on so many cores."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    words = ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[-cores:])), sys.executable, str(HERE)]
    words += ["--row", name, *map(str, arguments)]
    done = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


ROWS = {"loop": loop_row, "memory": memory_row, "device": device_row, "growth": growth_row}
PARTS = ("loop", "memory", "device", "growth")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="measure these, keep the other rows")
    parser.add_argument("--row", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        name, *arguments = options.row
        print(json.dumps(ROWS[name](*[int(a) if a.isdigit() else a for a in arguments])))
        return
    n = 16 if options.fast else 64
    kept = HERE.with_suffix(".json")
    rows = json.loads(kept.read_text()) if kept.exists() and not options.fast else {}
    if "loop" in options.only:
        rows["loop"] = child("loop", n)
    if "memory" in options.only:
        rows["memory"] = {limit: child("memory", n, limit) for limit in ("256 MiB", "1 GiB")}
    if "device" in options.only:
        rows["device"] = {d: child("device", n, d, devices=d, cores=os.cpu_count() or 1) for d in (1, 2, 4, 8)}
    if "growth" in options.only:
        rows["growth"] = [child("growth", k) for k in (100, 1000, 10_000, 100_000)[: 2 if options.fast else 4]]
    if not options.fast:
        kept.write_text(json.dumps(rows, indent=1) + "\n")
    report(rows, n, options.fast)


def report(rows, n, fast):
    from _bench import table, write

    text = "# Sweeps\n\n" + (__doc__ or "").split("\n\n", 1)[1] + "\n"
    if "loop" in rows:
        r = rows["loop"]
        verdict = lambda x: f"{x:.1f}"
        text += f"{n}x{n} points, escape time and density; seconds for all points, on one core:\n\n"
        lines = [
            ["sweep, compiled", f"{r['steady']:.2f}", "1"],
            ["sweep, compiling included", f"{r['whole']:.2f}", verdict(r["whole"] / r["steady"])],
            ["loop of jitted single calls", f"{r['jitted']:.1f}", verdict(r["jitted"] / r["steady"])],
            ["loop of single calls as they stand", f"{r['plain']:.0f}", verdict(r["plain"] / r["steady"])],
        ]
        text += table(["way", "seconds", "ratio"], lines) + "\n\n"
    if "memory" in rows:
        text += "The same sweep within a memory, MiB; the limit is for all by which the process grows:\n\n"
        lines = [
            [
                k,
                str(r["chunk"]),
                f"{r['chunk_bytes'] / 2**20:.0f}",
                f"{r['before']:.0f}",
                f"{r['peak'] - r['before']:.0f}",
            ]
            for k, r in rows["memory"].items()
        ]
        text += table(["limit", "chunk", "program", "resident before", "growth at its peak"], lines) + "\n\n"
    if "device" in rows:
        where = f"Virtual devices on {os.cpu_count()} cores, {n}x{n} points"
        text += f"{where}, 32 on each at once, compiling not included:\n\n"
        first = next(iter(rows["device"].values()))["rate"]
        lines = [[str(d), f"{r['rate']:.0f}", f"{r['rate'] / first:.2f}"] for d, r in rows["device"].items()]
        text += table(["devices", "points/s", "speedup"], lines) + "\n\n"
    if "growth" in rows:
        text += "Escape times alone as the number of points grows, one core, compiling not included:\n\n"
        lines = [
            [f"{r['points']:,}", f"{r['seconds']:.3f}", f"{r['points'] / r['seconds']:,.0f}"] for r in rows["growth"]
        ]
        text += table(["points", "seconds", "points/s"], lines)
    if fast:
        print(text)
    else:
        write("sweep.md", text)


if __name__ == "__main__":
    main()
