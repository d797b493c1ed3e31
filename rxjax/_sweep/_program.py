"""The compiled program of a chunk of points, and how large a chunk may be."""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..hardware._memory import written
from ._axes import Points, Tiles
from ._footprint import Footprint, give_back, separate_blocks
from ._outputs import OK, Output, message, statuses

# Points in a chunk, for each device: those of the first program that is compiled, and those beyond which the rate
# hardly grows and progress is seldom saved.
_FIRST, _MOST = 32, 1024
# On a CPU a chunk that leaves the cache is slower than smaller ones: the bytes to which a chunk grows by itself.
_CACHE = 2**24
# What a check that fails inside compiled code raises: JAX turns the status of some into a ValueError.
_RAISED = (RuntimeError, ValueError)
# Programs run to find the failing points of a chunk before they are run one by one.
_HALVINGS = 24


def trace(fn: Callable, points: Points, seed: int | None) -> tuple[Any, Any]:
    """The jaxpr of one point, `(settings, index) -> leaves`, and the abstract value of `fn`; with a seed, `fn` is given
    a key of the point's own.

    It is traced once: solvers take longer to trace than a chunk takes to run.
    """

    def one(settings: dict[str, Any], index: Any) -> Any:
        keys = {} if seed is None else {"key": jax.random.fold_in(jax.random.key(seed), index)}
        return fn(**settings, **keys)

    return jax.make_jaxpr(one, return_shape=True)(*abstract_point(points))


def abstract_point(points: Points) -> tuple[dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the arguments of a point function."""
    values = points.at(np.zeros(1, int))
    scalars = {name: jax.ShapeDtypeStruct((), v.dtype) for name, v in values.items()}
    return scalars, jax.ShapeDtypeStruct((), jnp.uint32)


def needed(compiled: Any) -> tuple[int, int]:
    """Bytes on one device while a chunk is computed and the one before it is fetched; those of its outputs alone."""
    memory = compiled.memory_analysis()
    if memory is None:
        return 0, 0
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    program = memory.temp_size_in_bytes + 2 * kept - memory.alias_size_in_bytes
    return int(program), int(memory.output_size_in_bytes)


class Program:
    """`vmap` of a function over chunks of one size, each device computing its share."""

    def __init__(self, flat: Callable, points: Points, outputs: Sequence[Output], mesh: Mesh, footprint: Footprint):
        one = lambda settings, index: flat(*jax.tree.leaves((settings, index)))
        self._one, self._points, self.outputs, self._mesh = one, points, outputs, mesh
        # The devices of a CPU share one memory with the compiler and the results.
        self._shared, self._footprint = mesh.devices.flat[0].platform == "cpu", footprint
        spec = PartitionSpec(mesh.axis_names)
        self._sharding = NamedSharding(mesh, spec)
        mapped = jax.vmap(one)
        if mesh.size > 1:
            # Manual, so that loops of different length on different devices do not wait for each other.
            mapped = jax.shard_map(mapped, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        self._mapped: Any = jax.jit(mapped)
        self._single: Any = None
        self._compiled: Any = None
        self.chunk, self.bytes, self._copies = 0, 0, 0

    def compile(self, chunk: int) -> None:
        """Compile for so many points, rounded up to a multiple of the devices."""
        # What was compiled before goes first, or each attempt would stay.
        self._compiled = None
        self._mapped.clear_cache()
        self.chunk = -(-chunk // self._mesh.size) * self._mesh.size
        batch = lambda s: jax.ShapeDtypeStruct((self.chunk,), s.dtype, sharding=self._sharding)
        self._compiled = self._mapped.lower(*jax.tree.map(batch, abstract_point(self._points))).compile()
        devices = self._mesh.size if self._shared else 1
        self.bytes, kept = (devices * n for n in needed(self._compiled))
        self._copies = self._footprint.copies * kept if self._shared else 0
        give_back()

    def choose(self, shape: tuple[int, ...], chunk: int | None, limit: int) -> Tiles:
        """Compile for a rectangle of up to `chunk` points that fits into `limit` bytes.

        Without `chunk` it is the largest that fits into the cache of a CPU, or the memory of an accelerator.
        """
        tiles = self._fitting(shape, chunk, limit)
        if self._shared and self._taken() + self.bytes + self._copies > limit / 2:
            separate_blocks()
        peak = self._footprint.peak() if self._shared else 0
        if peak > limit:
            warnings.warn(
                f"Compiling took {written(peak)} for a moment, more than the {written(limit)} of `memory`, whatever "
                "the chunk; what follows keeps within them.",
                stacklevel=3,
            )
        return tiles

    def _fitting(self, shape: tuple[int, ...], chunk: int | None, limit: int) -> Tiles:
        size, devices = math.prod(shape), self._mesh.size
        if chunk is not None:
            return self._largest(shape, min(size, chunk), limit)
        tiles = self._largest(shape, min(size, _FIRST * devices), limit)
        room = (limit - self._expected()) / max(1, self.bytes + self._copies)
        room = min(room, _CACHE / max(1, self.bytes)) if self._shared else room
        more = min(size, _MOST * devices, int(0.95 * tiles.points * room))
        return self._largest(shape, more, limit) if more >= 2 * tiles.points else tiles

    def _taken(self) -> int:
        return self._footprint.taken() if self._shared else 0

    def _expected(self) -> int:
        return self._footprint.expected() if self._shared else 0

    def _largest(self, shape: tuple[int, ...], most: int, limit: int) -> Tiles:
        devices = self._mesh.size
        while True:
            tiles = Tiles.of(shape, most)
            self.compile(tiles.points)
            taken, chunk = self._taken(), self.bytes + self._copies
            if chunk + taken <= limit:
                return tiles
            if tiles.points <= devices:
                raise ValueError(self._too_little(taken, limit))
            # Half of what is left at least: a limit near what is taken would end with single points.
            room = max(limit - self._expected(), (limit - taken) // 2)
            most = max(devices, min(tiles.points - 1, int(0.95 * tiles.points * room / chunk)))

    def _too_little(self, taken: int, limit: int) -> str:
        results = self._footprint.results if self._shared else 0
        chunk = self.bytes + self._copies
        parts = [f"a point on each device, {written(chunk)} as compiled"]
        parts += [f"what compiling leaves in this process, {written(taken - results)}"] if taken else []
        parts += [f"the results, {written(results)}"] if results else []
        advice = "Give more, a `store` for the results, or" if results else "Give more, or"
        return (
            f"Argument `memory` must hold {', and '.join(parts)}, but it is {written(limit)}: "
            f"{written(chunk + taken - limit)} are missing.  {advice} a smaller problem."
        )

    def give_back(self, limit: int) -> None:
        """Return what finished chunks left in the heap, where the next one might no longer fit beside it."""
        if self._shared and self._footprint.grown() + self.bytes + self._copies > limit:
            give_back()

    def launch(self, index: np.ndarray) -> Any:
        """Start on some points, at most a chunk; the result of `launch` goes to `finish`."""
        try:
            return self._run(index)
        except _RAISED as error:
            return error

    def finish(self, index: np.ndarray, launched: Any) -> tuple[list[np.ndarray], list[str]]:
        """Values of each output and the status of each point; failed points hold what is `missing`."""
        try:
            if isinstance(launched, _RAISED):
                raise launched
            values, reasons = self._fetched(index, launched), None
        except _RAISED as error:
            values, reasons = self._rescue(index, error)
        said = statuses(self.outputs, values)
        reasons = said if reasons is None else [r if r != OK else s for r, s in zip(reasons, said, strict=True)]
        failed = np.array([r != OK for r in reasons])
        for output, value in zip(self.outputs, values, strict=True):
            if output.result is None:
                value[failed] = output.missing
        return values, reasons

    def _run(self, index: np.ndarray) -> Any:
        padded = np.concatenate([index, np.full(self.chunk - len(index), index[-1])])
        arguments = self._points.at(padded), padded.astype(np.uint32)
        return self._compiled(*jax.device_put(arguments, self._sharding))

    def _fetched(self, index: np.ndarray, launched: Any) -> list[np.ndarray]:
        values = zip(self.outputs, jax.device_get(launched), strict=True)
        return [np.array(x, o.dtype)[: len(index)] for o, x in values]

    def _rescue(self, index: np.ndarray, error: Exception) -> tuple[list[np.ndarray], list[str]]:
        """The values of a chunk in which a point raised: halves of it, then its points one by one."""
        if "RESOURCE_EXHAUSTED" in str(error):
            raise MemoryError(
                f"The device has less memory than the {written(self.bytes)} that a chunk of {self.chunk} points needs. "
                "Give a smaller `memory=` or `chunk=`."
            ) from error
        values = [np.full((len(index), *o.shape), o.missing, o.dtype) for o in self.outputs]
        reasons = [OK] * len(index)
        waiting, runs = np.array_split(np.arange(len(index)), min(2, len(index))), 0
        while waiting:
            part = waiting.pop()
            halved = runs < _HALVINGS and len(part) > 1
            try:
                runs += 1
                found = self._fetched(index[part], self._run(index[part])) if halved else self._alone(index[part])
            except _RAISED as raised:
                if len(part) == 1:
                    reasons[part[0]] = message(raised)
                else:
                    waiting += np.array_split(part, 2 if halved else len(part))
                continue
            for value, new in zip(values, found, strict=True):
                value[part] = new
        return values, reasons

    def _alone(self, index: np.ndarray) -> list[np.ndarray]:
        """Values of one point, by a program of one point; more points raise, to be taken apart."""
        if len(index) > 1:
            raise RuntimeError
        if self._single is None:
            self._single = jax.jit(jax.vmap(self._one))
        arguments = self._points.at(index), index.astype(np.uint32)
        return self._fetched(index, self._single(*jax.device_put(arguments, self._mesh.devices.flat[0])))


@contextlib.contextmanager
def quiet_callbacks() -> Iterator[None]:
    """JAX logs the trace of every failing check; here they are results."""
    logger = logging.getLogger("jax._src.callback")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
