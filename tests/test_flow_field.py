"""Total rate and flow field: quadrature in 1 to 3 dimensions, Monte Carlo in 20, exact values, limits and refusals."""

import equinox as eqx
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
both = eqx.filter_jit(lambda g, t, q, options: (total_rate(g, t, q, **options), flow_field(g, t, q, **options)))
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
    points, volume = nodes(proposal, dim)
    g = G[:dim]

    def density(delta):
        return rate_density(g, delta, 0.5, **SETTINGS) * jnp.exp(proposal.log_density(delta))

    weights = volume * np.asarray(jax.jit(jax.vmap(density))(points))
    rate, flow = both(g, 0.5, proposal, SETTINGS)
    assert rate == pytest.approx(np.sum(weights), rel=1e-8)
    np.testing.assert_allclose(flow, weights @ points, rtol=1e-7)


@pytest.mark.usefixtures("long_runs")
@pytest.mark.parametrize("proposal", [Gaussian(0.05), Box(0.1), Ball(0.3)], ids=IDS)
def test_against_monte_carlo_in_twenty_dimensions(proposal):
    dim, temperature, number = 20, 0.2, 20_000
    g = np.cos(np.arange(dim))
    deltas = np.asarray(jax.jit(lambda key: proposal.sample(key, (number, dim)))(jax.random.key(0)))
    rates = np.exp(-deltas @ g / temperature)
    rate, flow = both(g, temperature, proposal, {})
    assert abs(rate - np.mean(rates)) < 4 * np.std(rates) / np.sqrt(number)
    flows = deltas * rates[:, None]
    scores = (flow - np.mean(flows, 0)) / np.std(flows, 0) * np.sqrt(number)
    assert np.max(np.abs(scores)) < 4


def test_closed_form_of_a_gaussian():
    s, kt, a = 0.3, 0.5 * 1.5, np.exp(0.4 / 1.5) / 2
    square = float(G @ G)
    growth = np.exp(s**2 * square / (2 * kt**2))
    rate, flow = both(G, 0.5, PROPOSALS[0], SETTINGS)
    assert rate == pytest.approx(a * growth)
    np.testing.assert_allclose(flow, -a * s**2 / kt * np.asarray(G) * growth)


@pytest.mark.parametrize("proposal", PROPOSALS, ids=IDS)
def test_limits(proposal):
    # No gradient, no flow: the rate is the attempt frequency, and the gradients of both exist.
    rate, flow = both(jnp.zeros(3), 0.5, proposal, {"tau0": 2.0})
    assert rate == 0.5
    np.testing.assert_array_equal(flow, np.zeros(3))
    slope = jax.jit(jax.jacobian(lambda g: flow_field(g, 0.5, proposal)))(jnp.zeros(3))
    variance = proposal.tilted_mean(np.array([1e-6, 0.0, 0.0]))[0] / 1e-6
    np.testing.assert_allclose(slope, -variance / 0.5 * np.eye(3), rtol=1e-6, atol=1e-12)
    # Very cold: the logarithm stays finite, the flow is infinite downhill and zero along an axis without slope.
    cold = np.array([1.0, -2.0, 0.0])
    rate, flow = both(cold, 1e-5, proposal, {})
    assert rate == np.inf
    np.testing.assert_array_equal(flow, [-np.inf, np.inf, 0.0])
    assert np.isfinite(log_total_rate(cold, 1e-5, proposal))
    gradients = jax.jit(jax.grad(lambda g, t: total_rate(g, t, proposal), (0, 1)))(cold, 1e-5)
    assert not any(np.any(np.isnan(x)) for x in gradients)


def test_trees_and_precisions():
    tree = {"w": jnp.array([[1.0, -2.0]]), "b": 0.5}
    flow = both(tree, 0.5, Ball(0.8), {})[1]
    flat = np.asarray(both(G, 0.5, Ball(0.8), {})[1])
    np.testing.assert_allclose(flow["w"], flat[None, :2])
    assert flow["w"].shape == (1, 2) and flow["b"] == pytest.approx(flat[2])
    half = both(jnp.asarray(G, jnp.bfloat16), 0.5, Ball(jnp.float32(0.8)), {})[1]
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half, np.float64), flat, rtol=1e-2)


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
    grid = jax.jit(jax.vmap(jax.vmap(f, (None, 0)), (0, None)))(etas, batches)
    np.testing.assert_allclose(grid, [[single(e, b) for b in batches] for e in etas], rtol=1e-12)


def test_float32(float32):
    g = np.asarray(G, np.float32)
    for kind, width in ((Gaussian, 0.3), (Box, 0.6), (Ball, 0.8)):
        got = both(g, 0.2, kind(width), {})
        assert got[1].dtype == jnp.float32
        with jax.enable_x64(True):
            exact = both(np.asarray(G), 0.2, kind(width), {})
        np.testing.assert_allclose(got[0], exact[0], rtol=1e-4)
        np.testing.assert_allclose(got[1], exact[1], rtol=1e-4)
        assert not np.any(np.isnan(both(1e3 * g, 1e-6, kind(width), {})[1]))


def test_bad_numbers():
    ball = Ball(1.0)
    assert_refused(
        [
            (lambda x: total_rate(G, x, ball), 0.0, "temperature", 1e-3),
            (lambda x: flow_field(G, x, ball), jnp.nan, "temperature", 1.0),
            (lambda x: flow_field(G * x, 1.0, ball), jnp.inf, "gradient", 0.0),
            (lambda x: flow_field(1e300 * G, x, ball), 1e-30, "gradient` must be finite, over kT too", 1.0),
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
        (lambda: flow_field(G, 1.0, Box(jnp.ones(2))), "`proposal` must .* 3 numbers .* `half_width` has shape .2,"),
        (lambda: log_total_rate(G, 1.0, Gaussian(jnp.ones(4))), "`proposal` must .* 3 numbers .* `std` has shape .4,"),
        (lambda: flow_field({}, 1.0, Ball(1.0)), "gradient"),
        (lambda: flow_field(G.astype(complex), 1.0, Ball(1.0)), "real"),
    ],
)
def test_bad_calls(call, words):
    with pytest.raises(ValueError, match=words):
        call()
