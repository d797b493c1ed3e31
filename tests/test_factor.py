"""Factors: every elimination against dense solves, in both directions, with relative accuracy and derivatives."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import rxjax_solvers as rxs
from rxjax_solvers._elimination import _gth
from rxjax_solvers._elimination._plan import plan

# Where rounding is the subject, compile as users do.
rounding = pytest.mark.usefixtures("optimized")

CASES = [
    ((30,), "absorbing"),
    ((30,), "periodic"),
    ((9, 6), ["periodic", "absorbing"]),
    ((6, 7), "periodic"),
    ((5, 4, 3), ["periodic", "reflecting", ("absorbing", "reflecting")]),
    # Rings of two cells, which two cuts use up.
    ((2, 2, 5), ["periodic", "periodic", "reflecting"]),
]


def generator(shape, boundary, strength=1.0):
    """With hops along diagonals on a ring of two axes."""
    grid = rxs.Grid(-1.0, 1.5, shape, boundary=boundary)
    if boundary == "periodic" and grid.dim == 2:
        tensor = jnp.array([[0.4, 0.1], [0.1, 0.3]])
        return rxs.FokkerPlanck(lambda x: strength * jnp.sin(3 * x), tensor, grid, rxs.AntiIto())
    diffusion = jnp.array([0.3, 0.5, 0.2])[: grid.dim]
    return rxs.FokkerPlanck(lambda x: strength * (jnp.sin(3 * x) + x[::-1]), diffusion, grid)


@pytest.mark.parametrize("shape, boundary", CASES, ids=str)
def test_solves_both_ways_and_differentiates(shape, boundary):
    mask = jax.random.bernoulli(jax.random.key(0), 0.1, shape)
    b, g = jax.random.normal(jax.random.key(2), (2, *shape))

    def scalar(strength):
        W = generator(shape, boundary, strength)
        factor = rxs.factorize(W, target=mask, shift=0.3 * strength)
        x, y = factor.solve(b), factor.transpose_solve(g)
        return jnp.vdot(x, jnp.cos(g)) + jnp.vdot(y, jnp.sin(b)), (W.as_matrix(), x, y)

    h = 1e-3
    points = 0.8 + h * jnp.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    # One place after the other: solves, slope and differences are compiled once.
    (near, parts), slopes = jax.jit(lambda x: jax.lax.map(jax.value_and_grad(scalar, has_aux=True), x))(points)
    matrix, x, y = (part[2] for part in parts)
    keep = ~mask.ravel()
    a = np.where(keep[:, None] & keep[None], 0.24 * np.eye(keep.size) - matrix, np.eye(keep.size))
    inside = lambda v: np.where(keep, v.ravel(), 0)
    np.testing.assert_allclose(a @ x.ravel(), inside(b), atol=1e-12)
    np.testing.assert_allclose(a.T @ y.ravel(), inside(g), atol=1e-12)
    np.testing.assert_allclose(slopes[2], (near[0] - 8 * near[1] + 8 * near[3] - near[4]) / (12 * h), rtol=1e-7)


@pytest.mark.parametrize("method", [rxs.Elimination(), rxs.Iteration()], ids=lambda m: type(m).__name__)
def test_slopes_by_what_is_held_stay_in_the_target(method):
    """The logarithm of a time is minus infinity in the target; left out there, its slope elsewhere is not NaN."""
    mask = jnp.arange(12) < 2

    def mean(strength, logarithm):
        W = rxs.FokkerPlanck.from_potential(lambda x: strength * x[0] ** 2, rxs.Grid(-1.0, 1.0, 12), 0.5)
        times = rxs.factorize(W, target=mask, method=method).transpose_solve(jnp.ones(12))
        return logarithm(times)

    # The second never meets the target.
    plain = lambda t: jnp.sum(jnp.where(mask, 0, jnp.log(t)))
    guarded = lambda t: jnp.sum(jnp.log(jnp.where(mask, 1, t)))
    slope, right = jax.jit(lambda x: [jax.grad(mean)(x, f) for f in (plain, guarded)])(0.7)
    np.testing.assert_allclose(slope, right, rtol=1e-10)


@pytest.mark.parametrize("shape", [(32, 32), (30, 20), (8, 8, 8)], ids=str)
def test_every_cell_is_eliminated_once_in_tables_of_its_own_size(shape):
    levels = plan(shape, (False,) * len(shape), tuple(map(tuple, np.eye(len(shape), dtype=int).tolist())))
    cells, tables = np.prod(shape), np.concatenate([level.separator.ravel() for level in levels])
    np.testing.assert_array_equal(np.sort(tables[tables < cells]), np.arange(cells))
    # One box of eight cells among hundreds of three must not fill their tables with places that stand for none.
    assert tables.size < 1.4 * cells


@rounding
@pytest.mark.parametrize("n", [5, 40])
def test_dense_inverse_keeps_relative_accuracy(n):
    """Losses of 1e-40 beside rates of 1: entries of the inverse near 1e40, each right to rounding."""
    rates = 10.0 ** np.asarray(jax.random.uniform(jax.random.key(n), (n, n), minval=-8, maxval=1))
    np.fill_diagonal(rates, 0)
    loss = 1e-40 * np.arange(1, n + 1)
    out = np.asarray(jax.jit(_gth.inverse)(rates[None], loss[None])[0])
    assert np.all(out > 0)
    with mpmath.workdps(70):
        a = mpmath.matrix((np.diag(rates.sum(0)) - rates).tolist())
        for i in range(n):
            a[i, i] = mpmath.mpf(float(loss[i])) + sum(mpmath.mpf(float(r)) for r in rates[:, i])
        column = mpmath.lu_solve(a, mpmath.matrix([1] + [0] * (n - 1)))
        exact = np.array([float(v) for v in column])
    np.testing.assert_allclose(out[:, 0], exact, rtol=1e-12)


def test_vmap_equals_the_loop_and_the_factor_travels():
    grid = rxs.Grid(-2.0, 2.0, (8, 6))
    make = lambda kT: rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2 + x[1] ** 2, grid, kT)
    b = grid.gaussian(0.3, 0.5)
    solve = lambda kT: rxs.factorize(make(kT), shift=2.0).solve(b)
    kT = jnp.array([0.05, 0.3, 2.0])
    one = jax.jit(solve)
    np.testing.assert_allclose(jax.jit(jax.vmap(solve))(kT), jnp.stack([one(t) for t in kT]), rtol=1e-11)
    factor = jax.jit(lambda kT: rxs.factorize(make(kT), shift=2.0))(0.3)
    again = jax.jit(lambda f, b: (f.solve(b), f.transpose_solve(b)))(factor, b)
    np.testing.assert_allclose(again[0], one(0.3), rtol=1e-12)
    np.testing.assert_allclose(2 * grid.integrate(again[0]), 1, rtol=1e-13)
    assert jnp.min(again[0]) >= 0


@rounding
def test_float32(float32):
    grid = rxs.Grid(-2.0, 2.0, (8, 6))
    W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2 + x[1] ** 2, grid, 0.1)
    x = jax.jit(lambda W: rxs.factorize(W, shift=1e-3).solve(grid.gaussian(0.3, 0.5)))(W)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(1e-3 * grid.integrate(x), 1, rtol=3e-6)


def test_refusals():
    grid = rxs.Grid(-2.0, 2.0, 8)
    W = rxs.FokkerPlanck(jnp.zeros(1), 1.0, grid)
    moving = lambda: rxs.FokkerPlanck(rxs.TimeDependent(lambda t, x: t * x), 1.0, grid)
    chain = lambda size: rxs.MasterEquation.from_edges([0, 1], [1, 0], 1.0, size=size)
    block = lambda: rxs.FokkerPlanck(jnp.zeros(3), 1.0, rxs.Grid(-1.0, 1.0, (60, 60, 60)))
    direct, other, end = rxs.Elimination(), rxs.deflate(chain(2)), jnp.arange(8) == 7
    # What the kind and the shape decide is said while tracing.
    traced = lambda make, **k: jax.eval_shape(lambda: rxs.factorize(make(), **k))
    calls = [
        (lambda: traced(moving), "`generator` must not depend on time"),
        (lambda: rxs.factorize(W, shift=-1.0), "`shift` must be non-negative"),
        (lambda: rxs.factorize(W, target=jnp.zeros(8)), "`target` must be a Boolean mask of shape"),
        (
            lambda: rxs.factorize(W, target=jnp.zeros(8, bool)),
            "`target` must hold at least one cell, but it holds none",
        ),
        (lambda: rxs.factorize(W, target=lambda x: x[0] > 9), "`target` must hold at least one cell"),
        (lambda: rxs.factorize(W, target=lambda x: x > 0), "`target` must return a Boolean scalar"),
        (lambda: traced(lambda: chain(2), target=lambda x: x[0] > 0), "must be a Boolean mask for a generator without"),
        (lambda: traced(lambda: chain(5000), method=direct), "4096 states without hops .* alone, but .* has 5000"),
        (lambda: traced(block, method=direct), "separators of more than 2048 cells"),
        # Answers of another generator are no answers.
        (lambda: rxs.stationary(W, factor=other), r"`factor` must be of a generator of shape \(8,\), .* shape \(2,\)"),
        (lambda: rxs.spectrum(W, 2, factor=other), r"`factor` must be of a generator of shape \(8,\), .* shape \(2,\)"),
        (lambda: rxs.quasi_stationary(W, factor=other.factor), r"`factor` must be of a generator of shape \(8,\)"),
        (lambda: rxs.reactive_flux(W, end[::-1], end, law=jnp.ones(())), r"`law` must have the generator's shape"),
        (
            lambda: rxs.reactive_flux(W, end[::-1], end, law=jnp.ones(8)),
            "`law` must be .* of mass 1 .* has another mass",
        ),
        (lambda: rxs.transition_rate(W, end[::-1], end, law=-jnp.ones(8)), "`law` must be non-negative.* is negative"),
    ]
    for call, words in calls:
        with pytest.raises(ValueError, match=words):
            call()
