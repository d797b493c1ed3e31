"""Checkpoints that are whole or not there."""

import logging
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

_T = TypeVar("_T")


class Checkpoints:
    """Numbered checkpoints in a folder, of which the last two are kept."""

    def __init__(self, folder: Path):
        # It reports every file that it writes.
        logging.getLogger("absl").setLevel(logging.ERROR)
        import orbax.checkpoint

        self._folder = folder.absolute()
        self._writer: Any = orbax.checkpoint.StandardCheckpointer()

    def steps(self) -> list[int]:
        """The steps of the complete ones; orbax renames a folder when all is in it."""
        return steps_in(self._folder)

    def save(self, step: int, state: Any) -> None:
        """Write, wait until it is on the disk, and drop all but the last two."""
        self._writer.save(self._folder / str(step), state, force=True)
        self._writer.wait_until_finished()
        for old in self.steps()[:-2]:
            shutil.rmtree(self._folder / str(old))

    def load(self, step: int, like: _T) -> _T:
        """The state of a step, laid out like `like`."""
        state = self._writer.restore(self._folder / str(step), jax.eval_shape(lambda: like))
        # On no device in particular, as a start is: what is compiled for the one serves the other.
        return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)

    def close(self) -> None:
        """Release what the writer holds."""
        self._writer.close()


def steps_in(folder: Path) -> list[int]:
    """The steps of the complete checkpoints in a folder, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir())
