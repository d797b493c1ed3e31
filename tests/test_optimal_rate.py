"""Optimal learning rates: closed forms against brute force, the integral for any proposal and law, bounds, refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from refusals import assert_refused
from scipy.optimize import minimize_scalar

from rxjax._optimal_rate import (
    expected_decrease,
    maximal_learning_rate,
    noise_batch_size,
    optimal_learning_rate,
    optimal_rate_at_batch,
)
from rxjax._optimal_rate_integral import optimal_learning_rate_integral
from rxjax._proposal_nodes import SGDProposal, proposal_nodes
from rxjax._rate_laws import Arrhenius, Glauber, Metropolis, Symmetric
from rxjax.proposals import Ball, Box, Gaussian

G = np.array([1.0, -2.0])
H = np.array([[2.0, 0.7], [0.7, 1.0]])
C = np.array([[0.5, -0.3], [-0.3, 1.2]])
START = jnp.asarray(np.linalg.solve(H, G))


def quadratic(x):
    return jnp.sum(x * (jnp.asarray(H, x.dtype) @ x)) / 2


def wavy(x):
    return jnp.sum(x**2 / 2 + 0.3 * jnp.cos(2 * x))


def test_known_case():
    """Five dimensions, and the three forms of one result."""
    h, sigma1, batch = np.linspace(0.5, 3, 5), np.linspace(1, 4, 5), 4
    g = h * np.ones(5)
    top, noise = maximal_learning_rate(g, h), noise_batch_size(g, h, sigma1)
    assert top == pytest.approx(0.40628, abs=5e-6)
    assert noise == pytest.approx(0.56152, abs=5e-6)
    best = optimal_learning_rate(g, h, sigma1 / batch)
    assert best == pytest.approx(0.35626, abs=5e-6)
    assert best == pytest.approx(float(optimal_learning_rate(g, np.diag(h), np.diag(sigma1 / batch))), rel=1e-14)
    assert best == pytest.approx(float(optimal_rate_at_batch(batch, top, noise)), rel=1e-14)
    assert expected_decrease(best, g, h, sigma1 / batch) == pytest.approx(3.42347, abs=5e-6)
    # Without noise the decrease vanishes at twice the best rate.
    assert expected_decrease(2 * top, g, h, 0.0) == pytest.approx(0, abs=1e-13)


def brute_force(eta, arrhenius):
    """The integral by nodes of the proposal, the rate factor and the gain as the theory writes them."""
    z, w = np.polynomial.hermite_e.hermegauss(40)
    nodes = np.stack(np.meshgrid(z, z, indexing="ij"), -1).reshape(-1, 2)
    weights = np.outer(w, w).ravel() / np.sum(w) ** 2
    delta = -eta * G + eta * nodes @ np.linalg.cholesky(C).T
    gain = -delta @ G - np.einsum("ni,ij,nj->n", delta, H, delta) / 2
    factor = np.exp(-delta @ G / (eta / 2 * np.trace(C))) if arrhenius else 1.0
    return np.sum(weights * factor * gain)


def best_by(f, low, high) -> float:
    found: Any = minimize_scalar(lambda eta: -f(eta), bounds=(low, high), method="bounded", options={"xatol": 1e-9})
    return found.x


@pytest.mark.parametrize("rate_law, law", [("constant", None), ("arrhenius", Arrhenius())])
def test_closed_forms_against_brute_force_and_the_integral(rate_law, law):
    """Hessian and noise that do not commute."""
    exact = float(optimal_learning_rate(G, H, C, rate_law=rate_law))
    assert best_by(lambda eta: brute_force(eta, law is not None), 0.01, 2.0) == pytest.approx(exact, rel=1e-6)

    @jax.jit
    def integral(lower, upper):
        temperature = lambda eta: eta / 2 * np.trace(C)
        options = {"rate_law": law, "temperature": temperature, "method": "quadrature", "order": 40, "num_rates": 9}
        return optimal_learning_rate_integral(quadratic, START, SGDProposal(G, C), (lower, upper), **options)

    best = integral(0.05, 2.0)
    assert best.learning_rate == pytest.approx(exact, rel=1e-10)
    assert (best.bound, best.at_bound, best.standard_error) == (0, False, 0)
    value = float(best.value * jnp.exp(best.log_scale))
    assert value == pytest.approx(brute_force(exact, law is not None), rel=1e-8)
    if law is None:
        assert value == pytest.approx(float(expected_decrease(exact, G, H, C)), rel=1e-12)
    # A maximum at a bound says so, and is the bound itself.
    for bounds, side in (((0.01, exact / 2), 1), ((2 * exact, 5.0), -1)):
        best = integral(*bounds)
        assert (best.bound, best.at_bound) == (side, True)
        assert best.learning_rate == bounds[0 if side < 0 else 1]
        assert np.isnan(best.standard_error)


def test_arrhenius_tends_to_the_constant_law():
    """For isotropic noise as the dimension grows."""
    gaps = []
    for dim in (10, 1000):
        g, h = np.ones(dim), np.linspace(0.5, 2, dim)
        one, two = (float(optimal_learning_rate(g, h, 0.3, rate_law=law)) for law in ("constant", "arrhenius"))
        gaps.append(abs(two / one - 1))
    assert gaps[1] < 0.011 * gaps[0] < 0.01


def uniform_nodes(width):
    x = (np.arange(20_000) - 9999.5) / 10_000
    return width * x, np.ones_like(x)


def gaussian_nodes(mean, width):
    x = np.linspace(-12, 12, 20_001)
    return mean + width * x, np.exp(-(x**2) / 2)


# The proposal, its nodes in one dimension, a law, its factor, an order of quadrature, and the accuracy that it has:
# low for Metropolis, whose factor has a kink.
SLOPE = float(jax.grad(wavy)(jnp.array([1.6]))[0])
TEMPERATURE = 0.6
INTEGRALS = [
    (
        SGDProposal(np.array([SLOPE]), 0.5),
        lambda eta: gaussian_nodes(-eta * SLOPE, eta * np.sqrt(0.5)),
        Glauber(),
        lambda x, _: np.exp(-np.logaddexp(0, x)),
        96,
        1e-6,
    ),
    (Gaussian, lambda eta: gaussian_nodes(0, eta), Symmetric(), lambda x, _: np.exp(-x / 2), 128, 1e-6),
    (Box, uniform_nodes, Arrhenius("difference"), lambda x, _: np.exp(-x), 48, 1e-6),
    (Ball, uniform_nodes, Arrhenius(), lambda _, d: np.exp(-SLOPE * d / TEMPERATURE), 48, 1e-6),
    (Box, uniform_nodes, Metropolis(), lambda x, _: np.minimum(1, np.exp(-x)), 128, 1e-4),
]


def test_any_proposal_and_law_by_quadrature():
    """On a wavy loss, against sums over 20,000 nodes and SciPy's bounded minimisation."""

    @jax.jit
    def ours():
        return [
            optimal_learning_rate_integral(
                wavy,
                jnp.array([1.6]),
                proposal,
                (0.05, 5.0),
                rate_law=law,
                temperature=TEMPERATURE / 2,
                k=2,
                method="quadrature",
                order=order,
                num_rates=17,
            )
            for proposal, _, law, _, order, _ in INTEGRALS
        ]

    loss = lambda x: x**2 / 2 + 0.3 * np.cos(2 * x)
    for best, (_, nodes, _, factor, _, rtol) in zip(ours(), INTEGRALS, strict=True):

        def integral(eta, nodes=nodes, factor=factor):
            delta, density = nodes(eta)
            change = loss(1.6 + delta) - loss(1.6)
            return np.sum(density * factor(change / TEMPERATURE, delta) * -change) / np.sum(density)

        coarse = np.geomspace(0.05, 5, 60)
        start = coarse[np.argmax([integral(eta) for eta in coarse])]
        expected = best_by(integral, start / 1.2, start * 1.2)
        assert best.bound == 0
        assert best.learning_rate == pytest.approx(expected, rel=rtol)
        assert best.value * jnp.exp(best.log_scale) == pytest.approx(integral(expected), rel=rtol)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_nodes_have_the_moments_of_the_proposals(dim):
    """Constant, even powers up to the sixth, and a product of squares."""
    normal, width = (1, 1, 3, 15), 0.7
    box = [width**n / (n + 1) for n in (0, 2, 4, 6)]
    # E|x|^n = d/(d+n), and on the sphere E x_1^n = (1, 1/d, 3/d(d+2), 15/d(d+2)(d+4)).
    sphere = (1, 1 / dim, 3 / (dim * (dim + 2)), 15 / (dim * (dim + 2) * (dim + 4)))
    ball = [width**n * dim / (dim + n) * s for n, s in zip((0, 2, 4, 6), sphere, strict=True)]
    product = {Gaussian: 1.0, Box: (1 / 3) ** 2, Ball: dim / (dim + 4) / (dim * (dim + 2))}
    for kind, moments in (
        (Gaussian, [width**n * m for n, m in zip((0, 2, 4, 6), normal, strict=True)]),
        (Box, box),
        (Ball, ball),
    ):
        nodes, weights = (np.asarray(x) for x in proposal_nodes(kind(width), dim, 6))
        for n, moment in zip((0, 2, 4, 6), moments, strict=True):
            np.testing.assert_allclose(weights @ nodes**n, np.full(dim, moment), rtol=1e-12)
        np.testing.assert_allclose(weights @ nodes, np.zeros(dim), atol=1e-15)
        if dim > 1:
            assert weights @ (nodes[:, 0] * nodes[:, 1]) ** 2 == pytest.approx(product[kind] * width**4, rel=1e-12)


class Exponential:
    """A proposal of the user's own: one-sided steps of mean `eta` along the first axis."""

    def __init__(self, eta):
        self.eta = eta

    def sample(self, key, shape):
        return self.eta * jax.random.exponential(key, shape)


@pytest.mark.usefixtures("long_runs")
def test_monte_carlo():
    """Within its standard error, which is that of repeated estimates; in six dimensions, and for a user's proposal."""
    h, g, c = jnp.linspace(0.5, 3, 6), jnp.cos(jnp.arange(6.0)), jnp.linspace(2, 0.5, 6)

    @jax.jit
    @jax.vmap
    def sgd(key):
        loss = lambda x: jnp.sum(h * x**2) / 2
        options = {"key": key, "num_samples": 256, "num_rates": 9}
        return optimal_learning_rate_integral(loss, g / h, SGDProposal(g, c), (0.05, 2.0), **options)

    best = sgd(jax.random.split(jax.random.key(0), 100))
    assert not np.any(best.at_bound)
    score = (np.asarray(best.learning_rate) - float(optimal_learning_rate(g, h, c))) / np.asarray(best.standard_error)
    assert abs(np.mean(score)) < 0.4 and 0.75 < np.std(score) < 1.25

    # E[(x - eta z)^2 - x^2] with E z = 1, E z^2 = 2 is least at eta = x/2.
    own = optimal_learning_rate_integral(
        lambda x: jnp.sum((x - 3.0) ** 2), jnp.array([1.0]), Exponential, (0.1, 9.0), key=jax.random.key(1)
    )
    assert abs(own.learning_rate - 1.0) < 4 * own.standard_error < 0.1


def test_a_proposal_of_fixed_width_has_no_optimum():
    """Its Arrhenius rate diverges as the temperature falls with the learning rate: the lower bound, reported."""
    best = jax.jit(
        lambda lower: optimal_learning_rate_integral(
            quadratic,
            START,
            lambda eta: Gaussian(jnp.full(2, 0.1, eta.dtype)),
            (lower, 1.0),
            rate_law=Arrhenius(),
            temperature=lambda eta: eta / 2,
            method="quadrature",
            order=8,
            num_rates=5,
        )
    )(1e-3)
    assert best.bound == -1 and best.learning_rate == 1e-3
    # The rate factor itself, of which only the logarithm is finite here in float32.
    assert best.log_scale > 500 and np.isfinite(best.value)


def test_gradients():
    g, h, c = jnp.asarray(G), jnp.asarray(H), jnp.asarray(C)

    def integral(x):
        loss = lambda theta: wavy(theta) + x * jnp.sum(theta**2)
        temperature = lambda eta: x + eta
        options = {"rate_law": Glauber(), "temperature": temperature, "method": "quadrature", "num_rates": 9}
        proposal = SGDProposal(jnp.stack([6 * x]), x)
        best = optimal_learning_rate_integral(loss, jnp.array([1.0]) + x, proposal, (0.02, 2.0), **options)
        return best.learning_rate + 0.3 * best.value * jnp.exp(best.log_scale)

    assert_gradients(
        [
            (lambda x: optimal_learning_rate(g + x, h, c), 0.3),
            (lambda x: optimal_learning_rate(g, h * x, c * x, rate_law="arrhenius"), 0.8),
            (lambda x: optimal_learning_rate(g, h, c + x * jnp.eye(2), rate_law="arrhenius"), 0.8),
            (lambda x: maximal_learning_rate(g + x, h * x), 0.3),
            (lambda x: noise_batch_size(g + x, h * x, c), 0.3),
            (lambda x: optimal_rate_at_batch(10 * x, x, 5 * x**2), 0.9),
            (lambda x: expected_decrease(x, g + x, h, c), 0.3),
            (integral, 0.5),
        ]
    )
    # At a critical point with noise the best rate is zero, with slope zero.
    value, slope = jax.value_and_grad(lambda g: optimal_learning_rate(g, h, c, rate_law="arrhenius"))(0 * g)
    assert value == 0
    np.testing.assert_array_equal(slope, [0, 0])


def test_vmap_over_rates_and_batches_equals_loop():
    etas, batches = np.geomspace(1e-3, 1, 4), np.array([1.0, 8.0, 64.0])

    def all_of_it(eta, batch):
        best = optimal_learning_rate(G, H, jnp.asarray(C) / batch, rate_law="arrhenius")
        return jnp.stack(
            [best, expected_decrease(eta, G, H, jnp.asarray(C) / batch), optimal_rate_at_batch(batch, eta, 10.0)]
        )

    single = jax.jit(all_of_it)
    grid = jax.jit(jax.vmap(jax.vmap(all_of_it, (None, 0)), (0, None)))(etas, batches)
    np.testing.assert_allclose(grid, [[single(e, b) for b in batches] for e in etas], rtol=1e-13)
    # Rates and batches broadcast without vmap.
    np.testing.assert_allclose(expected_decrease(etas, G, H, C / 8), grid[:, 1, 1], rtol=1e-13)
    np.testing.assert_allclose(optimal_rate_at_batch(batches, etas[1], 10.0), grid[1, :, 2], rtol=1e-13)


def test_float32(float32):
    g, h, c = (np.asarray(x, np.float32) for x in (G, H, C))
    for law, expected in (("constant", 5 / 2.96), ("arrhenius", None)):
        got = optimal_learning_rate(g, h, c, rate_law=law)
        assert got.dtype == jnp.float32
        if expected is None:
            m = np.eye(2) + 2 * C / np.trace(C)
            expected = G @ m @ G / (G @ m @ H @ m @ G + np.trace(H @ C))
        else:
            expected = G @ G / (G @ H @ G + np.trace(H @ C))
        assert float(got) == pytest.approx(expected, rel=1e-5)
    start = jnp.asarray(START, jnp.float32)
    options: dict[str, Any] = {"method": "quadrature", "num_rates": 9}
    best = jax.jit(
        lambda start: optimal_learning_rate_integral(quadratic, start, SGDProposal(g, c), (0.05, 2.0), **options)
    )(start)
    assert best.learning_rate.dtype == jnp.float32
    assert float(best.learning_rate) == pytest.approx(G @ G / (G @ H @ G + np.trace(H @ C)), rel=1e-4)
    # Low precision is summed in float32.
    assert optimal_learning_rate(jnp.ones(4, jnp.bfloat16), jnp.bfloat16(1), jnp.bfloat16(1)).dtype == jnp.float32


def test_refusals():
    g, h, c = jnp.asarray(G), jnp.asarray(H), jnp.asarray(C)
    best = optimal_learning_rate
    assert_refused(
        [
            (lambda x: best(g * x, h, c), np.nan, "Argument `gradient` must be finite", 1.0),
            (lambda x: best(g, h.at[0, 1].add(x), c), 1.0, "Argument `hessian` must be symmetric", 0.0),
            (lambda x: best(g, h * x, c), -1.0, "Argument `hessian` must give a positive curvature", 1.0),
            (lambda x: best(g * x, 1.0, 0.0), 0.0, "`hessian` must give a positive curvature.*no finite rate", 1.0),
            (lambda x: best(g, h, c * x), -1.0, "Argument `covariance` must be positive semi-definite", 1.0),
            (
                lambda x: best(g, h, x, rate_law="arrhenius"),
                0.0,
                "Argument `covariance` must have a positive trace.*constant",
                1.0,
            ),
            (lambda x: maximal_learning_rate(g * x, h), 0.0, "positive along a non-zero gradient", 1.0),
            (lambda x: noise_batch_size(g, h, x), -1.0, "Argument `sigma1`", 0.0),
            (lambda x: optimal_rate_at_batch(x, 0.1, 1.0), 0.5, "Argument `batch_size`", 1.0),
            (lambda x: optimal_rate_at_batch(1, x, 1.0), 0.0, "Argument `maximal_rate`", 1.0),
            (lambda x: optimal_rate_at_batch(1, 0.1, x), -1.0, "Argument `noise_batch`", 0.0),
            (lambda x: expected_decrease(x, g, h, c), -1.0, "Argument `learning_rate`", 0.0),
            (lambda x: SGDProposal(g * x, 1.0).gradient, np.inf, "Argument `gradient` must be finite", 1.0),
            (
                lambda x: SGDProposal(g, jnp.ones((2, 2)) + x * jnp.eye(2)).factor,
                0.0,
                "`covariance` must be positive definite",
                1.0,
            ),
        ]
    )

    def integral(lower=0.1, upper=1.0, at=1.0, loss=wavy, **kwargs):
        options = {"method": "quadrature", "order": 2, "num_rates": 3} | kwargs
        return optimal_learning_rate_integral(loss, jnp.stack([jnp.asarray(at)]), Box, (lower, upper), **options)

    cases = [
        (lambda: integral(lower=0.0), "Argument `bounds` must be positive"),
        (lambda: integral(upper=0.1), "Argument `bounds` must ascend"),
        (lambda: integral(at=np.inf), "Argument `theta` must be finite"),
        (lambda: integral(at=1e200), "Argument `loss` must be finite"),
        (lambda: integral(method="exact"), "Argument `method` must be one of"),
        (lambda: integral(method="monte_carlo"), "Argument `key` must be given"),
        (lambda: integral(rate_law=Glauber()), "Argument `temperature` must be given"),
        (lambda: integral(rate_law=Glauber(), temperature=-1.0), "Argument `temperature` must be non-negative"),
        (lambda: integral(rate_law=Glauber(), temperature=1.0, k=0.0), "Argument `k` must be positive"),
        (lambda: integral(upper=9.0, loss=lambda x: jnp.sum(jnp.sqrt(x))), r"`loss` must be finite, .*nan\]\. The int"),
        (lambda: integral(order=1), "must be at least 3, 2 and 2, but they are 3, 4096 and 1"),
        (lambda: optimal_learning_rate_integral(wavy, np.ones(1), Box, (0.1, 1.0)), "Argument `key`"),
        (lambda: optimal_learning_rate_integral(wavy, 1.0, Box, (0.1, 1.0), method="quadrature"), r"shape \(d,\)"),
        (lambda: best(H, H, C), r"Argument `gradient` must have shape \(d,\)"),
        (lambda: best(G, np.ones(3), C), "Argument `hessian` must have shape"),
        (lambda: best(G, H, np.ones(3)), "Argument `covariance` must have shape"),
        (lambda: best(G, H, C, rate_law="glauber"), "optimal_learning_rate_integral"),
        (lambda: SGDProposal(H, 1.0), r"Argument `gradient` must have shape \(d,\)"),
        (lambda: proposal_nodes(Gaussian(1.0), 4, 3), 'Argument `method` must be "monte_carlo" beyond 3'),
        (lambda: proposal_nodes(Exponential(1.0), 1, 3), "but it gives Exponential.*monte_carlo"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()
    hot = jax.jit(lambda upper: integral(upper=upper).learning_rate)
    with pytest.raises(Exception, match="Argument `bounds` must ascend"):
        jax.block_until_ready(hot(0.05))


def test_a_second_question_compiles_nothing(caplog):
    """The search is one program, kept for other numbers in the same loss, proposal and law."""

    def ask(scale, **options):
        with jax.log_compiles():
            caplog.clear()
            proposal, bounds = SGDProposal(G, scale * C), (0.05 * scale, 2.0 * scale)
            optimal_learning_rate_integral(quadratic, scale * START, proposal, bounds, num_rates=3, **options)
        return sum(record.getMessage().startswith("Compiling ") for record in caplog.records)

    law = lambda t: {"rate_law": Glauber(), "temperature": t, "method": "quadrature", "order": 2}
    for options in (law, lambda t: {"key": jax.random.key(int(8 * t)), "num_samples": 4}):
        assert ask(1.0, **options(0.5)) > 0
        assert ask(0.5, **options(0.25)) == 0
