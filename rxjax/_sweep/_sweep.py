"""`sweep`: a function evaluated over a grid of settings."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import jax
import jax.extend
import numpy as np
import xarray as xr
from jax.sharding import Mesh

from ..hardware._memory import as_bytes, available_memory
from ._axes import Tiles, as_points, check_function
from ._dataset import check_labels, filled, labelled, versions
from ._devices import agreed, as_mesh, first_process, meet, share
from ._footprint import FETCHED, Footprint
from ._identity import identity
from ._outputs import STATUS, describe
from ._program import Program, quiet_callbacks, trace
from ._progress import Report, reporter
from ._store import IDENTITY, Store, locked, plain_errors

Finish = Callable[[tuple[slice, ...], list[np.ndarray], list[str]], None]


def sweep(
    fn: Callable,
    *,
    zipped: bool = False,
    memory: int | str | None = None,
    chunk: int | None = None,
    devices: int | Sequence[Any] | Mesh | None = None,
    store: str | Path | None = None,
    seed: int | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    progress: bool | Report = True,
    **axes: Any,
) -> xr.Dataset:
    """`fn` at every point of a grid of settings, as a labelled data set.

    The points are computed by `vmap` in chunks that fit into a memory by the compiled program's own account of it.
    A point that fails becomes NaN and says why in the variable `status`; the sweep goes on.

    **Arguments:**

    - `fn`: called with one scalar for each axis, by name; any function that jits and vmaps.  It returns an array or a
        PyTree of arrays: each leaf becomes a variable, called by its path joined with dots, or `value`; floats that
        NumPy does not have, as bfloat16, are kept in float32.  A member of
        `rxjax.solvers.RESULTS` in the tree decides whether the point failed: ask the verbs for it with `throw=False`,
        which is also the fastest way, for a check that raises makes its chunk be taken apart.
    - `axes`: name to vector of values; the product of all, or side by side with `zipped` (dimension `point`).
        An axis cannot have the name of one of the other arguments, nor hold what JAX's precision cannot: whole
        numbers beyond 2e9 or numbers beyond 1e38 in float32.
    - `memory`: bytes that the sweep may take, or a text like "1 GiB"; 0.8 of what is free if not given.  On a CPU it is
        what the process may grow by: chunks on all devices, what compiling leaves, and without `store` the results.
        Elsewhere it is what the compiled program may take on each device.
    - `chunk`: points computed together, at most; if not given, as many as 16 MiB hold on a CPU (its cache) and
        `memory` elsewhere, up to 1024 for each device.  A store keeps that of its first run.
    - `devices`: how many of this process's devices, a list of them, or a `jax.sharding.Mesh` of any shape; all if not
        given.  Under `jax.distributed` each process computes its share into one `store`, which is then required.
    - `store`: a directory for finished chunks, in zarr.  The same call goes on where an earlier one ended, however
        that was, and ends with the same numbers.  Not for two processes at once, but for those of `jax.distributed`.
    - `seed`: give `fn` one more argument, `key`, a `jax.random` key of each point that depends on the seed, a whole
        number from 0 to 2^32 - 1, and the point alone.
    - `dims`, `coords`: names for the axes of what one point returns, variable to names, and their coordinates.
    - `attributes`: what else to note in the data set, by any name but `sweep`, which is a store's own.
    - `progress`: a bar with rate and time left where there is a terminal, or a function of points done and in all.

    **Returns:** an `xarray.Dataset`; with `store` its variables are read from there when they are used.  Failed points
    are NaN, and zero or false in variables of whole numbers and truth values.  Infinite values count as answers.

    **How it fails:** points are compiled as one program, so a loop takes as long for all as for the slowest point of a
    chunk: sort axes so that neighbours take about as long.

    **Raises:** `ValueError` for axes, names, a seed or a memory that do not fit, and for the store of another sweep,
    with the first difference; `RuntimeError` for a store that another process is writing; `OSError` for a full or
    read-only disk.  What was finished can be read in every case.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> def temperature(learning_rate, batch_size):
        ...     run = rx.Hyperparameters(learning_rate, batch_size, dataset_size=64, sampling="without_replacement")
        ...     return {"kT": run.learning_rate / 2 * rx.batch_covariance(1.0, run)}
        >>> data = rx.sweep(temperature, learning_rate=[0.1, 0.2], batch_size=[1, 8, 128])
        >>> print(data.kT.sel(batch_size=8).values.round(4))
        [0.0056 0.0111]
        >>> print(data.status.sel(learning_rate=0.1).values[2][:61])
        Argument `batch_size` must be at most `dataset_size` when no

        ```
    """
    points = as_points(axes, zipped)
    if seed is not None and "key" in axes:
        raise ValueError("Argument `axes` must not name `key` where a `seed` is given, which makes it, but it does.")
    if seed is not None and not (isinstance(seed, Integral) and 0 <= seed < 2**32):
        raise ValueError(f"Argument `seed` must be a whole number from 0 to 2^32 - 1, but it is {seed}.")
    check_function(fn, [*points.values, *(["key"] if seed is not None else [])])
    if IDENTITY in (attributes or {}):
        raise ValueError(
            f"Argument `attributes` must not name `{IDENTITY}`, by which a store knows its sweep, but it does."
        )
    if chunk is not None and chunk < 1:
        raise ValueError(f"Argument `chunk` must be at least 1, but it is {chunk}.")
    if jax.process_count() > 1 and store is None:
        raise ValueError("Argument `store` must be given when several processes share a sweep, but it is None.")
    mesh = as_mesh(devices)
    footprint = Footprint()
    limit = available_memory(mesh.devices.flat[0]) if memory is None else as_bytes(memory)
    traced, tree = trace(fn, points, seed)
    one = jax.extend.core.jaxpr_as_fun(traced)
    outputs = describe(tree, dims or {}, points.dims)
    check_labels(points, outputs, coords or {})
    program = Program(one, points, outputs, mesh, footprint)
    name = f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', type(fn).__name__)}"
    notes = {"function": name, "seed": "none" if seed is None else seed, "zipped": zipped, "memory_limit": limit}

    def noted() -> dict[str, Any]:
        kind = mesh.devices.flat[0]
        used = {"chunk": program.chunk, "chunk_bytes": program.bytes, "devices": f"{mesh.size} x {kind.device_kind}"}
        precision = str(jax.dtypes.canonicalize_dtype(float))
        return notes | used | {"precision": precision} | versions() | dict(attributes or {})

    if store is None:
        footprint.copies = FETCHED
        footprint.results = points.size * sum(o.bytes for o in outputs)
        tiles = program.choose(points.shape, chunk, limit)
        variables, status = filled(points, outputs)

        def keep(region, values, reasons):
            for into, value in zip(variables.values(), values, strict=True):
                into[region] = value.reshape(*into[region].shape)
            status[region] = np.array(reasons, object).reshape(status[region].shape)

        with reporter(progress, 0, points.size) as report:
            _run(program, tiles, list(tiles), keep, report, 0, limit)
        own = {o.name: o.dims for o in outputs}
        labels = {k: ((*points.dims, *own[k]), v) for k, v in variables.items()}
        return labelled(points, labels | {STATUS: (points.dims, status.astype(str))}, coords or {}, noted())

    kept = Store(store, points, outputs, identity(name, traced, points, outputs, seed))
    with _opened(kept) as writes:
        if writes:
            error = None
            try:
                if first_process() and not kept.exists():
                    tiles = program.choose(points.shape, chunk, limit)
                    kept.create(tiles, noted(), dict(coords or {}))
            except Exception as raised:
                error = raised
            agreed(error)
            tiles = kept.tiles()
            if program.chunk < tiles.points:
                program.choose(tiles.tile, tiles.points, limit)
            missing = kept.missing(tiles)
            meet("missing")
            done = points.size - sum(len(tiles.index(r)) for r in missing)
            with reporter(progress if first_process() else False, done, points.size) as report:
                _run(program, tiles, share(missing), kept.write, report, done, limit)
            meet("written")
    return kept.read()


@contextlib.contextmanager
def _opened(store: Store) -> Iterator[bool]:
    """Hold the store for writing; `False` where it is finished, so that a read-only one serves too."""
    if store.exists() and not store.missing(store.tiles()):
        yield False
        return
    with plain_errors(store.path):
        with locked(store.path) if first_process() else contextlib.nullcontext():
            yield True


def _run(program: Program, tiles: Tiles, work: list, keep: Finish, report: Report, done: int, limit: int) -> None:
    """Compute rectangles one after the other, each started before the one before it is fetched and kept."""
    total = int(np.prod(tiles.shape))
    waiting: list[tuple] = []
    with quiet_callbacks():
        for region in [*work, None]:
            if region is not None:
                index = tiles.index(region)
                waiting.append((region, index, program.launch(index)))
            if region is None or len(waiting) > 1:
                done += _kept(program, keep, *waiting.pop(0)) if waiting else 0
                program.give_back(limit)
                report(done, total)


def _kept(program: Program, keep: Finish, region: tuple[slice, ...], index: np.ndarray, launched: Any) -> int:
    """Fetch a rectangle and keep it; nothing of it stays here, or the next one would not have its memory."""
    values, reasons = program.finish(index, launched)
    keep(region, [v for o, v in zip(program.outputs, values, strict=True) if o.result is None], reasons)
    return len(index)
