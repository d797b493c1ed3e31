r"""Linear scaling of learning rate and batch size.

The rule that $\eta/B$ alone matters, as $T = (\eta/2)\,\mathrm{tr}\,\Sigma_1/B$ says: a small network on digits is
trained on from one minimum with $\eta/B$ fixed and batches from 4 to 64, for the same $\eta$ × steps, and the excess
loss in the second half is compared with that at $B = 4$ (tolerance 10 %). It should hold while $\eta\lambda_{max}
\leq 0.2$ or so and fail towards 2. Then the two noise scales on a finite set drawn without replacement: batches from
8 to 32 of 64, with the learning rate chosen to keep $\eta N/B$ or $\eta(N/B - 1)$.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _digits_network import FLAT, data, flat_loss, runs
from _study import main, mean_of

import rxjax as rx

RUNS, TIME, BASE, RATE = 24, 160.0, 4, 0.05


def excess(sizes):
    """The mean excess loss of runs of each batch size, and the largest curvature of the minimum."""
    digits = data()
    theta = runs(FLAT[None], digits, jr.key(9), 0.5, 32, 3200)[0][0]
    slope = jax.grad(flat_loss)
    descend = lambda t, _: (t - 0.4 * slope(t, digits), None)
    theta = jax.jit(lambda t: jax.lax.scan(descend, t, None, length=20_000)[0])(theta)
    top = float(rx.measure.lambda_max(flat_loss, theta, digits, steps=40).value)
    floor = float(flat_loss(theta, digits))
    start = jnp.tile(theta, (RUNS, 1))
    found = []
    for size in sizes:
        eta = RATE * size / BASE
        losses = np.asarray(runs(start, digits, jr.key(size), eta, size, int(TIME / eta))[1])
        found.append(mean_of(losses[len(losses) // 2 :].mean(axis=0) - floor))
    return found, top


def finite_set(eta, batch, generator, number=64):
    """Variance of SGD on a quadratic over a standardised set, batches without replacement, and its error."""
    examples = generator.standard_normal(number)
    examples = (examples - examples.mean()) / examples.std()
    theta, total = np.zeros(1500), np.zeros(1500)
    orders = np.tile(np.arange(number), (1500, 1))
    for step in range(900):
        orders = generator.permuted(orders, axis=1)
        theta = theta - eta * (theta - examples[orders[:, :batch]].mean(axis=1))
        total += theta**2 if step >= 300 else 0
    return mean_of(total / 600)


def run(study):
    sizes = (4, 8, 16, 32, 64)
    found, top = excess(sizes)
    base, base_error = found[0]
    rates = RATE * np.array(sizes) / BASE * top
    ratios, errors = [], []
    for size, (value, error), eta_h in zip(sizes, found, rates, strict=True):
        ratios.append(value / base)
        errors.append(ratios[-1] * np.hypot(error / value, base_error / base) if size > BASE else 0)
        if size > BASE:
            setting = f"digits network, excess loss at B = {size} over that at B = {BASE}"
            row = dict(predicted=1.0, measured=ratios[-1], error=errors[-1], tolerance=0.1, besides={"eta h": eta_h})
            study.row(r"$T = (\eta/2)\,\mathrm{tr}\,\Sigma_1/B$", "framework", setting, **row)
    generator = np.random.default_rng(9)
    small, small_error = finite_set(0.02, 8, generator)
    for form, name, source in (
        ("leading", r"$q = \eta N/B$", "framework"),
        ("smith_le", r"$q = \eta(N/B - 1)$", "Smith and Le 2018"),
    ):
        scale = lambda eta, batch, form=form: float(rx.noise_scale(eta, 64, batch, form=form))
        eta = 0.02 * scale(1.0, 8) / scale(1.0, 32)
        value, error = finite_set(eta, 32, generator)
        ratio = value / small
        setting = f"without replacement, variance at B = 32, eta = {eta:.3g} over that at B = 8, eta = 0.02"
        # The discrete step alone raises the variance by 1/(1 - eta/2).
        error = ratio * np.hypot(error / value, small_error / small)
        study.row(name, source, setting, predicted=1.0, measured=ratio, error=error, tolerance=0.1)
    ax = study.figure()
    ax.errorbar(rates, ratios, 3 * np.array(errors), fmt="ko-", ms=4)
    ax.axhline(1.0, lw=1)
    ax.axvspan(rates[0] / 2, 0.2, color="#dfe6d8", lw=0)
    ax.set(xscale="log", xlabel="learning rate × largest curvature", ylabel=f"excess loss / that at B = {BASE}")


if __name__ == "__main__":
    main(__file__)
