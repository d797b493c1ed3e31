r"""Critical learning rates on a quadratic.

The learning rate above which the iteration itself grows, found by bisection between a rate that shrinks and one that
grows, against $2/\lambda_{max}$ and its forms with momentum; and for SGD on Gaussian regression the rate at which the
mean square of the parameters stops shrinking, from the two moments of many random batches.
"""

import math

import numpy as np
from _study import main

import rxjax as rx

CURVATURE = 1.0


def grows(eta, mu, kind, steps=20_000):
    """Whether the iteration on `h theta^2/2` gets larger: three flavours of momentum, step by step."""
    theta, v = 1.0, 0.0
    for step in range(steps):
        g = CURVATURE * theta
        v = mu * v + (1 - mu) * g if kind == "ema" else mu * v + g
        theta -= eta * (g + mu * v if kind == "nesterov" else v)
        if abs(theta) > 1e6:
            return True
        if step > 200 and abs(theta) + abs(v) < 1e-6:
            return False
    return abs(theta) > 1


def boundary(mu, kind):
    low, high = 0.5, 60.0
    while high - low > 1e-4 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if grows(middle, mu, kind) else (middle, high)
    return math.sqrt(low * high), (high - low) / 2


def run(study):
    found = []
    kinds = [("plain", 0.0, {}), ("heavy ball", 0.9, {}), ("nesterov", 0.9, {"nesterov": True})]
    for kind, mu, options in [*kinds, ("ema", 0.9, {"ema": True})]:
        measured, error = boundary(mu, kind)
        predicted = float(rx.critical_learning_rate(CURVATURE, momentum=mu, **options))
        name = r"$\eta_c = 2/\lambda_{max}$" + ("" if kind == "plain" else " with momentum")
        source = "framework" if kind == "plain" else "Cohen et al. 2021"
        study.row(name, source, f"{kind}, mu = {mu}", predicted=predicted, measured=measured, error=error)
        found.append((kind, predicted, measured))
    generator = np.random.default_rng(3)
    for batch, dim in ((8, 1), (8, 20)):
        x = generator.standard_normal((40_000 if dim > 1 else 200_000, batch, dim))
        # E|theta'|^2 = 1 - 2 eta m1 + eta^2 m2 for a unit vector theta, any by symmetry.
        moved = np.einsum("nbi,nb->ni", x, x[:, :, 0]) / batch
        first, second = moved[:, 0], np.sum(moved**2, axis=1)
        measured = 2 * first.mean() / second.mean()
        error = np.std(2 * first - measured * second) / second.mean() / math.sqrt(len(x))
        predicted = rx.sgd_critical_learning_rate(batch, dim)
        name, setting = r"$\eta_c = 2B/((B+1+d)h)$", f"SGD on regression, B = {batch}, d = {dim}"
        study.row(name, "Jain et al. 2018", setting, predicted=predicted, measured=measured, error=error)
        name = r"$\eta_c = 2/\lambda_{max}$"
        study.row(name, "framework", setting + " (full-batch limit)", predicted=2.0, measured=measured, error=error)
    ax = study.figure()
    ax.loglog([f[1] for f in found], [f[2] for f in found], "ko", ms=4)
    ax.plot([1, 50], [1, 50], lw=1)
    for kind, x, y in found:
        ax.annotate(kind, (x, y), (5, -9), textcoords="offset points", fontsize=8)
    ax.set(xlabel="predicted critical rate", ylabel="measured")


if __name__ == "__main__":
    main(__file__)
