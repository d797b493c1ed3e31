"""Sweeps: labels and values, chunks within a memory, failed points that say why, what is refused."""

import io
import math
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import rxjax as rx
from rxjax._sweep import _footprint
from rxjax._sweep._axes import Tiles
from rxjax_solvers._checks import positive

RATES, BATCHES = np.array([0.1, 0.2, 0.4]), np.array([1, 2, 4, 8, 16])


def noise(learning_rate, batch_size):
    ratio = learning_rate / batch_size.astype(learning_rate.dtype)
    return {"ratio": ratio, "powers": ratio ** jnp.arange(3.0), "whole": batch_size}


def test_product_with_labels():
    seen = []
    data = rx.sweep(
        noise,
        learning_rate=RATES,
        batch_size=BATCHES,
        chunk=4,
        dims={"powers": ("power",)},
        coords={"power": np.arange(3)},
        attributes={"dataset_size": 64, "note": "a test"},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert dict(data.sizes) == {"learning_rate": 3, "batch_size": 5, "power": 3}
    expected = RATES[:, None] / BATCHES
    np.testing.assert_allclose(data.ratio, expected, rtol=1e-15)
    np.testing.assert_allclose(data.powers, expected[..., None] ** np.arange(3), rtol=1e-14)
    assert data.powers.dims == ("learning_rate", "batch_size", "power") and data.whole.dtype == np.int64
    assert np.all(data.status == "ok") and float(data.ratio.sel(learning_rate=0.2, batch_size=8)) == 0.2 / 8
    # Rows of five are cut into three and two.
    assert seen == [(0, 15), (3, 15), (5, 15), (8, 15), (10, 15), (13, 15), (15, 15)]
    assert data.attrs["note"] == "a test" and data.attrs["chunk"] == 3 and data.attrs["precision"] == "float64"
    assert data.attrs["jax_version"] == jax.__version__ and data.attrs["rxjax_version"] == rx.__version__
    assert data.attrs["seed"] == "none" and data.attrs["function"].endswith("noise")


def test_zipped_and_keys_of_each_point():
    draw = lambda a, b, key: a + b + jax.random.normal(key)
    data = rx.sweep(draw, a=jnp.arange(6.0), b=jnp.ones(6), zipped=True, seed=7, chunk=4)
    assert data.value.dims == ("point",) and data.a.dims == ("point",) and data.attrs["seed"] == 7
    one = [jax.random.normal(jax.random.fold_in(jax.random.key(7), i)) for i in range(6)]
    np.testing.assert_array_equal(data.value, np.arange(6.0) + 1 + np.asarray(one))
    assert len(np.unique(data.value)) == 6


def fragile(x, y):
    """NaN for x = 1, a failed result for x = 2, raises for x = 3 and y = 0; the loop makes it more than arithmetic."""
    result = rx.solvers.RESULTS.where(x == 2, rx.solvers.RESULTS.unreachable, rx.solvers.RESULTS.successful)
    y = jnp.where(positive(jnp.where(x == 3, y, 1.0), "y") > 0, y, 0.0)
    root = jnp.sqrt(jnp.where(x == 1, -1.0, x))
    return {"root": root, "sum": x + y, "count": jnp.where(x >= 0, jnp.int32(3), jnp.int32(0)), "result": result}


def test_failed_points_say_why_and_the_sweep_goes_on(caplog):
    data = rx.sweep(fragile, x=np.arange(8.0), y=np.arange(4.0), chunk=32)
    status = data.status.values
    good = np.ones((8, 4), bool)
    good[1:3], good[3, 0] = False, False
    assert np.array_equal(status == "ok", good)
    assert set(status[1]) == {"`root` is NaN"} and status[3, 0].startswith("Argument `y` must be positive and finite")
    assert set(status[2]) == {
        "The target is not reached from everywhere: times are infinite from the states that cannot reach it."
    }
    x, y = np.meshgrid(np.arange(8.0), np.arange(4.0), indexing="ij")
    np.testing.assert_array_equal(data["sum"], np.where(good, x + y, np.nan))
    np.testing.assert_allclose(data.root, np.where(good, np.sqrt(x), np.nan), rtol=1e-15)
    np.testing.assert_array_equal(data["count"], np.where(good, 3, 0))
    assert "result" not in data and not caplog.records
    # All of them raise: the halves run out and every point is asked by itself.
    worst = rx.sweep(lambda y: positive(y, "y"), y=-np.arange(40.0))
    assert all(s.startswith("Argument `y`") for s in worst.status.values) and np.all(np.isnan(worst.value))


def pretend(monkeypatch, name, first, then):
    """Let the operating system say that a process holds `first` bytes when a sweep begins, and `then` afterwards."""
    said = iter([first])
    monkeypatch.setattr(_footprint, name, lambda: next(said, then))


def test_chunks_stay_within_the_memory(monkeypatch):
    big = lambda x: jnp.cumsum(jnp.sin(x * jnp.arange(1000.0)))
    x = np.linspace(0, 1, 300)
    # Compiling leaves 20 MiB and the results take 2.3; the rest is for chunks.
    taken, chunks = 20 * 2**20 + 300 * 8000, {}
    for rest in (300 * 2**10, 2**20, None):
        pretend(monkeypatch, "resident", 2**30, 2**30 + 20 * 2**20)
        data = rx.sweep(big, x=x, memory=None if rest is None else taken + rest)
        chunks[rest] = data.attrs["chunk"]
        if rest:
            used = data.attrs["chunk_bytes"] + 8000 * data.attrs["chunk"]
            assert used <= rest < 4 * used
        np.testing.assert_allclose(data.value[:, -1], np.sin(x[:, None] * np.arange(1000.0)).sum(axis=1), atol=1e-9)
    assert 1 < chunks[300 * 2**10] < chunks[2**20] < chunks[None] == 300
    pretend(monkeypatch, "resident", 2**30, 2**30 + 20 * 2**20)
    words = (
        "hold a point on each device, .*, and what compiling leaves in this process, 20.0 MiB, and the results, 2.3 MiB"
    )
    with pytest.raises(ValueError, match=f"Argument `memory` must {words}, but it is 22.0 MiB: .* KiB are missing"):
        rx.sweep(big, x=x, memory="22 MiB")
    pretend(monkeypatch, "resident", 2**30, 2**30)
    pretend(monkeypatch, "highest", 2**30, 2**30 + 200 * 2**20)
    with pytest.warns(UserWarning, match="Compiling took 200.0 MiB for a moment, more than the 100.0 MiB of `memory`"):
        rx.sweep(big, x=x, memory="100 MiB")


WITHIN = """
import sys
import jax.numpy as jnp, numpy as np
import rxjax as rx
from rxjax._sweep._footprint import highest, resident
sweep, f = rx.sweep, lambda x: jnp.cumsum(jnp.sin(x * jnp.arange(20_000.0)))
jnp.sin(0.5)
before = resident()
data = sweep(f, x=np.linspace(0.0, 1.0, 3000), memory="160 MiB", chunk=500, progress=False, store=sys.argv[1] or None)
print(data.attrs["chunk"], (highest() - before) / 2**20)
"""


@pytest.mark.usefixtures("long_runs")
@pytest.mark.skipif(_footprint.highest() is None, reason="this system does not say what a process holds")
@pytest.mark.parametrize("store", [False, True])
def test_a_process_stays_within_the_memory(store, tmp_path):
    """The most that a process held while it swept: results of 230 MiB go to a store, or are refused."""
    words = [sys.executable, "-c", WITHIN, str(tmp_path / "s.zarr") if store else ""]
    run = subprocess.run(words, capture_output=True, text=True)
    if store:
        chunk, peak = map(float, run.stdout.split())
        assert chunk > 100 and 80 < peak <= 160
    else:
        assert "and the results, 228.9 MiB, but it is 160.0 MiB" in run.stderr


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_rectangles_cover_every_point_once(shape, most):
    tiles = Tiles.of(tuple(shape), most)
    places = np.concatenate([tiles.index(region) for region in tiles])
    assert sorted(places) == list(range(math.prod(shape))) and tiles.points <= most
    if most >= math.prod(shape):
        assert len(list(tiles)) == 1


def test_refusals():
    f = lambda x, y: x + y
    bad = [
        (lambda: rx.sweep(f), "Argument `axes` must name an axis"),
        (lambda: rx.sweep(f, x=[1.0]), r"Argument `fn` must take x as keywords, but its signature is \(x, y\)"),
        (lambda: rx.sweep(f, x=1.0, y=[1.0]), "Argument `x` must be a vector of at least one value"),
        (lambda: rx.sweep(f, x=[], y=[1.0]), "Argument `x` must be a vector of at least one value"),
        (lambda: rx.sweep(f, x=["a"], y=[1.0]), "Argument `x` must hold numbers or truth values"),
        (lambda: rx.sweep(f, x=[np.nan], y=[1.0]), "Argument `x` must not hold NaN"),
        (lambda: rx.sweep(lambda status: status, status=[1.0]), "Argument `axes` must not name `status`"),
        (lambda: rx.sweep(f, x=[1.0, 2.0], y=[1.0], zipped=True), "Argument `zipped` must come with axes of one"),
        (lambda: rx.sweep(f, x=[1.0], y=[1.0], chunk=0), "Argument `chunk` must be at least 1"),
        (lambda: rx.sweep(lambda x, key: x, x=[1.0], seed=2**32), "Argument `seed` must be a whole number from 0 to"),
        (lambda: rx.sweep(f, x=[1.0], y=[1.0], memory="lots"), "Argument `memory` must be a positive number of bytes"),
        (lambda: rx.sweep(f, x=[1.0], y=[1.0], devices=99), "Argument `devices` must be from 1 to"),
        (lambda: rx.sweep(f, x=[1.0], y=[1.0], devices=["gpu"]), "Argument `devices` must be a number, a list"),
        (lambda: rx.sweep(lambda x: {"x": x}, x=[1.0]), "Argument `fn` must return names and dimensions other than"),
        (lambda: rx.sweep(lambda x: {"status": x}, x=[1.0]), "Argument `fn` must return names and dimensions other"),
        (lambda: rx.sweep(lambda x: x, x=[1.0], dims={"y": ()}), "Argument `dims` must name what `fn` returns, value"),
        (lambda: rx.sweep(lambda x: x, x=[1.0], dims={"value": ("a",)}), "Argument `dims` must name each axis of"),
        (lambda: rx.sweep(lambda x: jnp.eye(2), x=[1.0], dims={"value": "aa"}), "Argument `dims` must name each axis"),
        (lambda: rx.sweep(lambda x: {"a.b": x, "a": {"b": x}}, x=[1.0]), "two of its leaves are called `a.b`"),
        (lambda: rx.sweep(lambda key: key, key=[1.0], seed=0), "Argument `axes` must not name `key` where"),
        (lambda: rx.sweep(lambda x: x, x=[1.0], coords={"x": [2.0]}), "Argument `coords` must.* it names the axis `x`"),
        (lambda: rx.sweep(lambda x: jnp.ones(3), x=[1.0], coords={"value_0": [1]}), "`dims` and `coords` must fit"),
        (lambda: rx.sweep(f, x=[1.0], y=[1.0], attributes={"sweep": 1}), "Argument `attributes` must not name `sweep`"),
        (lambda: rx.sweep(lambda x: rx.solvers.RESULTS.successful, x=[1.0]), "Argument `fn` must return at least one"),
    ]
    for call, words in bad:
        with pytest.raises(ValueError, match=words):
            call()


def test_floats_that_numpy_does_not_have_are_kept_in_float32(tmp_path):
    """A NaN among them is a failed point too."""
    half = lambda x: {"half": jnp.sqrt(x).astype(jnp.bfloat16), "few": x.astype(jnp.int4)}
    for options in ({}, {"store": tmp_path / "half.zarr"}):
        data = rx.sweep(half, x=[-1.0, 2.0], **options)
        assert data.half.dtype == np.float32 and data.few.dtype == np.int8
        np.testing.assert_array_equal(data.half, [np.nan, np.float32(jnp.bfloat16(2**0.5))])
        assert list(data.status.values) == ["`half` is NaN", "ok"] and list(data.few.values) == [0, 2]


def test_numbers_that_float32_has_not_are_refused(float32):
    for values, dtype in (([1, 10**10], "int32"), ([1.0, 1e40], "float32"), ([1.0, 1e-50], "float32")):
        with pytest.raises(ValueError, match=f"`x` must hold numbers within the range of {dtype}, but it holds"):
            rx.sweep(lambda x: x, x=values)
    np.testing.assert_array_equal(rx.sweep(lambda x: 2 * x, x=[0.0, -np.inf, 0.1]).value, [0, -np.inf, np.float32(0.2)])


def test_heat_map_and_its_lines():
    rate = lambda learning_rate, batch_size: {"time": jnp.exp(batch_size / learning_rate), "n": batch_size}
    data = rx.sweep(rate, learning_rate=np.geomspace(0.1, 1, 6), batch_size=np.geomspace(1.0, 8, 4))
    figure = rx.plot.heatmap(data, "time", dataset_size=50.0)
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate", "batch size")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    cells: Any = ax.collections[0].get_array()
    np.testing.assert_allclose(cells, data.time.transpose("batch_size", "learning_rate"))
    lines: Any = next(c for c in ax.collections if hasattr(c, "levels"))
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        scale = 50 * path.vertices[:, 0] / path.vertices[:, 1]
        np.testing.assert_allclose(scale, 10**level, rtol=1e-3)
    assert "N/B" in ax.get_title() and len(figure.axes) == 2
    swapped = rx.plot.heatmap(data, "n", x="batch_size", log=False).axes[0]
    assert swapped.get_ylabel() == "learning rate"
    from_zero = data.assign_coords(learning_rate=np.linspace(0.0, 1.0, 6))
    assert rx.plot.heatmap(from_zero, "n").axes[0].get_title() == ""
    one = data.assign_coords(learning_rate=np.full(6, 0.1), batch_size=np.full(4, 2.0))
    assert rx.plot.heatmap(one, "n").axes[0].get_title() == ""
    # Values in the order of their axis, and all decades that Matplotlib draws.
    turned = rx.plot.heatmap(data.isel(batch_size=[2, 0, 3, 1]), "time").axes[0].collections[0].get_array()
    np.testing.assert_array_equal(turned, cells)
    rx.plot.heatmap(data[["n"]] ** 250 * 1e-300, "n").savefig(io.BytesIO())
    for call, words in (
        (lambda: rx.plot.heatmap(data, "tim"), "Argument `name` must be one of n, time, status"),
        (lambda: rx.plot.heatmap(data.isel(batch_size=0), "time"), "Argument `name` must have two dimensions"),
        (lambda: rx.plot.heatmap(data, "status"), "Argument `name` must be a variable of real numbers.*holds <U2"),
        (lambda: rx.plot.heatmap(data, "time", dataset_size=0), "Argument `dataset_size` must be positive"),
        (
            lambda: rx.plot.heatmap(data.assign_coords(batch_size=[1.0, 2.0, 3.0, np.inf]), "time"),
            "Argument `data` must have finite values along `batch_size`",
        ),
        (
            lambda: rx.plot.heatmap(data[["n"]] * 1e250, "n"),
            "Argument `data` must have values of `n` of at most 1e.250",
        ),
        (
            lambda: rx.plot.heatmap(data.assign_coords(batch_size=[1.0, 2.0, 3.0, 1e300]), "time"),
            "Argument `data` must have values along `batch_size` of at most 1e.250, but it has 1e.300",
        ),
        (lambda: rx.plot.heatmap(data, "time", x="a"), "Arguments `x` and `y` must be the dimensions"),
        (lambda: rx.plot.heatmap(data[["time"]] * np.nan, "time"), "Argument `data` must hold a finite value"),
        (lambda: rx.plot.heatmap(data[["n"]] - 2, "n", log=True), "Argument `log` must be False"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
