"""What a swept function returns, leaf by leaf, and in words where it failed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from rxjax_solvers import RESULTS

from .._messages import unwrapped

OK = "ok"
STATUS = "status"
_ITEM = type(RESULTS.successful)
_FINE = ("successful", "event_occurred")


def is_result(x: Any) -> bool:
    """Whether it is a member of a `RESULTS` enumeration: of the solvers, of diffrax, optimistix or lineax."""
    return isinstance(x, _ITEM)


@dataclass(frozen=True)
class Output:
    """One leaf: its name, what each point gives, and the dimensions of that; `result` for a member of `RESULTS`.

    `dtype` is that in which values are kept.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    dims: tuple[str, ...]
    result: Any = None

    @property
    def missing(self) -> Any:
        """What stands where a point failed: NaN, and zero where there is none."""
        return np.nan if np.issubdtype(self.dtype, np.inexact) else self.dtype.type(0)

    @property
    def bytes(self) -> int:
        """Of one point, where it is kept."""
        return 0 if self.result is not None else math.prod(self.shape) * self.dtype.itemsize


def describe(tree: PyTree, dims: Mapping[str, Sequence[str]], taken: Sequence[str]) -> list[Output]:
    """Names, shapes and dimensions of the leaves of the abstract value of one point."""
    outputs = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_result)[0]:
        name = ".".join(_step(key) for key in path) or "value"
        array = jax.tree.leaves(leaf)[0] if is_result(leaf) else leaf
        own = tuple(dims.get(name, [f"{name}_{i}" for i in range(array.ndim)]))
        if len(own) != array.ndim or len(set(own)) != len(own):
            raise ValueError(
                f"Argument `dims` must name each axis of `{name}`, of shape {array.shape} at one point, by a name of "
                f"its own, but it holds {own}."
            )
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended):
            raise ValueError(f"Argument `fn` must return numbers, but `{name}` is {array.dtype}.")
        if not is_result(leaf) and (name in taken or name == STATUS or set(own) & set(taken)):
            raise ValueError(
                f"Argument `fn` must return names and dimensions other than those of the axes and `{STATUS}`, but it "
                f"returns `{name}` with {own}."
            )
        if name in {o.name for o in outputs}:
            raise ValueError(f"Argument `fn` must return each name once, but two of its leaves are called `{name}`.")
        outputs.append(Output(name, array.shape, _kept(array.dtype), own, leaf if is_result(leaf) else None))
    unknown = set(dims) - {o.name for o in outputs}
    if unknown:
        names = ", ".join(o.name for o in outputs)
        raise ValueError(f"Argument `dims` must name what `fn` returns, {names}, but it names {sorted(unknown)}.")
    if all(o.result is not None for o in outputs):
        raise ValueError("Argument `fn` must return at least one array, but it returns none.")
    return outputs


def _kept(dtype: Any) -> np.dtype:
    """NumPy's own dtype that holds all values of one: of bfloat16, 8-bit floats and half bytes files know nothing."""
    if np.dtype(dtype).isbuiltin == 1:
        return np.dtype(dtype)
    return np.dtype(np.float32 if jax.dtypes.issubdtype(dtype, np.floating) else np.int8)


def _step(key: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def statuses(outputs: Sequence[Output], values: Sequence[np.ndarray]) -> list[str]:
    """For each point `"ok"` or why it failed: what a result says, or which values are NaN."""
    reasons = [OK] * len(values[0])
    for output, value in zip(outputs, values, strict=True):
        if output.result is not None:
            kind = output.result._enumeration
            fine = [jax.tree.leaves(getattr(kind, name))[0] for name in _FINE if hasattr(kind, name)]
            for i in np.flatnonzero(~np.isin(value, fine)):
                item = jax.tree.unflatten(jax.tree.structure(output.result), [np.asarray(value[i])])
                reasons[i] = sentence(kind[item])
    for output, value in zip(outputs, values, strict=True):
        if output.result is None and np.issubdtype(value.dtype, np.inexact):
            bad = np.isnan(value).reshape(len(value), -1).any(axis=1)
            for i in np.flatnonzero(bad):
                if reasons[i] == OK:
                    reasons[i] = f"`{output.name}` is NaN"
    return reasons


def sentence(text: str) -> str:
    """The first paragraph of a message in one line."""
    return " ".join(text.strip().split("\n\n")[0].split()) or "failed without a message"


def message(error: BaseException) -> str:
    """What a run-time error inside compiled code says, in one line."""
    return sentence(unwrapped(error))
