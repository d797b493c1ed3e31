"""The fit of rho = exp(a - c/eta): exact on the law, SciPy's line otherwise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from refusals import assert_refused
from scipy.stats import linregress

from rxjax._rate_scaling import fit_rate_scaling

ETA = np.geomspace(0.02, 0.4, 8)
NOISY = 1.2 - 0.7 / ETA + 0.1 * np.random.default_rng(0).standard_normal(8)


def test_the_law_itself():
    fit = fit_rate_scaling(ETA, 3.0 * np.exp(-0.7 / ETA))
    assert fit.c == pytest.approx(0.7, rel=1e-12)
    assert fit.log_prefactor == pytest.approx(np.log(3), rel=1e-11)
    assert max(fit.standard_error, fit.log_prefactor_error, fit.residual) < 1e-12
    np.testing.assert_allclose(fit.log_rate(ETA), np.log(3) - 0.7 / ETA, rtol=1e-11)
    # A rate that falls with the learning rate has a negative c, and rates may be far below the smallest float.
    assert fit_rate_scaling(ETA, np.exp(0.1 / ETA)).c == pytest.approx(-0.1)
    assert fit_rate_scaling(ETA, -700 / ETA, logarithmic=True).c == pytest.approx(700)


def test_errors_are_those_of_the_regression_line():
    fit = fit_rate_scaling(ETA, np.exp(NOISY))
    line: Any = linregress(1 / ETA, NOISY)
    assert fit.c == pytest.approx(-line.slope)
    assert fit.standard_error == pytest.approx(line.stderr)
    assert fit.log_prefactor == pytest.approx(line.intercept)
    assert fit.log_prefactor_error == pytest.approx(line.intercept_stderr)
    scatter = NOISY - line.intercept - line.slope / ETA
    assert fit.residual == pytest.approx(np.sqrt(np.sum(scatter**2) / 6))


def test_standard_error_covers_the_truth():
    """Over many data sets the error of c in units of its standard error has Student's law with n - 2 = 3 degrees."""
    eta = np.array([0.05, 0.07, 0.1, 0.2, 0.4])
    logs = -0.7 / eta + 0.2 * np.random.default_rng(1).standard_normal((4000, 5))
    fits = jax.jit(jax.vmap(lambda y: fit_rate_scaling(eta, y, logarithmic=True)))(logs)
    score = (fits.c - 0.7) / fits.standard_error
    assert np.mean(np.abs(score) < 3.182) == pytest.approx(0.95, abs=0.012)
    one = fit_rate_scaling(eta, logs[7], logarithmic=True)
    np.testing.assert_allclose(fits.c[7], one.c, rtol=1e-13)


def test_float32():
    fit = fit_rate_scaling(ETA.astype(np.float32), np.exp(NOISY).astype(np.float32))
    wide = fit_rate_scaling(ETA, np.exp(NOISY))
    for name in ("c", "standard_error", "log_prefactor", "log_prefactor_error", "residual"):
        assert getattr(fit, name).dtype == jnp.float32
        assert getattr(fit, name) == pytest.approx(float(getattr(wide, name)), rel=1e-4)
    tiny = fit_rate_scaling((1e-30 * ETA).astype(np.float32), NOISY.astype(np.float32), logarithmic=True)
    assert tiny.c == pytest.approx(1e-30 * float(wide.c), rel=1e-4)


def test_gradients():
    eta, logs = jnp.asarray(ETA), jnp.asarray(NOISY)
    fit = lambda x: fit_rate_scaling(eta, logs.at[2].set(x), logarithmic=True)
    assert_gradients(
        [
            (lambda x: fit(x).c, -3.0),
            (lambda x: fit(x).standard_error, -3.0),
            (lambda x: fit(x).log_prefactor, -3.0),
            (lambda x: fit(x).log_prefactor_error, -3.0),
            (lambda x: fit(x).residual, -3.0),
            (lambda x: fit_rate_scaling(eta.at[1].set(x), jnp.exp(logs)).c, 0.03),
            (lambda x: fit(-3.0).log_rate(x), 0.1),
        ]
    )
    exact = jax.grad(lambda c: fit_rate_scaling(eta, -c / eta, logarithmic=True).residual)(0.7)
    assert np.isfinite(exact)


def test_refusals():
    eta, rates = jnp.array([0.1, 0.2, 0.3]), jnp.array([1.0, 2.0, 3.0])
    fit = fit_rate_scaling
    assert_refused(
        [
            (lambda x: fit(eta.at[0].set(x), rates).c, 0.0, "Argument `learning_rates` must be positive", 0.1),
            (lambda x: fit(eta.at[0].set(x), rates).c, np.inf, "Argument `learning_rates` must be positive", 0.1),
            (lambda x: fit(eta, rates.at[0].set(x)).c, 0.0, "Argument `rates` must be positive.*logarithmic", 0.1),
            (lambda x: fit(eta, rates.at[0].set(x)).c, -1.0, "Argument `rates` must be positive", 0.1),
            (
                lambda x: fit(eta, rates.at[0].set(x), logarithmic=True).c,
                -np.inf,
                "Argument `rates` must be finite",
                0.1,
            ),
            (lambda x: fit(jnp.stack([x, 0.2, 0.2]), rates).c, 0.2, "`learning_rates` must differ.*one rate only", 0.1),
            # Neighbouring numbers with one reciprocal.
            (
                lambda x: fit(jnp.stack([x, 1.5005002501250626, 1.5005002501250628]), rates).c,
                1.5005002501250626,
                "`learning_rates` must differ.*one rate only",
                0.1,
            ),
            (lambda x: fit(eta, rates).log_rate(x), 0.0, "Argument `learning_rate` must be positive", 0.1),
        ]
    )
    with pytest.raises(ValueError, match="n >= 3"):
        fit(eta[:2], rates[:2])
    with pytest.raises(ValueError, match="Argument `rates` must have shape"):
        fit(eta, rates[:2])
