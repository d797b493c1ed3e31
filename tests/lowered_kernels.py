"""Run by the tests in a process of its own, without run-time checks: the kernels, lowered for GPU and TPU."""

import re
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import quick

import rxjax as rx
from rxjax import landscapes, measure, optim, planes, quantization, solvers

quick.freeze()


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
    jump = rx.jump_rate(well, x, rx.proposals.Gaussian(0.2), law=rx.Symmetric())
    jumps = solvers.MasterEquation.from_rates(jump, GRID, 0.6)
    out.append(solvers.uniformization(jumps, p0, ts)[0])
    factors = (lambda theta: well(theta) / x, lambda delta: -jnp.sum(delta**2), lambda theta: -well(theta) / x)
    fourier = solvers.MasterEquation.from_rates(solvers.SeparableRate(*factors), GRID, 0.6, fft=True)
    out.append(fourier.apply(p0))
    curved = lambda theta: x * (1 + theta[0] ** 2)
    for convention in (solvers.Ito(), solvers.Stratonovich(), solvers.AntiIto()):
        out.append(solvers.FokkerPlanck(lambda theta: -theta, curved, grid(16), convention).apply(p0))
    tensor = solvers.FokkerPlanck(lambda theta: -theta, x * jnp.array([[1.0, 0.3], [0.3, 1.0]]), grid(6, 6))
    out.append(tensor.apply(jnp.ones((6, 6))))
    return out


def in_complex_numbers(x):
    """What refuses a TPU in one sentence, and lowers for GPU alone."""
    W = potential(x, 16)
    return solvers.solve(W, W.grid.gaussian(0.5, 0.4), jnp.array([0.0, 0.1]), method=solvers.Rational()).ps


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
    out.append(solvers.stationary(matrix, factor=solvers.deflate(matrix), throw=False)[0])
    # Multigrid by stencils, with conjugate gradients; and by edges, without a potential, with GMRES.
    plane = potential(x, 12, 12)
    for W in (plane, solvers.FokkerPlanck(lambda theta: -theta[::-1], x, plane.grid)):
        factor = solvers.factorize(W, target=right, method=solvers.Iteration())
        out.append(factor.transpose_solve(jnp.ones((12, 12))))
    factor = solvers.factorize(plane, shift=1.0, method=solvers.Elimination())
    return [*out, factor.solve(jnp.ones((12, 12)))]


def particles(x):
    """Langevin paths, exit times, jump processes and SGD."""
    key, ts = jax.random.key(0), jnp.array([0.0, 0.5])
    slope = solvers.NegativeGradient(well)
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
    out = [rx.rate_density(g, u, x), rx.log_rate_density(g, u, x), rx.update_angle(g, u), rx.activation_energy(g, u)]
    out += [rx.energy_difference(well, g, u), rx.attempt_frequency(x), rx.batch_modified_rate(x, 4.0, 64.0)]
    out += [rx.quantized_rate(x, 0.5), rx.adam_temperature(x, g**2), rx.total_rate(g, x, rx.proposals.Gaussian(0.1))]
    for law in (rx.Arrhenius(), rx.Symmetric(), rx.Metropolis(), rx.Glauber()):
        out.append(rx.jump_rate(well, x, rx.proposals.Gaussian(0.1), law=law)(g, u))
    for proposal in (rx.proposals.Gaussian(0.1), rx.proposals.Box(0.1), rx.proposals.Ball(0.1)):
        out += [rx.flow_field(g, x, proposal), rx.log_total_rate(g, x, proposal)]
    plane = grid(8, 8)
    stencil = jnp.array([[0.1, 0.0], [0.0, 0.1]])
    out += [rx.rate_on_grid(well, plane, stencil, x), rx.total_rate_on_grid(well, plane, stencil, x)]
    out += [rx.flow_on_grid(well, plane, stencil, x).flow, rx.noise_scale(x, 64.0, 4.0)]
    out += [rx.effective_temperature(x, covariance=g**2), rx.batch_covariance(g**2, run)]
    hessian = jnp.eye(2) + x
    out += [rx.gaussian_entropy(hessian, x), rx.optimal_learning_rate(g, hessian, jnp.eye(2))]
    out += [rx.critical_learning_rate(x), rx.transition_probability(x, 0.1), rx.batch_sharpness(g[None], u[None])]
    out += [rx.sgd_critical_learning_rate(4.0, x), rx.sgd_stationary_covariance(hessian, jnp.eye(2), 0.1)]
    out += [rx.expected_decrease(x, g, hessian, jnp.eye(2)), rx.maximal_learning_rate(g, hessian)]
    out += [rx.noise_batch_size(g, hessian, jnp.eye(2)), rx.optimal_rate_at_batch(1.0, 2.0, x)]
    sgd = rx.SGDProposal(g, jnp.eye(2) * x)
    best = rx.optimal_learning_rate_integral(well, g, sgd, (1e-3, 1.0), key=jax.random.key(0), num_samples=8)
    out.append(best.learning_rate)
    out += [
        rx.free_entropy(well, g, x, 1.0, order=4),
        rx.fit_rate_scaling(jnp.array([0.1, 0.2, 0.4]), x * jnp.array([1.0, 2.0, 3.0])),
    ]
    out += [rx.escape_time(1.0, x), rx.log_escape_time(1.0, x), rx.kramers_time(landscapes.DoubleWell(), -1.0, 0.0, x)]
    out += [rx.log_kramers_time(landscapes.DoubleWell(), -1.0, 0.0, x)]
    for noise in (rx.ConstantNoise(2.0), rx.CurvatureNoise(), rx.SquareLossNoise()):
        out.append(rx.sgd_escape_time(landscapes.DoubleWell(), -1.0, 0.0, run, noise).log_time)
    flow = rx.probability_flow(well, run, 2.0, plane, plane.gaussian(0.5, 0.4), jnp.array([0.0, 0.1]), throw=False)
    return [*out, flow.ps, flow.loss]


def rounding(x):
    w = jnp.linspace(0.5, 1.5, 32) * x
    out = []
    for name in ("bfloat16", "float8_e4m3fn", "float16"):
        out += [quantization.survival(w, 0.001 * w, name), quantization.nearest_round(w, name).astype(jnp.float32)]
        out.append(quantization.stochastic_round(w, name, jax.random.key(0)).astype(jnp.float32))
    out += [quantization.spacing(w, "bfloat16"), quantization.report({"w": w}, {"w": 0.001 * w}, "bfloat16")]
    return [*out, quantization.dithered_step(0.1 * x, w), quantization.rounding_diffusion(0.1 * x, w)]


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
        landscapes.GaussianWells(jnp.eye(2), jnp.ones(2), 0.5, 0.1),
        landscapes.RandomField(jax.random.key(0), num_features=8),
        landscapes.as_landscape(well, dim=2),
    )
    values = landscapes.require_finite_values(landscapes.evaluate(all_of_them[0], theta[None]))
    return [values, *(jax.value_and_grad(f)(theta) for f in all_of_them)]


def minima(x):
    """Minima of a landscape, what is fitted to them, and hopping between them."""
    surface = landscapes.DoubleWell(x, dim=2)
    found = rx.find_minima(surface, starts=4, max_minima=2, max_steps=4)
    network = rx.minima_network(surface, TWO_WELLS, BETWEEN, x)
    density = rx.minima_density(x * jnp.arange(4.0), bins=2, limits=(0.0, 2.0))
    fit = rx.fit_barrier_distribution(x * jnp.arange(1.0, 6.0), samples=8)
    return found.points, network.outflow(), density.density, fit.p_value, rx.expected_minima_density(x)


def a_loss(params, batch):
    inputs, targets = batch
    return jnp.mean((jnp.tanh(jnp.matmul(inputs, params["a"])) @ params["b"] - targets) ** 2)


def network(x):
    """Parameters of a small network, its data, and a third axis of batches over them."""
    params = {"a": x * jnp.ones((2, 3)), "b": jnp.ones(3)}
    data = jnp.linspace(-1.0, 1.0, 16).reshape(8, 2), jnp.linspace(0.0, 1.0, 8)
    return params, data, jax.tree.map(lambda v: v.reshape(2, 4, *v.shape[1:]), data)


def measurements(x):
    """Everything that is measured on a network."""
    params, data, batches = network(x)
    other, run = jax.tree.map(lambda p: -p, params), rx.Hyperparameters(x, 2.0, 8.0)
    drawn = {"sampling": "without_replacement", "dataset_size": 8, "rank": 1, "diagonal": True}
    return (
        measure.gradient_noise(a_loss, params, data, directions=[other], chunk_size=4, **drawn),
        measure.gradient_noise(a_loss, params, data, route="micro_batches", micro_batch_size=2, **drawn),
        measure.critical_batch_size(a_loss, params, data),
        measure.noise_from_two_batches(x, x / 2, 2, 8).trace,
        measure.lambda_max(a_loss, params, data, steps=3),
        measure.spectrum(a_loss, params, data, 2, steps=3, vectors=True),
        measure.trace(a_loss, params, data, probes=2),
        measure.local_entropy(a_loss, params, data, x, 1.0, probes=2, steps=3),
        measure.batch_sharpness(a_loss, params, batches),
        measure.fluctuation_dissipation(jnp.arange(8.0), jnp.ones(8), x, blocks=2),
        measure.optimal_learning_rate(a_loss, params, data, 2, micro_batch_size=2),
        measure.barrier_between(a_loss, params, other, data, images=4, steps=2, throw=False)[0],
        measure.report(a_loss, params, data, run, micro_batches=4, lanczos_steps=3, probes=2),
    )


def on_planes(x):
    """Planes through a network, what is measured on them, and real SGD projected there."""
    params, data, _ = network(x)
    single = lambda p, example: a_loss(p, jax.tree.map(lambda v: v[None], example))
    path = jax.tree.map(lambda p: jnp.stack([p, 2 * p, -p]), params)
    axes = planes.orthonormal(landscapes.random_directions(jax.random.key(0), params))
    surface = landscapes.plane(lambda p: a_loss(p, data), params, axes)
    through = landscapes.plane_through(lambda p: a_loss(p, data), params, {"a": -params["a"], "b": params["b"]})
    runs = planes.sgd_on_plane(surface, single, data, params, RUN, 3, jax.random.key(0), runs=4)
    field = grid(8, 8)
    return (
        surface(x * jnp.ones(2)),
        through(x * jnp.ones(1)),
        planes.principal_directions(path),
        planes.measure_plane(surface, single, data, shape=3).sigma1,
        runs,
        planes.exit_time(runs, lambda at: at[0] < 0.1),
        planes.first_reached(runs, lambda at: at[0] < -1, lambda at: at[0] > 1),
        planes.density_distance(field.gaussian(0.0, 1.0), field, runs.coordinates[-1], draws=4),
    )


def training(x):
    """The monitor with everything that it measures, schedules and rules; the optimizers are lowered in the battery."""
    params, data, _ = network(x)
    monitor, optimizer = rx.Monitor(2, dataset_size=8, every=2, lanczos_steps=3, path_points=3), optax.sgd(0.1)
    value, grads = jax.value_and_grad(a_loss)(params, data)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    given = {"params": params, "grads": grads, "updates": updates, "loss": value, "opt_state": state}
    out: list = [monitor.update(monitor.init(params), loss_fn=a_loss, batch=data, learning_rate=0.1, **given)]
    stack = jax.tree.map(lambda g: jnp.stack([g, 2 * g]), grads)
    out.append(monitor.update(monitor.init(params), micro_grads=stack, **given))
    for schedule in (optim.linear_temperature, optim.cosine_temperature, optim.geometric_temperature):
        out.append(schedule(1.0, 0.1, 10)(x))
    out.append(optim.constant_entropy_production(1.0, 0.1, 10, points=5)(x))
    return [*out, optim.annealed_accumulation(x, 8), optim.noise_scale_batch(x, 0.5), optim.norm_test_batch(x, 2.0)]


# Found on the host, as a user finds them.
TWO_WELLS = rx.find_minima(landscapes.DoubleWell(0.5, dim=2), starts=8)
RUN = rx.Hyperparameters(0.1, 2.0, 8.0)
BETWEEN = rx.find_barriers(landscapes.DoubleWell(0.5, dim=2), TWO_WELLS, method="band", images=5, steps=20)
KERNELS: list[Callable] = [stepping, passage, particles, rates, rounding, surfaces, minima, measurements, on_planes]
KERNELS += [training, in_complex_numbers]
# A type of 64 bits in StableHLO: shapes end in "x" before it.
DOUBLE = re.compile(r"[<x](?:f64|complex<f64>)>")

for kernels in KERNELS:
    platforms = ("cuda",) if kernels is in_complex_numbers else ("cuda", "tpu")
    with solvers.checks_off():
        lowered = jax.jit(kernels).trace(jnp.float32(0.5)).lower(lowering_platforms=platforms)
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
