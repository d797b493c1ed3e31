"""What the solvers cost beyond a solve: gradients, growth with cells, and the distance to the memory's limit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from _bench import in_turns
from solver_problems import at_most, box_well, double_well, ours, problem, rxs

GRADIENT, SLOPE, TRAFFIC = 3.5, 1.25, 4.0


def _density(given, ts, method):
    """A mean over the densities at all times but the first, in the temperature, the potential and the start."""
    weight = given.grid.points[..., 0]

    def scalar(kT, a, p0):
        ps = rxs.solve(given.generator(kT, a), p0, jnp.asarray(ts, p0.dtype), method=method).ps
        return jnp.mean(given.grid.integrate(ps[1:] * weight))

    return scalar, (jnp.asarray(given.kT), jnp.asarray(1.0), given.p0)


def _temperatures(given, kTs, times):
    """A mean of passage times, all temperatures at once."""
    mask = jnp.sum((given.grid.points - jnp.array([1.0, -0.25])) ** 2, axis=-1) < 0.09
    mean = lambda kT, a, p0: given.grid.integrate(rxs.mean_first_passage_time(given.generator(kT, a), mask) * p0)
    many = lambda kTs, a, p0: jnp.sum(jax.lax.map(lambda kT: mean(kT, a, p0), kTs))
    return (mean if times == 1 else many), (kTs, jnp.asarray(1.0), given.p0)


def _sweep(given, kTs):
    one, (_, a, p0) = _density(given, [0.0, 10.0], rxs.Rational())
    return lambda kTs, a, p0: jnp.sum(jax.vmap(one, in_axes=(0, None, None))(kTs, a, p0)), (kTs, a, p0)


def gradients(fast):
    n = (lambda big: 16) if fast else (lambda big: big)
    plane, late, cells = problem((n(256),) * 2), problem((n(128),) * 2), 32 if fast else 1024
    line = problem((cells,), potential=double_well)
    short = problem((n(256),), potential=double_well)
    cube = problem((n(48),) * 3)
    box = problem((n(128),) * 2, 0.25, box_well, 2.5)
    side = 4 if fast else 32
    kTs = (80 * jnp.linspace(0.005, 0.02, side)[:, None] / jnp.geomspace(1, 8, side)[None]).ravel()
    many = jnp.linspace(0.08, 0.2, 2 if fast else 32)
    whole = rxs.ShiftInvert()
    jobs = {
        "256^2, t=5": _density(plane, [0.0, 5.0], rxs.Strang()),
        "128^2 box, t=1": _density(box, [0.0, 1.0], rxs.Strang()),
        "1024 cells, t=10": _density(line, [0.0, 10.0], rxs.Rational()),
        f"256 cells, {side}x{side}": _sweep(short, kTs),
        "48^3, t=1": _density(cube, [0.0, 1.0], rxs.Strang()),
        "passage time 256^2": _temperatures(plane, jnp.asarray(0.1), 1),
        "128^2, t=1e5": _density(late, [0.0, 1e5], whole),
        f"the same at {many.size} temperatures": _temperatures(plane, many, many.size),
        "256^2, t=5, 50 times": _density(plane, np.linspace(0, 5, 51), whole),
    }
    for name, (scalar, args) in jobs.items():
        programs = jax.jit(scalar), jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2)))
        ours(programs[0], *args)
        once, _, note = ours(programs[1], *args)
        forward, both = in_turns([partial(f, *args) for f in programs], 5 if once > 1 else 15)
        note = f"over a forward solve of {forward:.3g} s, {note}"
        yield at_most(f"gradient, {name}", "rxjax value_and_grad", f"{both:.4g}", both / forward, GRADIENT, note)


def growth(fast):
    sides, seconds = ((16, 32) if fast else (64, 128, 256, 512)), []
    for n in sides:
        given = problem((n, n))
        run = lambda kT, g=given: rxs.solve(g.generator(kT), g.p0, jnp.array([0.0, 5.0]), method=rxs.Strang()).ps[-1]
        seconds.append(ours(run, given.kT)[0])
    slope = np.polyfit(np.log(np.square(sides)), np.log(seconds), 1)[0]
    note = "log time over log cells: " + ", ".join(f"{n}^2 {s:.3g} s" for n, s in zip(sides, seconds, strict=True))
    return [at_most("growth with cells, 2-D, t=5", "rxjax Strang()", "-", slope, SLOPE, note)]


def bandwidth(fast):
    """A step is nine relaxations along an axis, three for each of three splittings.

    Each has to read the density and the three numbers a cell of its factor, and to write the density: an axis is other
    lines of the memory than the next one, so nothing can stay.
    """
    n = 32 if fast else 256
    given = problem((n, n))
    run = jax.jit(lambda kT: rxs.solve(given.generator(kT), given.p0, jnp.array([0.0, 5.0]), method=rxs.Strang()))
    _, solution, _ = ours(run, given.kT)
    array = 8 * n * n
    moved = 9 * 5 * array
    # In use: the density, its two halves and the error, each axis' two rates, and for four relaxations the pivots.
    half = np.ones(12 * array // 16)
    target = np.empty_like(half)
    copies = lambda: [np.copyto(target, half) for _ in range(50)]
    seconds, copying = in_turns([lambda: run(given.kT), copies], 9)
    step, speed = seconds / int(solution.stats["num_steps"]), 50 * 2 * half.nbytes / copying
    copy = f"copies of {2 * half.nbytes / 1e6:.3g} MB move {speed / 1e9:.3g} GB/s"
    note = f"{moved / 1e6:.3g} MB a step of {step * 1e3:.3g} ms; {copy}"
    return [at_most(f"memory's limit, {n}^2", "rxjax Strang()", f"{step:.3g}", step * speed / moved, TRAFFIC, note)]
