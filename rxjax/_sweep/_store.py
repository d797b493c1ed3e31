"""Finished chunks on disk, in a zarr store that xarray reads."""

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from ._axes import Points, Tiles
from ._dataset import LONG_NAMES, labelled
from ._identity import difference
from ._lock import Lock, Locked
from ._outputs import STATUS, Output

# The attribute that holds the identity of the sweep, written before the store appears under its name.
IDENTITY = "sweep"


class Store:
    """One sweep's results: a directory that is there whole or not at all, each chunk of it likewise.

    A chunk counts once its statuses are there, which are written last; each file appears by renaming.
    """

    def __init__(self, path: str | Path, points: Points, outputs: Sequence[Output], identity: dict[str, Any]):
        self.path = Path(path)
        self._points, self._identity = points, identity
        self._outputs = [o for o in outputs if o.result is None]

    def exists(self) -> bool:
        """Whether there is a store; refuses anything else that has this name, and the store of another sweep."""
        if not self.path.exists():
            return False
        stored = self._attributes().get(IDENTITY)
        if stored is None:
            raise ValueError(
                f"Argument `store` must be a new path or the store of a sweep, but {str(self.path)!r} is neither."
            )
        found = difference(json.loads(stored), self._identity)
        if found:
            raise ValueError(
                f"Argument `store` must hold this sweep, but {str(self.path)!r} holds another: {found}.  Give a new "
                "path, or remove the store."
            )
        return True

    def _attributes(self) -> dict[str, Any]:
        try:
            return dict(zarr.open_group(str(self.path), mode="r").attrs)
        except (OSError, ValueError):
            return {}

    def tiles(self) -> Tiles:
        """The rectangles in which the store is written."""
        array: Any = zarr.open_group(str(self.path), mode="r")[STATUS]
        return Tiles(tuple(array.shape), tuple(array.chunks))

    def create(self, tiles: Tiles, attributes: dict[str, Any], extra: dict[str, Any]) -> None:
        """Make the empty store beside its place and move it there; leftovers of killed attempts go."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        group = zarr.open_group(str(beside), mode="w", zarr_format=3)
        dims = self._points.dims
        for o in self._outputs:
            group.create_array(
                o.name,
                shape=(*tiles.shape, *o.shape),
                chunks=(*tiles.tile, *(max(1, n) for n in o.shape)),
                dtype=o.dtype,
                fill_value=o.missing,
                dimension_names=(*dims, *o.dims),
            )
        named = {"long_name": LONG_NAMES[STATUS]}
        group.create_array(
            STATUS,
            shape=tiles.shape,
            chunks=tiles.tile,
            dtype=str,
            fill_value="",
            dimension_names=dims,
            attributes=named,  # pyright: ignore[reportArgumentType]
        )
        whole = labelled(self._points, {}, extra, attributes | {IDENTITY: json.dumps(self._identity)})
        whole.to_zarr(str(beside), mode="a", consolidated=False)
        with warnings.catch_warnings():
            # Not in the specification of version 3 yet, but xarray looks for it; it never changes after this.
            warnings.filterwarnings("ignore", "Consolidated metadata")
            zarr.consolidate_metadata(str(beside))
        beside.rename(self.path)

    def missing(self, tiles: Tiles) -> list[tuple[slice, ...]]:
        """The rectangles that are not finished."""
        array: Any = zarr.open_group(str(self.path), mode="r")[STATUS]
        status = np.asarray(array[...])
        return [region for region in tiles if np.any(status[region] == "")]

    def write(self, region: tuple[slice, ...], values: Sequence[np.ndarray], reasons: Sequence[str]) -> None:
        """Keep one rectangle: its values first, then its statuses."""
        shape = tuple(s.stop - s.start for s in region)
        group: Any = zarr.open_group(str(self.path), mode="r+")
        # Not through data sets of xarray: they hold their values until Python looks for cycles.
        for o, value in zip(self._outputs, values, strict=True):
            group[o.name][region] = value.reshape(*shape, *o.shape)
        group[STATUS][region] = np.array(reasons, np.dtypes.StringDType()).reshape(shape)

    def read(self) -> xr.Dataset:
        """The data set, its variables read when they are used."""
        data = xr.open_zarr(str(self.path), consolidated=False)
        # NumPy's strings of variable length have no cast to those of fixed length, which more tools know.
        data[STATUS] = (data[STATUS].dims, np.array(data[STATUS].values.tolist()), data[STATUS].attrs)
        del data.attrs[IDENTITY]
        return data


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the store for this process, or refuse."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Lock(path.with_name(f"{path.name}.lock")):
            yield
    except Locked as owner:
        raise RuntimeError(
            f"The store {str(path)!r} is being written by {owner}.  Wait for it, or give another `store`."
        ) from None


@contextlib.contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """What the disk refuses, in one sentence; nothing that was finished is lost."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno,
            f"The store {str(path)!r} cannot be written: {reason}.  What was finished is in it and can be read; make "
            "room or permit writing, and start the same sweep again",
        ) from None
