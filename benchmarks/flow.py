"""The first flow: Strang splitting against SciPy on the same generator, at equal error.  Writes flow.md beside it.

`L = (x^2-1)^2 + 2 y^2 + x y/2` on [-2,2]^2, kT = .1, from a Gaussian of std .2 at (-1, 0), t = 5, float64.  Every peer
is tuned: the loosest tolerance, or the fewest steps, that reach an L1 error of 1e-6.  Ours runs with default options,
in turns with SDIRK2, and gradients in turns with forward solves.
"""

from _bench import in_turns, one_core, table, write

one_core()

import argparse  # noqa: E402
import time  # noqa: E402
from functools import partial  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import scipy.integrate  # noqa: E402
import scipy.sparse as sp  # noqa: E402
import scipy.sparse.linalg as sla  # noqa: E402
import solver_peers  # noqa: E402

import rxjax as rx  # noqa: E402

jax.config.update("jax_enable_x64", True)
TARGET = 1e-6
KT, END = 0.1, 5.0


def loss(a, theta):
    x, y = theta[0], theta[1]
    value = (x**2 - 1) ** 2 + 2 * y**2 + a * x * y / 2
    return value + 2 * theta[2] ** 2 if theta.shape[0] == 3 else value


def make(shape):
    grid = rx.solvers.Grid(-2.0, 2.0, shape)
    p0 = grid.gaussian(jnp.array([-1.0] + [0.0] * (len(shape) - 1)), 0.2)
    return grid, p0


def flow(shape, t=END):
    grid, p0 = make(shape)

    def final(kT, a):
        generator = rx.solvers.FokkerPlanck.from_potential(lambda theta: loss(a, theta), grid, kT)
        return rx.solvers.solve(generator, p0, jnp.array([0.0, t]))

    return grid, p0, final


def sparse_matrix(generator, shape):
    """The generator's own rates as a SciPy matrix."""
    size = int(np.prod(shape))
    index = np.arange(size).reshape(shape)
    rows, columns, values = [], [], []
    for axis, rates in enumerate(generator.rates):
        up, down = (np.moveaxis(np.asarray(r), 0, axis) for r in (rates.up, rates.down))
        for rate, shift in ((up, 1), (down, -1)):
            source, target = index[rate > 0], np.roll(index, -shift, axis=axis)[rate > 0]
            rate = rate[rate > 0]
            rows += [target, source]
            columns += [source, source]
            values += [rate, -rate]
    parts = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sp.csc_matrix(parts, shape=(size, size))


def timed(f):
    start = time.perf_counter()
    out = f()
    return out, time.perf_counter() - start


def bdf(matrix, p0, error, t=END):
    for rtol in 10 ** np.arange(-2, -8, -0.5):
        out, seconds = timed(
            lambda rtol=rtol: scipy.integrate.solve_ivp(
                lambda _, p: matrix @ p, (0, t), p0, method="BDF", rtol=rtol, atol=rtol * 1e-3, jac=lambda *_: matrix
            )
        )
        if error(out.y[:, -1]) <= TARGET:
            return seconds, error(out.y[:, -1]), f"rtol {rtol:.0e}, {out.nlu} factorisations"
    raise RuntimeError("BDF did not reach the target")


def sdirk2(matrix, p0, error, t=END):
    for steps in range(4, 81):
        program = partial(solver_peers.sdirk2, matrix, p0, t, steps)
        p, seconds = timed(program)
        if error(p) <= TARGET:
            return seconds, error(p), f"{steps} steps", program
    raise RuntimeError("SDIRK2 did not reach the target")


def case(shape, peers, t=END):
    grid, p0, final = flow(shape, t)
    compiled = jax.jit(final)
    solution, first = timed(lambda: jax.block_until_ready(compiled(KT, 1.0)))
    run = lambda: compiled(KT, 1.0)
    (ours,) = in_turns([run], 9)
    generator = rx.solvers.FokkerPlanck.from_potential(lambda theta: loss(1.0, theta), grid, KT)
    matrix = sparse_matrix(generator, shape)
    start = np.asarray(p0).ravel() * float(grid.cell_volume)
    exact, expm = timed(lambda: sla.expm_multiply(matrix * t, start))
    error = lambda p: float(np.abs(p - exact).sum())
    name = "x".join(map(str, shape))
    mine = error(np.asarray(solution.ps[-1]).ravel() * float(grid.cell_volume))
    steps = int(solution.stats["num_steps"])
    others = []
    for label, peer in peers:
        seconds, peer_error, note, *program = peer(matrix, start, error, t)
        if program:
            ours, seconds = in_turns([run, *program], 9)
        others.append((label, seconds, peer_error, note))
    note = f"{steps} steps, compile {first:.1f} s"
    rows = [[name, "rxjax, default options", f"{ours:.3f}", f"{mine:.1e}", "1", note]]
    for label, seconds, peer_error, note in others:
        rows.append([name, label, f"{seconds:.3f}", f"{peer_error:.1e}", f"{seconds / ours:.1f}", note])
    rows.append([name, "SciPy expm_multiply", f"{expm:.3f}", "reference", f"{expm / ours:.1f}", "no tolerance to set"])
    return rows


def gradient_rows(shape, t=END):
    grid, _, final = flow(shape, t)
    weight = grid.points[..., 0]

    def scalar(kT, a):
        return grid.integrate(final(kT, a).ps[-1] * weight)

    forward, both = jax.jit(scalar), jax.jit(jax.value_and_grad(scalar, argnums=(0, 1)))
    for f in (forward, both):
        jax.block_until_ready(f(KT, 1.0))
    one, two = in_turns([lambda: forward(KT, 1.0), lambda: both(KT, 1.0)], 7)
    return ["x".join(map(str, shape)), f"{one:.3f}", f"{two:.3f}", f"{two / one:.2f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="small sizes, to see that it runs")
    fast = parser.parse_args().fast
    strong = [("SciPy splu + SDIRK2", sdirk2)]
    everyone = [("SciPy BDF, sparse Jacobian", bdf), *strong]
    shapes = [((32, 32), everyone)] if fast else [((256, 256), everyone), ((128, 128), everyone), ((48, 48, 48), [])]
    rows = [row for shape, peers in shapes for row in case(shape, peers)]
    text = "# A density over a double well: seconds at equal error\n\n" + (__doc__ or "").split("\n\n", 1)[1] + "\n"
    text += table(["cells", "method", "seconds", "L1 error", "ratio", "note"], rows)
    text += "\n\nReverse-mode gradient (value included) of a scalar of the last density in kT and the drift:\n\n"
    grads = [gradient_rows(shape) for shape, _ in shapes]
    text += table(["cells", "forward s", "value and gradient s", "ratio"], grads)
    if fast:
        print(text)
    else:
        write("flow.md", text)


if __name__ == "__main__":
    main()
