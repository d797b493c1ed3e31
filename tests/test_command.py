"""The command as a newcomer types it: a run with its files, bad input in one line, Ctrl-C that leaves nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from rxjax._command import _problems
from rxjax._command._app import app

OWN = """
import signal
import threading

import jax.numpy as jnp

def bowl(theta):
    return (theta[0] - 0.5) ** 2 + 2 * theta[1] ** 2

def vector(theta):
    return theta

def whole(theta):
    return jnp.int32(1)

def nowhere(theta):
    return theta[0] / 0

def broken(theta):
    return theta[7] + undefined_name

def noticed(theta):
    open("started", "w").close()
    return jnp.cos(30 * theta[0])

class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def unlucky(theta):
    if threading.current_thread() is threading.main_thread():
        Interrupted()
    return theta[0] ** 2

number = 3.0
"""


@pytest.fixture(autouse=True)
def a_user(own_settings, monkeypatch):
    """In a folder with a module of one's own."""
    (own_settings / "own_losses.py").write_text(OWN)
    monkeypatch.syspath_prepend(own_settings)
    yield
    sys.modules.pop("own_losses", None)


def rxjax(*words):
    return CliRunner().invoke(app, ["flow", *words], env={"COLUMNS": "200"})


def test_a_run_and_its_files(tmp_path):
    words = "double-well --dim 1 --shape 40 --frames 4 --time 2 --learning-rate 0.01 --seed 3 --precision 32 --out a/b"
    done = rxjax(*words.split(), "--animation")
    assert done.exit_code == 0, done.output
    # batch size 4, covariance 120: kT = (0.01/2) 120/4.
    for row in ("temperature kT +0.15 ", "noise scale +2.5 ", "time +2 = 200 SGD steps", "grid +40 cells, float32"):
        assert re.search(row, done.output), row
    for name in ("mass error", "lowest density", "mean loss", "minimum at", "time to compile and to run"):
        assert name in done.output
    names = {p.name for p in (tmp_path / "a" / "b").iterdir()}
    assert names == {f"double-well{end}" for end in (".png", "-loss.png", ".gif", ".nc")}
    with xr.open_dataset("a/b/double-well.nc", engine="h5netcdf") as data:
        assert dict(data.sizes) == {"time": 4, "x0": 40} and data.density.dtype == np.float32
        np.testing.assert_allclose(data.density.sum("x0") * (data.x0[1] - data.x0[0]), 1, rtol=1e-5)
        np.testing.assert_allclose(data.steps, data.time / 0.01, rtol=1e-5)
        assert all(data[v].attrs["long_name"] and "units" in data[v].attrs for v in [*data.data_vars, *data.coords])
        assert data.attrs["learning_rate"] == np.float32(0.01) and data.attrs["batch_size"] == 4
        assert json.loads(data.attrs["command_options"])["seed"] == 3
        assert data.attrs["boundary"] == "reflecting/reflecting" and data.attrs["end_time"] == 2
    assert jnp.result_type(float) == jnp.float32


def test_the_usual_start_lies_within_narrow_bounds_far_out():
    from rxjax._command._problems import find

    bounds = np.array([[1234.0, 1235.0], [-1.0, 1.6]])
    start = find("own_losses:bowl", None, bounds, 0).prepare(bounds).defaults.start
    assert start == (1234.4, 0.04)


def test_a_function_of_ones_own(tmp_path):
    words = ["own_losses:bowl", "--bounds=-2:2,-1:1", "--shape", "16x12", "--frames", "3", "--start=-1,0.2"]
    done = rxjax(*words, "--boundary", "absorbing", "--std", "0.3")
    assert done.exit_code == 0, done.output
    assert "mass left" in done.output and "16 x 12 cells, float64" in done.output
    assert (tmp_path / "out" / "own_losses.bowl.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "words, message",
    [
        ("double-wel", "`NAME` must be one of double-well, .* Did you mean double-well"),
        ("double-well --learning-rate=-1", "`--learning-rate` must be positive.* -1"),
        ("double-well --learning-rate=nan", "`--learning-rate` must be positive and finite"),
        (
            "double-well --learning-rate=1e-40 --precision=32 --shape=8",
            "`--learning-rate` must be 8.8e-38 or more .* 1e-40",
        ),
        ("double-well --batch-size=0", "`--batch-size` must"),
        ("double-well --momentum=1", "`--momentum` must"),
        ("double-well --covariance=-3", "`--covariance` must be non-negative"),
        ("double-well --covariance=inf", "`--covariance` must be finite"),
        ("double-well --covariance=1,2,3", "`--covariance` must hold one number or 2"),
        ("double-well --boundary=reflectin", '`--boundary` must be one of "reflecting", "absorbing", "periodic"'),
        ("double-well --shape=1", "`--shape` must have at least 2 cells"),
        ("double-well --shape=big", "`--shape` must be numbers of cells"),
        ("double-well --time=0", "`--time` must be positive"),
        ("double-well --start=9,9", "`--start` must lie within the bounds"),
        (
            "double-well --bounds=1:2",
            "`--bounds` must hold the usual start -1.4,1.8 .* but they are 1:2, .* 1.5,1.5 say",
        ),
        ("double-well --std=0", "`--std` must be positive"),
        ("double-well --dim=4", "`--dim` must be from 1 to 3"),
        ("double-well --bounds=2:-2", "`--bounds` must be finite, low below high"),
        ("double-well --precision=16", "`--precision` must be 32 or 64"),
        ("double-well --seed=-1", "`--seed` must be"),
        ("double-well --frames=1", "`--frames` must be"),
        ("double-well --no-such-option", "No such option"),
        ("double-well --out=own_losses.py", "`--out` must be a folder, but 'own_losses.py' is a file"),
        ("own_losses:bowl", "`--bounds` must be given for own_losses:bowl"),
        ("own_losses:bow --bounds=-1:1", "`NAME` must name a function of own_losses.* Did you mean bowl"),
        ("own_losses:number --bounds=-1:1", "`NAME` must name a function"),
        ("no_such_module:f --bounds=-1:1", "`NAME` must name a module"),
        ("own_losses:vector --bounds=-1:1,-1:1", "`NAME` must return"),
        ("own_losses:whole --bounds=-1:1", "`NAME` must return a real floating number"),
        ("own_losses:nowhere --bounds=-1:1 --shape 8", "`NAME` must return finite values, but it returns NaN"),
        ("own_losses:broken --bounds=-1:1", "own_losses:broken raised"),
    ],
)
def test_bad_input_in_one_line(words, message, tmp_path):
    done = rxjax(*words.split())
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and "Traceback" not in line
    assert re.search(message, line), line
    assert {p.name for p in tmp_path.iterdir()} - {"__pycache__"} == {"own_losses.py"}


def begin(words, folder):
    """A process of its own that runs the command."""
    # Shells start what runs in the background with interrupts ignored.
    start = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    words = [sys.executable, "-c", start + "runpy.run_module('rxjax', run_name='__main__')", *words.split()]
    return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)


def test_alone_it_shows_what_there_is():
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0 and all(name in done.stdout for name in ("flow", "sweep", "train", "doctor"))


def test_ctrl_c_leaves_nothing(tmp_path):
    """Interrupted while it compiles or solves."""
    run = begin("flow own_losses:noticed --bounds=-9:9,-9:9 --start=-8,0 --frames 999 --out deep/er", tmp_path)
    while not (tmp_path / "started").exists():
        assert run.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    run.send_signal(signal.SIGINT)
    out, error = run.communicate(timeout=30)
    assert run.returncode == 130 and "nothing was written" in error and out == ""
    assert not (tmp_path / "deep").exists()


def test_a_ctrl_c_that_python_drops_is_heard(tmp_path):
    """One that falls into a destructor, where no exception can leave."""
    with begin("flow own_losses:unlucky --bounds=-9:9 --out deep/er", tmp_path) as run:
        out, error = run.communicate(timeout=60)
    assert "Exception ignored in" in error
    assert run.returncode == 130 and "nothing was written" in error and out == ""
    assert not (tmp_path / "deep").exists()


def test_a_closed_folder_is_said(monkeypatch):
    # A superuser may write everywhere, so the question is answered for it.
    monkeypatch.setattr(os, "access", lambda *_: False)
    done = rxjax("double-well", "--out", "closed")
    assert done.exit_code == 2 and "must be a folder that can be written" in done.stderr


@pytest.mark.slow
def test_the_digits_plane_in_small(monkeypatch, tmp_path):
    """Training lowers the loss, the plane holds its solutions, the noise is that of single examples."""
    from rxjax import _digits

    small = _digits.digits_plane
    seen = []

    def plane(seed):
        seen.append(small(seed, steps=60, lattice=5, examples=200))
        return seen[0]

    monkeypatch.setattr(_digits, "digits_plane", plane)
    done = rxjax("digits", "--shape", "12", "--frames", "3", "--time", "3")
    assert done.exit_code == 0, done.output
    for words in (
        "training accuracy at A, B, C",
        "barrier on the lines",
        "gradient covariance, one example",
        "measured",
    ):
        assert words in done.output
    assert (tmp_path / "out" / "digits.nc").exists()
    (found,) = seen
    loss = _digits.load()
    loss = _digits.CrossEntropy(loss.x[:200], loss.y[:200])
    with jax.enable_x64(True):
        direct = loss(found.landscape.embed(found.landscape.anchors[0]))
    losses, accuracies, barriers = (np.asarray(x) for x in (found.losses, found.accuracies, found.barriers))
    np.testing.assert_allclose(direct, losses[0], rtol=1e-4)
    assert np.all(losses < 1.0) and np.all(accuracies > 0.9) and np.all(barriers > 0.2)
    assert _problems.find("digits", None, None, 0).dim == 2


def test_projected_covariance_is_that_of_single_gradients():
    from rxjax import _digits, landscapes

    loss = _digits.load()
    loss = _digits.CrossEntropy(loss.x[:40], loss.y[:40])
    key = jax.random.key(0)
    params = _digits.initial(key, 64)
    directions = landscapes.random_directions(key, params, 2)
    plane = landscapes.plane(loss, params, directions, bounds=(-1.0, 1.0))
    ours = _digits.projected_covariance(plane, loss, jnp.zeros((1, 2)))

    @jax.jit
    def gradients(params):
        one = lambda x, y: jax.grad(lambda p: _digits.CrossEntropy(x[None], y[None]).examples(p)[0])(params)
        return jax.vmap(one)(loss.x, loss.y)

    each = gradients(params)
    for axis, direction in enumerate(plane.directions):
        pairs = zip(jax.tree.leaves(each), jax.tree.leaves(direction), strict=True)
        slopes = sum(np.asarray(g).reshape(40, -1) @ np.asarray(d).ravel() for g, d in pairs)
        np.testing.assert_allclose(ours[0, axis], np.var(slopes), rtol=1e-4)
