"""Sweeps on many devices and in many processes give what one device gives."""

import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_eight_devices_and_one_density_over_them():
    done = subprocess.run([sys.executable, str(HERE / "sharded_sweep.py")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["sweep", "density", "efficiency"]


def test_two_processes_share_a_sweep_into_one_store(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(HERE / "distributed_sweep.py"), str(port), "2"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    runs = [
        subprocess.Popen(
            [*words, str(i), str(tmp_path / "s.zarr"), str(tmp_path / "log")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(2)
    ]
    for run in runs:
        _, error = run.communicate(timeout=300)
        assert run.returncode == 0, error[-3000:]
    shares = [set((tmp_path / f"log{i}").read_text().split()) for i in range(2)]
    # Seven rectangles, four and three, none twice.
    assert sorted(map(len, shares)) == [3, 4] and not shares[0] & shares[1]
    assert not (tmp_path / "s.zarr.lock").exists()
