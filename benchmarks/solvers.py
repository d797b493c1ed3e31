"""The solvers against their peers: seconds at equal error, on the same generator.  Writes solvers.md beside it.

One core, float64, all rows of a job in one run.  Every peer is tuned to the error that the job names: the loosest
tolerance, or the fewest steps or solves, that reach it; its own error is printed.  Ours runs with default options,
compiled before; its seconds include the discretisation of the potential, which the SciPy peers are given.  Errors are
sums of absolute differences from the exact solution of the same rates, relative ones where the job says so.  SciPy's
`splu` with Arnoldi or SDIRK2, the strong peers, take turns with ours, nine times each, as gradients do with their
forward solves and steps with copies.  `asked` is the factor that the project set itself.  `--only JOB` runs one job and
keeps the rows of the others.
"""

from _bench import in_turns, one_core, table, write

one_core()

import argparse  # noqa: E402
import json  # noqa: E402
from typing import Any  # noqa: E402

import diffrax  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import scipy.linalg  # noqa: E402
import scipy.sparse.linalg as sla  # noqa: E402
import solver_peers as peer  # noqa: E402
from flow import sparse_matrix  # noqa: E402
from solver_costs import bandwidth, gradients, growth  # noqa: E402
from solver_problems import (  # noqa: E402
    HEADER,
    HERE,
    box_well,
    double_well,
    foreign,
    ours,
    problem,
    reference,
    rows_of,
    rxs,
)

jax.config.update("jax_enable_x64", True)
ROWS = HERE / "solvers.json"
FEW_STEPS = tuple(range(4, 20)) + (22, 25, 28, 32, 36, 40, 50, 60, 80)


def flow(given, ts, method):
    """Our solution: label, seconds, masses in the cells, note, the number of steps, and the compiled program."""
    run = jax.jit(lambda kT: rxs.solve(given.generator(kT), given.p0, jnp.asarray(ts, given.p0.dtype), method=method))
    seconds, solution, note = ours(run, given.kT)
    steps, ps = int(solution.stats["num_steps"]), given.flat(solution.ps[1:])
    note = f"{steps} steps or solves, {note}"
    return f"rxjax {solution.method}()", seconds, ps, note, steps, lambda: run(given.kT)


def raced(program, close):
    """Seconds of ours and of peers that are close to it, measured in turns, and their rows with these."""
    reached = {label: found[3] for label, _, found in close if found}
    seconds, *theirs = in_turns([program, *reached.values()], 9)
    new = dict(zip(reached, theirs, strict=True))
    return seconds, [(label, asked, found and (new[label], *found[1:3])) for label, asked, found in close]


def plane(fast):
    shape, target, t = ((48, 48) if fast else (256, 256)), 1e-6, 5.0
    given = problem(shape)
    matrix, start = given.matrix, given.start
    exact, expm = peer.timed(lambda: sla.expm_multiply(matrix * t, start))
    label, _, ps, note, steps, program = flow(given, [0.0, t], rxs.Strang())
    key = f"plane {shape}"
    arnoldi = peer.tuned_shift_invert(f"{key} Arnoldi", matrix, start, [t], exact, target)
    sdirk2 = lambda n: peer.sdirk2(matrix, start, t, n)
    bdf = lambda rtol: peer.bdf(matrix, start, [t], rtol)
    close = [
        ("SciPy splu + Arnoldi", 2.5, arnoldi),
        ("SciPy splu + SDIRK2", 3, peer.tuned(f"{key} SDIRK2", sdirk2, exact, target, FEW_STEPS, "{} steps")),
    ]
    seconds, close = raced(program, close)
    peers = [
        *close,
        ("SciPy BDF", 30, peer.tuned(f"{key} BDF", bdf, exact, target)),
        ("SciPy expm_multiply", 60, (expm, "reference", "no tolerance to set")),
        ("FiPy", 40, foreign("fipy", given, t, steps=steps, exact=exact.reshape(shape))),
    ]
    return rows_of(f"{shape[0]}^2, t=5, 1e-6", [(label, seconds, peer.l1(ps, exact), note)], peers)


def many(fast):
    shape, target = ((48, 48) if fast else (256, 256)), 1e-9
    given, ts = problem(shape), np.linspace(0, 5, 51)
    matrix, start = given.matrix, given.start
    every = lambda: sla.expm_multiply(matrix, start, start=0, stop=5.0, num=51)[1:]
    exact = reference("many", given, every)
    label, _, ps, note, _, program = flow(given, ts, rxs.ShiftInvert())
    key = f"many {shape}"
    arnoldi = peer.tuned_shift_invert(f"{key} Arnoldi", matrix, start, ts[1:], exact, target)
    bdf = lambda rtol: peer.bdf(matrix, start, ts[1:], rtol)
    # Looser ones were seen to fail, half a minute each.
    ladder = peer.LADDER if fast else tuple(r for r in peer.LADDER if r <= 1e-10)
    seconds, close = raced(program, [("SciPy splu + Arnoldi", 1, arnoldi)])
    peers = [
        *close,
        ("SciPy BDF", 15, peer.tuned(f"{key} BDF", bdf, exact, target, ladder)),
    ]
    return rows_of(f"{shape[0]}^2, t=5, 50 times, 1e-9", [(label, seconds, peer.l1(ps, exact), note)], peers)


def box(fast):
    shape, target, t = ((64, 64) if fast else (128, 128)), 1e-6, 1.0
    given = problem(shape, 0.25, box_well, 2.5)
    exact = sla.expm_multiply(given.matrix * t, given.start)
    label, seconds, ps, note, *_ = flow(given, [0.0, t], rxs.Strang())

    def explicit(tolerance):
        term = diffrax.ODETerm(lambda _, p, generator: generator.apply(p))
        options: Any = dict(stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance), max_steps=10**6)
        return lambda kT: diffrax.diffeqsolve(
            term, diffrax.Tsit5(), 0.0, t, None, given.p0, given.generator(kT), **options
        )

    found = None
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
        tsit5, solution, _ = ours(explicit(tolerance), given.kT)
        error = peer.l1(given.flat(solution.ys), exact)
        if error <= target:
            found = tsit5, error, f"rtol {tolerance:.0e}, {int(solution.stats['num_steps'])} steps"
            break
    peers = [
        ("fplanck", 40, foreign("fplanck", given, t)),
        ("diffrax Tsit5, same stencil", 4, found),
        ("py-pde", None, foreign("pde", given, t, target=target)),
    ]
    return rows_of(f"{shape[0]}^2 box, t=1, 1e-6", [(label, seconds, peer.l1(ps, exact), note)], peers)


def line(fast):
    cells, target, t = (128 if fast else 1024), 1e-9, 10.0
    given = problem((cells,), potential=double_well)
    matrix, start = given.matrix, given.start
    exact = reference("line", given, lambda: scipy.linalg.expm(t * matrix.toarray()) @ start)
    label, seconds, ps, note, *_ = flow(given, [0.0, t], rxs.Rational())
    peers = []
    for name, asked, method in (
        ("SciPy BDF", 10, peer.bdf),
        ("SciPy LSODA, banded", 10, peer.lsoda),
        ("SciPy odeint, banded", None, peer.odeint),
    ):
        run = lambda rtol, f=method: f(matrix, start, [t], rtol)
        peers.append((name, asked, peer.tuned(f"line {cells} {name}", run, exact, target)))
    peers.append(("fplanck", 3000, foreign("fplanck", given, t)))
    return rows_of(f"{cells} cells, t=10, 1e-9", [(label, seconds, peer.l1(ps, exact), note)], peers)


def late(fast):
    shape, t = ((48, 48) if fast else (128, 128)), 1e5
    given = problem(shape)
    gibbs = np.exp(-(given.energies() - given.energies().min()) / given.kT).ravel()
    exact = peer.late(given.matrix, gibbs, given.start, t)
    label, seconds, ps, note, *_ = flow(given, [0.0, t], rxs.ShiftInvert())
    p, bdf = peer.timed(lambda: peer.bdf(given.matrix, given.start, [t], 1e-6))
    peers = [("SciPy BDF", 12, (bdf, peer.l1(p, exact), "rtol 1e-06, as asked"))]
    return rows_of(f"{shape[0]}^2, t=1e5, 1e-8", [(label, seconds, peer.l1(ps, exact), note)], peers)


def cube(fast):
    shape = (16,) * 3 if fast else (48,) * 3
    given = problem(shape)
    exact, expm = peer.timed(lambda: sla.expm_multiply(given.matrix, given.start))
    label, seconds, ps, note, *_ = flow(given, [0.0, 1.0], rxs.Strang())
    peers = [("SciPy expm_multiply", 8, (expm, "reference", "no tolerance to set"))]
    return rows_of(f"{shape[0]}^3, t=1, 1e-5", [(label, seconds, peer.l1(ps, exact), note)], peers)


def passage(fast):
    shape, many = ((32, 32), 4) if fast else ((256, 256), 32)
    given = problem(shape)
    mask = jnp.sum((given.grid.points - jnp.array([1.0, -0.25])) ** 2, axis=-1) < 0.09
    keep = ~np.asarray(mask).ravel()
    times = lambda kT: rxs.mean_first_passage_time(given.generator(kT), mask)
    error = lambda tau, exact: float(np.max(np.abs(np.asarray(tau).reshape(exact.shape) / exact - 1)))

    seconds, tau, note = ours(times, given.kT)
    exact = reference("passage", given, lambda: peer.refined_passage(given.matrix, keep))
    scipy_tau, scipy_seconds = peer.timed(lambda: peer.passage(given.matrix, keep))
    rows = rows_of(
        f"passage time {shape[0]}^2, 1e-8 relative",
        [("rxjax mean_first_passage_time", seconds, error(np.asarray(tau).ravel()[keep], exact), note)],
        [("SciPy spsolve", 1.5, (scipy_seconds, error(scipy_tau, exact), "factor and solve"))],
    )

    kTs = jnp.linspace(0.08, 0.2, many)
    matrices = [sparse_matrix(given.generator(kT), shape) for kT in kTs]
    exact = reference(
        "passages", given._replace(start=np.asarray(kTs)), lambda: [peer.refined_passage(m, keep) for m in matrices]
    )
    seconds, tau, note = ours(lambda kTs: jax.lax.map(times, kTs), kTs)
    found, scipy_seconds = peer.timed(lambda: np.array([peer.passage(m, keep) for m in matrices]))
    mine = ("rxjax lax.map", seconds, error(np.asarray(tau).reshape(many, -1)[:, keep], exact), note)
    loop = (scipy_seconds, error(found, exact), "one after the other")
    return rows + rows_of(f"the same at {many} temperatures", [mine], [("SciPy spsolve, loop", 5, loop)])


def sweep(fast):
    side, cells, t, target = (4 if fast else 32), 256, 10.0, 1e-6
    given = problem((cells,), potential=double_well)
    # kT = (eta/2) C/B with C = 160.
    kTs = (80 * jnp.linspace(0.005, 0.02, side)[:, None] / jnp.geomspace(1, 8, side)[None]).ravel()
    run = lambda kT: rxs.solve(given.generator(kT), given.p0, jnp.array([0.0, t]), method=rxs.Rational())
    seconds, solution, note = ours(jax.vmap(run), kTs)
    matrices = [sparse_matrix(given.generator(kT), (cells,)) for kT in kTs]
    expm = lambda: [scipy.linalg.expm(t * m.toarray()) @ given.start for m in matrices]
    exact = reference("sweep", given._replace(start=np.asarray(kTs)), expm)
    loop = lambda rtol: np.concatenate([peer.bdf(m, given.start, [t], rtol) for m in matrices])
    mine = (f"rxjax vmap, {solution.method}()", seconds, peer.l1(given.flat(solution.ps[:, -1]), exact), note)
    found = peer.tuned(f"sweep {side} BDF", loop, exact, target, show="rtol {:.0e}, all points")
    return rows_of(f"{cells} cells, t=10, {side}x{side} (eta, B), 1e-6", [mine], [("SciPy BDF, loop", 50, found)])


JOBS = dict(
    plane=plane,
    many=many,
    box=box,
    line=line,
    late=late,
    cube=cube,
    passage=passage,
    sweep=sweep,
    gradients=gradients,
    growth=growth,
    bandwidth=bandwidth,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=JOBS, nargs="+")
    parser.add_argument("--fast", action="store_true", help="small sizes, to see that it runs; writes nothing")
    options = parser.parse_args()
    known = json.loads(ROWS.read_text()) if ROWS.exists() and not options.fast else {}
    for name in options.only or JOBS:
        known[name] = []
        for row in JOBS[name](options.fast):
            known[name].append(row)
            if not options.fast:
                ROWS.write_text(json.dumps(known, indent=1) + "\n")
    rows = [row for name in JOBS for row in known.get(name, [])]
    text = "# The solvers: seconds at equal error\n\n" + (__doc__ or "").split("\n\n", 1)[1] + "\n"
    text += table(HEADER, rows)
    if options.fast:
        print(text)
    else:
        write("solvers.md", text)


if __name__ == "__main__":
    main()
