"""Jumps between states: three ways to give them, their boundaries, their diffusion limit, the Fourier form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
from refusals import assert_refused
from systems import JUMP_SYSTEMS, ExclusionProcess, ImmigrationDeath, Isomerisation, ThreeStateCycle

import rxjax as rx
import rxjax_solvers as rxs

SHAPE, REACH = (9, 7), (3, 2)
BOUNDARIES = {
    "closed": "reflecting",
    "ring": "periodic",
    "open": [("absorbing", "reflecting"), "absorbing"],
    "mixed": ["periodic", ("reflecting", "absorbing")],
}
WAVE = lambda x: jnp.cos(x[0]) + 0.5 * jnp.sin(x[-1])


def jumps(boundary, law=None, fft=False, shape=SHAPE, kT=0.7):
    grid = rxs.Grid(0, 2 * jnp.pi, shape, boundary=BOUNDARIES[boundary])
    rate = rx.jump_rate(WAVE, kT, rx.proposals.Gaussian(0.9), law=rx.Symmetric() if law is None else law)
    return rxs.MasterEquation.from_rates(rate, grid, reach=REACH, fft=fft)


def reference(boundary):
    """The rates of `jumps` cell by cell, by the words of the docstring."""
    grid = rxs.Grid(0, 2 * jnp.pi, SHAPE)
    points, h = np.asarray(grid.points), np.asarray(grid.spacing)
    energy = lambda x: np.cos(x[0]) + 0.5 * np.sin(x[1])
    sides = BOUNDARIES[boundary]
    sides = [(s, s) if isinstance(s, str) else s for s in ([sides] * 2 if isinstance(sides, str) else sides)]
    W = np.zeros(SHAPE + SHAPE)
    for cell in np.ndindex(*SHAPE):
        for offset in np.ndindex(7, 5):
            offset = np.array(offset) - np.array(REACH)
            delta = offset * h
            if not 0 < np.sum((offset / np.array(REACH)) ** 2) <= 1:
                continue
            rate = np.exp(-np.sum(delta**2) / (2 * 0.81)) / (2 * np.pi * 0.81) * np.prod(h)
            rate *= np.exp(-(energy(points[cell] + delta) - energy(points[cell])) / 1.4)
            to, hits = np.array(cell) + offset, []
            for axis in range(2):
                side = sides[axis][0 if to[axis] < 0 else 1]
                if side == "periodic":
                    to[axis] %= SHAPE[axis]
                elif not 0 <= to[axis] < SHAPE[axis]:
                    hits.append(side)
            if "reflecting" in hits:
                continue
            W[cell + cell] -= rate
            if not hits:
                W[tuple(to) + cell] += rate
    return W.reshape(np.prod(SHAPE), -1)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_stencil_and_fourier_form_are_the_matrix_they_claim(boundary):
    p, u = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    leaky = "absorbing" in str(BOUNDARIES[boundary])

    @jax.jit
    def parts():
        direct, fourier = jumps(boundary), jumps(boundary, fft=True)
        both = [(W.apply(p), W.adjoint(u), W.outflow(), W.exit_rates()) for W in (direct, fourier)]
        # Refused where mass is lost.
        dissipated = None if leaky else rxs.entropy_production(fourier, jnp.abs(p))
        return [W.as_matrix() for W in (direct, fourier)], dissipated, *both

    matrices, dissipated, direct, fourier = parts()
    expected = reference(boundary)
    # Without the rounding of a transform where nothing jumps, which made what is dissipated infinite.
    for matrix in matrices:
        np.testing.assert_allclose(matrix, expected, rtol=1e-12, atol=0)
    flux = expected * np.abs(p.ravel())
    there, back = flux[flux > 0], flux.T[flux > 0]
    heat = np.sum((there - back) * np.log(there / back)) / 2 * (2 * np.pi) ** 2 / p.size
    assert leaky or dissipated == pytest.approx(heat)
    forward, backward, outflow, exits = (np.ravel(x) for x in direct)
    np.testing.assert_allclose(forward, expected @ p.ravel(), atol=1e-12)
    np.testing.assert_allclose(backward, expected.T @ u.ravel(), atol=1e-12)
    np.testing.assert_allclose(outflow, -np.diag(expected), rtol=1e-12)
    np.testing.assert_allclose(exits, -np.sum(expected, axis=0), atol=1e-13)
    for ours, other in zip(direct, fourier, strict=True):
        np.testing.assert_allclose(other, ours, atol=1e-12)


def test_edges_and_matrix_agree_and_adjoint_is_the_transpose():
    keys = jax.random.split(jax.random.key(0), 4)
    source = jax.random.randint(keys[0], (40,), 0, 12)
    target = (source + jax.random.randint(keys[1], (40,), 1, 12)) % 12
    rate, exits = jax.random.uniform(keys[2], (40,)), jnp.zeros(12).at[3].set(0.7)
    p, u = jax.random.normal(keys[3], (2, 12))

    @jax.jit
    def both(rate):
        edges = rxs.MasterEquation.from_edges(source, target, rate, 12, exits=exits)
        dense = rxs.MasterEquation.from_matrix(edges.as_matrix())
        return edges.as_matrix(), [(W.apply(p), W.adjoint(u), W.outflow(), W.exit_rates()) for W in (edges, dense)]

    matrix, (edges, dense) = both(rate)
    expected = np.zeros((12, 12))
    np.add.at(expected, (np.asarray(target), np.asarray(source)), np.asarray(rate))
    expected -= np.diag(expected.sum(0) + np.asarray(exits))
    np.testing.assert_allclose(matrix, expected, atol=1e-14)
    for mine, other in zip(edges, dense, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-13)
    np.testing.assert_allclose(edges[1], expected.T @ u, atol=1e-13)
    np.testing.assert_allclose(edges[3], exits, atol=1e-13)
    # Linear in the rates, and differentiable in them.
    slope = jax.jvp(lambda r: both(r)[1][0][0], (rate,), (rate,))[1]
    np.testing.assert_allclose(slope, edges[0] + exits * p, atol=1e-13)


def test_a_million_edges():
    n = 300_000
    states = np.arange(n)
    source = np.concatenate([states] * 4)
    target = np.concatenate([(states + k) % n for k in (1, 2, 5, 7)])

    @jax.jit
    def change(source, target, rate, p):
        return rxs.MasterEquation.from_edges(source, target, rate, n).apply(p)

    p = np.sin(np.arange(n) / n * 2 * np.pi)
    expected = sum(np.roll(p, k) for k in (1, 2, 5, 7)) - 4 * p
    np.testing.assert_allclose(change(source, target, np.ones(4 * n), p), expected, atol=1e-13)


# Law, drift and diffusion relative to D, equilibrium temperature over kT, order of the limit.
LAWS = [
    (rx.Symmetric(), 1.0, 1.0, 2),
    (rx.Arrhenius("difference"), 1.0, 0.5, 2),
    (rx.Arrhenius(), 1.0, 0.5, 2),
    (rx.Glauber(), 0.5, 1.0, 2),
    (rx.Metropolis(), 1.0, 1.0, 1),
]


def test_diffusion_limit():
    """With A s^2/2 = D held fixed the density tends to that of Fokker-Planck, the literal law's at half kT."""
    n, kT, D = 160, 1.0, 0.5

    @jax.jit
    def matrices():
        grid, out = rxs.Grid(0, 2 * jnp.pi, n, boundary="periodic"), []
        for law, speed, temperature, _ in LAWS:
            limit = rxs.FokkerPlanck.from_potential(WAVE, grid, temperature * kT, speed * D / (temperature * kT))

            def jumping(s, law=law):
                rate = rx.jump_rate(WAVE, kT, rx.proposals.Gaussian(s), law=law, tau0=s**2 / (2 * D))
                return rxs.MasterEquation.from_rates(rate, grid, reach=30).as_matrix()

            out.append((limit.as_matrix(), jax.lax.map(jumping, jnp.array([0.24, 0.12]))))
        return grid.gaussian(2.0, 0.5), out

    p0, all_matrices = matrices()
    density = lambda matrix: scipy.linalg.expm(np.asarray(matrix)) @ p0
    for (law, _, _, order), (limit, jumping) in zip(LAWS, all_matrices, strict=True):
        errors = [np.sum(np.abs(density(W) - density(limit))) * 2 * np.pi / n for W in jumping]
        assert errors[1] < (0.01 if order == 2 else 0.05), (law, errors)
        assert abs(np.log2(errors[0] / errors[1]) - order) < 0.25, (law, errors)


def test_gibbs_law_at_its_temperature():
    """Detailed balance, flux by flux: the literal law with the exact difference at half the temperature."""
    grid = rxs.Grid(0, 2 * jnp.pi, 40, boundary="periodic")
    laws = [law for law, *_ in LAWS if law != rx.Arrhenius()]

    @jax.jit
    def matrices():
        rates = [rx.jump_rate(WAVE, 0.5, rx.proposals.Box(1.0), law=law, entropy=lambda x: x[0] * 0) for law in laws]
        return [rxs.MasterEquation.from_rates(rate, grid, 1.0).as_matrix() for rate in rates]

    energies = np.cos(grid.axes[0]) + 0.5 * np.sin(grid.axes[0])
    for law, W in zip(laws, matrices(), strict=True):
        flux = np.asarray(W) * np.exp(-energies / float(law.equilibrium_temperature(0.5)))[None]
        np.testing.assert_allclose(flux, flux.T, atol=1e-13)


def test_exact_systems_as_matrices():
    """Cases 13 to 16: the numbers, and that the stationary law is one."""
    for system in JUMP_SYSTEMS:
        params = jnp.array(system.params)
        W = np.asarray(jax.jit(lambda q, s=system: s.generator(q).as_matrix())(params))
        np.testing.assert_allclose(W @ system.stationary(params), 0, atol=1e-12)
        for t, exact in zip(system.ts, system.exact(params), strict=True):
            p = scipy.linalg.expm(t * W)[:, system.start]
            np.testing.assert_allclose(p, exact, atol=2e-11)
    death, switch, cycle = ImmigrationDeath(), Isomerisation(), ThreeStateCycle()
    p = death.exact(jnp.array(death.params))[1]
    np.testing.assert_allclose(p @ np.arange(61.0), 6.3212055883, atol=1e-10)
    np.testing.assert_allclose(p[0], 0.0017977748, atol=1e-10)
    np.testing.assert_allclose(death.stationary(jnp.array(death.params))[10], 0.1251100357, atol=1e-10)
    p = switch.exact(jnp.array(switch.params))[0]
    np.testing.assert_allclose(p @ np.arange(21.0) / 20, 0.3517556315, atol=1e-10)
    np.testing.assert_allclose(p[10], 0.0702096274, atol=1e-10)
    assert cycle.current(cycle.params) == pytest.approx(1 / 3) and cycle.entropy_production((2.0, 1.0)) == np.log(2)


def test_exclusion_process():
    """Case 16: the current and its gradient in closed form, and the gap."""
    system = ExclusionProcess()
    params = jnp.array(system.params)

    @jax.jit
    def solved(q):
        def current(q):
            A = system.generator(q).as_matrix().at[0].set(1)
            return system.current(q, jnp.linalg.solve(A, jnp.zeros(2**system.sites).at[0].set(1)))

        return jax.value_and_grad(current)(q), system.generator(jnp.ones(2)).as_matrix()

    (current, slope), W = solved(params)
    np.testing.assert_allclose(current, system.exact_current(params), rtol=1e-11)
    np.testing.assert_allclose(slope, jax.grad(system.exact_current)(params), rtol=1e-9)
    p = scipy.linalg.null_space(np.asarray(W))[:, 0]
    np.testing.assert_allclose(system.current(jnp.ones(2), p / p.sum()), 2 / 7, rtol=1e-11)
    values: Any = scipy.sparse.linalg.eigs(scipy.sparse.csc_matrix(W), 2, sigma=-0.1)[0]
    np.testing.assert_allclose(np.max(values.real[values.real < -1e-6]), -system.gap, atol=1e-9)


def test_fourier_form_has_a_limit():
    """Rounding is absolute: a range of e^30 in float64, e^9.9 in float32, and beyond it raises."""
    deep = lambda law, kT: jumps("closed", law, fft=True, kT=kT)  # WAVE spans 2.9
    cases = [
        (
            lambda kT: deep(rx.Symmetric(), kT).outflow(),
            0.09,
            "vary by a factor of at most e\\^30 .* varies by more",
            0.11,
        ),
        (lambda kT: deep(rx.Arrhenius("difference"), kT).outflow(), 0.18, "vary by a factor of at most e\\^30", 0.21),
    ]
    grid, flat = rxs.Grid(0, 1, 8), lambda x: 0 * x[0]
    jump = lambda value: rxs.SeparableRate(flat, lambda d: jnp.where(d[0] > 0, value, 0.0), flat)
    fourier = lambda value: rxs.MasterEquation.from_rates(jump(value), grid, 0.3, fft=True).outflow()
    cases += [(fourier, bad, "`rate` must be finite.* `log_jump` may be -inf", -jnp.inf) for bad in (jnp.nan, 1e3)]
    assert_refused(cases)
    with pytest.raises(ValueError, match="must be a SeparableRate for `fft=True`, but it is JumpRate"):
        jumps("closed", rx.Glauber(), fft=True)


def test_in_float32(float32):
    p = jax.random.uniform(jax.random.key(0), SHAPE)
    direct, fourier = jax.jit(lambda: [jumps("mixed", kT=2.0, fft=fft).apply(p) for fft in (False, True)])()
    assert direct.dtype == jnp.float32
    np.testing.assert_allclose(direct, fourier, atol=1e-6)
    with pytest.raises(ValueError, match="at most e\\^9.9 .* in float32"):
        jumps("closed", fft=True, kT=0.25)


def test_refusals():
    grid = rxs.Grid(0, 1, 8, boundary="periodic")
    edges, matrix = rxs.MasterEquation.from_edges, rxs.MasterEquation.from_matrix
    flat = lambda x, d: jnp.exp(-(d[0] ** 2))
    for make, words in [
        (lambda: rxs.MasterEquation.from_rates(flat, grid, 0.01), "`radius` must be at least the spacing"),
        (lambda: rxs.MasterEquation.from_rates(flat, grid, 1.1), "`radius` must be shorter than a periodic axis"),
        (lambda: rxs.MasterEquation.from_rates(flat, grid, [1.0, 1.0]), r"`radius` must be a number or have shape"),
        (
            lambda: rxs.MasterEquation.from_rates(lambda x, d: d, grid, 0.3),
            "`rate` must return a floating-point scalar",
        ),
        (lambda: rxs.MasterEquation.from_rates(flat, rxs.Grid(0, 1, (900, 900)), 0.02), "GiB, but they take"),
        (lambda: rxs.MasterEquation.from_rates(flat, grid), "`radius` must be given or `reach`"),
        (lambda: rxs.MasterEquation.from_rates(flat, grid, reach=0), "`reach` must be at least 1 cell"),
        (lambda: rxs.MasterEquation.from_rates(flat, grid, reach=[1, 1]), r"`reach` must be .* shape \(1,\)"),
        (lambda: rxs.MasterEquation.from_rates(flat, rxs.Grid(0, 1, (8, 8)), reach=(3, -2)), "not negative, but"),
        (lambda: jax.jit(lambda r: rxs.MasterEquation.from_rates(flat, grid, r).shape)(0.3), "`radius` must be known"),
        (lambda: matrix(jnp.ones((2, 3))), "`W` must be a square matrix"),
        (lambda: matrix(jnp.array([[-1.0, 1.0], [3.0, -3.0]])), "rows that sum to zero is its transpose"),
        (lambda: edges([0, 1], [1], 1.0, 2), "`target` must have the shape of `source`"),
        (lambda: edges([0.0], [1], 1.0, 2), "`source` must be a vector of integers"),
        (lambda: edges([0], [1], 1.0, 0), "`size` must be the number of states"),
        (lambda: edges([0], [1], 1.0, 2, exits=jnp.ones(3)), "`exits` must be a number or have shape"),
        (lambda: edges([0], [2], 1.0, 2), "`target` must lie between 0 and size - 1 = 1"),
        (lambda: edges([1], [1], 1.0, 2), "`target` must differ from `source`"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()
    np.testing.assert_allclose(edges([], [], [], 2).outflow(), 0)
    constant = rxs.MasterEquation.from_rates(lambda x, d: 1.0, grid, 0.3)
    np.testing.assert_allclose(constant.outflow(), 4 / 8)
    assert_refused(
        [
            (lambda r: edges([0], [1], r, 2).outflow(), -1.0, "`rate` must be non-negative and finite", 1.0),
            (lambda r: edges([0], [1], r, 2).outflow(), jnp.nan, "`rate` must be .* is not finite", 1.0),
            (lambda r: matrix(jnp.array([[-1.0, r], [1.0, -1.0]])).outflow(), -0.1, "negative rate off", 0.5),
            (lambda r: matrix(jnp.array([[-1.0, r], [1.0, -1.0]])).outflow(), 1.1, "columns that do not", 1.0),
            (
                lambda r: rxs.MasterEquation.from_rates(lambda x, d: r + 0 * x[0], grid, 0.3).outflow(),
                -1.0,
                "`rate` must be non-negative and finite",
                1.0,
            ),
        ]
    )
