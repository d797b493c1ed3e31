"""Every time-dependent method on every exact problem: states, gradients, order in space."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from systems import (
    TIME_DEPENDENT,
    AbsorbingInterval,
    DrivenOrnsteinUhlenbeck,
    ForcedRing,
    OrnsteinUhlenbeck,
    ReflectingWall,
)

import rxjax_solvers as rxs

NAMES = [type(s).__name__ for s in TIME_DEPENDENT]
# What each claims beside the split step: one axis with detailed balance, or anything that stands still.
BALANCED = (OrnsteinUhlenbeck, AbsorbingInterval, ReflectingWall)
STILL = tuple(s for s in TIME_DEPENDENT if not isinstance(s, DrivenOrnsteinUhlenbeck))


def check(system, *methods):
    """States and gradients by each method, compiled together, against the exact ones."""

    @jax.jit
    def run(params):
        exact, pull = jax.vjp(system.exact, params)
        weights = jnp.linspace(1, 2, exact.size).reshape(exact.shape)

        def scalar(params, method):
            out = system.solved(params, system.cells, rtol=1e-3, method=method)
            return jnp.sum(weights * out), out

        found = [jax.value_and_grad(scalar, has_aux=True)(params, method) for method in methods]
        return exact, pull(weights)[0], [(state, gradient) for (_, state), gradient in found]

    exact, slope, found = run(jnp.array(system.params))
    for state, gradient in found:
        np.testing.assert_allclose(state, exact, atol=system.tolerance)
        np.testing.assert_allclose(gradient, slope, atol=8 * system.tolerance * (np.max(np.abs(slope)) + 1))


@pytest.mark.parametrize("system", TIME_DEPENDENT, ids=NAMES)
def test_state_and_gradient(system):
    check(system, rxs.Strang(), *[rxs.Rational()] * isinstance(system, BALANCED))


@pytest.mark.slow
@pytest.mark.parametrize("system", STILL, ids=lambda s: type(s).__name__)
def test_state_and_gradient_by_the_other_methods(system):
    check(system, rxs.ShiftInvert(), rxs.Uniformization(1e-8))


@pytest.mark.parametrize(
    "system", [ForcedRing(), AbsorbingInterval(), ReflectingWall()], ids=lambda s: type(s).__name__
)
def test_second_order_in_space(system):
    # Differences between grids need no exact value, and the exponential of the matrix has no time error.
    @jax.jit
    def parts(params):
        grids = [system.grid(system.cells // 5 * k) for k in (1, 2, 4)]
        # Observables that are linear, as rows.
        rows = [jax.vmap(lambda p, g=g: system.observe(g, p))(jnp.eye(g.size)) for g in grids]
        return [(system.generator(params, g).as_matrix(), system.p0(g), r) for g, r in zip(grids, rows, strict=True)]

    out = [
        np.stack([(expm(np.asarray(matrix) * t) @ p0) @ rows for t in system.ts])
        for matrix, p0, rows in parts(jnp.array(system.params))
    ]
    coarse, fine = (np.max(np.abs(a - b)) for a, b in ((out[0], out[1]), (out[1], out[2])))
    assert 1.6 < np.log2(coarse / fine) < 2.5


def test_known_numbers():
    """Cases printed to ten digits: exact formulae of the systems in the limit of a point start."""
    ou = OrnsteinUhlenbeck()
    exact = np.asarray(ou.exact(jnp.array(ou.params)))
    start = ou.width**2 * np.exp(-2 * np.array(ou.ts))
    np.testing.assert_allclose(exact[:, 0], [1.2130613194, 0.7357588823, 0.2706705665], atol=1e-10)
    np.testing.assert_allclose(exact[:, 1] - start, [0.3160602794, 0.4323323584, 0.4908421806], atol=1e-10)
    n = np.arange(60.0)
    k = (2 * n + 1) * np.pi / 2
    survival = [np.sum(2 * (-1.0) ** n / k * np.exp(-(k**2) * t / 2)) for t in (0.25, 1, 2)]
    np.testing.assert_allclose(survival, [0.9089994762, 0.3707774298, 0.1079770444], atol=1e-10)
    x = jnp.linspace(0, 14, 200_001)
    for t, wall, mean in ((0.5, 1.0126681923, 0.8247332949), (2.0, 1.0435277880, 0.9054547749)):
        p = ReflectingWall.density(x, 1.0, t, 1.0)
        np.testing.assert_allclose([p[0], jnp.trapezoid(x * p, x)], [wall, mean], atol=2e-8)
    assert AbsorbingInterval().exact(jnp.array([0.5])).shape == (3, 1)
    np.testing.assert_allclose(np.hypot(1 / 5, 2 / 5), 0.4472135955, atol=1e-10)
    np.testing.assert_allclose(np.arctan2(2, 1), 1.1071487178, atol=1e-10)


@pytest.mark.slow
def test_a_diffrax_solver_takes_the_term():
    """The term is an ordinary one: their stiff solver must agree."""
    ou = OrnsteinUhlenbeck()
    controller = diffrax.PIDController(1e-6, 1e-8)
    stiff = dict(method=diffrax.Kvaerno5(), stepsize_controller=controller, dt0=1e-3)
    state = jax.jit(lambda q: ou.solved(q, 120, **stiff))(jnp.array(ou.params))
    ours = jax.jit(lambda q: ou.solved(q, 120))(jnp.array(ou.params))
    np.testing.assert_allclose(state, ours, atol=4e-5)
