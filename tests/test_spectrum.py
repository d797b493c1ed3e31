"""Spectra: closed forms, slow rates, driven processes, exclusion, outcomes, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import ExclusionProcess

import rxjax_solvers as rxs


def test_oscillator_and_double_well():
    """Cases 1 and 3: 0, -1, -2, ... and the slow rate of a double well, extrapolated; with its derivative."""

    def slow(D, cells):
        grid = rxs.Grid(-2.6, 2.6, cells)
        W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, grid, D)
        values, modes = rxs.spectrum(W, 2)
        return values[1], (values[0], W.apply(modes[1]) - values[1] * modes[1])

    def oscillator(cells):
        W = rxs.FokkerPlanck.from_potential(lambda x: x[0] ** 2 / 2, rxs.Grid(-5.0, 5.0, cells), 0.5)
        return rxs.spectrum(W, 4)[0]

    cold = jnp.array([0.1, 0.05, 0.025])

    @jax.jit
    def run():
        near = jnp.concatenate([cold, cold * (1 + 1e-4), cold * (1 - 1e-4)])
        both = jax.lax.map(jax.value_and_grad(lambda D: slow(D, 100), has_aux=True), near)
        finer = [jax.lax.map(lambda D, n=n: slow(D, n)[0], cold) for n in (200, 400)]
        return both, finer, [oscillator(n) for n in (64, 128)]

    ((rates, (zero, defect)), slopes), (b, c), (wide, narrow) = run()
    assert rates.dtype == jnp.float64 and np.all(np.asarray(zero) == 0)
    assert np.max(np.sum(np.abs(defect), axis=1)) < 1e-9
    a, up, down = np.split(np.asarray(rates), 3)
    limit = (16 * (4 * c - b) / 3 - (4 * b - a) / 3) / 15
    np.testing.assert_allclose(-limit, [0.0335452873, 0.00277614064, 1.958927e-5], rtol=2e-6)
    np.testing.assert_allclose(slopes[:3], (up - down) / (2e-4 * cold), rtol=1e-5)
    np.testing.assert_allclose((4 * narrow - wide) / 3, [0, -1, -2, -3], atol=1e-3)


def test_gap_of_the_exclusion_process():
    """Case 16: how fast particles that hop to the right forget where they were."""
    system = ExclusionProcess()
    gap = -jax.jit(lambda: rxs.spectrum(system.generator(jnp.ones(2)), 2)[0][1])()
    np.testing.assert_allclose(gap, system.gap, rtol=1e-8)


def test_slow_rate_keeps_its_relative_accuracy():
    """60 kT: the rate is that of the passage time, 1e-27 beside rates of 1e3."""

    @jax.jit
    def run():
        W = rxs.FokkerPlanck.from_potential(
            lambda x: (x[0] ** 2 - 1) ** 2 - 0.1 * x[0], rxs.Grid(-1.3, 1.3, 41), 1 / 60
        )
        return -rxs.spectrum(W, 2)[0][1], rxs.mean_first_passage_time(W, jnp.arange(41) == 36)[4]

    rate, tau = run()
    assert tau > 1e20
    np.testing.assert_allclose(rate * tau, 1, rtol=1e-3)


def test_fast_modes_behind_a_barrier():
    """50 kT: a fast mode is 1e22 times a slow one, which rounding there would cover; without a potential at 45 kT."""
    grid = rxs.Grid(-1.6, 1.6, 48)
    wells = lambda barrier: lambda x: barrier * (x[0] ** 2 - 1) ** 2

    @jax.jit
    def run():
        W = rxs.FokkerPlanck.from_potential(wells(50.0), grid, temperature=1.0)
        V = rxs.FokkerPlanck(lambda x: -jax.grad(wells(45.0))(x), 1.0, grid)
        law = rxs.stationary(V)
        return [(w.as_matrix(), rate, rxs.spectrum(w, 4)) for w, rate in ((W, W.log_gibbs), (V, jnp.log(law)))]

    for matrix, log_law, (values, modes) in jax.tree.map(np.asarray, run()):
        root = np.exp((log_law - np.max(log_law)) / 2)
        exact = np.linalg.eigvalsh(matrix * root[None] / root[:, None])[::-1]
        assert abs(values[1]) < 1e-16
        np.testing.assert_allclose(values[2:], exact[2:4], rtol=1e-6)
        defect = matrix @ modes[2] - values[2] * modes[2]
        # In the norm in which they are orthogonal where there is a potential.
        norm = root if np.isrealobj(modes) else 1.0
        assert np.linalg.norm(defect / norm) < 1e-6 * np.abs(values[2]) * np.linalg.norm(modes[2] / norm)


def test_rounding_of_a_full_matrix_is_seen():
    """Fast modes behind 35 kT are wrong by a tenth, and it says so."""
    grid = rxs.Grid(-1.6, 1.6, 40)
    W = rxs.FokkerPlanck.from_potential(lambda x: 35 * (x[0] ** 2 - 1) ** 2, grid, temperature=1.0)
    full = rxs.MasterEquation.from_matrix(W.as_matrix())
    (values, _), result = jax.jit(lambda: rxs.spectrum(full, 4, throw=False))()
    assert result == rxs.RESULTS.not_converged
    np.testing.assert_allclose(values[1], rxs.spectrum(W, 2)[0][1], rtol=1e-9)


@pytest.mark.slow
def test_rotation():
    """Case 2: -(1 ± 2i) m, complex pairs beside each other."""
    grid = rxs.Grid(-4.5, 4.5, (40, 36))
    drift = lambda x: jnp.array([-x[0] - 2 * x[1], 2 * x[0] - x[1]])
    values = jax.jit(lambda: rxs.spectrum(rxs.FokkerPlanck(drift, jnp.array([1.0, 0.25]), grid), 4)[0])()
    np.testing.assert_allclose(values, [0, -2, -1 + 2j, -1 - 2j], atol=0.15)
    np.testing.assert_allclose(values[2], jnp.conj(values[3]), rtol=1e-9)


def test_ring_has_a_closed_form():
    """A driven ring of equal rates: its eigenvalues are sums of roots of unity; derivative in the rate."""
    n, up, down = 12, 2.0, 0.5
    at = jnp.arange(n)

    def run(up):
        rates = jnp.concatenate([jnp.full(n, up), jnp.full(n, down)])
        W = rxs.MasterEquation.from_edges(
            jnp.concatenate([at, at]), jnp.concatenate([(at + 1) % n, (at - 1) % n]), rates, size=n
        )
        values, _ = rxs.spectrum(W, 5)
        return jnp.sum(values.real), values

    (_, values), slope = jax.jit(jax.value_and_grad(run, has_aux=True))(up)
    w = np.exp(2j * np.pi * np.arange(n) / n)
    exact = up * (w - 1) + down * (1 / w - 1)
    exact = exact[np.lexsort((-exact.imag, np.abs(exact)))][:5]
    np.testing.assert_allclose(values, exact, atol=1e-9)
    np.testing.assert_allclose(slope, np.sum(np.real(w[[0, 1, -1, 2, -2]] - 1)), rtol=1e-9)


@pytest.mark.slow
def test_absorbing_interval_and_outcomes():
    W = rxs.FokkerPlanck(jnp.zeros(1), 0.5, rxs.Grid(-1.0, 1.0, 80, boundary="absorbing"))
    values, _ = rxs.spectrum(W, 2)
    np.testing.assert_allclose(values, [-(np.pi**2) / 8, -(np.pi**2) / 2], rtol=1e-3, atol=1e-9)
    _, result = rxs.spectrum(W, 6, max_krylov=8, throw=False)
    assert result == rxs.RESULTS.not_converged
    np.testing.assert_allclose(rxs.spectrum(rxs.MasterEquation.from_matrix([[0.0]]), 1)[0], [0])
    with pytest.raises(ValueError, match="`k` must be whole, from 1 to the number of cells, 80, but it is 0"):
        rxs.spectrum(W, 0)
