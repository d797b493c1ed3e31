r"""The optimal learning rate of one step.

The expected decrease of the loss in one SGD step, averaged over many batches at twelve learning rates, and where it
is largest: on a quadratic in five dimensions with Gaussian noise (case of the closed forms), and on a small network
on digits at a point early in training and late in it, with $\eta_{opt} = |g|^2/(g'Hg + \mathrm{tr}\,HC)$ from its
gradient, Hessian and gradient covariance (tolerance 10 %: the network is no quadratic). The form of the Arrhenius
law, and the rate at which full-batch descent would do best, are held against the same measurement.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _digits_network import FLAT, data, flat_loss, runs
from _study import main

import rxjax as rx

CONSTANT = r"$|g|^2/(g'Hg + \mathrm{tr}\,HC)$"
LITERAL = r"$g'Mg/(g'MHMg + \mathrm{tr}\,HC)$"
FULL = r"$\eta_{max} = |g|^2/g'Hg$"


def best_rate(etas, decreases):
    """The maximum of a parabola through zero fitted to each group of draws, `(groups, rates)`: mean and error."""
    x = np.asarray(etas)
    design = np.stack([x, -(x**2)], axis=1)
    # The spread of a decrease grows with the step.
    weights = 1 / x
    fits = [np.linalg.lstsq(design * weights[:, None], y * weights, rcond=None)[0] for y in decreases]
    a, b = np.mean(fits, axis=0)
    groups = len(fits)
    left_out = [(a * groups - f[0]) / (b * groups - f[1]) / 2 for f in fits]
    spread = np.sqrt((groups - 1) / groups * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    return a / b / 2, spread


def quadratic(key):
    """Decreases on the quadratic with known answers, `(groups, rates)`."""
    h, theta = jnp.linspace(0.5, 3, 5), jnp.ones(5)
    c = jnp.linspace(1, 4, 5) / 4
    etas = np.linspace(0.1, 0.7, 12)
    g = h * theta + jnp.sqrt(c) * jr.normal(key, (40, 4000, 5))
    loss = lambda x: jnp.sum(h * x**2, axis=-1) / 2
    gains = [np.asarray(jnp.mean(loss(theta) - loss(theta - eta * g), axis=1)) for eta in etas]
    return (h * theta, h, c), etas, np.stack(gains, axis=1)


def network(key, warm, batch, draws, share):
    """Decreases on the digits network after `warm` steps, `(groups, rates)`."""
    digits = data()
    theta = runs(FLAT[None], digits, key, 0.2, 32, warm)[0][0]
    slope = jax.grad(flat_loss)
    g = slope(theta, digits)
    h = jax.jit(jax.hessian(flat_loss))(theta, digits)
    each = jax.jit(jax.vmap(lambda x: slope(theta, jax.tree.map(lambda a: a[None], x))))(digits)
    hyper = rx.Hyperparameters(0.1, batch, len(digits.y))
    c = rx.batch_covariance(jnp.cov(each.T, bias=True), hyper)
    predicted = rx.optimal_learning_rate(g, h, c)
    etas = float(predicted) * np.linspace(0.3, share, 12)
    chosen = jr.randint(jr.fold_in(key, 1), (draws, batch), 0, len(digits.y))
    here = flat_loss(theta, digits)

    def gains(i):
        step = jnp.mean(each[i], axis=0)
        return jax.vmap(lambda eta: here - flat_loss(theta - eta * step, digits))(jnp.asarray(etas))

    out = np.asarray(jax.jit(lambda c: jax.lax.map(gains, c, batch_size=8))(chosen))
    return (g, h, c), etas, out.reshape(40, -1, 12).mean(axis=1)


def run(study):
    axes = study.figure(3)
    cases = [
        ("quadratic, d = 5, B = 4", quadratic(jr.key(15)), 0.0),
        ("digits network after 64 steps, B = 8", network(jr.key(16), 64, 8, 2000, 1.7), 0.1),
        ("digits network after 3200 steps, B = 64", network(jr.key(17), 3200, 64, 2000, 1.7), 0.1),
    ]
    for ax, (setting, ((g, h, c), etas, decreases), tolerance) in zip(axes, cases, strict=True):
        measured, error = best_rate(etas, decreases)
        row = dict(measured=measured, error=error, tolerance=tolerance)
        predicted = rx.optimal_learning_rate(g, h, c)
        study.row(CONSTANT, "framework, constant law; McCandlish et al. 2018", setting, predicted=predicted, **row)
        arrhenius = rx.optimal_learning_rate(g, h, c, rate_law="arrhenius")
        study.row(LITERAL, "framework, Arrhenius law", setting, predicted=arrhenius, **row)
        study.row(FULL, "McCandlish et al. 2018, no noise", setting, predicted=rx.maximal_learning_rate(g, h), **row)
        mean, spread = decreases.mean(axis=0), decreases.std(axis=0, ddof=1) / np.sqrt(len(decreases))
        ax.errorbar(etas, mean, spread, fmt="ko", ms=3)
        ax.plot(etas, [float(rx.expected_decrease(e, g, h, c)) for e in etas])
        ax.axvline(float(predicted), lw=0.8, ls="--")
        ax.set_title(setting, fontsize=8)
        ax.set(xlabel="learning rate", ylabel="mean decrease")


if __name__ == "__main__":
    main(__file__)
