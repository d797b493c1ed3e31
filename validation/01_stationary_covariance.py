r"""Stationary covariance of SGD on a quadratic.

Ensembles of discrete SGD against the exact law $SH + HS - \eta HSH = \eta C$ and its form with momentum, against the
diffusion picture $S = \eta C/2h$ (tolerance 10 %: it is meant for $\eta h \leq 0.2$), and, for linear regression,
where the noise grows with the error, against its own law and against the one that takes the noise as constant.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _study import main, mean_of

import rxjax as rx

EXACT = r"$SH + HS - \eta HSH = \eta C$"
ZIYIN = "Ziyin et al. 2022"


def second_moments(loss, key, steps, *, eta, noise, momentum=0.0, runs=2000, dim=1):
    """The time average of `theta^2` over the second half of each run, `(runs, dim)`."""

    @jax.jit
    def go(eta):
        out = rx.solvers.sgd_ensemble(
            loss,
            jnp.zeros((runs, dim)),
            steps,
            key,
            learning_rate=eta,
            noise=noise,
            momentum=momentum,
            save_every=steps // 100,
        )
        return jnp.mean(out.thetas[51:] ** 2, axis=0)

    return np.asarray(go(eta))


def run(study):
    bowl = lambda theta: jnp.sum(theta**2) / 2
    white = lambda theta, key: jr.normal(key, theta.shape)
    key = jr.key(1)
    points = []
    for eta in (0.1, 0.5, 1.5):
        predicted = float(rx.sgd_stationary_covariance(1.0, 1.0, eta)[0, 0])
        measured, error = mean_of(second_moments(bowl, key, 400, eta=eta, noise=white))
        study.row(EXACT, ZIYIN, f"1-D, eta h = {eta}", predicted=predicted, measured=measured, error=error)
        continuous = dict(predicted=eta / 2, measured=measured, error=error, tolerance=0.1)
        study.row(r"$S = \eta C/2h$", "Mandt et al. 2017", f"1-D, eta h = {eta}", **continuous)
        points.append((eta, measured, error))
    for eta in (0.1, 1.0):
        predicted = float(rx.sgd_stationary_covariance(1.0, 1.0, eta, 0.9)[0, 0])
        moments = second_moments(bowl, key, 800, eta=eta, noise=white, momentum=0.9)
        measured, error = mean_of(moments)
        setting = f"1-D, heavy ball 0.9, eta h = {eta}"
        study.row(EXACT, ZIYIN, setting, predicted=predicted, measured=measured, error=error)
    for eta, batch in ((0.1, 8), (0.4, 32), (0.8, 64), (0.8, 8)):

        def regression(theta, key, batch=batch):
            a, b = jr.split(key)
            x, e = jr.normal(a, (batch,)), jr.normal(b, (batch,))
            return (jnp.mean(x**2) - 1) * theta - jnp.mean(x * e)

        runs = 1500 if batch > 8 else 3000
        measured, error = mean_of(second_moments(bowl, key, 200, eta=eta, noise=regression, runs=runs))
        setting = f"regression, eta = {eta}, B = {batch}"
        own = eta / (2 * batch - eta * (batch + 2))
        name = r"$S = \eta/(2B - \eta(B+2))$"
        study.row(name, "Isserlis", setting, predicted=own, measured=measured, error=error)
        constant = float(rx.sgd_stationary_covariance(1.0, 1.0 / batch, eta)[0, 0])
        study.row(EXACT + ", constant noise", ZIYIN, setting, predicted=constant, measured=measured, error=error)
    h, c, eta = jnp.array([0.1, 0.5, 2.0]), jnp.array([3.0, 1.0, 0.2]), 0.1
    coloured = lambda theta, key: jnp.sqrt(c) * jr.normal(key, (3,))
    three = second_moments(lambda x: jnp.sum(h * x**2) / 2, key, 2000, eta=eta, noise=coloured, dim=3)
    s = np.diag(rx.sgd_stationary_covariance(jnp.diag(h), c, eta))
    h, c = np.asarray(h), np.asarray(c)
    measured, error = mean_of(three @ h / 2)
    study.row(EXACT, ZIYIN, "3-D, excess loss tr(HS)/2", predicted=h @ s / 2, measured=measured, error=error)
    measured, error = mean_of(three @ (h - eta / 2 * h**2))
    name = r"$\mathrm{tr}\,HS - (\eta/2)\,\mathrm{tr}\,HSH = (\eta/2)\,\mathrm{tr}\,C$"
    temperature = rx.effective_temperature(eta, trace=c.sum())
    study.row(name, "framework", "3-D, T_eff", predicted=temperature, measured=measured, error=error)

    ax = study.figure()
    rates = np.linspace(0.02, 1.8, 100)
    ax.plot(rates, rates / (2 - rates), label="exact")
    ax.plot(rates, rates / 2, "--", label="diffusion")
    eta, measured, error = np.array(points).T
    ax.errorbar(eta, measured, 3 * error, fmt="ko", ms=4, label="SGD")
    ax.set(xlabel="learning rate × curvature", ylabel="variance / noise variance", yscale="log")
    ax.legend(frameon=False)


if __name__ == "__main__":
    main(__file__)
