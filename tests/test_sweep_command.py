"""`rxjax sweep CONFIG.toml`: a run with its files, and refusals that name the file, the key and what is allowed."""

import re
import sys

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from rxjax._command._app import app

GOOD = """
[landscape]
name = "double-well"
dim = 1
shape = 24
covariance = 20.0
quantities = ["escape_time", "mean_loss", "density", "noise_scale"]
start = -1.0
std = 0.3
time = 0.5
target_above = 1.0
dataset_size = 100

[axes]
learning_rate = { from = 0.02, to = 0.08, points = 3, spacing = "log" }
batch_size = [1, 4]

[run]
store = "runs/e.zarr"
out = "pictures"
"""
OWN = """
import jax.numpy as jnp

def bend(x, y):
    return {"sum": x + y, "root": jnp.sqrt(y)}

def row(x):
    return {"row": x * jnp.ones(3)}

def half(x):
    return {"half": x / 2}
"""


@pytest.fixture(autouse=True)
def a_user(own_settings, monkeypatch):
    """In a folder with a module of one's own."""
    (own_settings / "own_sweeps.py").write_text(OWN)
    monkeypatch.syspath_prepend(own_settings)
    yield
    sys.modules.pop("own_sweeps", None)


def rxjax(text):
    with open("sweep.toml", "w") as file:
        file.write(text)
    return CliRunner().invoke(app, ["sweep", "sweep.toml"], env={"COLUMNS": "200"})


def test_a_landscape_and_its_files(tmp_path):
    done = rxjax(GOOD)
    assert done.exit_code == 0, done.output
    assert "Sweep over learning_rate 3, batch_size 2" in done.output and "6 points in" in done.output
    with xr.open_zarr("runs/e.zarr") as data:
        assert data.density.dims == ("learning_rate", "batch_size", "x0") and data.density.dtype == np.float64
        width = 4 / 24
        np.testing.assert_allclose(data.density.sum("x0") * width, 1, rtol=1e-9)
        np.testing.assert_allclose(data.noise_scale, data.learning_rate * 100 / data.batch_size, rtol=1e-12)
        # eta/B is what counts: .08 and 4, .02 and 1.
        corner = data.escape_time.values
        np.testing.assert_allclose(corner[2, 1], corner[0, 0], rtol=1e-9)
        assert corner[2, 0] < corner[1, 0] < corner[0, 0] and "[landscape]" in data.attrs["configuration"]
    names = {p.name for p in (tmp_path / "pictures").iterdir()}
    assert names == {f"sweep-{name}.png" for name in ("escape_time", "mean_loss", "noise_scale")}


def test_a_function_of_ones_own(tmp_path):
    text = 'function = "own_sweeps:bend"\n[axes]\nx = [0, 1]\ny = [-1.0, 1.0, 2.0]\n[plot]\nvariables = ["sum"]\n'
    done = rxjax(text)
    assert done.exit_code == 0, done.output
    assert re.search("2 failed: `root` is NaN", done.output)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"sweep-sum.png", "sweep.nc"}
    with xr.open_dataset("out/sweep.nc", engine="h5netcdf") as data:
        np.testing.assert_array_equal(data["sum"][1], [np.nan, 2, 3])


@pytest.mark.parametrize(
    "old, new, words",
    [
        (
            "points = 3",
            "points = 1",
            r"`axes.learning_rate.points` must be a whole number of at least 2, but it is 1\.",
        ),
        ('"log"', '"loq"', r'`axes.learning_rate.spacing` must be one of "linear", "log", but it is "loq"'),
        ("from = 0.02", "from = -0.02", r"`axes.learning_rate.from` must be positive, like `to`"),
        ("from = 0.02, ", "", "`axes.learning_rate.from` must be a finite number, but it is missing"),
        (
            "batch_size = [1, 4]",
            "batchsize = [1, 4]",
            "`axes.batchsize` is not known; .* Did you mean `axes.batch_size`",
        ),
        ("batch_size = [1, 4]", 'batch_size = ["a"]', "`axes.batch_size` must be a list of finite numbers"),
        ("batch_size = [1, 4]", "batch_size = 4", "`axes.batch_size` must be a list of numbers, or a table"),
        ('name = "double-well"', 'name = "double-wel"', "`landscape.name` must be one of double-well, .*, or module"),
        ('"escape_time", "mean', '"escape", "mean', '`landscape.quantities` must be a list of "escape_time"'),
        (
            "target_above = 1.0",
            "",
            "`landscape.target_above` or `landscape.target_below` must be given for escape_time",
        ),
        ("dim = 1", "dim = 1\nbatch_size = 3", "`landscape.batch_size` must not be given beside `axes.batch_size`"),
        ("time = 0.5", "time = 0", "`landscape.time` must be a positive number, but it is 0"),
        ("start = -1.0", "start = 3", "`landscape.start` must lie within the bounds -2:2, but it is 3"),
        (
            "start = -1.0",
            'start = 0.0\nbounds = "1:2"',
            "`landscape.start` must lie within the bounds 1:2, but it is 0",
        ),
        ("start = -1.0", "start = [0, 1]", r"`landscape.start` must hold 1 numbers, but it is \[0, 1\]"),
        ("start = -1.0", 'bounds = "1:2"', "`landscape.bounds` must hold the usual start -1.4 where none is given"),
        ("shape = 24", "shape = [24, 24]", "`landscape.shape` must hold 1 numbers"),
        ("[run]", "[runn]", "`runn` is not known; allowed in the file are function, .* Did you mean `run`"),
        (
            'out = "pictures"',
            "seed = 4294967296",
            r"`run.seed` must be a whole number from 0 to 2\^32 - 1, but it is 4294",
        ),
        ("dim = 1", "dim = 9", "sweep.toml: `landscape.dim` must be from 1 to 3 for double-well, but it is 9"),
        ("start = -1.0", 'bounds = "2"', "sweep.toml: `landscape.bounds` must be low:high for each axis"),
        ('out = "pictures"', "seed = 1", "`run.seed` must come with a `function` that takes a `key`"),
        ('out = "pictures"', "precision = 16", "`run.precision` must be one of 32, 64, but it is 16"),
        ('out = "pictures"', 'memory = "much"', "`memory` must be a positive number of bytes"),
        ('out = "pictures"', 'out = "own_sweeps.py"', "must be a folder, but 'own_sweeps.py' is a file"),
        ("[landscape]", 'function = "a:b"\n[landscape]', "must be given, but both are there"),
        ("[axes]", "[axes", "must be a TOML file, but sweep.toml is none: .*line"),
    ],
)
def test_refusals_name_the_file_the_key_and_what_is_allowed(old, new, words, tmp_path):
    assert old in GOOD
    done = rxjax(GOOD.replace(old, new))
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and re.search(words, line), line
    assert "sweep.toml" in line or "--out" in line
    assert {p.name for p in tmp_path.iterdir()} - {"__pycache__"} == {"own_sweeps.py", "sweep.toml"}


def test_an_axis_of_the_pictures(tmp_path):
    """Across where a variable has it; one that none has is refused, also where there is nothing to draw."""
    text = 'function = "own_sweeps:row"\n[axes]\nx = [0, 1]\n[plot]\nx = "{}"\n'
    for axis in ("x", "row_0"):
        assert rxjax(text.format(axis)).exit_code == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"sweep-row.png", "sweep.nc"}
    for name in ("row", "half"):
        refused = rxjax(text.format("z").replace("row", name))
        assert refused.exit_code == 2 and "sweep.toml: `plot.x` must be one of the axes x" in refused.stderr


def test_no_such_function():
    done = rxjax('function = "own_sweeps:blend"\n[axes]\nx = [0]\n')
    assert "sweep.toml: `function` must name a function of own_sweeps" in done.stderr


def test_no_such_file():
    done = CliRunner().invoke(app, ["sweep", "nowhere.toml"], env={"COLUMNS": "200"})
    assert done.exit_code == 2 and "there is no 'nowhere.toml'" in done.stderr
