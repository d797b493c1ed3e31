r"""Rates over the learning rate, $\rho \propto e^{-c/\eta}$.

Escapes of SGD from a double well at five learning rates, rates per unit of $\eta$ × steps. With constant noise $c =
2E_b/\Sigma_1$ (tolerance 5 %: the prefactor depends on the temperature a little); with noise in proportion to the
loss the law is the same with $c = (B/h)\log(L_s/L_0)$, where a barrier linear in the loss would say $E_b/(L_0 h)$ per
batch; and at large learning rates, $\eta h$ from 0.5 to 1.2, the first law again.
"""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _study import first_passages, main

import rxjax as rx

BARRIER = 0.25
WALKERS = 500


def loss(x, floor):
    return floor + (x**2 - 1) ** 2 / 4


def rates(etas, variance, passages, key, guess):
    """Escapes per unit of eta × steps and their relative errors; `variance(x)` is that of the gradient noise."""
    found = []
    for i, eta in enumerate(etas):

        def step(x, noise, eta=eta):
            return x - eta * (x**3 - x) + eta * jnp.sqrt(variance(x)) * noise

        steps = int(passages * guess(eta) / eta / WALKERS)
        out = first_passages(step, lambda x: x >= 1, -1.0, jr.fold_in(key, i), steps=steps, walkers=WALKERS)
        found.append((1 / (out.steps * eta), out.error / out.steps))
    return np.array(found).T


def fit(etas, found):
    """The slope c of the library's fit, with the error of the escapes counted."""
    values, errors = found
    c = float(rx.fit_rate_scaling(jnp.asarray(etas), jnp.asarray(values)).c)
    x = 1 / np.asarray(etas) - np.mean(1 / np.asarray(etas))
    return c, float(np.sqrt(np.sum((x * errors) ** 2)) / np.sum(x**2))


def run(study):
    name = r"$\rho \propto e^{-c/\eta}$"
    sigma1 = 2.5
    kramers = lambda eta: float(rx.kramers_time(lambda x: loss(x[0], 0.0), -1.0, 0.0, eta * sigma1 / 2))
    etas = np.array([0.03, 0.036, 0.045, 0.06, 0.08])
    constant = rates(etas, lambda x: sigma1 + 0 * x, 1000, jr.key(14), kramers)
    c, error = fit(etas, constant)
    row = dict(measured=c, error=error, tolerance=0.05)
    predicted = 2 * BARRIER / sigma1
    setting = "constant noise, eta h from 0.06 to 0.16, c"
    study.row(name + r", $c = 2E_b/\Sigma_1$", "framework", setting, predicted=predicted, **row)

    fast = np.array([0.25, 0.3, 0.36, 0.45, 0.6])
    small = 0.2
    guess = lambda eta: float(rx.kramers_time(lambda x: loss(x[0], 0.0), -1.0, 0.0, eta * small / 2)) * 0.7
    hot = rates(fast, lambda x: small + 0 * x, 2000, jr.key(15), guess)
    c_hot, error = fit(fast, hot)
    row = dict(measured=c_hot, error=error, tolerance=0.05)
    setting = "constant noise, eta h from 0.5 to 1.2, c"
    study.row(name + r", $c = 2E_b/\Sigma_1$", "framework", setting, predicted=2 * BARRIER / small, **row)

    floor, curvature, batch = 0.05, 2.0, 0.24
    slow = np.array([0.04, 0.048, 0.06, 0.08, 0.1])
    power = lambda eta: batch / (eta * curvature)
    guess = lambda eta: 4.4 * (1 + BARRIER / floor) ** (power(eta) + 0.5) * 0.9
    square = rates(slow, lambda x: 2 * loss(x, floor) * curvature / batch, 1000, jr.key(16), guess)
    c_square, error = fit(slow, square)
    row = dict(measured=c_square, error=error, tolerance=0.05)
    setting = "square-loss noise, B/(eta h) from 1.2 to 3, c"
    predicted = batch / curvature * np.log1p(BARRIER / floor)
    study.row(name + r", $c = (B/h)\log(L_s/L_0)$", "Mori et al. 2022", setting, predicted=predicted, **row)
    linear = BARRIER * batch / (floor * curvature)
    study.row(name + r", $c = 2E_b/\Sigma_1(0)$", "framework", setting, predicted=linear, **row)
    ax = study.figure()
    for used, found, c, label in (
        (etas, constant, 2 * BARRIER / sigma1, "constant noise"),
        (fast, hot, 2 * BARRIER / small, "large rates"),
        (slow, square, predicted, "square loss"),
    ):
        x = c / used
        line = ax.semilogy(x - x[-1], found[0] / found[0][-1], "o", ms=4, label=label)[0]
        line.set_alpha(0.8)
    span = np.linspace(0, ax.get_xlim()[1], 5)
    ax.semilogy(span, np.exp(-span), "k", lw=0.8)
    ax.set(xlabel="c / eta (predicted), from the largest eta", ylabel="rate / that at the largest eta")
    ax.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main(__file__)
