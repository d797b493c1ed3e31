r"""Updates lost to rounding.

Steps of SGD in bfloat16, rounded by `ml_dtypes`, against the quantization function $Q$: single updates of a weight at
1, a hundred small steps with rounding to nearest and at random, noisy steps, and the share of updates that survive
for weights spread over [1, 2). Last, $\rho^Q = \rho\,Q$ in noisy descent: how often a weight changes, and how far it
drifts, where an update that survives is rounded to a whole spacing and so is not the one that was proposed.
"""

import jax.numpy as jnp
import jax.random as jr
import ml_dtypes
import numpy as np
from _study import main, mean_of

import rxjax as rx

Q = rx.quantization
NAME = r"$Q = 1[\mathrm{RN}(w+\delta) \neq w]$"
RATE = r"$\rho^Q = \rho\,Q(\delta)$"


def rounded(x):
    """The nearest bfloat16, as float64."""
    return np.asarray(np.asarray(x, np.float32).astype(ml_dtypes.bfloat16), np.float64)


def run(study):
    generator = np.random.default_rng(8)
    for delta in (0.00390625, 0.00391, -0.001953, -0.00196):
        moved = rounded(1 + delta) != 1
        predicted = Q.survival(jnp.float32(1.0), jnp.float32(delta), "bfloat16")
        # Counted from one, for an update that is lost predicts zero.
        row = dict(predicted=1 + float(predicted), measured=1.0 + moved)
        study.row("1 + Q, " + NAME, "framework", f"bfloat16, w = 1, delta = {delta}", **row)
    w = 1.0
    for _ in range(100):
        w = rounded(w - 1e-3)
    setting = "bfloat16, w after 100 steps of -0.001"
    kept = float(Q.survival(jnp.float32(1.0), jnp.float32(-1e-3), "bfloat16"))
    study.row(NAME + ", to nearest", "framework", setting, predicted=1 - 100 * 1e-3 * kept, measured=w)
    many = jnp.ones(20_000, jnp.bfloat16)
    for key in jr.split(jr.key(8), 100):
        many = Q.stochastic_round(many.astype(jnp.float32) - jnp.float32(1e-3), "bfloat16", key)
    measured, error = mean_of(np.asarray(many, np.float64))
    name = r"$Q = \min(1, |\delta|/u)$, at random"
    study.row(name, "stochastic rounding", setting, predicted=0.9, measured=measured, error=error)
    ax = study.figure()
    u, m = 2.0**-7, 0.1 * 2.0**-7
    noises = np.linspace(0.05, 1.0, 40)
    ax.plot(noises, np.asarray(Q.dithered_step(jnp.full(40, 0.1), jnp.asarray(noises))) / 0.1, label="predicted")
    for s in (0.25, 0.5, 1.0):
        # The middle of [1, 2), where the grid is even on both sides.
        steps = rounded(1.5 + generator.normal(m, s * u, 4_000_000).astype(np.float32)) - 1.5
        measured, error = mean_of(steps / m)
        predicted = float(Q.dithered_step(m, s * u, u)) / m
        name = r"$E[\mathrm{RN}(\delta)]$, $\delta \sim N(m, s^2)$"
        setting = f"noisy steps, m = 0.1 u, s = {s} u, mean step / m"
        study.row(name, "dithering", setting, predicted=predicted, measured=measured, error=error)
        ax.errorbar([s], [measured], 3 * error, fmt="ko", ms=4)
    ax.set(xlabel="noise / spacing", ylabel="mean step kept")
    ax.legend(frameon=False)
    r = 0.003
    smooth = generator.uniform(1, 2, 400_000)
    # As stored: each weight to the format, its update from the weight before rounding.
    stored = rounded(smooth)
    survived = rounded(stored + r * smooth) != stored
    # At 2, to which some are rounded up, the spacing is another.
    measured, error = mean_of(survived[stored < 2])
    setting = f"share of updates of {r} w that survive, w uniform in [1, 2)"
    row = dict(predicted=2 - 2.0**-8 / r, measured=measured, error=error)
    study.row(r"$2 - 2^{-8}/r$", "framework", setting, **row)
    grid = 1 + np.arange(128) / 128
    keep = Q.survival(jnp.asarray(grid, jnp.float32), jnp.asarray(grid * r, jnp.float32), "bfloat16")
    setting = f"share of updates of {r} w that survive, all w of the format in [1, 2)"
    survived = rounded(grid * (1 + r)) != grid
    study.row(NAME, "framework", setting, predicted=np.mean(np.asarray(keep)), measured=survived.mean())
    w = rounded(generator.uniform(1.2, 2, 40_000))
    eta, steps, before, changed = 2.0**-8, 20, w, np.zeros(40_000)
    gradients = generator.exponential(1.0, (steps, w.size))
    for g in gradients:
        after = rounded(w - eta * g)
        changed, w = changed + (after != w), after
    keep = Q.survival(
        jnp.asarray(np.tile(before, (steps, 1)), jnp.float32), jnp.asarray(-eta * gradients, jnp.float32), "bfloat16"
    )
    measured, error = mean_of(changed / steps)
    setting = "noisy descent in bfloat16, changes per weight and step"
    rates = rx.quantized_rate(1.0, keep)
    study.row(RATE, "framework", setting, predicted=rates.mean(), measured=measured, error=error)
    study.row(r"$\rho$ without $Q$", "framework", setting, predicted=1.0, measured=measured, error=error)
    measured, error = mean_of((before - w) / (steps * eta))
    setting = "the same, mean drift over that in real numbers"
    rates = rx.quantized_rate(jnp.asarray(gradients), keep)
    study.row(RATE, "framework", setting, predicted=rates.mean(), measured=measured, error=error)


if __name__ == "__main__":
    main(__file__)
