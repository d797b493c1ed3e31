"""Run by the tests in a process of its own, without run-time checks: the kernels, lowered for GPU and TPU."""

import re
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp

import rxjax as rx
from rxjax import landscapes, quantization, solvers


def well(theta):
    return (theta[0] ** 2 - 1) ** 2 + jnp.sum(theta[1:] ** 2)


GRID = solvers.Grid(-2.0, 2.0, 16)


def grid(*shape):
    return solvers.Grid(-2.0, 2.0, shape)


def potential(kT, *shape):
    return solvers.FokkerPlanck.from_potential(well, grid(*shape), kT)


def stepping(x):
    """Splitting in one to three dimensions, whole-interval methods, a time-dependent drift, long jumps, edges."""
    ts = jnp.array([0.0, 0.1])
    out = []
    for shape in ((16,), (8, 8), (6, 6, 6)):
        W = potential(x, *shape)
        p0 = W.grid.gaussian(0.5, 0.4)
        out.append(solvers.solve(W, p0, ts, method=solvers.Strang(), throw=False).ps)
    W = potential(x, 16)
    p0 = W.grid.gaussian(0.5, 0.4)
    for method in (solvers.ShiftInvert(), solvers.Uniformization()):
        out.append(solvers.solve(W, p0, ts, method=method, throw=False).ps)
    moving = solvers.FokkerPlanck(solvers.TimeDependent(lambda t, theta: -theta * t), x, grid(16))
    out.append(solvers.solve(moving, p0, ts, method=solvers.Strang(), throw=False).ps)
    jumps = solvers.MasterEquation.from_rates(lambda theta, delta: jnp.exp(-well(theta + delta) / x), GRID, 0.6)
    out.append(solvers.solve(jumps, p0, ts, method=solvers.Uniformization(), throw=False).ps)
    tensor = solvers.FokkerPlanck(lambda theta: -theta, x * jnp.array([[1.0, 0.3], [0.3, 1.0]]), grid(6, 6))
    out.append(tensor.apply(jnp.ones((6, 6))))
    return out


def passage(x):
    """Laws, passage times, committors and currents, by sweeps, dissection and full inverses."""
    left, right = (lambda theta: theta[0] <= -1), (lambda theta: theta[0] >= 1)
    out = []
    for shape in ((16,), (8, 8)):
        W = potential(x, *shape)
        law = solvers.stationary(W, throw=False)[0]
        out += [law, *solvers.probability_current(W, law), solvers.entropy_production(W, law)]
        out.append(solvers.mean_first_passage_time(W, right, throw=False)[0])
    W = potential(x, 16)
    out.append(solvers.first_passage_variance(W, right, throw=False)[0])
    out.append(solvers.committor(W, left, right, throw=False)[0])
    out.append(solvers.reactive_flux(W, left, right, throw=False)[0])
    out.append(solvers.transition_rate(W, left, right, throw=False)[0])
    out.append(solvers.spectrum(W, 3, throw=False)[0])
    exits = solvers.FokkerPlanck(lambda theta: -theta, x, solvers.Grid(-2.0, 2.0, 16, boundary="absorbing"))
    out.append(solvers.quasi_stationary(exits, throw=False)[0])
    matrix = solvers.MasterEquation.from_matrix(x * jnp.array([[-1.0, 2.0], [1.0, -2.0]]))
    out.append(solvers.stationary(matrix, throw=False)[0])
    return out


def particles(x):
    """Langevin paths, exit times, jump processes and SGD."""
    key, ts = jax.random.key(0), jnp.array([0.0, 0.5])
    slope = lambda theta: -jax.grad(well)(theta)
    out = [solvers.langevin(slope, x, jnp.zeros((4, 2)), ts, key, dt=0.1).xs]
    level = lambda theta: 1 - theta[0]
    exits = solvers.sample_exit_times(slope, x, level, jnp.zeros((4, 2)), key, dt=0.1, max_time=1.0)
    ring = solvers.MasterEquation.from_edges([0, 1, 2], [1, 2, 0], x * jnp.ones(3), size=3)
    out += [exits.times, solvers.gillespie(ring, jnp.zeros(4, jnp.int32), ts, key).jumps]
    runs = solvers.sgd_ensemble(well, jnp.zeros((4, 2)), 3, key, learning_rate=x, noise=lambda theta, key: jnp.ones(2))
    return [*out, runs.thetas]


def rates(x):
    """Rates, rate laws, flow fields and temperatures, at points and over grids."""
    g, u = jnp.array([0.3, -0.2]), x * jnp.array([0.1, 0.2])
    run = rx.Hyperparameters(x, 4.0, 64.0, sampling="without_replacement")
    out = [rx.rate_density(g, u, x), rx.log_rate_density(g, u, x), rx.update_angle(g, u)]
    for proposal in (rx.proposals.Gaussian(0.1), rx.proposals.Box(0.1), rx.proposals.Ball(0.1)):
        out += [rx.flow_field(g, x, proposal), rx.log_total_rate(g, x, proposal)]
    plane, stencil = grid(8, 8), jnp.array([[0.1, 0.0], [0.0, 0.1]])
    out += [rx.rate_on_grid(well, plane, stencil, x), rx.total_rate_on_grid(well, plane, stencil, x)]
    out += [rx.flow_on_grid(well, plane, stencil, x).flow, rx.noise_scale(x, 64.0, 4.0)]
    out += [rx.effective_temperature(x, covariance=g**2), rx.batch_covariance(g**2, run)]
    hessian = jnp.eye(2) + x
    out += [rx.gaussian_entropy(hessian, x), rx.optimal_learning_rate(g, hessian, jnp.eye(2))]
    out += [rx.critical_learning_rate(x), rx.transition_probability(x, 0.1)]
    out += [rx.log_kramers_time(landscapes.DoubleWell(), -1.0, 0.0, x)]
    out += [rx.sgd_escape_time(landscapes.DoubleWell(), -1.0, 0.0, run, rx.ConstantNoise(2.0)).log_time]
    flow = rx.probability_flow(well, run, 2.0, plane, plane.gaussian(0.5, 0.4), jnp.array([0.0, 0.1]), throw=False)
    return [*out, flow.ps, flow.loss]


def rounding(x):
    w = jnp.linspace(0.5, 1.5, 32) * x
    out = []
    for name in ("bfloat16", "float8_e4m3fn", "float16"):
        out += [quantization.survival(w, 0.001 * w, name), quantization.nearest_round(w, name).astype(jnp.float32)]
        out.append(quantization.stochastic_round(w, name, jax.random.key(0)).astype(jnp.float32))
    return out


def surfaces(x):
    theta = x * jnp.ones(2)
    all_of_them = (
        landscapes.DoubleWell(dim=2),
        landscapes.MullerBrown(),
        landscapes.Himmelblau(),
        landscapes.StyblinskiTang(2),
        landscapes.Rastrigin(2),
        landscapes.Rosenbrock(2),
        landscapes.Quadratic(jnp.eye(2)),
    )
    return [jax.value_and_grad(f)(theta) for f in all_of_them]


KERNELS: list[Callable] = [stepping, passage, particles, rates, rounding, surfaces]
# A type of 64 bits in StableHLO: shapes end in "x" before it.
DOUBLE = re.compile(r"[<x](?:f64|complex<f64>)>")

for kernels in KERNELS:
    with solvers.checks_off():
        lowered = jax.jit(kernels).trace(jnp.float32(0.5)).lower(lowering_platforms=("cuda", "tpu"))
    text = lowered.as_text()
    doubles = [line for line in text.splitlines() if DOUBLE.search(line)]
    assert not doubles, (kernels.__name__, doubles[:3])
    assert "stablehlo" in text
    print(kernels.__name__)
# The check itself: a callback does not lower for a device that is not there, and doubles are seen.
asking = jax.jit(lambda x: jax.pure_callback(lambda x: x, x, x)).trace(jnp.float32(1))
try:
    asking.lower(lowering_platforms=("cuda", "tpu"))
except NotImplementedError:
    print("callback refused")
with jax.enable_x64(True):
    assert DOUBLE.search(jax.jit(lambda x: x + 1).lower(jnp.ones(3)).as_text())
sys.stdout.flush()
