"""Critical learning rates against the iterations that they bound, and batch sharpness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import assert_gradients
from refusals import assert_refused

from rxjax._critical_rates import batch_sharpness, critical_learning_rate, sgd_critical_learning_rate

VARIANTS = [(nesterov, ema) for nesterov in (False, True) for ema in (False, True)]


def test_known_values():
    assert critical_learning_rate(1.0) == 2.0
    assert critical_learning_rate(1, momentum=0.9) == pytest.approx(3.8)
    assert critical_learning_rate(1.0, momentum=0.9, nesterov=True) == pytest.approx(1.357, abs=5e-4)
    assert critical_learning_rate(1.0, momentum=0.9, ema=True) == pytest.approx(38.0)
    np.testing.assert_allclose(critical_learning_rate(np.array([1.0, 4.0]), momentum=np.array([0.0, 0.9])), [2, 0.95])
    for nesterov, ema in VARIANTS:
        assert critical_learning_rate(4.0, nesterov=nesterov, ema=ema) == 0.5


@pytest.mark.parametrize("nesterov, ema", VARIANTS)
@pytest.mark.parametrize("mu", [0.0, 0.3, 0.9, 0.99])
def test_the_iteration_diverges_just_above(nesterov, ema, mu):
    """The spectral radius of the update on a quadratic passes 1 at the limit."""
    curvature = 1.7
    critical = float(critical_learning_rate(curvature, momentum=mu, nesterov=nesterov, ema=ema))

    def radius(eta):
        columns = []
        for theta, v in np.eye(2):
            g = curvature * theta
            v = mu * v + (1 - mu if ema else 1) * g
            step = (1 - mu if ema else 1) * g + mu * v if nesterov else v
            columns.append((theta - eta * step, v))
        return np.max(np.abs(np.linalg.eigvals(np.array(columns).T)))

    assert radius(critical * (1 - 1e-6)) < 1 < radius(critical * (1 + 1e-6))
    assert radius(critical) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("batch, dim, curvature", [(1, 1, 1.0), (4, 3, 2.5), (16, 2, 0.5)])
def test_mean_square_limit_of_regression(batch, dim, curvature):
    """At the limit one step neither grows nor shrinks the mean square: Monte Carlo over batches of Gaussian inputs."""
    eta = float(sgd_critical_learning_rate(batch, dim, curvature=curvature))
    x = np.sqrt(curvature) * np.random.default_rng(0).standard_normal((60_000, batch, dim))
    after = np.eye(dim)[0] - eta / batch * np.einsum("nbi,nb->ni", x, x[:, :, 0])
    squares = np.sum(after**2, axis=1)
    assert abs(squares.mean() - 1) < 4 * squares.std() / np.sqrt(squares.size)
    if dim == 1:
        # The stationary variance of this regression, eta / (2 B - eta (B + 2)) at unit curvature, has its pole here.
        assert 2 * batch - eta * curvature * (batch + 2) == pytest.approx(0, abs=1e-12)


def test_batch_sharpness():
    rng = np.random.default_rng(1)
    g = rng.standard_normal((6, 4))
    h = rng.standard_normal((6, 4, 4))
    hg = np.einsum("nij,nj->ni", h, g)
    expected = np.mean(np.einsum("ni,ni->n", g, hg)) / np.mean(np.sum(g**2, axis=1))
    assert batch_sharpness(g, hg) == pytest.approx(expected)
    # One Hessian for all batches along its own eigenvector: the eigenvalue.
    assert batch_sharpness(g[:, :1] * np.eye(4)[0], 3 * g[:, :1] * np.eye(4)[0]) == pytest.approx(3)
    assert batch_sharpness(1e200 * g, 1e200 * hg) == pytest.approx(expected)
    low = batch_sharpness(jnp.asarray(g, jnp.bfloat16), jnp.asarray(hg, jnp.bfloat16))
    assert low.dtype == jnp.float32 and low == pytest.approx(expected, rel=0.05)


def test_vmap_and_precision():
    curvatures, momenta = np.geomspace(1e-3, 1e3, 5), np.linspace(0, 0.99, 4)
    law = lambda h, mu: critical_learning_rate(h, momentum=mu, nesterov=True, ema=True)
    grid = jax.jit(jax.vmap(jax.vmap(law, (None, 0)), (0, None)))
    wide = np.asarray(grid(curvatures, momenta))
    np.testing.assert_allclose(wide, [[law(h, mu) for mu in momenta] for h in curvatures], rtol=1e-14)
    np.testing.assert_allclose(grid(curvatures.astype(np.float32), momenta.astype(np.float32)), wide, rtol=1e-5)

    batches = np.array([1, 10, 1000])
    limits = jax.vmap(lambda batch: sgd_critical_learning_rate(batch, 100))(batches)
    np.testing.assert_allclose(limits, 2 * batches / (batches + 101))
    assert sgd_critical_learning_rate(np.float32(1e6), np.float32(1e9)).dtype == jnp.float32
    assert sgd_critical_learning_rate(np.float32(1e6), np.float32(1e9)) == pytest.approx(
        2e6 / (1e6 + 1e9 + 1), rel=1e-6
    )


def test_gradients():
    g, hg = jnp.array([[1.0, -2.0], [0.5, 0.3]]), jnp.array([[2.0, 1.0], [0.1, -0.4]])
    cases = [(lambda h: critical_learning_rate(h, momentum=0.5), 1.3)]
    cases += [
        (lambda m, n=n, e=e: critical_learning_rate(1.3, momentum=m, nesterov=n, ema=e), 0.6) for n, e in VARIANTS
    ]
    cases += [
        (lambda b: sgd_critical_learning_rate(b, 3), 4.0),
        (lambda d: sgd_critical_learning_rate(4, d, curvature=2.0), 3.0),
        (lambda h: sgd_critical_learning_rate(4, 3, curvature=h), 2.0),
        (lambda x: batch_sharpness(g.at[0, 1].set(x), hg), -2.0),
        (lambda x: batch_sharpness(g, hg.at[1, 0].set(x)), 0.1),
    ]
    assert_gradients(cases)


def test_refusals():
    g = jnp.ones((2, 3))
    cases = [
        (critical_learning_rate, bad, f"Argument `lambda_max` must be positive.*{words}", 1.0)
        for bad, words in ((0.0, "is zero"), (-1.0, "is negative"), (np.inf, "is not finite"))
    ]
    cases += [
        (lambda m: critical_learning_rate(1.0, momentum=m), 1.0, "Argument `momentum` must lie in", 0.5),
        (lambda m: critical_learning_rate(1.0, momentum=m), -0.1, "Argument `momentum` must lie in", 0.5),
        (lambda b: sgd_critical_learning_rate(b, 3), 0.5, "Argument `batch_size`", 1.0),
        (lambda d: sgd_critical_learning_rate(3, d), 0.0, "Argument `dim`", 1.0),
        (lambda h: sgd_critical_learning_rate(3, 3, curvature=h), 0.0, "Argument `curvature` must be positive", 1.0),
        (lambda x: batch_sharpness(x * g, g), 0.0, "Argument `gradients` must have a non-zero row.*no step", 1.0),
        (lambda x: batch_sharpness(x * g, g), np.nan, "Argument `gradients` must be finite", 1.0),
        (lambda x: batch_sharpness(g, x * g), np.inf, "Argument `hessian_gradients` must be finite", 1.0),
    ]
    assert_refused(cases)
    with pytest.raises(ValueError, match=r"Argument `gradients` must have shape \(n, d\).*\(3,\)"):
        batch_sharpness(jnp.ones(3), jnp.ones(3))
    with pytest.raises(ValueError, match="Argument `hessian_gradients` must have the shape of `gradients`"):
        batch_sharpness(g, jnp.ones((2, 2)))
