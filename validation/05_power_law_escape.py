r"""Escape with noise in proportion to the loss.

Noise $C = 2Lh/B$, as of a square loss near its best fit, makes the barrier logarithmic: $\tau \propto
(L_s/L_0)^{B/\eta h + 1/2}$. SGD in a double well over the loss $L_0$, from one minimum to the other: its mean time
against the formula (tolerance 10 %: it is the first term for small noise), against the solver's exact mean
first-passage time (3 %), and against Kramers' formula with the noise of the minimum everywhere. The slope is that of
four values of $L_0$.
"""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _study import first_passages, main

import rxjax as rx

ETA, CURVATURE, POWER = 0.01, 2.0, 3.0
BATCH = POWER * ETA * CURVATURE
LOSSES = (0.05, 0.08, 0.12, 0.2)


def loss(x, floor):
    return floor + x**4 / 4 - x**2 / 2 + 0.25


def exact_time(floor):
    """Mean first-passage time from -1 to 1 of the diffusion, in units of eta × steps."""
    grid = rx.solvers.Grid(-2.2, 2.2, 1100)
    scale = ETA * CURVATURE / BATCH
    noise = lambda x: scale * loss(x[0], floor)
    generator = rx.solvers.FokkerPlanck(lambda x: x - x**3, noise, grid, rx.solvers.Ito())
    tau = rx.solvers.mean_first_passage_time(generator, lambda x: x[0] >= 1)
    return float(jnp.interp(-1.0, grid.axes[0], tau))


def run(study):
    # The batch is no whole number here: only B/(eta h) enters.
    hyper = rx.Hyperparameters(ETA / BATCH, 1, 10**9)
    times, errors, exact, formula = [], [], [], []
    for i, floor in enumerate(LOSSES):
        amplitude = ETA * np.sqrt(2 * CURVATURE / BATCH)

        def step(x, noise, floor=floor, amplitude=amplitude):
            return x - ETA * (x**3 - x) + amplitude * jnp.sqrt(loss(x, floor)) * noise

        exact.append(exact_time(floor))
        walk = functools.partial(first_passages, step, lambda x: x >= 1, -1.0, jr.key(50 + i), walkers=1000)
        found = walk(steps=int(3000 * exact[-1] / ETA / 1000))
        times.append(found.steps * ETA)
        errors.append(found.error * ETA)
        escape = rx.sgd_escape_time(
            lambda x, floor=floor: loss(x[0], floor), -1.0, 0.0, hyper, rx.SquareLossNoise(CURVATURE)
        )
        formula.append(float(escape.time))
        setting = f"L_0 = {floor}, B/(eta h) = {POWER:g}, eta h = {ETA * CURVATURE:g}"
        measurement = dict(measured=times[-1], error=errors[-1])
        name = r"$\tau \propto (L_s/L_0)^{B/\eta h + 1 - n/2}$"
        study.row(name, "Mori et al. 2022", setting, predicted=formula[-1], tolerance=0.1, **measurement)
        name = "exact passage time, $D = (\\eta/2) C(\\theta)$"
        study.row(name, "Fokker–Planck, Itô", setting, predicted=exact[-1], tolerance=0.03, **measurement)
        if floor == 0.05:
            constant = rx.ConstantNoise(2 * floor * CURVATURE)
            kramers = rx.sgd_escape_time(lambda x: loss(x[0], 0.05), -1.0, 0.0, hyper, constant).time
            name = r"$\tau \propto e^{E_b/kT}$, noise of the minimum"
            study.row(name, "framework, Kramers", setting, predicted=kramers, **measurement)
    x = np.log((np.array(LOSSES) + 0.25) / np.array(LOSSES))
    relative = np.array(errors) / np.array(times)
    slope, cov = np.polyfit(x, np.log(times), 1, w=1 / relative, cov="unscaled")
    measurement = dict(measured=slope[0], error=np.sqrt(cov[0, 0]))
    setting = "slope of log tau in log(L_s/L_0)"
    name = r"$B/\eta h + 1/2$"
    study.row(name, "Mori et al. 2022", setting, predicted=POWER + 0.5, tolerance=0.05, **measurement)
    own = np.polyfit(x, np.log(exact), 1, w=1 / relative)[0]
    name = "slope of the exact times"
    study.row(name, "Fokker–Planck, Itô", setting, predicted=own, tolerance=0.03, **measurement)
    ax = study.figure()
    ratio = np.exp(x)
    ax.loglog(ratio, formula, "--", label="power law")
    ax.loglog(ratio, exact, label="exact diffusion")
    ax.errorbar(ratio, times, 3 * np.array(errors), fmt="ko", ms=4, label="SGD")
    ax.set(xlabel="L_s / L_0", ylabel="escape time  (eta × steps)")
    ax.legend(frameon=False)


if __name__ == "__main__":
    main(__file__)
