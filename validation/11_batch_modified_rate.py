r"""The batch-modified rate.

SGD with constant noise of one example in the double well $(x^2-1)^2/4$, batches of $B$. First the temperature is held
fixed, $\eta \propto B$: then $\rho' = \rho\sqrt{B/N}$ says that rates grow like $\sqrt B$, in any unit of time. Then
the learning rate is fixed and the batch doubled: Kramers' rate at the new temperature alone, and with the factor
$\sqrt 2$ (tolerance 15 % for both: the formula's own error at these barriers changes the ratio by less than that).
"""

import jax.random as jr
import numpy as np
from _study import first_passages, main

import rxjax as rx

WELL = rx.landscapes.DoubleWell(barrier=0.25)
NUMBER = 10**4


def sgd(eta, temperature, key, passages):
    """Escapes per step, with the relative error."""
    amplitude = np.sqrt(2 * temperature * eta)
    step = lambda x, noise: x - eta * (x**3 - x) + amplitude * noise
    guess = float(rx.kramers_time(WELL, -1.0, 0.0, temperature)) / eta
    found = first_passages(step, lambda x: x >= 1, -1.0, key, steps=int(passages * guess / 500), walkers=500)
    return 1 / found.steps, found.error / found.steps


def run(study):
    name = r"$\rho' = \rho\sqrt{B/N}$"
    kT, per_example = 0.0625, 0.0125
    batches = (1, 2, 4, 8)
    rates = [sgd(per_example * b, kT, jr.key(110 + b), 3000) for b in batches]
    base, base_error = rates[0]
    for batch, (rate, error) in list(zip(batches, rates, strict=True))[1:]:
        relative = np.hypot(error, base_error)
        predicted = rx.batch_modified_rate(1.0, batch, NUMBER) / rx.batch_modified_rate(1.0, 1, NUMBER)
        for unit, measured in (("step", rate / base), ("eta × steps", rate / base / batch)):
            setting = f"eta/B fixed, rate per {unit} at B = {batch} over that at B = 1"
            row = dict(measured=measured, error=measured * relative, tolerance=0.15)
            study.row(name, "framework", setting, predicted=predicted, **row)
        row = dict(measured=rate / base / batch, error=rate / base / batch * relative, tolerance=0.15)
        study.row(r"$\rho(T)$ alone", "framework without the factor", setting, predicted=1.0, **row)
    eta, noise = 0.05, 2.5
    temperatures = [eta / 2 * noise / b for b in (1, 2)]
    found = [sgd(eta, t, jr.key(130 + i), 2000) for i, t in enumerate(temperatures)]
    measured, error = found[1][0] / found[0][0], np.hypot(found[0][1], found[1][1])
    kramers = [float(rx.kramers_time(WELL, -1.0, 0.0, t)) for t in temperatures]
    setting = "eta fixed, E_b/kT from 4 to 8, rate at B = 2 over that at B = 1"
    row = dict(measured=measured, error=measured * error, tolerance=0.15)
    alone = kramers[0] / kramers[1]
    study.row(r"$\rho(T)$ alone", "framework without the factor", setting, predicted=alone, **row)
    factor = rx.batch_modified_rate(1.0, 2, NUMBER) / rx.batch_modified_rate(1.0, 1, NUMBER)
    study.row(name, "framework", setting, predicted=alone * float(factor), **row)
    ax = study.figure()
    per_step = np.array([r / base for r, _ in rates])
    ax.loglog(batches, np.sqrt(batches), label="sqrt(B/N)")
    ax.loglog(batches, per_step, "ko", ms=4, label="SGD, per step")
    ax.loglog(batches, per_step / batches, "k^", ms=4, label="SGD, per eta × steps")
    ax.set(xlabel="batch size, eta/B fixed", ylabel="rate / that at B = 1")
    ax.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main(__file__)
