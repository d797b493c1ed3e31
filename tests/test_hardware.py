"""Hardware: rates in a plausible range and consistent with each other, known-bad versions, the doctor's tables."""

import jax
import jax.numpy as jnp
import pytest
from typer.testing import CliRunner

import rxjax as rx
from rxjax._command._app import app
from rxjax.hardware import _doctor, _measure


@pytest.fixture(scope="module")
def mine():
    return rx.hardware.measure(megabytes=16, matrix=256)


def test_rates(mine):
    assert mine.platform == "cpu" and mine.memory > 2**20
    assert 1e7 < mine.copy_bandwidth < 1e12 and 1e7 < mine.matrix_rate < 1e14
    assert 1e-7 < mine.dispatch_latency < 0.1
    assert set(mine.dtypes) == set(_measure.DTYPES) and mine.dtypes["float32"] and mine.dtypes["float64"]


def test_the_copy_is_no_measure_of_new_pages():
    resource = pytest.importorskip("resource")
    faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    before = faults()
    rx.hardware.measure(megabytes=64, matrix=8)
    # Two arrays' pages, and some for compiling; one that is new for each of five copies or more would be 80,000.
    assert faults() - before < 2**26 / resource.getpagesize() * 4


def test_a_training_step_against_the_bandwidth():
    n = 2**22
    w, g = jnp.ones(n, jnp.float32), jnp.ones(n, jnp.float32)
    rate = rx.hardware.updates_per_second(lambda w, g: w - jnp.float32(0.1) * g, w, g, bandwidth=1e10)
    assert rate.bytes_per_update == 12 * n
    # The share is the rate times the bytes over the bandwidth, by definition.
    assert rate.bandwidth_share == pytest.approx(rate.updates_per_second * 12 * n / 1e10)
    busy = rx.hardware.updates_per_second(lambda w: jnp.sin(jnp.sin(jnp.sin(jnp.sin(w)))), w, bandwidth=1e10)
    assert busy.bytes_per_update == 8 * n and busy.bandwidth_share < rate.bandwidth_share


def test_a_batch_is_faster_than_single_calls():
    scaling = rx.hardware.parallel_efficiency(jnp.sin, jnp.ones(()), batches=(1, 1000))
    assert scaling.speedup[1] > 50 and scaling.points_per_second[1] > 10 * scaling.points_per_second[0]
    assert list(scaling.efficiency) == [1.0, 1.0] and list(scaling.batches) == [1, 1000]
    random = rx.hardware.parallel_efficiency(jax.random.uniform, jax.random.key(0), batches=(2,))
    assert random.points_per_second[0] > 0


def test_refusals():
    one, hardware = jnp.ones(()), rx.hardware
    for call, words in [
        (lambda: hardware.parallel_efficiency(jnp.sin, one, batches=(0, 8)), "`batches` must hold positive multiples"),
        (lambda: hardware.parallel_efficiency(jnp.sin, one, devices=[]), "`devices` must hold at least one"),
        (lambda: hardware.updates_per_second(jnp.sin, one, bandwidth=0), "`bandwidth` must be positive"),
        (lambda: hardware.measure(matrix=0), "`matrix` must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


def test_known_problems():
    good = {"jax": "0.10.1", "jaxlib": "0.10.1"}
    assert rx.hardware.known_problems(good) == [] == rx.hardware.self_tests()
    for name in good:
        (line,) = rx.hardware.known_problems(good | {name: "0.10.2"})
        assert line.startswith(f"{name} 0.10.2") and "39103" in line
    assert "differ in release" in rx.hardware.known_problems(good | {"jaxlib": "0.11.0"})[0]
    assert rx.hardware.known_problems(good | {"zarr": "missing"}) == ["zarr is not installed."]


def test_doctor(monkeypatch, mine):
    monkeypatch.setattr(_doctor, "measure", lambda device: mine)
    done = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    for words in ("copy bandwidth", "GFLOP/s", "dispatch latency", "jaxlib", "(x64) are on", "No known problem"):
        assert words in done.output
    monkeypatch.setattr(_doctor, "_KNOWN_BAD", (("jax", rx.hardware.report().versions["jax"], "wrong for a test"),))
    done = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert done.exit_code == 1 and "wrong for a test" in done.output
