"""Every question to an iterative factor: answers, outcomes, gradients as by elimination, vmapped over parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rxjax_solvers as rxs


def driven(s):
    grid = rxs.Grid(-1.5, 1.5, (6, 5), boundary=["periodic", "reflecting"])
    return rxs.FokkerPlanck(lambda x: jnp.sin(3 * x) + s * x[::-1] - x**3, s * jnp.array([0.3, 0.5]), grid)


def jumping(s):
    log_rate = lambda theta, delta: (theta[0] ** 2 - (theta[0] + delta[0]) ** 2) / (4 * s) - 2 * delta[0] ** 2
    grid = rxs.Grid(-2.0, 2.0, 16)
    return rxs.MasterEquation.from_rates(lambda theta, delta: jnp.exp(log_rate(theta, delta)), grid, reach=2)


def answers(W, method):
    """By one factor for each target: a list of values, and whether every verb succeeded."""
    cells = jnp.arange(W.size).reshape(W.shape)
    source, target, one = cells % 7 == 2, cells % 7 == 5, cells == 7
    hit, both = (rxs.factorize(W, target=t, method=method) for t in (one, (source, target)))
    closed = rxs.deflate(W, method=method)
    p0 = jnp.where(cells == 3, 1.0, 1e-2)
    later = rxs.ShiftInvert(factorization=method)
    out = [
        rxs.first_passage_variance(W, None, factor=hit, throw=False),
        rxs.committor(W, source, target, factor=both, throw=False),
        rxs.stationary(W, factor=closed, throw=False),
        rxs.transition_rate(W, source, target, factor=both, law=closed.law, throw=False),
    ]
    (_, rate), ended = rxs.quasi_stationary(W, factor=hit, throw=False)
    (values, _), found = rxs.spectrum(W, 3, factor=closed, max_krylov=20, throw=False)
    late = rxs.solve(W, p0 / W.mass(p0), jnp.array([0.0, 0.5, 50.0]), method=later, throw=False)
    out += [(rate, ended), (values.real, found), (late.ps, late.result)]
    good = jnp.stack([result == rxs.RESULTS.successful for _, result in out])
    return [value / jax.lax.stop_gradient(jnp.max(jnp.abs(value))) for value, _ in out], good


def compare(make):
    """Both ways in one program, over two parameters at once: values, and the gradient of each answer's weighted sum."""

    def run(s, method):
        def sums(s):
            found, good = answers(make(s), method)
            weights = lambda v: jnp.cos(jnp.arange(v.size, dtype=v.dtype)).reshape(v.shape)
            return jnp.stack([jnp.sum(weights(v) * v) for v in found]), (found, good)

        value, back, rest = jax.vjp(sums, s, has_aux=True)
        return *rest, jax.vmap(back)(jnp.eye(value.size))[0]

    both = jax.jit(lambda s: [jax.vmap(lambda s, m=m: run(s, m))(s) for m in (rxs.Elimination(), rxs.Iteration())])
    (exact, good, slopes), (found, fine, near) = both(jnp.array([0.9, 1.2]))
    assert np.all(good) and np.all(fine), (good, fine)
    for a, b in zip(exact, found, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-8)
    np.testing.assert_allclose(near, slopes, rtol=1e-6, atol=1e-9)
    assert np.all(np.abs(np.asarray(slopes)) > 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("make", [driven, jumping])
def test_answers_like_elimination(make):
    compare(make)
