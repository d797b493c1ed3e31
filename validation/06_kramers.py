r"""Kramers' escape over a range of learning rates, and where it breaks down.

SGD with constant noise in the double well $(x^2-1)^2/4$ from one minimum to the other. First the temperature is held
fixed, so that the diffusion picture says the same time (in units of $\eta$ × steps) for every learning rate: the
exact passage time, with a tolerance of 25 % up to $\eta h = 0.2$, where the library calls it valid, and the same
beyond, where it should fail ($h = 2$ is the curvature of the minimum). Then the barrier is varied at a small learning
rate: Kramers' formula (tolerance 20 %: its error is of first order in $kT/E_b$) and Arrhenius' with the attempt time
left at one. Last, the share of runs that left within a tenth of the mean time, against $\rho\,dt$ (tolerance 10 %)
and $1 - e^{-\rho\,dt}$.
"""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _study import first_passages, main

import rxjax as rx

CURVATURE = 2.0
WELL = rx.landscapes.DoubleWell(barrier=0.25)


def exact_time(temperature):
    grid = rx.solvers.Grid(-2.5, 2.5, 1000)
    generator = rx.solvers.FokkerPlanck.from_potential(WELL, grid, temperature)
    tau = rx.solvers.mean_first_passage_time(generator, lambda x: x[0] >= 1)
    return float(jnp.interp(-1.0, grid.axes[0], tau))


def sgd(eta, temperature, key, passages, soon=0.0):
    """The mean time and its error, in units of eta × steps, and the share of early passages."""
    amplitude = np.sqrt(2 * temperature * eta)
    step = lambda x, noise: x - eta * (x**3 - x) + amplitude * noise
    steps = int(passages * exact_time(temperature) / eta / 500)
    found = first_passages(step, lambda x: x >= 1, -1.0, key, steps=steps, walkers=500, soon=int(soon / eta))
    return found.steps * eta, found.error * eta, found.early, found.count


def run(study):
    kT = 0.05
    exact = exact_time(kT)
    rates = np.array([0.025, 0.05, 0.1, 0.25, 0.5])
    found = []
    for i, eta in enumerate(rates):
        time, error, *_ = sgd(float(eta), kT, jr.key(60 + i), 4000)
        found.append((time, error))
        setting = f"E_b/kT = 5, eta h = {eta * CURVATURE:g}"
        name = r"$\tau$ of $dX = -L'dt + \sqrt{2kT}dW$"
        row = dict(predicted=exact, measured=time, error=error, tolerance=0.25)
        study.row(name, "Fokker–Planck, Kramers 1940", setting, **row)
    for i, share in enumerate((3.0, 5.0, 7.0)):
        temperature = 0.25 / share
        time, error, *_ = sgd(0.02, temperature, jr.key(70 + i), 2500 if share < 6 else 1200)
        row = dict(measured=time, error=error)
        setting = f"E_b/kT = {share:g}, eta h = 0.04"
        predicted = float(rx.kramers_time(WELL, -1.0, 0.0, temperature))
        name = r"$\tau = \frac{2\pi}{\sqrt{L''_a |L''_s|}} e^{E_b/kT}$"
        study.row(name, "Kramers 1940", setting, predicted=predicted, tolerance=0.2, **row)
        name = r"$\tau = \tau_0 e^{E_b/kT}$ with $\tau_0 = 1$"
        study.row(name, "framework", setting, predicted=rx.escape_time(0.25, temperature), **row)
    time, _, early, count = sgd(0.05, kT, jr.key(80), 8000, soon=0.1 * exact)
    rate = 1 / time
    error = np.sqrt(early * (1 - early) / count)
    setting = "share that left within a tenth of the mean time"
    row = dict(measured=early, error=error)
    for exactly, name in ((False, r"$P = \rho\,dt$"), (True, r"$P = 1 - e^{-\rho\,dt}$")):
        p = rx.transition_probability(rate, 0.1 * exact, exact=exactly)
        study.row(name, "framework" if not exactly else "Poisson process", setting, predicted=p, tolerance=0.1, **row)
    ax = study.figure()
    times, errors = np.array(found).T
    ax.errorbar(rates * CURVATURE, times / exact, 3 * errors / exact, fmt="ko", ms=4, label="SGD / exact diffusion")
    ax.axhline(1.0, lw=1)
    ax.axvspan(0.03, 0.2, color="#dfe6d8", lw=0)
    ax.set(xlabel="learning rate × curvature", ylabel="escape time / exact", xscale="log", ylim=(0, 1.2))
    ax.legend(frameon=False)


if __name__ == "__main__":
    main(__file__)
