"""The solvers against their peers: seconds at equal error, on the same generator.  Writes solvers.md beside it.

One core, float64, all rows of a job in one run.  Every peer is tuned to the stated error: the loosest tolerance, or the
fewest steps, that reach it.  Ours runs after compilation, with the method that the row names.  `--only JOB` runs one
job and keeps the rows of the others.
"""

from _bench import median_seconds, one_core, table, write

one_core()

import argparse  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import scipy.integrate  # noqa: E402
import scipy.linalg  # noqa: E402
import scipy.sparse as sp  # noqa: E402
import scipy.sparse.linalg as sla  # noqa: E402
from flow import loss, sdirk2, sparse_matrix, timed  # noqa: E402

import rxjax as rx  # noqa: E402

jax.config.update("jax_enable_x64", True)
rxs = rx.solvers
ROWS = Path(__file__).parent / "solvers.json"


def problem(shape, kT=0.1):
    grid = rxs.Grid(-2.0, 2.0, shape)
    p0 = grid.gaussian(jnp.array([-1.0] + [0.0] * (len(shape) - 1)), 0.2)
    make = lambda kT: rxs.FokkerPlanck.from_potential(lambda theta: loss(1.0, theta), grid, kT)
    return grid, p0, make, sparse_matrix(make(kT), shape)


def ours(f, *args):
    """Median seconds of a compiled function, its value, and the seconds to compile."""
    compiled = jax.jit(f)
    value, first = timed(lambda: jax.block_until_ready(compiled(*args)))
    return median_seconds(lambda: jax.block_until_ready(compiled(*args)), 5), value, f"compile {first:.0f} s"


def flat(grid, ps):
    return np.asarray(ps).reshape(-1, grid.size) * float(grid.cell_volume)


def shift_invert(matrix, start, ts, steps, gamma):
    """The strong peer in twenty lines: one sparse LU, Arnoldi on the inverse, a small exponential for each time."""
    lu = sla.splu((sp.identity(matrix.shape[0], format="csc") - gamma * matrix).tocsc(), permc_spec="MMD_AT_PLUS_A")
    v, h = np.zeros((steps + 1, start.size)), np.zeros((steps + 1, steps))
    norm = np.linalg.norm(start)
    v[0] = start / norm
    for j in range(steps):
        w = lu.solve(v[j])
        for _ in range(2):
            c = v[: j + 1] @ w
            w = w - c @ v[: j + 1]
            h[: j + 1, j] += c
        h[j + 1, j] = np.linalg.norm(w)
        v[j + 1] = w / h[j + 1, j]
    small = (np.eye(steps) - np.linalg.inv(h[:steps])) / gamma
    return np.array([norm * scipy.linalg.expm(t * small)[:, 0] @ v[:steps] for t in ts])


def tuned_shift_invert(matrix, start, ts, exact, target):
    best = None
    for gamma in (ts[-1] / 10, ts[-1] / 20, ts[-1] / 50):
        for steps in range(6, 60, 2):
            p, seconds = timed(lambda g=gamma, s=steps: shift_invert(matrix, start, ts, s, g))
            error = np.abs(p - exact).sum(axis=1).max()
            if error <= target:
                if best is None or seconds < best[0]:
                    best = seconds, error, f"{steps} solves"
                break
    return best


def tuned(run, exact, target, tolerances, name="rtol"):
    for tolerance in tolerances:
        p, seconds = timed(lambda t=tolerance: run(t))
        error = np.abs(p - exact).sum(axis=-1).max()
        if error <= target:
            return seconds, error, f"{name} {tolerance:.0e}"
    return None


def bdf(matrix, start, ts):
    def run(rtol):
        f = lambda _, p: matrix @ p
        options: Any = dict(method="BDF", rtol=rtol, atol=rtol * 1e-3, jac=lambda *_: matrix, t_eval=ts)
        return scipy.integrate.solve_ivp(f, (0, ts[-1]), start, **options).y.T

    return run


def absent(name):
    return None if importlib.util.find_spec(name) else f"not run: {name} is not installed"


def rows_of(job, mine, peers):
    """`mine`: (label, seconds, error, note); `peers`: (label, (seconds, error, note) or a reason)."""
    rows = [[job, label, f"{s:.4g}", f"{e:.1e}", f"{mine[0][1] / s:.3g}", note] for label, s, e, note in mine]
    for label, found in peers:
        if found is None or isinstance(found, str):
            rows.append([job, label, "-", "-", "-", found or "did not reach the error"])
        else:
            rows.append([job, label, f"{found[0]:.4g}", f"{found[1]:.1e}", f"{found[0] / mine[0][1]:.3g}", found[2]])
    return rows


def plane(fast):
    shape, target = ((48, 48) if fast else (256, 256)), 1e-6
    grid, p0, make, matrix = problem(shape)
    start = flat(grid, p0)[0]
    exact = sla.expm_multiply(matrix * 5.0, start) if fast else shift_invert(matrix, start, [5.0], 50, 0.25)[0]
    _, expm = timed(lambda: sla.expm_multiply(matrix * 5.0, start))
    error = lambda p: float(np.abs(flat(grid, p)[-1] - exact).sum())
    mine = []
    for label, method in (("rxjax Strang()", rxs.Strang()), ("rxjax ShiftInvert(1e-6)", rxs.ShiftInvert(1e-6))):
        run = lambda kT, m=method: rxs.solve(make(kT), p0, jnp.array([0.0, 5.0]), method=m).ps[-1]
        seconds, p, note = ours(run, 0.1)
        mine.append((label, seconds, error(p), note))
    peers = [
        ("SciPy splu + SDIRK2", sdirk2(matrix, start, lambda p: np.abs(p - exact).sum(), 5.0)),
        ("SciPy splu + Arnoldi", tuned_shift_invert(matrix, start, [5.0], exact[None], target)),
        ("SciPy BDF", tuned(bdf(matrix, start, [5.0]), exact[None], target, 10 ** np.arange(-3, -6, -0.5))),
        ("SciPy expm_multiply", (expm, 0.0, "no tolerance to set")),
        ("FiPy", absent("fipy")),
        ("fplanck", absent("fplanck")),
    ]
    return rows_of(f"{shape[0]}^2, t=5, 1e-6", mine, peers)


def many(fast):
    shape, target = ((48, 48) if fast else (256, 256)), 1e-9
    grid, p0, make, matrix = problem(shape)
    start, ts = flat(grid, p0)[0], np.linspace(0, 5, 51)
    exact = np.array([start, *shift_invert(matrix, start, ts[1:], 60, 0.1)])[1:]
    run = lambda kT: rxs.solve(make(kT), p0, ts, method=rxs.ShiftInvert())
    seconds, solution, note = ours(lambda kT: (run(kT).ps, run(kT).stats), 0.1)
    error = float(np.abs(flat(grid, solution[0])[1:] - exact).sum(axis=1).max())
    note = f"{int(solution[1]['num_steps'])} solves, {note}"
    peers = [("SciPy splu + Arnoldi", tuned_shift_invert(matrix, start, ts[1:], exact, target))]
    if not fast:
        peers.append(("SciPy BDF", tuned(bdf(matrix, start, ts[1:]), exact, 10 * target, [1e-7])))
    return rows_of(f"{shape[0]}^2, t=5, 50 times, 1e-9", [("rxjax ShiftInvert()", seconds, error, note)], peers)


def line(fast):
    cells, target = (128 if fast else 1024), 1e-9
    grid = rxs.Grid(-2.0, 2.0, cells)
    make = lambda kT: rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, kT)
    p0 = grid.gaussian(-1.0, 0.2)
    matrix, start = sparse_matrix(make(0.1), (cells,)), flat(grid, p0)[0]
    exact = scipy.linalg.expm(10.0 * matrix.toarray()) @ start
    run = lambda kT: rxs.solve(make(kT), p0, jnp.array([0.0, 10.0]), method=rxs.ShiftInvert()).ps[-1]
    seconds, p, note = ours(run, 0.1)

    def lsoda(rtol):
        options: Any = dict(method="LSODA", rtol=rtol, atol=rtol * 1e-3, lband=1, uband=1)
        return scipy.integrate.solve_ivp(lambda _, p: matrix @ p, (0, 10.0), start, t_eval=[10.0], **options).y.T

    tolerances = 10 ** np.arange(-5, -12, -0.5)
    peers = [
        ("SciPy BDF", tuned(bdf(matrix, start, [10.0]), exact[None], target, tolerances)),
        ("SciPy LSODA, banded", tuned(lsoda, exact[None], target, tolerances)),
        ("fplanck", absent("fplanck")),
    ]
    error = float(np.abs(flat(grid, p)[0] - exact).sum())
    return rows_of(f"{cells} cells, t=10, 1e-9", [("rxjax ShiftInvert()", seconds, error, note)], peers)


def late(fast):
    shape = (48, 48) if fast else (128, 128)
    grid, p0, make, matrix = problem(shape)
    start = flat(grid, p0)[0]
    law = flat(grid, rxs.stationary(make(0.1)))[0]
    exact = law * start.sum() + shift_invert(matrix, start - law * start.sum(), [1e5], 40, 1e3)[0]
    run = lambda kT: rxs.solve(make(kT), p0, jnp.array([0.0, 1e5]), method=rxs.ShiftInvert(1e-8)).ps[-1]
    seconds, p, note = ours(run, 0.1)
    p_bdf, peer = timed(lambda: bdf(matrix, start, [1e5])(1e-6)[-1])
    error = lambda q: float(np.abs(q - exact).sum())
    mine = [("rxjax ShiftInvert(1e-8)", seconds, error(flat(grid, p)[0]), note)]
    return rows_of(f"{shape[0]}^2, t=1e5, 1e-8", mine, [("SciPy BDF", (peer, error(p_bdf), "rtol 1e-6"))])


def box(fast):
    shape = (16,) * 3 if fast else (48,) * 3
    grid, p0, make, matrix = problem(shape)
    start = flat(grid, p0)[0]
    exact, expm = timed(lambda: sla.expm_multiply(matrix, start))
    seconds, p, note = ours(lambda kT: rxs.solve(make(kT), p0, jnp.array([0.0, 1.0])).ps[-1], 0.1)
    mine = [("rxjax Strang()", seconds, float(np.abs(flat(grid, p)[0] - exact).sum()), note)]
    peers = [("SciPy expm_multiply", (expm, 0.0, "no tolerance to set"))]
    return rows_of(f"{shape[0]}^3, t=1, 1e-5", mine, peers)


def passage(fast):
    shape, many = ((32, 32), 4) if fast else ((256, 256), 32)
    grid, _, make, matrix = problem(shape)
    mask = jnp.sum((grid.points - jnp.array([1.0, -0.25])) ** 2, axis=-1) < 0.09
    keep = ~np.asarray(mask).ravel()
    run = lambda kT: rxs.mean_first_passage_time(make(kT), mask)
    seconds, tau, note = ours(run, 0.1)

    def peer(matrix):
        return sla.spsolve(-matrix[keep][:, keep].T.tocsc(), np.ones(keep.sum()), permc_spec="MMD_AT_PLUS_A")

    exact, scipy_seconds = timed(lambda: peer(matrix))
    error = float(np.max(np.abs(np.asarray(tau).ravel()[keep] / exact - 1)))
    rows = rows_of(
        f"passage time {shape[0]}^2",
        [("rxjax, factor and solve", seconds, error, note)],
        [("SciPy spsolve", (scipy_seconds, 0.0, "factor and solve"))],
    )
    kTs = jnp.linspace(0.08, 0.2, many)
    batched = lambda kTs: jax.lax.map(run, kTs, batch_size=4)
    seconds, tau, note = ours(batched, kTs)
    matrices = [sparse_matrix(make(kT), shape) for kT in kTs]
    _, scipy_seconds = timed(lambda: [peer(m) for m in matrices])
    mine = [("rxjax, lax.map in batches of 4", seconds, error, note)]
    return rows + rows_of(f"the same at {many} temperatures", mine, [("SciPy loop", (scipy_seconds, 0.0, "spsolve"))])


def sweep(fast):
    side = 4 if fast else 32
    grid = rxs.Grid(-2.0, 2.0, 256)
    p0 = grid.gaussian(-1.0, 0.2)
    kTs = (jnp.linspace(0.005, 0.02, side)[:, None] / jnp.geomspace(1, 8, side)[None] * 80).ravel()
    make = lambda kT: rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, kT)
    run = lambda kT: rxs.solve(make(kT), p0, jnp.array([0.0, 10.0])).ps[-1]
    seconds, ps, note = ours(jax.vmap(run), kTs)
    start, errors, times = flat(grid, p0)[0], [], []
    sample = np.arange(0, kTs.size, max(1, kTs.size // 16))
    for k in sample:
        matrix = sparse_matrix(make(kTs[k]), (256,))
        exact = scipy.linalg.expm(10 * matrix.toarray()) @ start
        found = tuned(bdf(matrix, start, [10.0]), exact[None], 1e-6, 10 ** np.arange(-3, -7, -0.5))
        times.append(found[0] if found else np.nan)
        errors.append(np.abs(flat(grid, ps[k])[0] - exact).sum())
    peer = float(np.nanmean(times)) * kTs.size
    mine = [("rxjax vmap", seconds, float(max(errors)), note)]
    note = f"{sample.size} of {kTs.size} measured, scaled"
    return rows_of(f"256 cells, t=10, {side}x{side}", mine, [("SciPy BDF loop", (peer, 1e-6, note))])


def gradients(fast):
    rows = []
    cases = [
        ("256^2 Strang", (256, 256), 5.0, rxs.Strang()),
        ("256^2 ShiftInvert", (256, 256), 5.0, rxs.ShiftInvert()),
        ("128^2 ShiftInvert, t=1e5", (128, 128), 1e5, rxs.ShiftInvert()),
        ("48^3 Strang", (48, 48, 48), 1.0, rxs.Strang()),
    ]
    for name, shape, t, method in cases[-1:] if fast else cases:
        shape = (12,) * len(shape) if fast else shape
        grid, p0, _, _ = problem(shape)

        def scalar(kT, a, grid=grid, p0=p0, t=t, method=method):
            W = rxs.FokkerPlanck.from_potential(lambda theta: loss(a, theta), grid, kT)
            p = rxs.solve(W, p0, jnp.array([0.0, t]), method=method).ps[-1]
            return grid.integrate(p * grid.points[..., 0])

        one, _, _ = ours(scalar, 0.1, 1.0)
        both, _, note = ours(jax.value_and_grad(scalar, argnums=(0, 1)), 0.1, 1.0)
        rows.append(
            [f"gradient, {name}", "rxjax", f"{both:.4g}", "-", f"{both / one:.3g}", f"forward {one:.3g} s, {note}"]
        )
    return rows


def growth(fast):
    sides, seconds = ((16, 32) if fast else (64, 128, 256, 512)), []
    for n in sides:
        grid, p0, make, _ = problem((n, n))
        seconds.append(ours(lambda kT, m=make, p=p0: rxs.solve(m(kT), p, jnp.array([0.0, 5.0])).ps[-1], 0.1)[0])
    slope = np.polyfit(np.log(np.square(sides)), np.log(seconds), 1)[0]
    note = ", ".join(f"{n}^2 {s:.3g} s" for n, s in zip(sides, seconds, strict=True))
    return [["growth with cells, 2-D", "rxjax Strang()", "-", "-", f"{slope:.2f}", f"log time over log cells; {note}"]]


JOBS = dict(
    plane=plane,
    many=many,
    line=line,
    late=late,
    box=box,
    passage=passage,
    sweep=sweep,
    gradients=gradients,
    growth=growth,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=JOBS)
    parser.add_argument("--fast", action="store_true", help="small sizes, to see that it runs; writes nothing")
    options = parser.parse_args()
    known = json.loads(ROWS.read_text()) if ROWS.exists() and not options.fast else {}
    for name in [options.only] if options.only else JOBS:
        known[name] = JOBS[name](options.fast)
    rows = [row for name in JOBS for row in known.get(name, [])]
    header = ["job", "method", "seconds", "L1 error", "over ours", "note"]
    text = (
        "# The solvers: seconds at equal error\n\n" + (__doc__ or "").split("\n\n", 1)[1] + "\n" + table(header, rows)
    )
    if options.fast:
        print(text)
        return
    ROWS.write_text(json.dumps(known, indent=1))
    write("solvers.md", text)


if __name__ == "__main__":
    main()
