"""From a network to a flow: planes, what is measured on them, real SGD projected there, and how far the two agree."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rxjax as rx

KEY = jax.random.key(0)
DIM = 5


def example_loss(p, example):
    """A regression with parameters in a PyTree."""
    x, y = example
    return (jnp.sum(p["w"] * x) + p["b"] - y) ** 2 / 2


def regression(n=60):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n, DIM - 1))
    y = x @ np.arange(1.0, DIM) / 4 + generator.standard_normal(n)
    design = np.concatenate([x, np.ones((n, 1))], axis=1)
    best = np.linalg.lstsq(design, y, rcond=None)[0]
    return (jnp.asarray(x), jnp.asarray(y)), design, y, best


def tree(v):
    return {"w": jnp.asarray(v[: DIM - 1]), "b": jnp.asarray(v[DIM - 1])}


def flat(p):
    return np.append(np.asarray(p["w"]), p["b"])


def make_plane(directions, data, best, half=1.0):
    mean = lambda p: jnp.mean(jax.vmap(lambda e: example_loss(p, e))(data))
    return rx.landscapes.plane(mean, tree(best), directions, bounds=(-half, half))


def test_principal_directions_are_those_of_the_path():
    generator = np.random.default_rng(1)
    path = generator.standard_normal((30, DIM)) * np.array([0.1, 3.0, 0.2, 1.0, 0.1])
    stacked = {"w": jnp.asarray(path[:, :-1]), "b": jnp.asarray(path[:, -1]), "name": "net"}
    found = rx.planes.principal_directions(stacked, k=2)
    apart = path - path.mean(axis=0)
    values, vectors = np.linalg.eigh(apart.T @ apart)
    np.testing.assert_allclose(found.shares, values[::-1][:2] / values.sum(), rtol=1e-10)
    rows = np.stack([flat(d) for d in found.directions])
    np.testing.assert_allclose(np.abs(np.sum(rows * vectors.T[::-1][:2], axis=1)), 1, rtol=1e-10)
    assert np.all(rows @ apart[-1] >= 0) and found.center["name"] == "net"
    np.testing.assert_allclose(flat(found.center), path.mean(axis=0), atol=1e-12)
    one, two = (
        flat(d) for d in rx.planes.orthonormal(rx.landscapes.random_directions(KEY, tree(path[0]), vectors=True))
    )
    np.testing.assert_allclose([one @ one, two @ two, one @ two], [1, 1, 0], atol=1e-12)


def test_what_is_measured_is_the_textbook():
    """Slopes of every example by hand, in chunks that do not divide the data."""
    data, design, y, best = regression()
    directions = rx.planes.orthonormal([tree(v) for v in np.random.default_rng(2).standard_normal((2, DIM))])
    rows = np.stack([flat(d) for d in directions])
    surface = make_plane(directions, data, best)
    found = rx.planes.measure_plane(surface, example_loss, data, shape=(5, 4), chunk_size=7)
    for at in ((0, 0), (3, 2)):
        p = best + np.asarray(found.points[at]) @ rows
        slopes = (design * (design @ p - y)[:, None]) @ rows.T
        np.testing.assert_allclose(found.sigma1[at], np.cov(slopes.T, bias=True), rtol=1e-9)
        np.testing.assert_allclose(found.drift[at], -slopes.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(found.loss[at], np.mean((design @ p - y) ** 2) / 2, rtol=1e-10)
        # Interpolation passes through what was measured.
        np.testing.assert_allclose(found.covariance(found.points[at]), found.sigma1[at], rtol=1e-6)
    end = float(jnp.max(found.points))
    wide, line = rx.solvers.Grid(-1.5 * end, end, (4, 4)), rx.solvers.Grid(-end, end, 4)
    for grid, words in ((wide, "lie within the measured bounds.*cells outside"), (line, "dimension 2")):
        with pytest.raises(ValueError, match=f"`grid` must .*{words}"):
            found.generator(rx.Hyperparameters(0.05, 4, 60), grid)


@pytest.mark.slow
def test_the_measured_plane_feeds_the_solvers():
    """A generator acts on coordinates as the drift does, and on their product as the correlated noise; the density and
    the exit time that follow from it are those of real runs."""
    data, design, y, best = regression()
    directions = rx.planes.orthonormal([tree(v) for v in np.random.default_rng(2).standard_normal((2, DIM))])
    rows = np.stack([flat(d) for d in directions])
    found = rx.planes.measure_plane(make_plane(directions, data, best), example_loss, data, shape=7)
    hyper = rx.Hyperparameters(0.05, 4, 60)
    grid = rx.solvers.Grid([-0.9, -0.9], [0.9, 0.9], (36, 36))
    generator = found.generator(hyper, grid)
    i = (18, 17)
    theta = np.asarray(grid.points[i])
    p = best + theta @ rows
    slopes = (design * (design @ p - y)[:, None]) @ rows.T
    x = [grid.points[..., a] - theta[a] for a in range(2)]
    np.testing.assert_allclose([generator.adjoint(f)[i] for f in x], -slopes.mean(axis=0), atol=3e-3)
    noise = 0.05 * np.cov(slopes.T, bias=True) / 4
    np.testing.assert_allclose(generator.adjoint(x[0] * x[1])[i], noise[0, 1], rtol=0.02)
    plain = found.generator(hyper, grid, cross=False)
    assert abs(plain.adjoint(x[0] * x[1])[i]) < 0.1 * abs(noise[0, 1])

    _, vectors = np.linalg.eigh(design.T @ design)
    line = make_plane([tree(vectors[:, -1])], data, best)
    found = rx.planes.measure_plane(line, example_loss, data, shape=7)
    runs = rx.planes.sgd_on_plane(line, example_loss, data, tree(best), hyper, 160, KEY, runs=600)
    grid = rx.solvers.Grid(-0.5, 0.5, 100)
    generator = found.generator(hyper, grid)
    p = rx.solvers.solve(generator, grid.gaussian(0.0, 0.02), jnp.array([0.0, 8.0])).ps[-1]
    distance = rx.planes.density_distance(p, grid, runs.coordinates[-1])
    assert distance.value < distance.floor + 4 * distance.floor_error
    flow = rx.probability_flow(line, hyper, found.variances, grid, grid.gaussian(0.0, 0.02), jnp.array([0.0, 8.0]))
    np.testing.assert_allclose(flow.ps[-1], p, atol=1e-4)
    step = float(jnp.std(runs.coordinates[1]))
    exits = rx.planes.exit_time(runs, lambda x: jnp.abs(x[0]) < 0.12)
    tau = rx.solvers.mean_first_passage_time(generator, lambda x: jnp.abs(x[0]) >= 0.12 + 0.583 * step)
    assert abs(float(exits.value) - float(tau[50])) < 0.1 * float(tau[50]) + 3 * float(exits.standard_error)


def test_runs_of_a_regression_are_those_of_the_theory():
    """On a quadratic with a plane of eigenvectors nothing of the other directions is felt: variances in closed form."""
    data, design, y, best = regression()
    values, vectors = np.linalg.eigh(design.T @ design / 60)
    surface = make_plane([tree(v) for v in vectors.T[::-1][:2]], data, best)
    hyper = rx.Hyperparameters(0.05, 4, 60)
    runs = rx.planes.sgd_on_plane(surface, example_loss, data, tree(best), hyper, 120, KEY, runs=400)
    assert runs.coordinates.shape == (121, 400, 2) and float(runs.times[-1]) == pytest.approx(6.0)
    slopes = (design * (design @ best - y)[:, None]) @ vectors[:, ::-1]
    h, c = values[::-1], np.var(slopes, axis=0) / 4
    s = 0.05 * c / (h * (2 - 0.05 * h))
    np.testing.assert_allclose(np.var(runs.coordinates[60:], axis=(0, 1)), s[:2], rtol=0.15)
    # All five directions move: what the plane does not see is known as well.
    assert runs.leak[0] == 0 and abs(float(runs.leak[-1]) - s[2:].sum() / s.sum()) < 0.1
    grid = rx.solvers.Grid([-0.5, -0.5], [0.5, 0.5], (24, 24))
    right = rx.planes.density_distance(grid.gaussian(0.0, np.sqrt(s[:2])), grid, runs.coordinates[-1])
    wrong = rx.planes.density_distance(grid.gaussian(0.0, 0.6 * np.sqrt(s[:2])), grid, runs.coordinates[-1])
    assert right.value < right.floor + 4 * right.floor_error and wrong.value > 3 * right.value
    assert 0.1 < float(right.standard_error / right.floor) < 1
    side = (lambda x: x[0] <= -0.1), (lambda x: x[0] >= 0.1)
    share = rx.planes.first_reached(runs, *side)
    assert abs(float(share.value) - 0.5) < 4 * float(share.standard_error) < 0.15


def test_runs_in_half_precision_are_told_in_single():
    """A bfloat16 number counts to 256."""
    start = jnp.full(1, 1.0, jnp.bfloat16)
    half = lambda p, x: jnp.sum((p - x) ** 2) / 2
    line = rx.landscapes.plane(lambda p: jnp.sum(p**2) / 2, jnp.zeros(1, jnp.bfloat16), [jnp.ones(1)])
    hyper, data = rx.Hyperparameters(0.5, 1, 1), jnp.zeros((1, 1), jnp.bfloat16)
    found = rx.planes.sgd_on_plane(line, half, data, start, hyper, 258, KEY, runs=1, save_every=1)
    assert found.coordinates.dtype == found.times.dtype == found.moved.dtype == jnp.float32
    np.testing.assert_array_equal(found.times, np.arange(259) / 2)
    np.testing.assert_array_equal(found.moved[:11, 0], 1 - 0.5 ** np.arange(11))


def test_distances_and_exits_are_those_by_hand():
    grid = rx.solvers.Grid(0.0, 4.0, 4)
    p = jnp.array([0.5, 0.25, 0.25, 0.0])
    points = jnp.array([[0.5], [1.5], [1.5], [9.0]])
    distance = lambda kind: rx.planes.density_distance(p, grid, points, kind=kind, draws=50)
    assert float(distance("l1").value) == pytest.approx(0.25 + 0.25 + 0.25 + 0.25)
    # |F - F_n| is .25 up to 1.5, 0 up to 2.5 and .25 from there to the point at 9.
    assert float(distance("wasserstein").value) == pytest.approx(0.25 * 1 + 0.0 + 0.25 * 6.5)
    walk = jnp.array([[0.0, 0.0, 0.0], [1.0, 0.0, -1.0], [2.0, 0.0, 0.0], [2.0, 1.0, 0.0]])[:, :, None]
    runs = rx.planes.PlaneRuns(jnp.arange(4), 0.5 * jnp.arange(4.0), walk, jnp.abs(walk[..., 0]) * 2)
    exits = rx.planes.exit_time(runs, lambda x: x[0] < 1)
    assert int(exits.exited) == 2 and float(exits.value) == pytest.approx((0.5 + 1.5 + 1.5) / 2)
    share = rx.planes.first_reached(runs, lambda x: x[0] <= -1, lambda x: x[0] >= 1)
    assert float(share.value) == pytest.approx(2 / 3)
    # The last run comes to -1 first and to 1 later: it does not count.
    both = eqx.tree_at(lambda r: r.coordinates, runs, walk.at[3, 2].set(1.0))
    share = rx.planes.first_reached(both, lambda x: x[0] <= -1, lambda x: x[0] >= 1)
    assert float(share.value) == pytest.approx(2 / 3)
    np.testing.assert_allclose(runs.leak, [0, 0.75, 0.75, 0.75])
    never = rx.planes.exit_time(runs, lambda x: x[0] < 5)
    assert np.isinf(never.value) and np.isinf(never.standard_error)


def test_refusals():
    data, _, _, best = regression(8)
    skew = make_plane([tree(np.eye(DIM)[0]), tree(np.eye(DIM)[0] + np.eye(DIM)[1])], data, best)
    fine = make_plane([tree(np.eye(DIM)[0])], data, best)
    grid = rx.solvers.Grid(0.0, 1.0, 4)
    measure = lambda plane, **k: rx.planes.measure_plane(plane, example_loss, data, **k)
    distance = lambda **k: rx.planes.density_distance(jnp.ones(4), grid, jnp.ones((3, 1)), **k)
    runs = rx.planes.PlaneRuns(jnp.arange(2), jnp.arange(2.0), jnp.zeros((2, 1, 1)), jnp.zeros((2, 1)))
    given = {"start": tree(best), "hyperparameters": rx.Hyperparameters(0.1, 2, 8), "data": data}

    def run(data, start, hyperparameters, **k):
        return rx.planes.sgd_on_plane(fine, example_loss, data, start, hyperparameters, 2, jax.random.key(0), **k)

    for bad, words in [
        (lambda: measure(skew), "`landscape` must have orthonormal directions"),
        (lambda: measure(fine, shape=1), "`shape` must be 2 or more on each of the 1 axes"),
        (lambda: measure(fine, chunk_size=0), "`chunk_size` must be at least 1"),
        (lambda: rx.planes.measure_plane(fine, example_loss, (jnp.ones(3), jnp.ones(2))), "`data` must hold arrays"),
        (lambda: rx.planes.measure_plane(fine, example_loss, jax.tree.map(lambda x: x[:0], data)), "holds none"),
        (
            lambda: rx.planes.measure_plane(fine, lambda p, e: jnp.ones(2), data),
            r"`example_loss` must return one.*\(2",
        ),
        (lambda: rx.planes.measure_plane(fine, lambda p, e: 1.0, data, shape=2), "`data` must have noise on the plane"),
        (lambda: distance(kind="l2"), "`kind` must be one of"),
        (lambda: distance(draws=1), "`draws` must be at least 2"),
        (lambda: distance(block=0), "`block` must divide the cells"),
        (lambda: rx.planes.density_distance(jnp.ones(4), grid, jnp.ones(3)), r"`points` must have shape \(n, 1\)"),
        (lambda: rx.planes.density_distance(jnp.ones(4), grid, jnp.full((3, 1), jnp.nan)), "`points` must be finite"),
        (lambda: rx.planes.density_distance(jnp.ones(5), grid, jnp.ones((3, 1))), "`p` must have the shape"),
        (lambda: rx.planes.density_distance(2 * jnp.ones(4), grid, jnp.ones((3, 1))), "`p` must have mass 1"),
        (lambda: rx.planes.exit_time(runs, lambda x: x < 1), r"`inside` must return one truth value.*\(1,\)"),
        (lambda: rx.planes.first_reached(runs, lambda x: x[0], lambda x: x[0] < 1), "`source` must return one truth"),
        (
            lambda: run(**given | {"hyperparameters": rx.Hyperparameters(0.1, 1.5, 8)}),
            "`hyperparameters` must have one whole batch size, but it is 1.5",
        ),
        (
            lambda: run(**given | {"hyperparameters": rx.Hyperparameters(0.1, 2, 10**6)}),
            "must have the 8 examples of `data` as `dataset_size`, but has 1e",
        ),
        (lambda: run(**given, runs=0), "`runs` must be at least 1, but it is 0"),
        (
            lambda: run(**given | {"start": {"w": best}}),
            "`start` must have a floating array wherever `landscape.params` has one",
        ),
        (lambda: run(**given | {"data": 1.0}), "`data` must hold arrays with examples along the first axis, but it"),
        (
            lambda: run(**given | {"hyperparameters": rx.Hyperparameters(np.array([0.1, 0.2]), 2, 8)}),
            r"`hyperparameters` must have one learning rate and momentum, but their shapes are \(2,\) and \(\)",
        ),
        (lambda: distance(block=3), "`block` must divide the cells"),
        (lambda: rx.planes.density_distance(jnp.ones(4), grid, jnp.ones((3, 2))), r"`points` must have shape \(n, 1\)"),
        (
            lambda: rx.planes.exit_time(runs, lambda x: x[0] < 1, confidence=95.0),
            "`confidence` must lie between 0 and 1",
        ),
        (lambda: rx.planes.principal_directions(jnp.ones((2, 3)), k=2), "`path` must hold more points than"),
        (lambda: rx.planes.principal_directions(jnp.ones((5, 3)), k=1), "`path` must span 1 directions"),
        (lambda: rx.planes.principal_directions(jnp.ones((5, 1)), k=2), "`path` must span 2 directions"),
        (lambda: rx.planes.orthonormal([jnp.ones(3), jnp.ones(3)]), "`directions` must be linearly independent"),
        (lambda: rx.planes.orthonormal([]), "`directions` must hold at least one"),
        (lambda: rx.planes.orthonormal(list(jnp.ones((3, 2)))), "`directions` must hold at most 2"),
        (lambda: rx.planes.orthonormal([{"a": jnp.ones(2)}, {"b": jnp.ones(2)}]), r"`directions\[1\]` must have"),
    ]:
        with pytest.raises((ValueError, eqx.EquinoxRuntimeError), match=words):
            bad()
