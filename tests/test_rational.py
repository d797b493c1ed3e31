"""Rational approximation: its poles, exact densities at any time, uphill starts, outcomes, derivatives, refusals."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg

import rxjax_solvers as rxs
from rxjax_solvers._rational_poles import POLES


def caratheodory_fejer(n, terms=75, points=1024, scale=9.0):
    """Poles of the near-best approximation of exp on z <= 0, upper half-plane (Trefethen, Weideman, Schmelzer 2006)."""
    t = np.cos(2 * np.pi * np.arange(points) / points)
    series = np.real(np.fft.fft(np.exp(scale * (t - 1) / (t + 1 + 1e-16)))) / points
    roots = np.roots(np.linalg.svd(scipy.linalg.hankel(series[1 : terms + 1]))[2][n])
    outside = roots[np.abs(roots) > 1]
    poles = scale * (outside - 1) ** 2 / (outside + 1) ** 2
    return np.sort_complex(poles[poles.imag > 0])


@pytest.mark.parametrize("n", POLES)
def test_poles(n):
    """Caratheodory and Fejer find the same; 2n + 2 alternations of one size say that nothing is better (Chebyshev)."""
    limit, poles, residues = POLES[n]
    np.testing.assert_allclose(caratheodory_fejer(n), np.sort_complex(poles), rtol=1e-5)
    x = -9 * np.tan(np.linspace(0, np.pi / 2 - 1e-4, 4000, dtype=np.longdouble)) ** 2
    terms = residues.astype(np.clongdouble) / (x[:, None] - poles.astype(np.clongdouble))
    error = limit + 2 * np.sum(terms.real, axis=1) - np.exp(x)
    peaks = [p[np.argmax(np.abs(p))] for p in np.split(error, np.flatnonzero(np.diff(np.sign(error))) + 1)]
    assert len(peaks) == 2 * n + 2
    # What the last digit of a double is worth among residues of 100.
    np.testing.assert_allclose(np.abs(peaks).astype(float), abs(limit), rtol=1e-3, atol=1e-14 if n == 14 else 2e-15)
    assert 0.5 < abs(limit) * 9.28903**n < 0.8


def exact(matrix, exits, p, ts):
    """`exp(t W) p` in 60 digits, for rates that detailed balance makes symmetric; the diagonal is minus their sum."""
    n = len(p)
    with mpmath.workdps(60):
        w = [[mpmath.mpf(float(matrix[i, j])) if i != j else mpmath.mpf(0) for j in range(n)] for i in range(n)]
        law = [mpmath.mpf(1)]
        for i in range(1, n):
            law.append(law[-1] * w[i][i - 1] / w[i - 1][i])
        root = [mpmath.sqrt(x) for x in law]
        s = mpmath.matrix(n, n)
        for i in range(n):
            s[i, i] = -sum(w[k][i] for k in range(n)) - mpmath.mpf(float(exits[i]))
            for j in range(i):
                s[i, j] = s[j, i] = mpmath.sqrt(w[i][j] * w[j][i])
        values, q = mpmath.eigsy(s)
        start = q.T * mpmath.matrix([mpmath.mpf(float(x)) / r for x, r in zip(p, root, strict=True)])
        out = []
        for t in ts:
            y = q * mpmath.matrix(
                [mpmath.exp(v * mpmath.mpf(float(t))) * c for v, c in zip(values, start, strict=True)]
            )
            out.append([float(a * r) for a, r in zip(y, root, strict=True)])
    return np.array(out)


TS = np.array([0.0, 0.02, 0.3, 5.0, 1e3, 1e6, 1e10])


@jax.jit
def chains(kT, mean):
    """Closed, open and ring-shaped: rates, exits, and what the method makes of them."""
    out = []
    for boundary in ("reflecting", [("absorbing", "reflecting")], "periodic"):
        grid = rxs.Grid(-2.0, 2.0, 24, boundary)
        V = lambda x: jnp.cos(jnp.pi * x[0]) - 0.2 * jnp.cos(jnp.pi * x[0] / 2)
        W = rxs.FokkerPlanck.from_potential(V, grid, kT)
        p0 = grid.gaussian(mean, 0.2)
        ps, result, stats = rxs.Rational().run(W, p0, TS)
        out.append((W.as_matrix(), W.exit_rates(), p0, ps, result == rxs.RESULTS.successful, stats))
    return out


@pytest.mark.parametrize("kT, mean", [(0.1, 1.0), (0.03, 0.3)])
def test_any_time(kT, mean):
    """From a well to 1e-12, from uphill to what is promised; over 66 kT and 1e10 units of time alike."""
    h = 4 / 24
    for matrix, exits, p0, ps, good, stats in chains(kT, mean):
        assert good
        # Columns of a closed chain sum to zero up to rounding.
        leaks = np.asarray(exits) > 1e-6
        error = np.sum(np.abs(ps - exact(np.asarray(matrix), np.where(leaks, exits, 0), p0, TS)), axis=1) * h
        assert np.all(error <= np.asarray(stats["error"]) + 1e-15)
        assert np.max(error) < (1e-12 if mean == 1.0 else 1e-9)
        assert np.min(ps) >= 0 and np.max(stats["moved_mass"]) < 1e-9
        if not np.any(leaks):
            np.testing.assert_allclose(np.sum(ps, axis=1) * h, 1, rtol=3e-15)


LINE = rxs.Grid(-2.0, 2.0, 128)


@jax.jit
def slide(kT, tol, few):
    """From far uphill, over a slide of 5 / kT; with hardly any steps it is said that they did not suffice."""
    W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, LINE, kT)
    p0, ts = LINE.gaussian(1.8, 0.03), jnp.array([0.0, 0.01, 0.1, 1.0, 10.0])
    (ps, result, stats), (_, poor, few_stats) = (rxs.Rational(tol, n).run(W, p0, ts) for n in (64, 3))
    uniform = rxs.uniformization(W, p0, ts, 1e-13, differentiate="forward")[0]
    error = jnp.sum(jnp.abs(ps - uniform), axis=1) * LINE.spacing[0]
    return ps, error, stats, result == rxs.RESULTS.successful, poor == rxs.RESULTS.not_normal, few_stats


def test_uphill():
    """Shorter steps where W is not normal: the error promised, no more; positive; and no answer passed off as good."""
    ps, error, stats, good, poor, few = slide(0.03, 1e-9, 3)
    assert good and poor and np.max(few["error"]) > 1e-9
    assert np.all(error <= np.asarray(stats["error"]) + 2e-13) and np.max(stats["error"]) <= 1e-9
    assert int(stats["num_steps"]) > 10 and np.min(ps) >= 0 and 0 < np.max(stats["moved_mass"]) < 1e-9


def observed(q):
    """A scalar of all kinds of parameters: temperature, tilt, start, bound, a save time; over several steps."""
    grid = rxs.Grid(-2.0, 2.0 * q[3], 64)
    W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2 + q[1] * x[0], grid, q[0])
    ts = jnp.stack([jnp.zeros(()), 0.3 * jnp.ones(()), q[4]])
    ps, _, stats = rxs.Rational(3e-11).run(W, grid.gaussian(q[2], 0.15), ts)
    return jnp.sum(ps[1:] * jnp.sin(grid.axes[0][None] + jnp.arange(2.0)[:, None])) * grid.spacing[0], stats[
        "num_steps"
    ]


def test_gradient_equals_finite_differences():
    point, h = jnp.array([0.03, 0.2, 0.05, 1.1, 0.8]), 2e-4
    shifts = h * jnp.concatenate([jnp.zeros((1, 5)), *(s * jnp.eye(5) for s in (-2.0, -1.0, 1.0, 2.0))])
    (_, steps), slope = jax.jit(jax.value_and_grad(observed, has_aux=True))(point)
    # And vmap runs every member as it would run alone.
    both = jax.jit(lambda q: (jax.lax.map(observed, q), jax.vmap(observed)(q)))
    (near, taken), (together, _) = both(point[None] + shifts)
    assert steps > 6 and np.all(taken > 6)
    np.testing.assert_allclose(together, near, rtol=1e-12)
    a, b, c, d = near[1:].reshape(4, 5)
    np.testing.assert_allclose(slope, (a - 8 * b + 8 * c - d) / (12 * h), rtol=1e-6, atol=1e-9)


def test_float32(float32):
    @jax.jit
    def run():
        grid = rxs.Grid(-2.0, 2.0, 48)
        W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, 0.1)
        return W.as_matrix(), *rxs.Rational().run(W, grid.gaussian(-1.0, 0.2), jnp.array([0.0, 0.5, 100.0, 1e12]))

    matrix, ps, result, stats = run()
    assert ps.dtype == jnp.float32 and result == rxs.RESULTS.successful
    matrix, ps = np.asarray(matrix, np.float64), np.asarray(ps, np.float64)
    # Columns that sum to zero in double precision too.
    matrix -= np.diag(np.sum(matrix, axis=0))
    late = scipy.linalg.null_space(matrix)[:, 0]
    reference = [ps[0], scipy.linalg.expm(0.5 * matrix) @ ps[0], scipy.linalg.expm(100 * matrix) @ ps[0]]
    error = np.sum(np.abs(ps - [*reference, late / np.sum(late) * 12]), axis=1) / 12
    assert np.all(error < 1e-5) and np.max(stats["error"]) < 1e-4
    np.testing.assert_allclose(np.sum(ps, axis=1) / 12, 1, atol=1e-6)


def test_refusals(monkeypatch):
    p, grid = jnp.full(8, 0.25), rxs.Grid(-2.0, 2.0, 8)
    plane, ring = rxs.Grid(-2.0, 2.0, (4, 2)), rxs.Grid(-2.0, 2.0, 8, "periodic")
    free = rxs.FokkerPlanck(jnp.zeros(1), 1.0, grid)
    refuse = lambda W, words: pytest.raises(ValueError, match="`method` must not be Rational.. " + words)
    for W, words in [
        (rxs.FokkerPlanck(rxs.TimeDependent(lambda t, x: t * x), 1.0, grid), "for a generator that depends on time"),
        (rxs.MasterEquation.from_edges([0, 1], [1, 0], 1.0, size=8), "for a MasterEquation.*Use ShiftInvert"),
        (rxs.FokkerPlanck(jnp.zeros(2), 1.0, plane), r"on a grid of shape \(4, 2\).*Use ShiftInvert"),
        (rxs.FokkerPlanck(jnp.ones(1), 1.0, ring), "on a ring with a drift.*Use ShiftInvert.*from_potential"),
    ]:
        with refuse(W, words):
            rxs.solve(W, p.reshape(W.shape) / W.mass(p.reshape(W.shape)), [0.0, 1.0], method=rxs.Rational())
    with rxs.checks_off():
        run = jax.jit(lambda p: rxs.Rational().run(free, p, jnp.array([0.0, 1.0]))[0])
        assert "stablehlo" in run.trace(p).lower(lowering_platforms=("cuda",)).as_text()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with refuse(free, "on a TPU, for it computes in complex numbers"):
        rxs.solve(free, p, [0.0, 1.0], method=rxs.Rational())
