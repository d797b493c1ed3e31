"""Files that appear whole or not at all."""

import os
import tempfile
from pathlib import Path

from ._ctrl_c import check
from ._errors import Refusal


def check_folder(folder: Path) -> None:
    """Refuse, before anything is computed, a folder that cannot be written."""
    place = folder.absolute()
    if place.exists() and not place.is_dir():
        raise Refusal(f"Argument `--out` must be a folder, but '{folder}' is a file.")
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise Refusal(f"Argument `--out` must be a folder that can be written, but '{folder}' cannot.")


class Staged:
    """Collects files in a hidden folder inside the output folder; on success they are moved to their names.

    Whatever ends the block early, Ctrl-C included, removes them, and the output folder too if it was made here.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> "Staged":
        check_folder(self.folder)
        self._made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._hidden = tempfile.TemporaryDirectory(prefix=".rxjax-", dir=self.folder)
        except OSError as error:
            raise Refusal(f"Argument `--out` must be a folder that can be written, but {error.strerror}.") from None
        return self

    def path(self, name: str) -> Path:
        """Where to write the file that will be called `name`."""
        return Path(self._hidden.name) / name

    def __exit__(self, kind, error, trace) -> None:
        done = []
        try:
            if kind is None:
                check()
                for path in sorted(Path(self._hidden.name).iterdir()):
                    done.append(path.replace(self.folder / path.name))
        finally:
            self._hidden.cleanup()
            if not done:
                for folder in self._made:
                    folder.rmdir()
        self.files = done
