"""Stores of sweeps: exact resumption, one writer, another sweep refused, disks that are full or closed, SIGKILL."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
import zarr.storage._local as local

import rxjax as rx

A, B = np.linspace(0.1, 1.0, 6), np.arange(1.0, 5.0)


def surface(a, b):
    return {"wave": jnp.sin(a * jnp.arange(5.0) + b), "root": jnp.sqrt(b - 1.5), "n": jnp.int32(2)}


class Stop(Exception):
    pass


def stopping(after):
    def report(done, total):
        if done >= after:
            raise Stop

    return report


def test_goes_on_where_it_stopped_with_the_same_bits(tmp_path):
    path = tmp_path / "runs" / "surface.zarr"
    options: dict[str, Any] = dict(
        a=A, b=B, chunk=4, dims={"wave": ("t",)}, coords={"t": np.arange(5)}, attributes={"note": "x"}
    )
    whole = rx.sweep(surface, **options)
    with pytest.raises(Stop):
        rx.sweep(surface, store=path, progress=stopping(12), **options)
    with xr.open_zarr(path) as half:
        assert np.array_equal(half.status == "", np.repeat([False, True], 3)[:, None] & np.ones(4, bool))
        np.testing.assert_array_equal(half.wave[:3], whole.wave[:3])
        assert np.all(np.isnan(half.wave[3:]))
    seen = []
    data = rx.sweep(surface, store=path, progress=lambda done, total: seen.append(done), **options)
    assert seen == [12, 16, 20, 24]
    for name in whole.variables:
        assert data[name].dims == whole[name].dims and data[name].dtype == whole[name].dtype
        np.testing.assert_array_equal(data[name], whole[name], err_msg=str(name))
    assert set(data.status.values[:, 0]) == {"`root` is NaN"} and np.all(data.status[:, 1:] == "ok")
    assert data.attrs["note"] == "x" and set(whole.attrs) == set(data.attrs)
    # Finished: nothing is computed, nothing is locked, the store may be closed.
    again = rx.sweep(surface, store=path, progress=stopping(0), **options)
    np.testing.assert_array_equal(again.wave, whole.wave)
    assert [p.name for p in path.parent.iterdir()] == ["surface.zarr"]
    with xr.open_zarr(path) as opened:
        assert opened.wave.dims == ("a", "b", "t") and np.array_equal(opened.t, np.arange(5))


def test_another_sweep_is_refused_with_the_difference(tmp_path):
    path = tmp_path / "s.zarr"
    scale = 2.0
    f = lambda a, b: {"u": scale * a + b}
    rx.sweep(f, store=path, a=A, b=B)

    def refused(words, fn: Any = f, **options: Any):
        with pytest.raises(ValueError, match=f"Argument `store` must hold this sweep, but .* holds another: {words}"):
            rx.sweep(fn, store=path, **({"a": A, "b": B} | options))

    refused("its axis `a` has 6 values and not 7", a=np.linspace(0.1, 1.0, 7))
    refused("value 5 of its axis `a` is 1.0 and not 1.5", a=np.append(A[:5], 1.5))
    mixed = lambda a, b: {"u": a + b.astype(a.dtype)}
    refused("its axis `b` holds float64 and not float32", fn=mixed, b=B.astype(np.float32))
    refused("its zipped is False and not True", a=A[:4], zipped=True)
    refused("its seed is None and not 3", fn=lambda a, b, key: f(a, b), seed=3)
    refused("its function returns u and not v", fn=lambda a, b: {"v": a})
    refused(r"the shape of its `u` is \[\] and not \[2\]", fn=lambda a, b: {"u": jnp.stack([a, b])})
    refused("the dtype of its `u` is float64 and not float32", fn=lambda a, b: {"u": a.astype(jnp.float32)})
    refused("its function .* computes something else .* other operations", fn=lambda a, b: {"u": 3.0 * a + b})
    table = np.arange(3.0)
    g = lambda a, b: {"u": a + jnp.asarray(table)[0] + b}
    refused("its function .* computes something else", fn=g)
    with pytest.raises(ValueError, match="its axes are a, b and not b, a"):
        rx.sweep(f, store=path, b=B, a=A)
    # The name of the function does not matter.
    assert rx.sweep(lambda a, b: {"u": 2.0 * a + b}, a=A, b=B, store=path).sizes == {"a": 6, "b": 4}
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ValueError, match="must be a new path or the store of a sweep, but .*other' is neither"):
        rx.sweep(f, store=other, a=A, b=B)


HOLDER = """
import sys, time
from pathlib import Path
from rxjax._sweep._lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_writer_and_a_dead_one_lets_go(tmp_path):
    path = tmp_path / "s.zarr"
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "s.zarr.lock")]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline().strip() == "held"
    with pytest.raises(RuntimeError, match=f"is being written by process {holder.pid} on .*  Wait for it"):
        rx.sweep(surface, store=path, a=A, b=B)
    assert not path.exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert (tmp_path / "s.zarr.lock").exists()
    assert rx.sweep(surface, store=path, a=A, b=B).sizes["a"] == 6
    assert not (tmp_path / "s.zarr.lock").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_closed_disk_is_said_once_and_loses_nothing(tmp_path, monkeypatch, code):
    path = tmp_path / "s.zarr"
    writes, real = [], local._atomic_write

    def failing(place, *args, **kwargs):
        if "/c/" in str(place):
            writes.append(place)
            if len(writes) > 7:
                raise OSError(code, os.strerror(code), str(place))
        return real(place, *args, **kwargs)

    monkeypatch.setattr(local, "_atomic_write", failing)
    with pytest.raises(
        OSError, match=f"s.zarr' cannot be written: {os.strerror(code)}.  What was finished is in it"
    ) as e:
        rx.sweep(surface, store=path, a=A, b=B, chunk=4)
    assert e.value.errno == code and e.value.__cause__ is None
    monkeypatch.undo()
    with xr.open_zarr(path) as half:
        done = half.status.values == "ok"
        assert 0 < done.sum() < done.size and np.all(np.isfinite(half.wave.values[done]))
    np.testing.assert_array_equal(
        rx.sweep(surface, store=path, a=A, b=B, chunk=4).wave, rx.sweep(surface, a=A, b=B).wave
    )


KILLED = """
import sys, time
import numpy as np, jax.numpy as jnp, jax
import rxjax as rx
jax.config.update("jax_enable_x64", True)
pause, paths = float(sys.argv[1]), sys.argv[2:]

def slowly(done, total):
    print(done, flush=True)
    time.sleep(pause)

def f(a, b, key):
    grid = rx.solvers.Grid(-2.0, 2.0, 24)
    W = rx.solvers.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, a / b)
    return {"law": rx.solvers.stationary(W), "draw": jax.random.normal(key, (3,)), "root": jnp.sqrt(b - 1.5)}

for path in paths:
    rx.sweep(f, a=np.linspace(0.1, 1.0, 10), b=np.arange(1.0, 7.0), seed=5, chunk=2, store=path, progress=slowly)
print("finished")
"""


def killed(tmp_path, kills, seed=0):
    """Kill a sweep at random moments, start it again each time; the finished store and an uninterrupted one."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    moments, happened = random.Random(seed), 0
    command, kept = [sys.executable, str(script)], str(tmp_path / "k.zarr")
    shares, share = [], 0.0
    while happened < kills:
        run = subprocess.Popen([*command, "0.1", kept], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
        start = time.time()
        # One in four while JAX loads or compiles, the others at work, of 30 chunks of a tenth of a second each: as far
        # apart as leads to nine tenths of the work by the last of them.
        if moments.random() > 0.25:
            run.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]
            time.sleep(moments.uniform(0.0, 8.0 * max(0.1, 0.9 - share) / (kills - happened)))
        else:
            time.sleep(moments.uniform(0.0, 3.0))
        run.send_signal(signal.SIGKILL)
        out, _ = run.communicate()
        happened += 1
        assert time.time() - start < 600  # a start that hangs, and not a slow machine
        if (tmp_path / "k.zarr").exists():
            with xr.open_zarr(tmp_path / "k.zarr") as data:
                status = data.status.values
                law = data.law.values[status == "ok"]
                np.testing.assert_allclose(law.sum(axis=-1) / 6, 1, rtol=1e-9)
                shares.append(share := float(np.mean(status != "")))
        if "finished" in out:
            share = 0.0
            shutil.rmtree(tmp_path / "k.zarr")
    subprocess.run([*command, "0", kept, str(tmp_path / "once.zarr")], check=True, stdout=subprocess.PIPE)
    return xr.open_zarr(tmp_path / "k.zarr"), xr.open_zarr(tmp_path / "once.zarr"), shares


def same_bits(left, right):
    assert set(left.variables) == set(right.variables)
    for name in left.variables:
        a, b = left[name].values, right[name].values
        # Strings are of NumPy's own kind or, by an older xarray, Python's.
        assert np.array_equal(a, b) if a.dtype.kind in "TO" else a.tobytes() == b.tobytes(), name


def test_a_kill(tmp_path):
    left, right, shares = killed(tmp_path, 1)
    same_bits(left, right)
    assert np.all(left.status != "") and 0 < max(shares)


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    left, right, shares = killed(tmp_path, 20)
    same_bits(left, right)
    assert np.all(left.status != "") and len(set(shares)) > 5 and max(shares) > 0.6


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    """A file system of 256 KiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount file systems")
    try:
        wide = lambda a: a * jnp.arange(2000.0)
        a = np.linspace(0.1, 1, 64)
        with pytest.raises(OSError, match="cannot be written: No space left on device"):
            rx.sweep(wide, a=a, chunk=2, store=disk / "s.zarr")
        with xr.open_zarr(disk / "s.zarr") as half:
            done = half.status.values == "ok"
            assert 0 < done.sum() < 64
            np.testing.assert_allclose(half.value[done], a[done, None] * np.arange(2000.0))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OSError, match="cannot be written: Read-only file system"):
            rx.sweep(wide, a=a, chunk=2, store=disk / "s.zarr")
        subprocess.run(["mount", "-o", "remount,rw,size=16m", str(disk)], check=True)
        np.testing.assert_array_equal(
            rx.sweep(wide, a=a, chunk=2, store=disk / "s.zarr").value, rx.sweep(wide, a=a).value
        )
    finally:
        subprocess.run(["umount", str(disk)], check=True)
