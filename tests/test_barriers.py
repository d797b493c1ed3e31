"""Saddles between minima: both methods on known landscapes, what is missing, the tree and its picture, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from matplotlib.figure import Figure
from test_minima import MULLER_BROWN

import rxjax as rx
from rxjax._barriers._find import _listed
from rxjax._barriers._union import kruskal, minimax

# Case 6, lowest first; case 12 for one coordinate.
SADDLES = np.array([[-72.248940112, 0.212486582, 0.292988325], [-40.664843509, -0.822001559, 0.624312803]])
WELLS, TOP, UP = np.array([-2.90353, 2.74680]), 0.15673, (39.3618, 25.2251)


def rows(x):
    """The rows in an order that rounding does not change."""
    x = np.asarray(x)
    return x[np.lexsort(x.round(4).T)]


@pytest.fixture(scope="module")
def muller_brown():
    surface = rx.landscapes.MullerBrown()
    return surface, rx.find_minima(surface)


@pytest.fixture(scope="module")
def barriers(muller_brown):
    return {method: rx.find_barriers(*muller_brown, method=method) for method in ("grid", "band")}


@pytest.mark.parametrize("method", ["grid", "band"])
def test_muller_brown(muller_brown, barriers, method):
    surface, minima = muller_brown
    found = barriers[method]
    np.testing.assert_allclose(found.energies, SADDLES[:, 0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.saddles, SADDLES[:, 1:], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.saddles, surface.saddles, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(found.pairs, [[1, 2], [0, 2]])
    heights = SADDLES[:, :1] - MULLER_BROWN[:, 0][[[1, 2], [0, 2]]]
    np.testing.assert_allclose(found.heights, heights, rtol=0, atol=1e-8)
    signs = np.sign(found.hessian_eigenvalues)
    np.testing.assert_array_equal(signs, [[-1, 1]] * 2)
    assert found.unlisted.shape == (0, 2) and found.stats["components"] == 1
    assert found.stats["missed"] == (0 if method == "grid" else None)
    # Every candidate is accounted for: the rest are duplicates.
    lost = sum(found.stats[k] for k in ("failed", "outside", "not_saddles"))
    assert found.stats["candidates"] - lost >= 2


def test_a_landscape_in_large_or_small_units():
    """The squares of its slopes and curvatures are out of range: no saddle was found, or no minimum."""
    surface = rx.landscapes.MullerBrown()
    for unit in (1e-200, 1e200):
        scaled = jax.tree_util.Partial(lambda unit, x: unit * surface(x), jnp.asarray(unit))
        minima = rx.find_minima(scaled, starts=32, bounds=surface.bounds)
        found = rx.find_barriers(scaled, minima, bounds=surface.bounds, resolution=32)
        np.testing.assert_allclose(minima.energies / unit, MULLER_BROWN[:, 0], atol=1e-8)
        np.testing.assert_allclose(found.energies / unit, SADDLES[:, 0], atol=1e-8)


@pytest.mark.slow
def test_styblinski_tang_in_three_dimensions():
    """8 minima, 12 saddles that flip one coordinate each, 24 heights: 12 of 25.2251 and 12 of 39.3618."""
    landscape = rx.landscapes.StyblinskiTang(3)
    minima = rx.find_minima(landscape)
    flips = np.array(list(np.ndindex(2, 2, 2)))
    np.testing.assert_allclose(rows(minima.points), rows(WELLS[flips]), rtol=0, atol=5e-6)
    np.testing.assert_allclose(rows(minima.points), rows(landscape.minima), rtol=0, atol=1e-12)
    grid, band = (rx.find_barriers(landscape, minima, method=m, resolution=32, neighbours=3) for m in ("grid", "band"))
    for found in (grid, band):
        assert found.saddles.shape == (12, 3) and found.stats["components"] == 1
        assert np.sum(np.abs(np.asarray(found.saddles) - TOP) < 5e-6) == 12
        np.testing.assert_allclose(np.sort(found.heights.ravel()), [UP[1]] * 12 + [UP[0]] * 12, rtol=0, atol=5e-5)
        for pair, saddle, height in zip(found.pairs, found.saddles, found.heights, strict=True):
            ends = minima.points[pair]
            flipped = np.abs(ends[0] - ends[1]) > 1
            assert flipped.sum() == 1 and abs(saddle[flipped][0] - TOP) < 5e-6
            np.testing.assert_allclose(saddle[~flipped], ends[0][~flipped], atol=1e-9)
            np.testing.assert_allclose(height + minima.energies[pair], landscape(saddle), rtol=1e-12)
    np.testing.assert_allclose(rows(grid.saddles), rows(band.saddles), rtol=0, atol=1e-12)
    np.testing.assert_allclose(rows(grid.saddles), rows(landscape.saddles), rtol=0, atol=1e-12)
    assert grid.stats["missed"] == 0
    # A tree of eight leaves has seven merges, all at the lowest saddles of their sides.
    tree = rx.merge_tree(minima, grid)
    assert tree.merges.shape == (7, 2)
    deep, shallow = 0, 7
    # Out of the shallowest minimum over one coordinate at a time: the first flip is the highest.
    assert tree.minimax[shallow, deep] == pytest.approx(float(minima.energies[shallow]) + UP[1], abs=1e-4)


def test_unlisted_minima_and_components(muller_brown):
    surface, minima = muller_brown
    # Without the middle minimum both saddles lead to something unknown, and the two others stay apart.
    kept = np.array([0, 1])
    ends = jax.tree.map(lambda x: x[kept] if eqx.is_array(x) and x.ndim else x, minima)
    found = rx.find_barriers(surface, ends)
    assert found.saddles.shape == (0, 2) and found.heights.shape == (0, 2)
    assert found.stats["unlisted"] == 2 and found.stats["components"] == 2 and found.stats["missed"] == 1
    np.testing.assert_allclose(found.unlisted, minima.points[2:], atol=1e-9)
    # A padded list gives the same as a trimmed one.
    padded = rx.find_barriers(surface, rx.find_minima(surface, max_minima=5))
    np.testing.assert_array_equal(padded.pairs, [[1, 2], [0, 2]])
    # A box that ends between the two saddles: the upper one is out of it, which the flood of the grid has seen.
    cut = rx.find_barriers(surface, minima, bounds=jnp.array([[-0.81, 1.3], [-0.5, 2.2]]))
    np.testing.assert_array_equal(cut.pairs, [[1, 2]])
    assert cut.stats["outside"] >= 1 and cut.stats["components"] == 2 and cut.stats["missed"] == 1


def test_one_minimum_has_no_barrier(muller_brown):
    surface, minima = muller_brown
    one = jax.tree.map(lambda x: x[:1] if eqx.is_array(x) and x.ndim else x, minima)
    found = rx.find_barriers(surface, one, method="band")
    assert found.pairs.shape == (0, 2) and found.stats["components"] == 1 and found.stats["candidates"] == 0
    tree = rx.merge_tree(one, found)
    assert tree.merges.shape == (0, 2) and tree.minimax[0, 0] == one.energies[0]
    assert len(rx.disconnectivity_graph(one, found).axes[0].lines) == 1


@pytest.mark.slow
def test_float32(float32):
    surface = rx.landscapes.MullerBrown()
    minima = rx.find_minima(surface)
    np.testing.assert_allclose(minima.points, MULLER_BROWN[:, 1:], rtol=0, atol=2e-6)
    found = rx.find_barriers(surface, minima)
    for x in (minima.points, found.saddles, found.energies, found.heights, found.hessian_eigenvalues):
        assert x.dtype == jnp.float32
    np.testing.assert_allclose(found.saddles, SADDLES[:, 1:], rtol=0, atol=2e-6)
    np.testing.assert_allclose(found.energies, SADDLES[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.pairs, [[1, 2], [0, 2]])


def test_kruskal_and_minimax_against_every_path():
    rng = np.random.default_rng(0)
    leaves = rng.normal(size=7)
    pairs = np.array([(i, j) for i in range(7) for j in range(i) if rng.random() < 0.5 and i != 6 and j != 6])
    energies = np.sort(2 + rng.random(len(pairs)))
    merges, used = kruskal(7, pairs)
    # Floyd and Warshall with (max, min) for (+, min).
    expected = np.full((7, 7), np.inf)
    expected[tuple(pairs.T)] = expected[tuple(pairs.T[::-1])] = energies
    for k in range(7):
        expected = np.minimum(expected, np.maximum(expected[:, k : k + 1], expected[k : k + 1]))
    expected[np.diag_indices(7)] = leaves
    np.testing.assert_array_equal(minimax(leaves, merges, energies[used]), expected)
    assert np.all(np.isinf(expected[6, :6])) and len(merges) == 5


def test_merge_tree(muller_brown, barriers):
    _, minima = muller_brown
    tree = rx.merge_tree(minima, barriers["grid"])
    np.testing.assert_array_equal(tree.merges, [[1, 2], [0, 3]])
    np.testing.assert_array_equal(tree.saddles, [0, 1])
    low, high = SADDLES[:, 0]
    a, b, c = MULLER_BROWN[:, 0]
    np.testing.assert_allclose(tree.minimax, [[a, high, high], [high, b, low], [high, low, c]], atol=1e-8)


def test_disconnectivity_graph(muller_brown, barriers):
    _, minima = muller_brown
    figure = rx.disconnectivity_graph(minima, barriers["grid"], colours=jnp.arange(3.0), ylabel="loss")
    assert isinstance(figure, Figure)
    ax = figure.axes[0]
    assert ax.get_ylabel() == "loss" and len(ax.get_xticks()) == 0
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2"]
    # One line for each minimum and each merge: from its energy up, to where its branch joins the next.
    lines = np.array([np.asarray(line.get_xydata()) for line in ax.lines])
    assert lines.shape == (5, 3, 2)
    tree = rx.merge_tree(minima, barriers["grid"])
    np.testing.assert_allclose(lines[:3, 0, 1], tree.leaves)
    np.testing.assert_allclose(lines[3:, 0, 1], tree.energies)
    for k, pair in enumerate(np.asarray(tree.merges)):
        np.testing.assert_allclose(lines[pair, 2], [lines[3 + k, 0]] * 2)
    # The deepest minimum is on the left, places are whole numbers, and no two branches cross.
    np.testing.assert_array_equal(lines[:3, 0, 0], [0, 1, 2])
    dots = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_allclose(dots, lines[:3, 0])
    # Parts that no saddle joins stay open, and an `ax` of one's own is drawn on.
    own = Figure().subplots()
    apart = eqx.tree_at(
        lambda b: (b.pairs, b.energies), barriers["grid"], (barriers["grid"].pairs[:1], barriers["grid"].energies[:1])
    )
    assert rx.disconnectivity_graph(minima, apart, own, names=False) is own.figure and not own.texts
    tops = np.array([np.asarray(line.get_xydata())[2, 1] for line in own.lines])
    assert np.sum(tops == tops.max()) == 2


WELL = rx.landscapes.DoubleWell()
FAKE = rx.Minima(
    points=jnp.array([[-1.0], [1.0]]),
    energies=jnp.zeros(2),
    hessian_eigenvalues=jnp.full((2, 1), 8.0),
    index=jnp.zeros(2, jnp.int32),
    degenerate=jnp.zeros(2, bool),
    counts=jnp.ones(2, jnp.int32),
    mask=jnp.ones(2, bool),
    size=jnp.array(4.0),
    stats={},
)


def four(**kwargs):
    """Two minima of a landscape in four dimensions."""
    points = jnp.zeros((2, 4)).at[:, 0].set(jnp.array([-1.0, 1.0]))
    minima = eqx.tree_at(lambda m: (m.points, m.hessian_eigenvalues), FAKE, (points, jnp.ones((2, 4))))
    return rx.find_barriers(rx.landscapes.DoubleWell(dim=4), minima, **kwargs)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rx.find_barriers(WELL, FAKE, method="string"), '`method` must be one of "grid", "band"'),
        (lambda: four(method="grid"), '`method` must be "band" beyond three dimensions, but it is "grid" in 4'),
        (lambda: rx.find_barriers(lambda x: x[0], FAKE, method="grid"), "`bounds` must be given for a grid"),
        (lambda: rx.find_barriers(WELL, FAKE, resolution=2), "`resolution` must be 3 or more points.*but it is 2"),
        (
            lambda: rx.find_barriers(WELL, FAKE, resolution=[9, 9]),
            "`resolution` must be 3 or more points for each of 1",
        ),
        (lambda: rx.find_barriers(WELL, FAKE, method="band", neighbours=0), "`neighbours` must be at least 1"),
        (lambda: rx.find_barriers(WELL, FAKE, method="band", images=2), "`images` must be at least 3, but it is 2"),
        (lambda: rx.find_barriers(WELL, FAKE, resolution=np.int64(2)), "`resolution` must be 3 or more points"),
        (lambda: rx.find_barriers(WELL, FAKE, method="band", steps=0), "`steps` must be at least 1"),
        (lambda: rx.find_barriers(WELL, FAKE, bounds=jnp.array([[1.0, 0.0]])), "`bounds` must be finite, lower end"),
        (lambda: rx.find_barriers(rx.landscapes.DoubleWell(dim=2), FAKE), "`landscape` must take 1 coordinates"),
        (lambda: jax.jit(lambda m: rx.find_barriers(WELL, m).energies)(FAKE), "`minima` must be known"),
        (
            lambda: jax.jit(lambda t: rx.find_barriers(rx.landscapes.DoubleWell(tilt=t), FAKE).energies)(0.1),
            "`landscape` must be known",
        ),
        (
            lambda: rx.find_barriers(WELL, eqx.tree_at(lambda m: m.mask, FAKE, jnp.array([False, True]))),
            "`minima` must have its padding at the end",
        ),
        (
            lambda: rx.find_barriers(WELL, eqx.tree_at(lambda m: m.mask, FAKE, jnp.zeros(2, bool))),
            "`minima` must hold at least one minimum",
        ),
        # Past the annotation, which users do not check.
        (lambda: _listed(jnp.zeros((2, 2))), "`minima` must be what `find_minima` returned, but it is of type Array"),
    ],
)
def test_bad_calls(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_bad_trees(muller_brown, barriers):
    _, minima = muller_brown
    one = jax.tree.map(lambda x: x[:1] if eqx.is_array(x) and x.ndim else x, minima)
    with pytest.raises(ValueError, match="`barriers` must belong to `minima`, but it names minimum 2 of 1"):
        rx.merge_tree(one, barriers["grid"])
    with pytest.raises(ValueError, match=r"`colours` must have shape \(3,\)"):
        rx.disconnectivity_graph(minima, barriers["grid"], colours=jnp.arange(2.0))
    none = jax.tree.map(lambda x: x[:0] if eqx.is_array(x) and x.ndim else x, minima)
    empty = eqx.tree_at(lambda b: (b.pairs, b.energies), barriers["grid"], (jnp.zeros((0, 2), int), jnp.zeros(0)))
    with pytest.raises(ValueError, match="`minima` must hold at least one minimum"):
        rx.disconnectivity_graph(none, empty)


def test_bands_are_reproducible(muller_brown, barriers):
    surface, minima = muller_brown
    again = rx.find_barriers(surface, minima, method="band", key=jr.key(5))
    np.testing.assert_allclose(again.saddles, barriers["band"].saddles, atol=1e-12)
