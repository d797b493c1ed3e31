r"""How batches are drawn.

SGD on a quadratic over a finite set, $N = 64$, $B = 8$, $\eta h = 0.02$, with the three ways to draw batches. The
noise formulae with and without replacement against the variance of the runs; and for epochs, where every example
comes once before any comes twice, the exact sum over one epoch. The last row uses the formula without replacement for
epochs, as is often done. Tolerance 3 %.
"""

import numpy as np
from _study import main, mean_of

import rxjax as rx

N, B, ETA = 64, 8, 0.02
RUNS, BURN, STEPS = 2000, 400, 1200
SAMPLING = "finite-population sampling"


def variances(sampling, data, generator):
    """The mean square of the parameter over the steps of each run, after the start is forgotten."""
    theta, total = np.zeros(RUNS), np.zeros(RUNS)
    orders = np.tile(np.arange(N), (RUNS, 1))
    for step in range(BURN + STEPS):
        if sampling == "with_replacement":
            chosen = generator.integers(0, N, (RUNS, B))
        else:
            place = step % (N // B) if sampling == "epoch" else 0
            if place == 0:
                orders = generator.permuted(orders, axis=1)
            chosen = orders[:, place * B : (place + 1) * B]
        theta = theta - ETA * (theta - data[chosen].mean(axis=1))
        if step >= BURN:
            total += theta**2
    return total / STEPS


def epoch_variance(c):
    """Exact variance under epochs, averaged over the places in an epoch; `c` is the noise of one batch.

    The batches of an epoch add up to zero, so that two of them have the covariance -c/(K - 1).
    """
    batches, a = N // B, 1 - ETA
    # Variance of what the first j batches of an epoch add.
    powers = [a ** np.arange(j) for j in range(batches + 1)]
    added = [ETA**2 * c * (batches * np.sum(p**2) - np.sum(p) ** 2) / (batches - 1) for p in powers]
    start = added[-1] / (1 - a ** (2 * batches))
    return np.mean([a ** (2 * j) * start + added[j] for j in range(1, batches + 1)])


def run(study):
    generator = np.random.default_rng(2)
    data = generator.standard_normal(N)
    data = (data - data.mean()) / data.std()
    unit = ETA / B / 2
    bars = []
    for sampling in ("with_replacement", "without_replacement", "epoch"):
        measured, error = mean_of(variances(sampling, data, generator) / unit)
        measurement = dict(measured=measured, error=error, tolerance=0.03)
        words = sampling.replace("_", " ")
        bars.append((words, measured, error))
        if sampling != "epoch":
            c = rx.batch_covariance(1.0, rx.Hyperparameters(ETA, B, N, sampling=sampling))
            predicted = rx.sgd_stationary_covariance(1.0, c, ETA)[0, 0] / unit
            name = r"$C = \Sigma_1/B$" if sampling == "with_replacement" else r"$C = (\Sigma_1/B)(N-B)/(N-1)$"
            study.row(name, SAMPLING, f"{words}, variance / (eta C/2h)", predicted=predicted, **measurement)
        else:
            c = float(rx.batch_covariance(1.0, rx.Hyperparameters(ETA, B, N, sampling="without_replacement")))
            setting = "epochs, variance / (eta C/2h)"
            study.row("sum over one epoch", SAMPLING, setting, predicted=epoch_variance(c) / unit, **measurement)
            naive = rx.sgd_stationary_covariance(1.0, c, ETA)[0, 0] / unit
            study.row(r"$C = (\Sigma_1/B)(N-B)/(N-1)$", SAMPLING, setting, predicted=naive, **measurement)
    ax = study.figure()
    ax.bar([b[0] for b in bars], [b[1] for b in bars], yerr=[3 * b[2] for b in bars], color="#7a6ea8")
    ax.set(ylabel="variance / (eta C / 2h)")
    ax.tick_params(axis="x", labelsize=7)


if __name__ == "__main__":
    main(__file__)
