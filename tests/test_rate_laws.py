"""Rate laws: their factors, their equilibrium, and detailed balance of a master equation built from them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from hypothesis import given, settings, strategies as st
from refusals import assert_refused

import rxjax as rx
from rxjax._rate_laws import Arrhenius, Glauber, Metropolis, Symmetric

LAWS = [Arrhenius(energy="difference"), Symmetric(), Metropolis(), Glauber()]
IDS = ["arrhenius", "symmetric", "metropolis", "glauber"]
factors = jax.jit(lambda x, t, k: jnp.stack([law.log_factor(x, t, k=k) for law in LAWS]))


def loss(x):
    return jnp.sum(x**4 / 4 - x**2 / 2 + 0.2 * x)


def test_factors():
    x, t = 0.6, 0.25
    expected = [-x / t, -x / 2 / t, -x / t, -np.log1p(np.exp(x / t))]
    np.testing.assert_allclose(factors(x, t, 1.0), expected, rtol=1e-14)
    np.testing.assert_allclose(factors(-x, t, 1.0), [x / t, x / 2 / t, 0.0, -np.log1p(np.exp(-x / t))], rtol=1e-14)
    np.testing.assert_allclose(factors(x, t / 2, 2.0), expected, rtol=1e-14)
    assert Arrhenius().log_factor(x, t) == pytest.approx(-x / t)


@settings(max_examples=20, deadline=None)
@given(st.floats(-50, 50), st.floats(0.01, 100))
def test_detailed_balance(change, temperature):
    """The ratio of forward and backward factor is exp(-change / kT_eq)."""
    ratio = factors(change, temperature, 1.0) - factors(-change, temperature, 1.0)
    equilibrium = jnp.stack([law.equilibrium_temperature(temperature) for law in LAWS])
    np.testing.assert_allclose(ratio, -change / equilibrium, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(equilibrium, temperature * np.array([0.5, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize("law", LAWS, ids=IDS)
def test_equilibrium_of_a_master_equation(law):
    """Jumps between cells, with an attempt frequency that varies: log_equilibrium is stationary, flux by flux."""
    points = jnp.linspace(-1.5, 1.5, 12)[:, None]
    entropy, temperature = jnp.sin(3 * points[:, 0]), 0.3
    energies = jax.vmap(loss)(points)
    updates = points[None] - points[:, None]  # from row to column
    change = jax.jit(jax.vmap(jax.vmap(lambda x, u: law.energy_change(loss, x, u), (None, 0))))(points, updates)
    np.testing.assert_allclose(change, energies[None] - energies[:, None], atol=1e-12)
    rates = jnp.exp(entropy[:, None] + law.log_factor(change, temperature))
    occupation = jnp.exp(law.log_equilibrium(energies, temperature, entropy=entropy))
    flux = occupation[:, None] * rates
    np.testing.assert_allclose(flux, flux.T, rtol=1e-11)


def test_the_inner_product_shares_the_equilibrium_to_leading_order():
    """For jumps of size s, its violation of detailed balance at kT/2 falls like s^3."""
    law, temperature = Arrhenius(), 0.3
    x = jnp.array([0.4])

    def violation(size):
        u = jnp.array([size])
        forward = law.log_factor(law.energy_change(loss, x, u), temperature)
        backward = law.log_factor(law.energy_change(loss, x + u, -u), temperature)
        return abs(forward - backward + (loss(x + u) - loss(x)) / law.equilibrium_temperature(temperature))

    errors = [float(violation(size)) for size in (0.08, 0.04, 0.02)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 3.0, atol=0.1)
    assert errors[0] > 1e-5


def test_drift_of_the_literal_law():
    """Small Gaussian jumps drift at -(2 D / kT) grad L with D = A s^2 / 2; the symmetric law at half of it."""
    x, s, temperature = jnp.array([0.7]), 1e-3, 0.3
    z, w = np.polynomial.hermite_e.hermegauss(9)
    w = w / np.sum(w)
    slope, diffusion = float(jax.grad(loss)(x)[0]), s * s / 2
    for law, factor in ((Arrhenius(), 2.0), (Arrhenius("difference"), 2.0), (Symmetric(), 1.0), (Glauber(), 0.5)):
        change = jax.vmap(lambda u, law=law: law.energy_change(loss, x, u))(s * jnp.asarray(z)[:, None])
        drift = float(jnp.sum(w * s * z * jnp.exp(law.log_factor(change, temperature))))
        assert drift == pytest.approx(-factor * diffusion / temperature * slope, rel=1e-4)


def test_zero_temperature_limits():
    for change, limits in ((1.0, [-np.inf] * 4), (0.0, [0, 0, 0, -np.log(2)]), (-1.0, [np.inf, np.inf, 0, 0])):
        np.testing.assert_allclose(factors(change, 0.0, 1.0), limits)
        slopes = jax.jacrev(factors, (0, 1))(change, 0.0, 1.0)
        np.testing.assert_array_equal(jnp.stack(slopes), jnp.zeros((2, 4)))
    # No overflow on the way.
    np.testing.assert_allclose(factors(-1e5, 1e-3, 1.0), [1e8, 5e7, 0, 0], rtol=1e-12)


def test_gradients():
    cases = []
    for law in (*LAWS, Arrhenius()):
        cases.append((lambda x, law=law: law.log_factor(x**2, 0.3 + x, k=x), 0.6))
        cases.append((lambda x, law=law: law.log_factor(-x, 0.3 + x), 0.6))
        cases.append((lambda x, law=law: law.log_equilibrium(x, x, entropy=x, k=1 + x), 0.6))
        cases.append((lambda x, law=law: law.energy_change(loss, jnp.array([x, 1.0]), jnp.array([0.2, x])), 0.6))
    assert_gradients(cases)


def test_vmap_equals_loop():
    changes, temperatures = jnp.array([-2.0, 0.0, 0.5]), jnp.array([0.1, 1.0])
    grid = jax.vmap(jax.vmap(factors, (None, 0, None)), (0, None, None))(changes, temperatures, 1.0)
    np.testing.assert_allclose(grid, [[factors(c, t, 1.0) for t in temperatures] for c in changes], rtol=1e-14)
    # The factors are elementwise, too.
    np.testing.assert_allclose(LAWS[3].log_factor(changes, 1.0), grid[:, 1, 3], rtol=1e-14)


@pytest.mark.parametrize("law", [rx.Symmetric(), rx.Glauber()], ids=["apart", "joint"])
def test_a_jump_rate_is_a_module(law):
    """It may leave a transformation, and a gradient by its fields is that by what it was made of."""
    well, proposal = rx.landscapes.DoubleWell(), rx.proposals.Gaussian(0.2)

    def make(x):
        return rx.jump_rate(well, x[0], proposal, law=law, entropy=x[1], tau0=x[2], k=x[3])

    at = lambda rate: rate(jnp.array([0.3]), jnp.array([0.1]))
    x = jnp.array([0.4, 0.2, 2.0, 1.5])
    batch = jnp.stack([x, 2 * x])
    expected = [at(make(each)) for each in batch]
    np.testing.assert_allclose(eqx.filter_vmap(at)(eqx.filter_vmap(make)(batch)), expected, rtol=1e-12)
    rate, by_x = jax.value_and_grad(lambda x: at(make(x)))(x)
    np.testing.assert_allclose(at(eqx.filter_jit(make)(x)), rate, rtol=1e-12)
    v = jnp.array([1.0, 2.0, 3.0, 4.0])
    _, moved = eqx.filter_jvp(make, (x,), (v,))
    fields = lambda tree: jax.tree.leaves(tree, is_leaf=lambda a: a is None)
    pairs = zip(fields(eqx.filter_grad(at)(make(x))), fields(moved), strict=True)
    np.testing.assert_allclose(sum(jnp.vdot(g, t) for g, t in pairs if t is not None), by_x @ v, rtol=1e-10)


def test_float32(float32):
    for change in (-8.0, 0.3, 8.0):
        got = jnp.stack([law.log_factor(change, 0.3) for law in LAWS])
        assert got.dtype == jnp.float32
        x = change / 0.3
        np.testing.assert_allclose(got, [-x, -x / 2, min(-x, 0), -np.logaddexp(0, x)], rtol=1e-5, atol=1e-12)


def test_bad_numbers():
    cases = []
    for law in LAWS:
        cases.append((lambda x, law=law: law.log_factor(x, 0.3), jnp.nan, "energy_change", -1e9))
        cases.append((lambda x, law=law: law.log_factor(0.3, x), -1.0, "temperature", 0.0))
    cases.append((lambda x: LAWS[1].log_factor(0.3, 1.0, k=x), 0.0, "`k`", 1.0))
    cases.append((LAWS[1].equilibrium_temperature, -1.0, "temperature", 0.0))
    cases.append((lambda x: LAWS[1].log_equilibrium(1.0, x), 0.0, "temperature", 1.0))
    assert_refused(cases)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Arrhenius(energy="exact"), '"inner_product", "difference"'),
        (lambda: Symmetric().energy_change(lambda x: x, jnp.ones(2), jnp.ones(2)), "scalar"),
        (lambda: Symmetric().energy_change(loss, jnp.ones(2), jnp.ones(3)), "shapes of `theta`"),
    ],
)
def test_bad_calls(call, words):
    with pytest.raises(ValueError, match=words):
        call()
