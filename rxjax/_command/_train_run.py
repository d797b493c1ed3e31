"""The loop of `rxjax train` on the host: chunks of steps, the live table, the files, the checkpoints."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from .._train._checkpoint import Checkpoints
from .._train._run import CHUNK, Carry, Setup, advance, begin, monitor_of, task_of
from ._errors import Refusal
from ._progress import interruptible
from ._train_files import Log, report, setup_of, write_results


def carry_out(options: dict[str, Any], out: Path, resume: bool) -> int | None:
    """Run to the end and report, or return the step from which an interrupted run can go on."""
    folder = out / f"{options['task']}-{options['optimizer']}"
    settings = setup_of(options, folder, resume)
    setup, every = settings.setup, settings.checkpoint_every
    console = Console(stderr=True)
    checkpoints = Checkpoints(folder / "checkpoints")
    at = None
    try:
        task = interruptible(lambda: task_of(setup.task))
        carry: Carry = interruptible(lambda: jax.block_until_ready(begin(setup)))
        done = checkpoints.steps()
        if done:
            carry = _loaded(checkpoints, folder / "checkpoints" / str(done[-1]), carry)
        else:
            checkpoints.save(0, carry)
        at = int(carry.step)
        log = Log(folder / "metrics.csv", at)
        # The first chunk compiles and is not timed.
        first, clock = at, float("nan")
        with monitor_of(setup).live(setup.steps, console) as table:
            step = at
            while step < setup.steps:
                # To the end of the run or to the next checkpoint, whichever is nearer.
                count = min(CHUNK, setup.steps - step, every - step % every)
                carry, page = _chunk(setup, task.train, carry, count)
                rows = {name: x[:count] for name, x in page.items()}
                step += count
                if first == at and clock != clock:
                    first, clock = step, time.perf_counter()
                _require_finite(rows, setup, step, at)
                log.add(step - count, rows)
                table.show(step, {name: x[-1] for name, x in rows.items()})
                if step % every == 0 or step == setup.steps:
                    checkpoints.save(step, carry)
                    at = step
        seconds = (time.perf_counter() - clock) / max(1, setup.steps - first)
        history = log.history()
        files = write_results(folder, carry.params, history)
        report(settings, task, carry.params, history, seconds, [*files, log.path], Console())
        return None
    except KeyboardInterrupt:
        return 0 if at is None else at
    finally:
        checkpoints.close()


def _loaded(checkpoints: Checkpoints, path: Path, like: Carry) -> Carry:
    """The state of a checkpoint, unless it is torn or that of another run."""
    try:
        return checkpoints.load(int(path.name), like)
    except (OSError, ValueError, KeyError, TypeError):
        raise Refusal(
            f"Argument `--resume` must find a checkpoint of this run, but {path} cannot be read as one.  Remove it to "
            "go on from the one before."
        ) from None


def _chunk(setup: Setup, data: Any, carry: Carry, count: int) -> tuple[Carry, dict[str, np.ndarray]]:
    """`count` steps, and their metrics on the host."""

    def work():
        new, page = advance(setup, data, carry, jnp.asarray(count, jnp.int32))
        return new, {name: np.asarray(x) for name, x in page.items()}

    return interruptible(work)


def _require_finite(rows: dict[str, np.ndarray], setup: Setup, step: int, at: int) -> None:
    """Stop a run whose parameters are lost."""
    if np.isfinite(rows["param_norm"][-1]):
        return
    lower = "Lower --learning-rate" if setup.learning_rate is not None else "Give another --seed"
    raise Refusal(f"The parameters are not finite at step {step}; the last checkpoint is that of step {at}.  {lower}.")
