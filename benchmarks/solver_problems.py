"""What the jobs of the solver benchmark share: problems, references, our own timing, rows."""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from _bench import median_seconds
from flow import loss, sparse_matrix
from solver_peers import MEMORY

import rxjax as rx

rxs = rx.solvers
HERE = Path(__file__).parent
HEADER = ["job", "method", "seconds", "L1 error", "over ours", "asked", "met", "note"]


class Problem(NamedTuple):
    """A potential with a parameter `a` on a grid, a start, and the generator's rates as a sparse matrix."""

    grid: Any
    p0: Any
    potential: Callable
    kT: float
    matrix: sp.csc_matrix
    start: np.ndarray

    def generator(self, kT, a=1.0):
        return rxs.FokkerPlanck.from_potential(lambda theta: self.potential(a, theta), self.grid, kT)

    def flat(self, ps):
        """Mass in each cell, one row for each time."""
        return np.asarray(ps).reshape(-1, self.grid.size) * float(self.grid.cell_volume)

    def energies(self):
        points = self.grid.points.reshape(-1, self.grid.dim)
        return np.asarray(jax.vmap(lambda x: self.potential(1.0, x))(points)).reshape(self.grid.shape)


def problem(shape, kT=0.1, potential=loss, half=2.0):
    grid = rxs.Grid(-half, half, shape)
    p0 = grid.gaussian(jnp.array([-1.0] + [0.0] * (len(shape) - 1)), 0.2)
    empty = Problem(grid, p0, potential, kT, sp.csc_matrix((1, 1)), np.zeros(1))
    return empty._replace(matrix=sparse_matrix(empty.generator(kT), shape), start=empty.flat(p0)[0])


def double_well(a, x):
    return (x[0] ** 2 - 1) ** 2 + (a - 1) * x[0]


def box_well(a, x):
    return (x[0] ** 2 - 1) ** 2 + a * x[1] ** 2


def reference(name, given: Problem, compute):
    """The result of a slow and accurate computation, kept between runs for as long as the rates and the start stay."""
    digest = hashlib.sha256(given.matrix.data.tobytes() + given.start.tobytes()).hexdigest()[:16]
    path = MEMORY / f"{name}-{digest}.npy"
    if not path.exists():
        MEMORY.mkdir(parents=True, exist_ok=True)
        np.save(path, compute())
    return np.load(path)


def ours(f, *args):
    """Median seconds of a function, which is compiled if it is not yet, its value, and the seconds to compile."""
    compiled = f if hasattr(f, "lower") else jax.jit(f)
    run = lambda: jax.block_until_ready(compiled(*args))
    begin = time.perf_counter()
    value = run()
    first = time.perf_counter() - begin
    once = median_seconds(run, 1)
    return median_seconds(run, 3 if once > 2 else 5 if once > 0.1 else 25), value, f"compile {first:.0f} s"


def foreign(name, given: Problem, t, **more):
    """(seconds, error, note) of a peer in its own environment, or the reason why there is none."""
    python = HERE.parent / ".venv" / "peers" / "bin" / "python"
    if not python.exists():
        return f"not run: {name} has an environment of its own, made by `sh benchmarks/setup_peers`"
    span = float(given.grid.upper[0] - given.grid.lower[0])
    arrays = dict(potential=given.energies(), start=given.start.reshape(given.grid.shape), kT=given.kT, span=span, t=t)
    path = MEMORY / f"{name}-{'x'.join(map(str, given.grid.shape))}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays, **more)
    environment = os.environ | {"FIPY_SOLVERS": "scipy", "NUMBA_NUM_THREADS": "1"}
    command = [str(python), str(HERE / "solver_foreign.py"), name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return "not run: " + (done.stderr.strip().splitlines() or ["no word of why"])[-1][:150]
    found = json.loads(done.stdout.splitlines()[-1])
    return found["reason"] if "reason" in found else (found["seconds"], found["error"], found["note"])


def rows_of(job, mine, peers):
    """The rows of a job, ratios over the first of ours.

    `mine`: (label, seconds, error, note); `peers`: (label, factor asked or None, (seconds, error, note) or a reason).
    """
    rows = [[job, label, f"{s:.4g}", _shown(e), f"{s / mine[0][1]:.3g}", "", "", note] for label, s, e, note in mine]
    for label, asked, found in peers:
        wish = "" if asked is None else f">= {asked:g}"
        if found is None or isinstance(found, str):
            rows.append([job, label, "-", "-", "-", wish, "-", found or "did not reach the error"])
            continue
        ratio = found[0] / mine[0][1]
        met = "" if asked is None else "yes" if ratio >= asked else "no"
        rows.append([job, label, f"{found[0]:.4g}", _shown(found[1]), f"{ratio:.3g}", wish, met, found[2]])
    return rows


def _shown(error):
    return error if isinstance(error, str) else f"{error:.1e}"


def at_most(job, method, seconds, value, asked, note):
    """A row whose figure has an upper bound."""
    return [job, method, seconds, "-", f"{value:.3g}", f"<= {asked:g}", "yes" if value <= asked else "no", note]
