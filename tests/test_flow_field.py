"""Total rate and flow field: quadrature in 1 to 3 dimensions, Monte Carlo in 20, exact values, limits and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from refusals import assert_refused

from rxjax._flow_field import flow_field, log_total_rate, total_rate
from rxjax._rates import rate_density
from rxjax.proposals import Ball, Box, Gaussian

G = jnp.array([1.0, -2.0, 0.5])
PROPOSALS = [Gaussian(0.3), Box(0.6), Ball(0.8)]
IDS = ["gaussian", "box", "ball"]
SETTINGS = {"entropy": 0.4, "tau0": 2.0, "k": 1.5}


def polar_nodes(dim, radius):
    """Points and volumes of a rule that is spectrally accurate in a ball."""
    r, wr = np.polynomial.legendre.leggauss(24)
    r, wr = radius * (r + 1) / 2, radius * wr / 2
    if dim == 1:
        return np.concatenate([r, -r])[:, None], np.concatenate([wr, wr])
    angles = 2 * np.pi * np.arange(32) / 32
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    if dim == 2:
        points = r[:, None, None] * circle[None]
        return points.reshape(-1, 2), np.repeat(wr * r * 2 * np.pi / 32, 32)
    u, wu = np.polynomial.legendre.leggauss(24)
    flat = np.sqrt(1 - u**2)[:, None, None] * circle[None]
    sphere = np.concatenate([flat, np.broadcast_to(u[:, None, None], (24, 32, 1))], -1).reshape(-1, 3)
    points = r[:, None, None] * sphere[None]
    weights = (wr * r**2)[:, None] * np.repeat(wu * 2 * np.pi / 32, 32)[None]
    return points.reshape(-1, 3), weights.reshape(-1)


def nodes(proposal, dim):
    """A quadrature rule over the support of the proposal."""
    if isinstance(proposal, Ball):
        return polar_nodes(dim, float(proposal.radius))
    width = 8 * float(proposal.std) if isinstance(proposal, Gaussian) else float(proposal.half_width)
    x, w = np.polynomial.legendre.leggauss(32)
    points = np.stack(np.meshgrid(*[width * x] * dim, indexing="ij"), -1).reshape(-1, dim)
    return points, np.prod(np.stack(np.meshgrid(*[width * w] * dim, indexing="ij"), -1).reshape(-1, dim), axis=1)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("proposal", PROPOSALS, ids=IDS)
def test_against_quadrature_of_the_rate_density(proposal, dim):
    """The two integrals as the theory writes them, over the public rate density times the proposal's density."""
    points, volume = (jnp.asarray(x) for x in nodes(proposal, dim))
    g = G[:dim]

    @jax.jit
    def density(delta):
        return rate_density(g, delta, 0.5, **SETTINGS) * jnp.exp(proposal.log_density(delta))

    weights = volume * jax.vmap(density)(points)
    assert total_rate(g, 0.5, proposal, **SETTINGS) == pytest.approx(float(jnp.sum(weights)), rel=1e-8)
    np.testing.assert_allclose(flow_field(g, 0.5, proposal, **SETTINGS), weights @ points, rtol=1e-7)


@pytest.mark.parametrize("proposal", [Gaussian(0.05), Box(0.1), Ball(0.3)], ids=IDS)
def test_against_monte_carlo_in_twenty_dimensions(proposal):
    dim, temperature = 20, 0.2
    g = jnp.cos(jnp.arange(dim, dtype=jnp.float64))
    deltas = proposal.sample(jax.random.key(0), (50_000, dim))
    rates = jnp.exp(-deltas @ g / temperature)
    error = jnp.std(rates) / np.sqrt(len(rates))
    assert abs(total_rate(g, temperature, proposal) - jnp.mean(rates)) < 4 * error
    flows = deltas * rates[:, None]
    errors = jnp.std(flows, 0) / np.sqrt(len(rates))
    scores = (flow_field(g, temperature, proposal) - jnp.mean(flows, 0)) / errors
    assert jnp.max(jnp.abs(scores)) < 4


def test_closed_form_of_a_gaussian():
    s, kt, a = 0.3, 0.5 * 1.5, np.exp(0.4 / 1.5) / 2
    square = float(G @ G)
    growth = np.exp(s**2 * square / (2 * kt**2))
    assert total_rate(G, 0.5, PROPOSALS[0], **SETTINGS) == pytest.approx(a * growth)
    np.testing.assert_allclose(flow_field(G, 0.5, PROPOSALS[0], **SETTINGS), -a * s**2 / kt * G * growth)


@pytest.mark.parametrize("proposal", PROPOSALS, ids=IDS)
def test_limits(proposal):
    # No gradient, no flow: the rate is the attempt frequency, and the gradients of both exist.
    zero = jnp.zeros(3)
    assert total_rate(zero, 0.5, proposal, tau0=2.0) == 0.5
    np.testing.assert_array_equal(flow_field(zero, 0.5, proposal), zero)
    slope = jax.jacobian(lambda g: flow_field(g, 0.5, proposal))(zero)
    variance = proposal.tilted_mean(jnp.array([1e-6, 0.0, 0.0]))[0] / 1e-6
    np.testing.assert_allclose(slope, -variance / 0.5 * jnp.eye(3), rtol=1e-6, atol=1e-12)
    # Very cold: the logarithm stays finite, the flow is infinite downhill and zero along an axis without slope.
    cold = jnp.array([1.0, -2.0, 0.0])
    assert jnp.isfinite(log_total_rate(cold, 1e-5, proposal))
    assert total_rate(cold, 1e-5, proposal) == jnp.inf
    np.testing.assert_array_equal(flow_field(cold, 1e-5, proposal), [-jnp.inf, jnp.inf, 0.0])
    gradients = jax.grad(lambda g, t: total_rate(g, t, proposal), (0, 1))(cold, 1e-5)
    assert not any(jnp.any(jnp.isnan(x)) for x in gradients)


def test_trees_and_precisions():
    tree = {"w": jnp.array([[1.0, -2.0]]), "b": 0.5}
    flow = flow_field(tree, 0.5, Ball(0.8))
    flat = flow_field(G, 0.5, Ball(0.8))
    # Leaves are in the order of their keys.
    np.testing.assert_allclose(flow["w"], flat[None, :2])
    assert flow["w"].shape == (1, 2) and flow["b"] == pytest.approx(float(flat[2]))
    half = flow_field(jnp.asarray(G, jnp.bfloat16), 0.5, Ball(jnp.float32(0.8)))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float64), flat, rtol=1e-2)


def test_gradients():
    cases = []
    for kind in (Gaussian, Box, Ball):
        cases.append((lambda x, kind=kind: log_total_rate(G * x, x, kind(x), entropy=x, tau0=x, k=x), 0.7))
        cases.append((lambda x, kind=kind: total_rate(G * x, 0.5, kind(x)), 0.7))
        cases.append((lambda x, kind=kind: jnp.sum(G * flow_field(G + x, 0.5, kind(x))), 0.7))
    assert_gradients(cases)


def test_vmap_over_learning_rates_equals_loop():
    etas, batches = jnp.array([0.01, 0.1, 1.0]), jnp.array([1.0, 8.0])

    def f(eta, batch):
        return jnp.stack([jnp.sum(G * flow_field(G, 10 * eta / batch, kind(eta))) for kind in (Gaussian, Box, Ball)])

    single = jax.jit(f)
    grid = jax.vmap(jax.vmap(single, (None, 0)), (0, None))(etas, batches)
    np.testing.assert_allclose(grid, [[single(e, b) for b in batches] for e in etas], rtol=1e-12)


def test_float32(float32):
    g = np.asarray(G, np.float32)
    for proposal, kind, width in zip(PROPOSALS, (Gaussian, Box, Ball), (0.3, 0.6, 0.8), strict=True):
        got = flow_field(g, 0.2, kind(width))
        assert got.dtype == jnp.float32
        with jax.enable_x64(True):
            exact = np.asarray(flow_field(jnp.asarray(G), 0.2, proposal))
        np.testing.assert_allclose(got, exact, rtol=1e-4)
        assert not jnp.any(jnp.isnan(flow_field(1e3 * g, 1e-6, kind(width))))


def test_bad_numbers():
    ball = Ball(1.0)
    assert_refused(
        [
            (lambda x: total_rate(G, x, ball), 0.0, "temperature", 1e-3),
            (lambda x: flow_field(G, x, ball), jnp.nan, "temperature", 1.0),
            (lambda x: flow_field(G * x, 1.0, ball), jnp.inf, "gradient", 0.0),
            (lambda x: log_total_rate(G, 1.0, ball, entropy=x), jnp.inf, "entropy", 1e6),
            (lambda x: log_total_rate(G, 1.0, ball, tau0=x), -1.0, "tau0", 1.0),
            (lambda x: log_total_rate(G, 1.0, ball, k=x), 0.0, "`k`", 1.0),
            (lambda x: flow_field(G, 1.0, Gaussian(x)), 0.0, "std", 1.0),
        ]
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: flow_field(G, jnp.ones(3), Ball(1.0)), "temperature"),
        (lambda: total_rate(G, 1.0, Ball(1.0), entropy=jnp.ones(3)), "entropy"),
        (lambda: flow_field(G, 1.0, Box(jnp.ones(2))), "as the proposal"),
        (lambda: flow_field({}, 1.0, Ball(1.0)), "gradient"),
        (lambda: flow_field(G.astype(complex), 1.0, Ball(1.0)), "real"),
    ],
)
def test_bad_calls(call, words):
    with pytest.raises(ValueError, match=words):
        call()
