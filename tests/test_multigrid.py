"""Iterative factors: grids of every kind, coarser chains, low temperature, edges, outcomes, derivatives."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import rxjax_solvers as rxs
from rxjax_solvers._elimination._neighbours import neighbour
from rxjax_solvers._factorization import usual
from rxjax_solvers._multigrid._elimination import IterativeElimination, _relative
from rxjax_solvers._multigrid._halving import Chain, evened, halve, parted
from rxjax_solvers._multigrid._levels import _inverted, grid_levels


def wells(theta):
    return (theta[0] ** 2 - 1) ** 2 + 2 * jnp.sum(theta[1:] ** 2) + theta[0] * jnp.sum(theta[1:]) / 2


def both_ways(W, mask, shift, method, b, g):
    factor = rxs.factorize(W, target=mask, shift=shift, method=method)
    return factor.solve(b), factor.transpose_solve(g)


CASES = [
    ((13, 11), ["periodic", ("absorbing", "reflecting")], False),
    ((6, 5, 4), ["periodic", "reflecting", ("absorbing", "reflecting")], False),
]


@pytest.mark.parametrize("shape, boundary, tensor", CASES, ids=str)
def test_solves_like_elimination(shape, boundary, tensor):
    """Odd sizes, every kind of side, a target, drift without potential, hops along diagonals; both ways."""
    mask = jax.random.bernoulli(jax.random.key(0), 0.1, shape)
    b, g = jax.random.normal(jax.random.key(2), (2, *shape))

    @jax.jit
    def run():
        grid = rxs.Grid(-1.0, 1.5, shape, boundary=boundary)
        diffusion = jnp.array([[0.4, 0.1], [0.1, 0.3]]) if tensor else jnp.array([0.3, 0.5, 0.2])[: len(shape)]
        W = rxs.FokkerPlanck(lambda x: jnp.sin(3 * x) + x[::-1], diffusion, grid)
        x, y = both_ways(W, mask, 0.1, rxs.Iteration(), b, g)
        matrix = W.as_matrix()
        return x, y, matrix

    x, y, matrix = run()
    keep = ~np.asarray(mask).ravel()
    a = (0.1 * np.eye(keep.size) - np.asarray(matrix))[np.ix_(keep, keep)]
    exact = np.linalg.solve(a, np.asarray(b).ravel()[keep]), np.linalg.solve(a.T, np.asarray(g).ravel()[keep])
    for found, value in zip((x, y), exact, strict=True):
        found = np.asarray(found).ravel()
        assert np.all(found[~keep] == 0)
        np.testing.assert_allclose(found[keep], value, atol=1e-8 * np.abs(value).max())


@pytest.mark.parametrize("drift", [False, True])
def test_a_solve_takes_an_error_where_one_is_given(drift):
    """No more than asked, in the sum for densities, in the largest value for functions, and not far less."""
    grid, shift = rxs.Grid(-2.0, 2.0, (24, 20)), 2.0
    b, g = jax.random.normal(jax.random.key(2), (2, *grid.shape))

    @jax.jit
    def run(error):
        if drift:
            W = rxs.FokkerPlanck(lambda x: -jax.grad(wells)(x) + jnp.array([x[1], -x[0]]), 0.2, grid)
        else:
            W = rxs.FokkerPlanck.from_potential(wells, grid, 0.2)
        fast, exact = (
            rxs.factorize(W, shift=shift, method=m).elimination for m in (rxs.Iteration(), rxs.Elimination())
        )
        off = fast.solve(b, error) - exact.solve(b), fast.transpose_solve(g, error) - exact.transpose_solve(g)
        return jnp.sum(jnp.abs(off[0])), jnp.max(jnp.abs(off[1]))

    for error in (1e-1, 1e-3, 1e-6):
        found = np.array(run(jnp.asarray(error)))
        assert np.all(found < error) and np.all(found > 1e-4 * error), (error, found)


def test_coarser_grids_keep_mass_and_the_gibbs_law():
    """Each coarser chain is a generator again: losses are means, and its law is what its cells are sent, in balance."""
    grid = rxs.Grid(-2.0, 2.0, (25, 24), boundary=["reflecting", "periodic"])

    @jax.jit
    def run():
        W = rxs.FokkerPlanck.from_potential(lambda x: wells(jnp.stack([x[0], jnp.sin(jnp.pi * x[1] / 2)])), grid, 0.2)
        levels = grid_levels(W, jnp.full(grid.shape, 0.7), jnp.ones(grid.shape, bool))
        assert W.log_gibbs is not None
        law, out = jnp.exp(W.log_gibbs - jnp.max(W.log_gibbs)), []
        rates = {}
        for hop, (forth, back) in zip(levels.hops, levels.pairs, strict=True):
            rates[hop], rates[tuple(-step for step in hop)] = forth, back
        chain, periodic = Chain(rates, levels.loss), (False, True)
        for _ in range(2):
            fine = evened(chain, periodic)
            law = jnp.pad(law, [(0, n - m) for n, m in zip(fine.loss.shape, law.shape, strict=True)])
            chain = fine
            for axis in range(2):
                chain, halving = halve(chain, axis, periodic[axis])
                even, odd = parted(law, axis)
                law = even + halving.down * odd + neighbour(halving.up * odd, axis, -1, periodic[axis])
            flows = [(rate * law, jnp.roll(chain.rates[-hop[0], -hop[1]] * law, (-hop[0], -hop[1]), (0, 1)))
                     for hop, rate in chain.rates.items()]  # fmt: skip
            out.append((chain.loss, flows))
        return levels, out

    levels, out = run()
    for loss, flows in out:
        np.testing.assert_allclose(loss, 0.7, rtol=1e-13)
        for forth, back in flows:
            np.testing.assert_allclose(forth, back, rtol=1e-10, atol=1e-300)
            assert np.max(forth) > 0
    assert [one.shares.shape for one in levels.grids] == [(4, 2, 2, 13, 12), (4, 2, 2, 7, 6)]
    assert levels.inverted.shape == (42, 42)


def test_a_stop_on_an_odd_ring_changes_nothing():
    """Mean times on a ring of 7 with a drift, and on that of 8 with a stop between the last cell and the first."""
    up, down, right, left = jax.random.uniform(jax.random.key(0), (4, 7, 3))
    rates = {(1, 0): up, (-1, 0): down, (0, 1): right, (0, -1): left}
    ring = Chain(rates, jnp.linspace(0.1, 0.4, 21).reshape(7, 3))

    @jax.jit
    def run():
        longer = evened(ring, (True, True))
        return _inverted(ring), _inverted(longer).reshape(8, 4, 8, 4)[:7, :3, :7, :3].reshape(21, 21)

    np.testing.assert_allclose(*run(), rtol=1e-12)


def tilted(theta):
    return (theta[0] ** 2 - 1) ** 2 + 20 * (theta[1] - 0.2 * theta[0]) ** 2


def test_densities_by_detailed_balance_and_without():
    """Where numbers hold the law's weights in the symmetric product, and where they do not and it fails; at once."""
    b = jax.random.uniform(jax.random.key(0), (14, 12)) * 1e-30

    @jax.jit
    @jax.vmap
    def run(kT, tilt):
        grid = rxs.Grid(-2.0, 2.0, (14, 12))
        W = rxs.FokkerPlanck.from_potential(lambda x: tilt * tilted(x) + (1 - tilt) * wells(x), grid, kT)
        factors = [
            rxs.factorize(W, target=jnp.arange(168).reshape(14, 12) == 126, method=method)
            for method in (rxs.Iteration(), rxs.Elimination())
        ]
        assert isinstance(factors[0].elimination, IterativeElimination)
        _, found = factors[0].elimination._balanced(b, _relative, None)
        return found, *(factor.solve(b) for factor in factors)

    found, x, exact = run(jnp.array([0.1, 0.04, 0.1]), jnp.array([0.0, 0.0, 1.0]))
    assert found.tolist() == [True, True, False]
    assert jnp.all(jnp.sum(jnp.abs(x - exact), axis=(1, 2)) < 1e-9 * jnp.sum(exact, axis=(1, 2)))


@pytest.mark.slow
def test_low_temperature_is_right_or_reported():
    """Over 34 and 40 kT every passage time to 1e-9 of itself, and densities; over 100 kT an outcome, no number."""
    grid = rxs.Grid(-2.0, 2.0, (40, 40))
    mask = jnp.sum((grid.points - jnp.array([[[1.0, -0.25]]])) ** 2, axis=-1) < 0.09

    @jax.jit
    def run(kT):
        W = rxs.FokkerPlanck.from_potential(wells, grid, kT)
        iterated = rxs.factorize(W, target=mask, method=rxs.Iteration())
        eliminated = rxs.factorize(W, target=mask, method=rxs.Elimination())
        exact = rxs.mean_first_passage_time(W, mask, factor=eliminated)
        density, right = (factor.solve(jnp.ones(grid.shape)) for factor in (iterated, eliminated))
        off = jnp.sum(jnp.abs(density - right)) / jnp.sum(right)
        return *rxs.mean_first_passage_time(W, mask, factor=iterated, throw=False), exact, off

    for kT in (0.3, 0.03, 0.026):
        tau, result, exact, off = run(kT)
        assert result == rxs.RESULTS.successful
        np.testing.assert_allclose(tau, exact, rtol=1e-9)
        assert off < 1e-9
    assert jnp.max(exact) > 1e17
    tau, result, *_ = run(0.01)
    assert result == rxs.RESULTS.unsolved and not np.any(np.isfinite(np.asarray(tau)[~np.asarray(mask)]))


@pytest.mark.slow
def test_a_valley_aslant_to_the_axes_is_solved_where_the_grid_resolves_it():
    """Over 20 kT along a valley 2.2 cells wide every passage time; over 33 kT, 1.7 wide, an outcome."""
    grid = rxs.Grid(-2.0, 2.0, (128, 128))
    mask = jnp.sum((grid.points - jnp.array([[[1.0, 0.3]]])) ** 2, axis=-1) < 0.04
    aslant = lambda x: (x[0] ** 2 - 1) ** 2 + 5 * (x[1] - 0.3 * x[0]) ** 2

    @partial(jax.jit, static_argnums=1)
    def run(kT, method):
        W = rxs.FokkerPlanck.from_potential(aslant, grid, kT)
        return rxs.mean_first_passage_time(W, mask, factor=rxs.factorize(W, target=mask, method=method), throw=False)

    (tau, result), (exact, _) = (run(1 / 20, method) for method in (rxs.Iteration(), rxs.Elimination()))
    assert result == rxs.RESULTS.successful
    np.testing.assert_allclose(tau, exact, rtol=1e-9)
    assert run(1 / 33, rxs.Iteration())[1] == rxs.RESULTS.unsolved


def test_gradient_and_many_temperatures():
    """A log passage time against differences, mapped over temperatures."""
    grid = rxs.Grid(-2.0, 2.0, (15, 12))

    def run(kT):
        W = rxs.FokkerPlanck.from_potential(wells, grid, kT)
        factor = rxs.factorize(W, target=jnp.arange(180).reshape(15, 12) == 126, method=rxs.Iteration(tol=1e-12))
        return jnp.log(rxs.mean_first_passage_time(W, None, factor=factor)[4, 6])

    kTs = jnp.array([0.15, 0.15 * (1 - 1e-4), 0.15 * (1 + 1e-4)])
    value, slope = jax.jit(lambda kTs: jax.lax.map(jax.value_and_grad(run), kTs))(kTs)
    np.testing.assert_allclose(slope[0], (value[2] - value[1]) / (2e-4 * 0.15), rtol=1e-6)


def test_what_is_iterated_by_default():
    """Large grids with a potential, and what elimination does not reach."""
    kind = lambda make: type(usual(eqx.filter_eval_shape(make)))
    large, small = rxs.Grid(-2.0, 2.0, (80, 60)), rxs.Grid(-2.0, 2.0, (40, 30))
    cube = rxs.Grid(-2.0, 2.0, (48, 48, 48))
    assert kind(lambda: rxs.FokkerPlanck.from_potential(wells, large, 0.1)) is rxs.Iteration
    assert kind(lambda: rxs.FokkerPlanck.from_potential(wells, small, 0.1)) is rxs.Elimination
    assert kind(lambda: rxs.FokkerPlanck(jnp.zeros(2), 1.0, large)) is rxs.Elimination
    assert kind(lambda: rxs.FokkerPlanck(jnp.zeros(3), 1.0, cube)) is rxs.Iteration
    assert kind(lambda: rxs.MasterEquation.from_edges([0], [1], 1.0, size=5000)) is rxs.Iteration
    assert kind(lambda: rxs.MasterEquation.from_edges([0], [1], 1.0, size=50)) is rxs.Elimination


def test_float32(float32):
    grid = rxs.Grid(-2.0, 2.0, (14, 12))
    mask = jnp.arange(168).reshape(14, 12) == 126

    @jax.jit
    def run():
        W = rxs.FokkerPlanck.from_potential(wells, grid, 0.3)
        factor = rxs.factorize(W, target=mask, method=rxs.Iteration())
        return W.as_matrix(), factor.transpose_solve(jnp.ones(grid.shape))

    matrix, tau = run()
    assert tau.dtype == jnp.float32
    keep = ~np.asarray(mask).ravel()
    rates = np.asarray(matrix, np.float64)
    np.fill_diagonal(rates, 0)
    rates -= np.diag(rates.sum(0))
    exact = np.linalg.solve(-rates[np.ix_(keep, keep)].T, np.ones(keep.sum()))
    np.testing.assert_allclose(tau.ravel()[keep], exact, rtol=3e-4)


def test_edges_beyond_the_reach_of_elimination():
    """5000 states, every one with some random others: times and law in their equations."""
    n, random = 5000, np.random.default_rng(0)
    source = np.concatenate([np.arange(n), random.integers(0, n, 4 * n)])
    target = np.concatenate([(np.arange(n) + 1) % n, random.integers(0, n, 4 * n)])
    source, target = source[source != target], target[source != target]
    rates = random.random(source.size)
    mask = np.arange(n) % 500 == 0

    @jax.jit
    def run(rates):
        W = rxs.MasterEquation.from_edges(source, target, rates, size=n)
        return rxs.mean_first_passage_time(W, jnp.asarray(mask)), rxs.stationary(W)

    tau, law = (np.asarray(x) for x in run(rates))
    matrix = scipy.sparse.csc_matrix((rates, (target, source)), (n, n))
    matrix = (matrix - scipy.sparse.diags(np.asarray(matrix.sum(0)).ravel())).tocsc()
    exact = (-matrix[~mask][:, ~mask]).T @ tau[~mask]
    np.testing.assert_allclose(exact, 1, rtol=1e-7)
    assert np.abs(matrix @ law).sum() < 1e-8 and abs(law.sum() - 1) < 1e-12 and law.min() > 0


def test_what_cannot_be_solved_is_reported():
    two = rxs.MasterEquation.from_edges([0, 1, 2, 3], [1, 0, 3, 2], 1.0, size=4)
    target = jnp.arange(4) == 0
    factor = rxs.factorize(two, target=target, method=rxs.Iteration(max_steps=20))
    _, result = rxs.mean_first_passage_time(two, target, factor=factor, throw=False)
    assert result == rxs.RESULTS.unsolved
    with pytest.raises(Exception, match="An iterative solve did not reach its tolerance"):
        jax.block_until_ready(rxs.mean_first_passage_time(two, target, factor=factor))
    with pytest.raises(ValueError, match="`tol` must be positive"):
        rxs.factorize(two, shift=1.0, method=rxs.Iteration(tol=0.0))


def test_another_tolerance_is_no_other_program(caplog):
    ring = rxs.MasterEquation.from_edges([0, 1, 2], [1, 2, 0], 1.0, size=3)

    def compiled(tol):
        with jax.log_compiles():
            caplog.clear()
            rxs.factorize(ring, shift=1.0, method=rxs.Iteration(tol=tol)).solve(jnp.ones(3))
        return sum(record.getMessage().startswith("Compiling ") for record in caplog.records)

    assert compiled(1e-6) > 0
    assert compiled(1e-7) == 0
