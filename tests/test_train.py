"""`rxjax train`: the same last bit after a kill, Ctrl-C that leaves a run to go on with, refusals in one line."""

import csv
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
from optimizers import compiled
from PIL import Image
from typer.testing import CliRunner

from rxjax._command import _train_command
from rxjax._command._app import app
from rxjax._command._errors import Refusal
from rxjax._command._train_files import Log
from rxjax._train import _chars
from rxjax._train._run import OPTIMIZERS, task_of
from rxjax._train._tasks import TASKS

RUN = "train digits-mlp --steps 130 --seed 5 --monitor-every 40 --checkpoint-every 15".split()
FOLDER = "digits-mlp-rate-adamw"


pytestmark = pytest.mark.usefixtures("own_settings")


def rxjax(*words):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


def numbers(folder):
    """Parameters and the table of metrics."""
    with np.load(folder / "parameters.npz") as file:
        params = {name: file[name] for name in file.files}
    with (folder / "metrics.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    return params, head, lines


def killed(folder, stop):
    """A run in a process of its own, stopped by a signal after its second checkpoint; its process."""
    unoptimized = jax.config.read("jax_disable_most_optimizations")
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(unoptimized))}
    words = [sys.executable, "-m", "rxjax", *RUN, "--out", folder]
    run = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not any(os.path.isdir(f"{folder}/{FOLDER}/checkpoints/{step}") for step in range(30, 130, 15)):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(stop)
    return run


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_last_bit(tmp_path):
    run = killed("killed", signal.SIGKILL)
    whole = rxjax(*RUN, "--out", "whole")
    assert whole.exit_code == 0, whole.output
    run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / FOLDER / "parameters.npz").exists()
    # A line of a step that will be made again and one cut short in the middle, as a kill may leave them.
    table = tmp_path / "killed" / FOLDER / "metrics.csv"
    last = table.read_text().splitlines()[-1]
    with table.open("a") as file:
        file.write("129" + last[last.index(",") :] + "\n12,0.1")

    refused = rxjax(*RUN, "--out", "killed")
    assert refused.exit_code == 2 and re.search(r"holds one, saved at step \d+\.  Add --resume", refused.stderr)
    other = rxjax(*RUN[:-6], "--seed", "6", *RUN[-4:], "--out", "killed", "--resume")
    assert other.exit_code == 2 and "Argument `--seed` must be 5 to go on" in other.stderr

    resumed = rxjax(*RUN, "--out", "killed", "--resume")
    assert resumed.exit_code == 0, resumed.output
    (a, head, lines), (b, other_head, other_lines) = (numbers(tmp_path / n / FOLDER) for n in ("whole", "killed"))
    assert a.keys() == b.keys() and len(a) == 4
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert head == other_head and lines == other_lines
    assert [int(line[0]) for line in lines] == list(range(1, 131))
    loss = np.array([float(line[head.index("loss")]) for line in lines])
    assert loss[-20:].mean() < 0.5 * loss[:20].mean()
    for name in ("validation accuracy", "rate x sharpness / 2", "temperature", "Wrote"):
        assert name in resumed.output
    for name in ("loss.png", "temperature.png", "status.png"):
        with Image.open(tmp_path / "killed" / FOLDER / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    steps = sorted(int(p.name) for p in (tmp_path / "killed" / FOLDER / "checkpoints").iterdir())
    assert steps == [120, 130]


def test_the_table_goes_on_from_the_checkpoint(tmp_path):
    """Lines beyond it are dropped, and those cut short in the middle, whatever step they begin with."""
    path, rows = tmp_path / "metrics.csv", {"loss": 1 / np.arange(3.0, 8.0), "edge": np.arange(5.0)}
    part = lambda some: {name: x[some] for name, x in rows.items()}
    Log(path, 0).add(0, rows)
    whole = path.read_bytes()
    for cut in ("6,0.1", "2,0.", "2", ""):
        path.write_bytes(whole + cut.encode())
        log = Log(path, 3)
        assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:4])
        log.add(3, part(slice(3, 5)))
        assert path.read_bytes() == whole
    np.testing.assert_array_equal(log.history()["loss"], rows["loss"])
    # Without the steps made there is nothing to go on with.
    for rest in (b"", b"\xff,1\n", b"".join(x for x in whole.splitlines(keepends=True) if x[:1] != b"2"), None):
        path.unlink() if rest is None else path.write_bytes(rest)
        with pytest.raises(Refusal, match="`--resume` must find the metrics of all 3 steps made"):
            Log(path, 3)
    # Without a checkpoint all steps will be made again.
    Log(path, 0).add(0, part(slice(2)))
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])


def test_ctrl_c_leaves_a_run_to_go_on_with(monkeypatch, tmp_path):
    """Interrupted within a chunk: the command says from where the run can go on."""
    from rxjax._command import _train_run

    calls, whole = [], _train_run._chunk

    def chunk(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(_train_run, "_chunk", chunk)
    stopped = rxjax(*RUN, "--out", "stopped")
    assert stopped.exit_code == 130 and stopped.stdout == ""
    assert "can go on from step 30: add --resume" in stopped.stderr
    resumed = rxjax(*RUN, "--out", "stopped", "--resume")
    assert resumed.exit_code == 0 and len(numbers(tmp_path / "stopped" / FOLDER)[2]) == 130


def test_files_that_cannot_be_gone_on_with_are_refused(tmp_path):
    """Settings that are none, a checkpoint that is torn, and checkpoints whose settings are lost."""
    run = ["train", "digits-mlp", "--steps", "2", "--out", "run"]
    assert rxjax(*run).exit_code == 0
    folder, settings = tmp_path / "run" / FOLDER, (tmp_path / "run" / FOLDER / "run.json").read_text()
    for file, text, words, message in [
        ("run.json", "[]", ["--resume"], "`--resume` must find a run, but .*run.json cannot be read"),
        ("checkpoints/2/_METADATA", "", ["--resume"], "checkpoint of this run, but .*2 cannot be read as one.  Remove"),
        ("run.json", None, [], "`--out` must be a folder without this run, but .* saved at step 2"),
    ]:
        (folder / "run.json").write_text(settings)
        (folder / file).unlink() if text is None else (folder / file).write_text(text)
        done = rxjax(*run, *words)
        assert done.exit_code == 2 and re.search(f"Error: .*{message}", done.stderr), done.output


@pytest.mark.parametrize(
    "words, message",
    [
        ("digits", "`TASK` must be one of digits-mlp, digits-cnn, chars, but it is 'digits'"),
        ("chars --optimizer adam", "`--optimizer` must be one of rate-adamw"),
        ("chars --optimizer adamw", "`--learning-rate` must be given for adamw.* Try 0.003"),
        ("chars --learning-rate 0.1", "`--learning-rate` must come with adamw or sgd, but rate-adamw finds its own"),
        ("chars --optimizer sgd --learning-rate=-1", "`--learning-rate` must be positive"),
        ("chars --steps 0", "`--steps` must be from 1 to 10,000,000, but it is 0"),
        ("chars --batch-size 1", "`--batch-size` must be from 2"),
        ("chars --monitor-every 1", "`--monitor-every` must be from 2"),
        ("chars --checkpoint-every 0", "`--checkpoint-every` must be from 1"),
        ("chars --seed=-1", "`--seed` must be from 0"),
        ("digits-mlp --resume", "`--resume` must find a run, but there is none in out/digits-mlp-rate-adamw"),
        ("digits-mlp --out=file", "`--out` must be a folder, but 'file' is a file"),
        ("digits-mlp --optimizer sgd --learning-rate 1e30 --steps 40", "parameters are not finite at step .* Lower"),
    ],
)
def test_bad_input_in_one_line(words, message, tmp_path):
    (tmp_path / "file").write_text("")
    done = rxjax("train", *words.split())
    assert done.exit_code == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and re.search(message, line), line


def test_the_tasks_learn_from_data_that_is_always_there():
    """Losses start at the entropy of a guess; the gradient is finite; a character sees no character to come."""
    assert tuple(TASKS) == _train_command.TASKS
    assert OPTIMIZERS == ("rate-adamw", "rate-sgd", "adamw", "sgd")
    for name in TASKS:
        task = task_of(name)

        def first(task=task):
            params = task.init(jax.random.key(0))
            batch = task.draw(task.train, jax.random.key(1), 16)
            return jax.value_and_grad(task.loss)(params, batch), task.accuracy(params, batch)

        (loss, grads), accuracy = compiled(first)()
        guess = np.log(10 if name != "chars" else 90)
        assert 0.7 * guess < float(loss) < 1.5 * guess and 0 <= float(accuracy) < 0.5
        assert all(bool(jnp.all(jnp.isfinite(g))) and bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads))
    task = task_of("chars")
    text = task.valid[:2, : _chars.LENGTH]
    changed = text.at[:, 40].set((text[:, 40] + 1) % 50)
    scores = compiled(lambda t: _chars._scores(task.init(jax.random.key(0)), t))
    before, after = np.asarray(scores(text)), np.asarray(scores(changed))
    np.testing.assert_array_equal(before[:, :40], after[:, :40])
    assert np.any(before[:, 40:] != after[:, 40:])
