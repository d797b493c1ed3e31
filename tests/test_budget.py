"""Budgets: operations and bytes against counts by hand, calibrated seconds, proposals that keep to what is allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rxjax as rx
from rxjax.budget import _estimate

FAKE = rx.hardware.Hardware("a", "cpu", 10**9, 1e9, 1e9, 1e-6, {})


def steps(n):
    """`n` products with a matrix, in a loop of known length."""
    return lambda m, x: jax.lax.fori_loop(0, n, lambda _, x: jnp.tanh(m @ x), x)


def test_operations_and_bytes_count_the_trips_of_loops():
    m, x = jnp.ones((64, 64)), jnp.ones(64)
    costs = {n: rx.budget.estimate(steps(n), m, x, hardware=FAKE) for n in (1, 200)}
    assert costs[1].flops == pytest.approx(2 * 64**2, rel=0.05)
    assert costs[200].flops == pytest.approx(200 * costs[1].flops, rel=0.05)
    assert costs[200].memory >= m.nbytes + 2 * x.nbytes and costs[200].memory < 2 * m.nbytes
    assert costs[200].seconds == pytest.approx(max(costs[200].flops, costs[200].bytes_accessed) / 1e9)
    assert costs[200].open_loops == 0 and not costs[200].calibrated and "at least" in str(costs[200])
    # The length of this one is known when it runs.
    open_ended = lambda x: jax.lax.while_loop(lambda c: c[0] > 1e-3, lambda c: c / 2, x)
    cost = rx.budget.estimate(open_ended, x, hardware=FAKE)
    assert cost.open_loops == 1 and "1 loops of unknown length" in str(cost)


def test_a_probe_calibrates_seconds(monkeypatch):
    """The seconds of the probe, by a clock of ours, times what grows more: operations here, or bytes."""
    m, x = jnp.ones((64, 64)), jnp.ones(64)
    fn = lambda n, m, x: jax.lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.tanh(m @ c[1])), (0, x))[1]
    few, many = jnp.ones((16, 16)), jnp.ones(16)
    ran = []

    def clock(f, *args, **_):
        ran.append((f(*args).shape, args))
        return 7.0

    monkeypatch.setattr(_estimate, "best_seconds", clock)
    cost = rx.budget.estimate(fn, 2000, m, x, probe=(2000, few, many))
    # It is the small problem that ran, once, with all the turns of its open loop.
    assert [shape for shape, _ in ran] == [(16,)] and ran[0][1][0] == 2000
    large, small = (rx.budget.estimate(fn, 2000, *a, hardware=FAKE) for a in ((m, x), (few, many)))
    grown = large.flops / small.flops, large.bytes_accessed / small.bytes_accessed
    assert cost.seconds == pytest.approx(7 * max(grown)) and 10 < max(grown) < 17
    assert cost.calibrated and "about" in str(cost)


def made(shape, dtype):
    return (lambda x: jnp.cumsum(jnp.cumsum(x, 0), 1) / x.size), [jnp.ones(shape, dtype)]


def test_fit_keeps_to_the_budget():
    shapes = [(16, 16), (32, 32), (256, 256)]
    small = rx.budget.fit(made, shapes, memory="64 KiB", points=50)
    assert small.fits and small.shape == (32, 32) and small.dtype == "float32" and small.memory <= 2**16
    assert 1 <= small.chunk < 50 and "32x32 cells in float32" in str(small)
    large = rx.budget.fit(made, shapes, memory="256 MiB", points=50, precision=1e-9)
    assert large.fits and large.shape == (256, 256) and large.dtype == "float64" and large.chunk == 50
    none = rx.budget.fit(made, shapes, memory=100, points=2, seconds=1e-9, precision=1e-14)
    assert not none.fits and none.shape == (16, 16) and none.chunk == 1
    assert all(none.excess[k] > 1 for k in ("seconds", "memory", "precision"))
    assert none.excess["precision"] == pytest.approx(100) and none.excess["memory"] == none.memory / 100
    imprecise = rx.budget.fit(made, shapes[:2], precision=1e-13)
    assert not imprecise.fits and imprecise.shape == (16, 16) and imprecise.excess["precision"] == pytest.approx(10)
    assert "Nothing fits" in str(none) and "seconds" in str(none) and "precision 100 times" in str(none)
    hurried = rx.budget.fit(made, shapes, seconds=none.seconds * 5, points=2)
    assert hurried.fits and hurried.shape != (256, 256)
    random = lambda shape, dtype: (lambda key: jax.random.uniform(key, shape, dtype), [jax.random.key(0)])
    assert rx.budget.fit(random, shapes[:1], memory="256 MiB", points=2).chunk == 2


def test_refusals():
    for shapes in ([(8, 8), (4, 4)], [(0, 4), (4, 4)]):
        with pytest.raises(ValueError, match="Argument `shapes` must be grids of ascending numbers of cells"):
            rx.budget.fit(made, shapes)
    with pytest.raises(ValueError, match="Arguments `seconds`, `precision` and `points` must be positive"):
        rx.budget.fit(made, [(8, 8)], seconds=0.0)
    for text, size in (("1 GiB", 2**30), ("2.5 MB", 2_500_000), ("7", 7), ("3e3", 3000), (1e16, 10**16)):
        assert rx.hardware._memory.as_bytes(text) == size
    for text in ("", "-1", "1 parsec", "MiB"):
        with pytest.raises(ValueError, match="Argument `memory` must be a positive number of bytes"):
            rx.hardware._memory.as_bytes(text)
    assert rx.hardware._memory.written(1536) == "1.5 KiB" and np.isfinite(rx.hardware.available_memory())
