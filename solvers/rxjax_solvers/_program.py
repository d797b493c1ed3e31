"""Programs of users' functions: compiled, kept, and made anew when what a function reads is another object."""

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np

_F = TypeVar("_F", bound=Callable)
_NUMBERS = (bool, int, float, complex, str, np.generic)
# What these hold is theirs, and does not change under a user's hands.
_LIBRARIES = ("jax", "jaxlib", "equinox", "diffrax", "numpy", "optax", "builtins", "rxjax", "rxjax_solvers")
# How deep attributes and containers are looked into, and how long those may be.
_DEPTH, _LENGTH = 3, 256


def program(fn: _F) -> _F:
    """`eqx.filter_jit(fn)` for a `fn` that takes functions of a user's.

    `jax.jit` traces a function once for the shapes of its arguments: numbers and arrays that it closes over are then
    constants.  Who jits a function knows that; who hands one to a verb does not, and would get the last answer again.
    So a call traces anew where a name that a function looks up, or an attribute or entry of what it finds there, is
    another object.  What is changed in place without a new object, as an array of NumPy's can be, is not seen.
    """

    @eqx.filter_jit
    def traced(reads: Reads, args: tuple, kwargs: dict) -> Any:
        del reads
        return fn(*args, **kwargs)

    @functools.wraps(fn)
    def call(*args, **kwargs):
        return traced(Reads((args, kwargs)), *jax.tree.map(hashable, (args, kwargs)))

    outer: Any = call
    return outer


def hashable(x: Any) -> Any:
    """`x`, or the method to call it by where it is a callable that JAX could not remember: a dataclass, say."""
    return x.__call__ if callable(x) and type(x).__hash__ is None else x


class Reads:
    """All that the functions in a tree find by name; equal to another if those are the same objects."""

    def __init__(self, tree: Any):
        seen: set[int] = set()
        # Kept alive, so that none of them leaves its identity to another.
        self._found = [x for fn in _functions(tree) for x in _found_by(fn, seen, 0)]
        self._key = tuple((type(x), x) if isinstance(x, _NUMBERS) else id(x) for x in self._found)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reads) and self._key == other._key


def _functions(tree: Any) -> Iterator[Any]:
    """The callables among the arguments.  Arrays are no reads: of another value they are another argument."""
    if isinstance(tree, eqx.Module):
        yield from _methods(type(tree))
        yield from _functions([getattr(tree, name, None) for name in tree.__dataclass_fields__])
    elif isinstance(tree, functools.partial):
        # JAX's own partial wraps one of Python's once more.
        yield from _functions([getattr(tree.func, "fun", tree.func), *tree.args, *tree.keywords.values()])
    elif isinstance(tree, (tuple, list, dict)):
        for x in tree.values() if isinstance(tree, dict) else tree:
            yield from _functions(x)
    elif callable(tree):
        yield tree


def _found_by(x: Any, seen: set[int], depth: int) -> Iterator[Any]:
    """What `x` holds or, a function, looks up; and what that holds in turn."""
    if id(x) in seen or depth > _DEPTH or isinstance(x, (*_NUMBERS, type, types.ModuleType)):
        return
    seen.add(id(x))
    held: list[Any] = []
    if isinstance(x, types.FunctionType):
        # Also those of a library: one may wrap a user's function.
        held = [cell.cell_contents for cell in x.__closure__ or () if cell != types.CellType()]
        if not _of_a_library(x):
            held += [x.__globals__[name] for name in _names(x.__code__) if name in x.__globals__]
            held += [*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
    elif isinstance(x, types.MethodType):
        held = [x.__func__, x.__self__]
    elif isinstance(x, functools.partial):
        held = [x.func, *x.args, *x.keywords.values()]
    elif isinstance(x, (tuple, list, dict)):
        if len(x) <= _LENGTH:
            held = list(x.values() if isinstance(x, dict) else x)
    elif isinstance(x, eqx.Module) or not _of_a_library(type(x)):
        held = [*_methods(type(x)), *getattr(x, "__dict__", {}).values()]
    # A helper function is looked into like the function that calls it, however many lie between.
    depth += not isinstance(x, (types.FunctionType, types.MethodType))
    for one in held:
        yield one
        yield from _found_by(one, seen, depth)


def _methods(kind: type) -> list[Any]:
    """The functions that a user's class defines."""
    return [] if _of_a_library(kind) else [f for f in vars(kind).values() if isinstance(f, types.FunctionType)]


def _of_a_library(x: Any) -> bool:
    return (x.__module__ or "").partition(".")[0] in _LIBRARIES


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names that a function and those defined inside it may look up."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return tuple(dict.fromkeys([*code.co_names, *(name for c in inner for name in _names(c))]))
