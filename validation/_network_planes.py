"""A network's plane: what the measured flow predicts there, and what real SGD does."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _digits_network import FLAT, UNRAVEL, data, example_loss, flat_loss, runs as trained
from jax.flatten_util import ravel_pytree

import rxjax as rx

ETA, BATCH, RUNS, STEPS, CELLS = 0.1, 8, 300, 600, 48
OVERSHOOT = 0.583
FLOW = r"$\partial_t P = \nabla\cdot(P\nabla L) + \partial_i\partial_j(D_{ij}P)$"


def minimum(digits, key):
    """A minimum of the whole loss: SGD, then descent, then Newton steps on the directions that curve upwards."""
    theta = trained(FLAT[None], digits, key, 0.5, 32, 3200)[0][0]
    slope, bend = jax.grad(flat_loss), jax.jit(jax.hessian(flat_loss))
    descend = lambda t, _: (t - 0.5 * slope(t, digits), None)
    theta = jax.jit(lambda t: jax.lax.scan(descend, t, None, length=8000)[0])(theta)
    for _ in range(5):
        values, vectors = jnp.linalg.eigh(bend(theta, digits))
        theta = theta - vectors @ ((vectors.T @ slope(theta, digits)) / jnp.maximum(jnp.abs(values), 1e-3))
    return theta


def principal(digits, theta):
    """The principal components of a stretch of SGD around the minimum."""
    path = rx.solvers.sgd_ensemble(
        lambda t, e: example_loss(UNRAVEL(t), e),
        theta[None],
        8000,
        jr.key(161),
        learning_rate=ETA,
        data=digits,
        batch_size=BATCH,
        save_every=20,
    ).thetas[100:, 0]
    return rx.planes.principal_directions(jax.vmap(UNRAVEL)(path)).directions


def sharpest(digits, theta):
    """The two eigenvectors of the Hessian of largest curvature."""
    vectors = jnp.linalg.eigh(jax.jit(jax.hessian(flat_loss))(theta, digits))[1]
    return tuple(UNRAVEL(vectors[:, -1 - i]) for i in range(2))


def through_solutions(digits, theta):
    """Through the minimum and where hotter SGD from it has gone."""
    others = [UNRAVEL(trained(theta[None], digits, jr.key(k), 0.8, 16, 1600)[0][0]) for k in (162, 163)]
    return rx.landscapes.plane_through(whole_loss(digits), UNRAVEL(theta), *others).directions


def at_random(digits, theta):
    """Two random directions, as large as the filters and then made orthonormal."""
    del digits
    return rx.planes.orthonormal(rx.landscapes.random_directions(jr.key(164), UNRAVEL(theta), filter_axis=-1))


def whole_loss(digits):
    return lambda p: flat_loss(ravel_pytree(p)[0], digits)


def compare(study, kinds):
    """Rows and a panel for each plane: `kinds` are pairs of a name and a function that gives its directions."""
    digits = data()
    theta = minimum(digits, jr.key(16))
    start = UNRAVEL(theta)
    hyper = rx.Hyperparameters(ETA, BATCH, len(digits.y))
    loss = whole_loss(digits)
    axes = study.figure(len(kinds))
    for ax, (name, find) in zip(axes, kinds, strict=True):
        plane = rx.landscapes.plane(loss, start, find(digits, theta))
        real = rx.planes.sgd_on_plane(plane, example_loss, digits, start, hyper, STEPS, jr.key(165), runs=RUNS)
        ends = np.asarray(real.coordinates[-1])
        spread = ends.std(axis=0)
        step = float(np.asarray(real.coordinates[1]).std(axis=0).mean())
        radius = 1.5 * float(spread.mean())
        half = 6 * float(spread.max())
        bounds = jnp.array([[-half, half]] * 2)
        measured = rx.planes.measure_plane(plane, example_loss, digits, shape=9, bounds=bounds)
        grid = rx.solvers.Grid(-half, half, (CELLS, CELLS))
        generator = measured.generator(hyper, grid)
        # A start as narrow as the cells allow.
        first = grid.gaussian(0.0, float(grid.spacing[0]))
        p = rx.solvers.solve(generator, first, jnp.array([0.0, float(real.times[-1])])).ps[-1]
        setting = f"{name}, eta × steps = {float(real.times[-1]):g}"
        for kind, block in (("wasserstein", 1), ("l1", 4)):
            distance = rx.planes.density_distance(p, grid, real.coordinates[-1], kind=kind, block=block)
            # Both from 1 for densities that cannot be told apart down to 0.
            unit, share = (float(spread.mean()), "in spreads") if kind == "wasserstein" else (2.0, "halved")
            value, floor = float(distance.value), float(distance.floor)
            error = np.hypot(distance.standard_error, distance.floor_error) / unit
            shown = unit if kind == "wasserstein" else 1.0
            words = f"{setting}, 1 - {kind} distance beyond its floor, {share}"
            besides = {"distance": value / shown, "floor": floor / shown}
            row = dict(predicted=1.0, measured=1 - (value - floor) / unit, error=error, besides=besides)
            study.row(FLOW, "Fokker–Planck, Itô", words, **row)
        variances = np.asarray(grid.integrate(p * jnp.moveaxis(grid.points, -1, 0) ** 2))
        total = np.sum(ends**2, axis=1)
        row = dict(measured=total.mean(), error=total.std() / np.sqrt(RUNS), tolerance=0.1)
        study.row(
            r"$\mathrm{E}|\theta|^2$ on the plane", "Fokker–Planck, Itô", setting, predicted=variances.sum(), **row
        )
        edge = radius + OVERSHOOT * step
        tau = rx.solvers.mean_first_passage_time(generator, lambda x, edge=edge: jnp.sum(x**2) >= edge**2)
        middle = slice(CELLS // 2 - 1, CELLS // 2 + 1)
        exits = rx.planes.exit_time(real, lambda x, radius=radius: jnp.sum(x**2) < radius**2)
        words = f"{name}, mean exit time from 1.5 spreads, {RUNS} runs"
        left = {"runs that left": exits.exited}
        row = dict(measured=exits.value, error=exits.standard_error, tolerance=0.1, besides=left)
        study.row(r"$-W^\top\tau = 1$", "first passage", words, predicted=tau[middle, middle].mean(), **row)
        # Lopsided, so that the answer is not one half by symmetry.
        low, high = -0.6 * float(spread[0]), 1.2 * float(spread[0])
        strip = (lambda x, a=low: x[0] <= a), (lambda x, b=high: x[0] >= b)
        moved = (
            lambda x, a=low - OVERSHOOT * step: x[0] <= a,
            lambda x, b=high + OVERSHOOT * step: x[0] >= b,
        )
        share = rx.planes.first_reached(real, *strip)
        q = rx.solvers.committor(generator, *moved)[middle, middle].mean()
        words = f"{name}, share that leaves a strip on its far side"
        row = dict(predicted=q, measured=share.value, error=share.standard_error, tolerance=0.1)
        study.row(r"committor $W^\top q = 0$", "E and Vanden-Eijnden 2006", words, **row)
        words = f"{name}, 1 - leak: share of the squared motion on the plane"
        seen = 1 - float(real.leak[-1])
        whole = np.asarray(real.moved[-1]) ** 2
        again = np.random.default_rng(0).integers(0, RUNS, (300, RUNS))
        error = np.std(total[again].sum(axis=1) / whole[again].sum(axis=1))
        row = dict(predicted=1.0, measured=seen, error=error)
        study.row("the plane holds all motion", "assumption of the slice", words, **row)
        cells = np.asarray(p).T
        levels = np.linspace(0.02, 1, 8) * cells.max()
        ax.contourf(*(np.asarray(a) for a in grid.axes), cells, levels=levels, cmap="Purples")
        ax.plot(*ends.T, "k.", ms=2)
        sight = (-4 * spread.max(), 4 * spread.max())
        ax.set(title=name, xlim=sight, ylim=sight)
        ax.title.set_fontsize(8)
