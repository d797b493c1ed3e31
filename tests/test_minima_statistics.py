"""The density of minima and the law of barriers: exact sums, Rice's formula, coverage, p-values, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from finite_differences import assert_gradients
from refusals import assert_refused
from scipy import stats

import rxjax as rx

ENERGIES = np.random.default_rng(0).gamma(3.0, 1.0, 200)
RICE = np.sqrt(3) / (2 * np.pi)


def as_minima(energies, room):
    """Minima with these energies, padded."""
    n = len(energies)
    return rx.Minima(
        points=jnp.zeros((room, 1)),
        energies=jnp.full(room, jnp.inf).at[:n].set(energies),
        hessian_eigenvalues=jnp.zeros((room, 1)),
        index=jnp.zeros(room, jnp.int32),
        degenerate=jnp.zeros(room, bool),
        counts=jnp.zeros(room, jnp.int32),
        mask=jnp.arange(room) < n,
        size=jnp.array(1.0),
        stats={},
    )


def test_histogram_is_that_of_numpy():
    found = rx.minima_density(ENERGIES, bins=12, volume=4.0, k=2.0)
    counts, edges = np.histogram(ENERGIES, 12)
    width = edges[1] - edges[0]
    np.testing.assert_allclose(found.energies, (edges[1:] + edges[:-1]) / 2)
    np.testing.assert_allclose(found.density, counts / width / 4, rtol=1e-12)
    np.testing.assert_allclose(found.error, np.sqrt(counts) / width / 4, rtol=1e-12)
    assert found.bandwidth == pytest.approx(width) and 4 * width * found.density.sum() == pytest.approx(200)
    # rho = exp(S / k), and no minimum is an entropy of minus infinity.
    np.testing.assert_allclose(np.exp(np.asarray(found.entropy) / 2), found.density, rtol=1e-12)
    assert np.any(counts == 0) == np.any(np.isneginf(found.entropy))
    # Padding is left out, and limits cut.
    padded = rx.minima_density(as_minima(ENERGIES, 256), bins=12, volume=4.0)
    np.testing.assert_array_equal(padded.density, found.density)
    cut = rx.minima_density(ENERGIES, bins=5, limits=(1.0, 2.0))
    np.testing.assert_allclose(cut.density, np.histogram(ENERGIES, 5, (1.0, 2.0))[0] / 0.2, rtol=1e-12)


def test_kernel_is_the_sum_of_gaussians():
    at = np.linspace(-2.0, 14.0, 801)
    width = 1.06 * np.std(ENERGIES, ddof=1) * 200**-0.2
    found = rx.minima_density(as_minima(ENERGIES, 256), method="kernel", at=at)
    assert found.bandwidth == pytest.approx(width)
    terms = stats.norm.pdf(at[:, None], ENERGIES[None], width)
    np.testing.assert_allclose(found.density, terms.sum(axis=1), rtol=1e-10)
    np.testing.assert_allclose(found.error, np.sqrt(np.sum(terms**2, axis=1)), rtol=1e-10)
    assert np.trapezoid(found.density, at) == pytest.approx(200, rel=1e-3)
    wide = rx.minima_density(ENERGIES, method="kernel", bandwidth=0.5, bins=7)
    ends = [ENERGIES.min() - 1.5, ENERGIES.max() + 1.5]
    np.testing.assert_allclose(wide.energies[jnp.array([0, -1])], ends)


def test_gradients():
    energies = jnp.asarray(ENERGIES[:6])
    kernel = lambda x, **kw: rx.minima_density(energies.at[0].set(x), method="kernel", at=jnp.array([2.0]), **kw)

    def fitted(x):
        fit = rx.fit_barrier_distribution(energies.at[0].set(x), samples=1)
        return fit.scale + 2 * fit.interval[1] + 3 * fit.log_likelihood + 4 * fit.statistic

    assert_gradients(
        [
            (lambda x: kernel(x).density[0], 2.5),
            (lambda x: kernel(x, bandwidth=0.7).entropy[0], 2.5),
            (lambda x: kernel(2.5, bandwidth=x).density[0], 0.7),
            (lambda x: rx.expected_minima_density(x), 0.8),
            (lambda x: rx.expected_minima_density(0.8, x, std=1.5), -0.4),
            (lambda x: rx.expected_minima_density(0.8, -0.4, std=x), 1.5),
            (fitted, 2.5),
        ]
    )


def test_expected_density_integrates_to_rice():
    energy = np.linspace(-12.0, 8.0, 4001)
    density = rx.expected_minima_density(0.5, energy, std=1.3)
    assert np.trapezoid(density, energy) == pytest.approx(RICE / 0.5, rel=1e-10)
    assert rx.expected_minima_density(0.5) == pytest.approx(RICE / 0.5)
    # The mean energy of a minimum of a narrow-banded process: -sqrt(pi / 2) sqrt(1 - 2/3) standard deviations.
    mean = np.trapezoid(density * energy, energy) * 0.5 / RICE
    assert mean == pytest.approx(-1.3 * np.sqrt(np.pi / 6), rel=1e-8)
    assert np.all(rx.expected_minima_density(1.0, np.linspace(5.0, 40.0, 50)) >= 0)


LENGTH, HALF = 0.5, 10.0


@eqx.filter_jit
def search_fields(keys, starts):
    """Minima of many random fields on a line of 40 lengths: their number and their energies."""

    def one(key):
        field = rx.landscapes.RandomField(key, dim=1, length_scale=LENGTH, num_features=128)
        minima = rx.find_minima(field, starts=starts, bounds=jnp.array([[-HALF, HALF]]), max_minima=24)
        values = jax.vmap(field)(jnp.linspace(-HALF, HALF, 2001)[:, None])
        inner = (values[1:-1] < values[:-2]) & (values[1:-1] < values[2:])
        return minima, values, inner

    return jax.lax.map(one, keys)


@pytest.mark.slow
def test_every_minimum_of_a_random_field_is_found():
    minima, values, inner = search_fields(jr.split(jr.key(0), 3), 80)
    np.testing.assert_array_equal(minima.mask.sum(axis=1), inner.sum(axis=1))
    for i in range(3):
        n = int(inner[i].sum())
        np.testing.assert_allclose(minima.energies[i, :n], np.sort(values[i, 1:-1][inner[i]]), atol=1e-3)
    assert not minima.stats["dropped"].any()


@jax.jit
def sample_fields(keys):
    """Values of many random fields on a line of 40 lengths, eight points a length."""
    at = jnp.arange(321.0)[:, None] * LENGTH / 8
    field = lambda key: rx.landscapes.RandomField(key, dim=1, length_scale=LENGTH, num_features=128)
    return jax.lax.map(lambda key: jax.vmap(field(key))(at), keys)


@pytest.mark.slow
def test_random_fields_have_rice_minima():
    """sqrt(3) / (2 pi l) per unit length within 2 %, and the law of their energies (case 30)."""
    values = np.asarray(sample_fields(jr.split(jr.key(1), 1500)))
    inner = (values[:, 1:-1] < values[:, :-2]) & (values[:, 1:-1] < values[:, 2:])
    length = 1500 * 319 * LENGTH / 8
    assert inner.sum() / length == pytest.approx(RICE / LENGTH, rel=0.02)
    found = rx.minima_density(values[:, 1:-1][inner], bins=16, limits=(-3.0, 1.0), volume=length)
    expected = np.asarray(rx.expected_minima_density(LENGTH, found.energies))
    # Neighbouring minima are not independent, and a bin holds the mean of the curve: hence the second term.
    assert np.all(np.abs(found.density - expected) < 4 * np.asarray(found.error) + 0.01 * expected.max())
    assert np.argmax(found.density) in np.argmax(expected) + np.array([-1, 0, 1])


@pytest.mark.slow
def test_minima_found_in_random_fields_have_rice_density():
    """The same by the search itself (case 30)."""
    minima, _, _ = search_fields(jr.split(jr.key(2), 600), 80)
    found = float(minima.mask.sum()) / (600 * 2 * HALF)
    assert found == pytest.approx(RICE / LENGTH, rel=0.02)
    assert not minima.stats["dropped"].any()


def test_fit():
    barriers = 2.0 * np.random.default_rng(1).exponential(size=(5, 8))
    fit = rx.fit_barrier_distribution(barriers, confidence=0.9, samples=200)
    assert fit.count == 40 and fit.scale == pytest.approx(barriers.mean())
    exact = 80 * barriers.mean() / stats.chi2.ppf([0.95, 0.05], 80)
    np.testing.assert_allclose(fit.interval, exact, rtol=1e-10)
    assert fit.log_likelihood == pytest.approx(stats.expon.logpdf(barriers, scale=barriers.mean()).sum())
    x = np.sort(barriers.ravel()) / barriers.mean()
    logs = np.log(stats.expon.cdf(x)) + stats.expon.logsf(x[::-1])
    assert fit.statistic == pytest.approx(-40 - np.mean((2 * np.arange(40) + 1) * logs))
    kolmogorov = rx.fit_barrier_distribution(barriers, statistic="kolmogorov_smirnov", samples=200)
    assert kolmogorov.statistic == pytest.approx(stats.kstest(x, "expon").statistic)
    # The unit of energy does not matter to the test, and neither does a key to anything but the p-value.
    other = rx.fit_barrier_distribution(1e-3 * barriers, confidence=0.9, samples=200, key=jr.key(7))
    np.testing.assert_allclose(1e3 * other.interval, fit.interval, rtol=1e-12)
    assert other.statistic == pytest.approx(float(fit.statistic)) and abs(other.p_value - fit.p_value) < 0.3


def test_interval_covers_and_p_values_are_uniform():
    """Over many data sets of the law itself the interval covers at its level, and the p-value is uniform."""
    data = 3.0 * np.random.default_rng(2).exponential(size=(1000, 6))
    fit = jax.jit(jax.vmap(lambda x, key: rx.fit_barrier_distribution(x, key=key, samples=99)))(
        data, jr.split(jr.key(0), 1000)
    )
    covered = (fit.interval[:, 0] < 3.0) & (3.0 < fit.interval[:, 1])
    assert np.mean(covered) == pytest.approx(0.95, abs=0.018)
    # Multiples of 1/100, each as likely as the others: the tables for a known scale would give far too few small ones.
    assert stats.kstest(np.asarray(fit.p_value) - 0.005, "uniform").pvalue > 1e-2
    assert np.mean(fit.p_value <= 0.05) == pytest.approx(0.05, abs=0.018)


@pytest.mark.parametrize("statistic", ["anderson_darling", "kolmogorov_smirnov"])
def test_other_laws_are_refuted(statistic):
    rng = np.random.default_rng(3)
    fit = lambda x: rx.fit_barrier_distribution(x, statistic=statistic, samples=200)
    for wrong in (rng.normal(5.0, 1.0, 40), rng.uniform(1.0, 2.0, 40), rng.pareto(0.7, 40) + 1e-3):
        assert fit(wrong).p_value <= 0.01
    # The smallest p-value that so many samples can show.
    assert fit(rng.normal(50.0, 1.0, 40)).p_value == pytest.approx(1 / 201)
    assert fit(rng.exponential(50.0, 40)).p_value > 0.1


def test_barriers_count_once_for_each_pair_of_minima():
    barriers = rx.Barriers(
        saddles=jnp.zeros((3, 1)),
        energies=jnp.array([1.0, 2.0, 3.0]),
        pairs=jnp.array([[0, 1], [1, 2], [0, 1]]),
        heights=jnp.array([[1.0, 0.5], [1.5, 2.0], [3.0, 2.5]]),
        hessian_eigenvalues=jnp.zeros((3, 1)),
        unlisted=jnp.zeros((0, 1)),
        stats={},
    )
    fit = rx.fit_barrier_distribution(barriers, samples=10)
    assert fit.count == 4 and fit.scale == pytest.approx(1.25)
    none = eqx.tree_at(lambda b: (b.pairs, b.heights), barriers, (jnp.zeros((0, 2), int), jnp.zeros((0, 2))))
    with pytest.raises(ValueError, match="`barriers` must hold at least 3 barriers.*but it holds 0"):
        rx.fit_barrier_distribution(none)


def test_float32(float32):
    energies = ENERGIES.astype(np.float32)
    fit = rx.fit_barrier_distribution(energies, samples=20)
    found = rx.minima_density(energies, bins=12)
    for x in (fit.scale, fit.interval, fit.p_value, fit.statistic, found.density, found.entropy, found.bandwidth):
        assert x.dtype == jnp.float32
    assert fit.scale == pytest.approx(ENERGIES.mean(), rel=1e-6)
    counts, edges = np.histogram(ENERGIES, 12)
    np.testing.assert_allclose(found.density, counts / (edges[1] - edges[0]), rtol=1e-5)
    # Rice's formula keeps four digits wherever it is not negligible.
    at = np.linspace(-5.0, 2.0, 50)
    narrow = rx.expected_minima_density(1.0, at.astype(np.float32))
    # Cartwright and Longuet-Higgins: the law of the heights, by SciPy's normal law.
    width = np.sqrt(2 / 3)
    heights = width * stats.norm.pdf(at / width)
    heights -= np.sqrt(1 / 3) * at * np.exp(-(at**2) / 2) * stats.norm.cdf(-at / np.sqrt(2))
    np.testing.assert_allclose(narrow, RICE * heights, rtol=1e-4, atol=1e-6)
    half = rx.expected_minima_density(jnp.bfloat16(1.0), jnp.bfloat16(-1.0), std=jnp.bfloat16(1.0))
    assert half == pytest.approx(0.1158, abs=5e-5)


def test_refusals():
    three = jnp.array([1.0, 2.0, 3.0])
    density = rx.minima_density
    fit = lambda x: rx.fit_barrier_distribution(three.at[0].set(x), samples=1).scale
    assert_refused(
        [
            (fit, 0.0, "`barriers` must be positive", 1.0),
            (fit, np.inf, "`barriers` must be positive", 1.0),
            (lambda x: density(three.at[0].set(x)).density, np.nan, "`energies` must be finite", 0.0),
            (lambda x: density(three, limits=(x, 2.0)).density, 2.0, "`limits` must be finite, the highest", 1.9),
            (lambda x: density(three, volume=x).density, 0.0, "`volume` must be positive", 0.1),
            (lambda x: density(three, k=x).entropy, -1.0, "`k` must be positive", 0.1),
            (lambda x: density(three, method="kernel", bandwidth=x).density, 0.0, "`bandwidth` must be pos", 0.1),
            (
                lambda x: density(three, method="kernel", at=jnp.atleast_1d(x)).density,
                np.inf,
                "`at` must be finite",
                0.1,
            ),
            (lambda x: density(jnp.stack([x, 1.0]), method="kernel").density, 1.0, "all minima have the same", 0.5),
            (lambda x: density(jnp.stack([x, 1.0])).density, 1.0, "Give `limits`, if all minima", 0.5),
            (lambda x: rx.expected_minima_density(x), 0.0, "`length_scale` must be positive", 0.1),
            (lambda x: rx.expected_minima_density(1.0, 0.0, std=x), -1.0, "`std` must be positive", 0.1),
            (lambda x: rx.expected_minima_density(1.0, x), np.nan, "`energy` must be finite", 0.1),
        ]
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rx.fit_barrier_distribution(jnp.ones(2)), "at least 3 barriers.*but it holds 2"),
        (lambda: rx.fit_barrier_distribution(jnp.ones(3), confidence=1.0), "`confidence` must lie between 0 and 1"),
        (lambda: rx.fit_barrier_distribution(jnp.ones(3), statistic="cramer"), '"anderson_darling", "kolmogorov'),
        (lambda: rx.fit_barrier_distribution(jnp.ones(3), samples=0), "`samples` must be at least 1"),
        (lambda: rx.minima_density(jnp.ones(3), method="knn"), '`method` must be one of "histogram", "kernel"'),
        (lambda: rx.minima_density(jnp.ones(0)), "`energies` must hold at least one energy"),
        (lambda: rx.minima_density(jnp.ones(3), bins=0), "`bins` must be at least 1"),
        (lambda: rx.minima_density(jnp.ones((3, 2))), r"`energies` must have shape \(n,\)"),
        (lambda: rx.minima_density(jnp.arange(3.0), bandwidth=0.1), '`bandwidth` must come with method="kernel"'),
        (lambda: rx.minima_density(jnp.arange(3.0), at=jnp.ones(2)), '`at` must come with method="kernel"'),
        (lambda: rx.minima_density(jnp.ones(1), method="kernel"), "`energies` must hold two minima or more"),
    ],
)
def test_bad_calls(call, words):
    with pytest.raises(ValueError, match=words):
        call()
