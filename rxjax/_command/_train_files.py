"""What a training run leaves in its folder: settings, metrics, pictures, parameters."""

import csv
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from .. import plot
from .._train._checkpoint import steps_in
from .._train._run import Setup, score, task_of
from .._train._task import Task
from .._version import __version__
from ._errors import Refusal
from ._output import Staged


class Settings(NamedTuple):
    """A run, and how often it is saved, which changes nothing of it."""

    setup: Setup
    checkpoint_every: int


def setup_of(options: dict[str, Any], folder: Path, resume: bool) -> Settings:
    """The run that the options ask for, and its folder with `run.json`; or the one that is there to go on with."""
    file = folder / "run.json"
    task = task_of(options["task"])
    steps, batch = options["steps"] or task.steps, options["batch_size"] or task.batch_size
    asked = Setup(
        options["task"],
        options["optimizer"],
        options["learning_rate"],
        steps,
        batch,
        options["seed"],
        options["monitor_every"],
    )
    settings = Settings(asked, options["checkpoint_every"])
    if not resume:
        saved = steps_in(folder / "checkpoints")
        # Checkpoints without their settings belong to a run that nobody can name any more.
        if file.exists() or saved:
            raise Refusal(
                f"Argument `--out` must be a folder without this run, but {folder} holds one, saved at step "
                f"{max(saved, default=0)}.  Add --resume to go on, or name another folder."
            )
        _write_json(file, {**asked._asdict(), "rxjax_version": __version__, "jax_version": jax.__version__})
        return settings
    if not file.exists():
        raise Refusal(f"Argument `--resume` must find a run, but there is none in {folder}.")
    try:
        stored = json.loads(file.read_text())
        known = Setup(**{name: stored[name] for name in Setup._fields})
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(f"Argument `--resume` must find a run, but {file} cannot be read: {error}.") from None
    for name, was, now in zip(Setup._fields, known, asked, strict=True):
        if was != now:
            option = {"every": "monitor-every"}.get(name, name.replace("_", "-"))
            raise Refusal(f"Argument `--{option}` must be {was} to go on with the run in {folder}, but it is {now}.")
    return settings


def _write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a file that is whole or not there."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(file)
    except OSError as error:
        raise Refusal(f"Argument `--out` must be a folder that can be written, but {error.strerror}.") from None


class Log:
    """The metrics of every step as lines of a CSV file, which after a kill holds at least those of the checkpoint."""

    def __init__(self, path: Path, step: int):
        """Lines beyond `step` belong to steps that will be made again and are dropped; those up to it must be there."""
        self.path = path
        self._names: list[str] | None = None
        if not step:
            path.unlink(missing_ok=True)
            return
        lines = [[]]
        if path.exists():
            with path.open(newline="", errors="replace") as file:
                lines = [*csv.reader(file)] or lines
        kept = [x for x in lines[1:] if len(x) == len(lines[0]) and x[0].isdecimal() and int(x[0]) <= step]
        if [int(line[0]) for line in kept] != [*range(1, step + 1)]:
            raise Refusal(
                f"Argument `--resume` must find the metrics of all {step} steps made, but {path} does not hold them.  "
                "Name another folder to make the run anew."
            )
        self._names = lines[0][1:]
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            csv.writer(file).writerows([lines[0], *kept])
        partial.replace(path)

    def add(self, before: int, rows: dict[str, np.ndarray]) -> None:
        """Append the lines of the steps that follow step `before`."""
        new = self._names is None
        names = sorted(rows) if self._names is None else self._names
        self._names = names
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *names])
            for i in range(len(rows[names[0]])):
                writer.writerow([before + i + 1, *(repr(float(rows[name][i])) for name in names)])
            file.flush()
            os.fsync(file.fileno())

    def history(self) -> dict[str, np.ndarray]:
        """Name to series, over all steps."""
        with self.path.open(newline="") as file:
            names, *lines = csv.reader(file)
        table = np.array(lines, float)
        return {name: table[:, i] for i, name in enumerate(names)}


def write_results(folder: Path, params: Any, history: dict[str, np.ndarray]) -> list[Path]:
    """The pictures and the parameters; all of them or none."""
    shown = {**history, "steps": history["step"]}
    with Staged(folder) as staged:
        for name, metrics in (("loss", ("loss",)), ("temperature", ("temperature",))):
            part = {key: shown[key] for key in (*metrics, "steps")}
            plot.status(part).savefig(staged.path(f"{name}.png"), dpi=150)
        plot.status(shown).savefig(staged.path("status.png"), dpi=110)
        leaves = {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(params)}
        with staged.path("parameters.npz").open("wb") as file:
            np.savez(file, **leaves)  # pyright: ignore[reportArgumentType]
    return staged.files


def report(
    settings: Settings,
    task: Task,
    params: Any,
    history: dict[str, np.ndarray],
    seconds: float,
    files: list[Path],
    console: Console,
) -> None:
    """Print what the run was and what came out of it."""
    setup = settings.setup
    last = {name: float(x[-1]) for name, x in history.items()}
    scores = {name: float(x) for name, x in score(setup.task, params, task.train, task.valid).items()}
    table = Table(title=f"Training: {setup.task}", title_justify="left", show_header=False, box=None)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    rate = history["learning_rate"]
    rows = {
        "optimizer": setup.optimizer,
        "steps": f"{setup.steps} of {setup.batch_size} examples, {1e3 * seconds:.3g} ms a step",
        **{name: f"{value:.4g}" for name, value in scores.items()},
        "learning rate": f"at most {rate.max():.3g}, {rate[-1]:.3g} at the end",
        "temperature": f"{last['temperature']:.3g} at the end",
        "critical batch": f"{last['critical_batch']:.3g} examples",
        "rate x sharpness / 2": f"{last['edge']:.3g} (1 is the edge of stability)",
        "log-rate, last tenth": f"{history['log_rate'][-max(1, setup.steps // 10) :].mean():.2f} (-1 is equilibrium)",
        "updates kept by bfloat16": f"{last['survival']:.0%} by count, {last['survival_abs']:.0%} of their length",
    }
    if last["nonfinite"]:
        rows["steps that were not finite"] = f"{last['nonfinite']:.0f}"
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    console.print()
    for path in files:
        console.print(f"Wrote {path}", highlight=False, soft_wrap=True)
