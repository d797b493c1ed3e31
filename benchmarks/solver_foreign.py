"""Peers with an environment of their own: fplanck, FiPy, py-pde.  Prints seconds and errors as JSON.

Usage: `python solver_foreign.py NAME PROBLEM.npz` with the Python of `.venv/peers`, made by `benchmarks/setup_peers`.
"""

import json
import sys
import time

import numpy as np
from solver_peers import l1, shift_invert, timed


def fplanck_run(given):
    """Its own rates for the same potential; the error is that in time, against another method on its matrix."""
    from fplanck.solver import FokkerPlanck  # pyright: ignore[reportMissingImports]
    from scipy import constants

    shape, span, t = given["potential"].shape, float(given["span"]), float(given["t"])
    options = dict(temperature=float(given["kT"]) / constants.k, drag=1.0, resolution=[span / n for n in shape])
    start = time.perf_counter()
    peer = FokkerPlanck(extent=[span] * len(shape), potential=lambda *_: given["potential"], **options)
    built = time.perf_counter() - start
    propagate = lambda dense: peer.propagate(lambda *_: given["start"].copy(), t, dense=dense).ravel()
    tries = [
        (*timed(lambda d=dense: propagate(d)), dense) for dense in ((True, False) if len(shape) == 1 else (False,))
    ]
    p, seconds, dense = min(tries, key=lambda r: r[1])
    first = given["start"].ravel() / given["start"].sum()
    exact = shift_invert(peer.master_matrix, first, [t], 60, t / 20)[0]
    note = f"propagate(dense={dense}); its matrix took {built:.2g} s more"
    return dict(seconds=seconds, error=l1(p, exact), note=note)


def fipy_run(given):
    """Implicit Euler with exponential fitting, which is the same generator; as many steps as ours."""
    import fipy  # pyright: ignore[reportMissingImports]
    from fipy.solvers.scipy import LinearGMRESSolver, LinearLUSolver  # pyright: ignore[reportMissingImports]

    (n, m), span, steps = given["potential"].shape, float(given["span"]), int(given["steps"])
    # FiPy's cells run along x first.
    mesh = fipy.Grid2D(nx=n, ny=m, dx=span / n, dy=span / m)
    potential = fipy.CellVariable(mesh=mesh, value=given["potential"].T.ravel())
    term = fipy.DiffusionTerm(float(given["kT"])) - fipy.ExponentialConvectionTerm(-potential.faceGrad)
    first, exact = given["start"].T.ravel(), given["exact"].T.ravel()

    def run(solver, steps=steps):
        p = fipy.CellVariable(mesh=mesh, value=first)
        for _ in range(steps):
            (fipy.TransientTerm() == term).solve(var=p, dt=float(given["t"]) / steps, solver=solver())
        return np.asarray(p.value)

    solvers = dict(LU=LinearLUSolver)
    if "gmres" in given:
        solvers["GMRES"] = lambda: LinearGMRESSolver(tolerance=1e-8, iterations=2000)
    tries = [(*timed(lambda s=solver: run(s)), name) for name, solver in solvers.items()]
    p, seconds, name = min(tries, key=lambda r: r[1])
    return dict(seconds=seconds, error=l1(p, exact), note=f"{steps} steps, first order, {name}")


def pde_run(given):
    """Runge-Kutta with error control on its compiled backend; the error is that in time, on its own stencil."""
    import pde  # pyright: ignore[reportMissingImports]

    shape, half, kT, t = given["potential"].shape, float(given["span"]) / 2, float(given["kT"]), float(given["t"])
    grid = pde.CartesianGrid([[-half, half]] * len(shape), shape)
    potential = pde.ScalarField(grid, given["potential"])
    no_flux = {"derivative": 0}
    slope, curvature = potential.gradient(no_flux), potential.laplace(no_flux)
    options = dict(bc=no_flux, consts=dict(u=slope[0], v=slope[1], w=curvature, D=kT))
    equation = pde.PDE({"p": "D * laplace(p) + u * d_dx(p) + v * d_dy(p) + w * p"}, **options)
    scale = given["start"].sum()

    def run(tolerance):
        state = pde.ScalarField(grid, given["start"] / scale)
        solver = pde.RungeKuttaSolver(equation, adaptive=True, tolerance=tolerance, backend="numba")
        controller = pde.Controller(solver, t_range=t, tracker=None)
        p = np.asarray(controller.run(state, dt=1e-4).data).ravel()
        return p, float(controller.diagnostics["controller"]["profiler"]["solver"])

    exact, _ = run(1e-11)
    for tolerance in (1e-6, 1e-7, 1e-8, 1e-9):
        p, seconds = run(tolerance)
        if l1(p, exact) <= float(given["target"]):
            return dict(seconds=seconds, error=l1(p, exact), note=f"tolerance {tolerance:.0e}, after compilation")
    return dict(reason="did not reach the error")


PEERS = {"fplanck": fplanck_run, "fipy": fipy_run, "pde": pde_run}

if __name__ == "__main__":
    name, path = sys.argv[1:]
    with np.load(path) as given:
        try:
            print(json.dumps(PEERS[name](dict(given))))
        except ModuleNotFoundError as fault:
            print(json.dumps(dict(reason=f"not run: {fault.name} is not installed")))
