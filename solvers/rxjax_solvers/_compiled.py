"""The numbers of a verb as one program."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx

_F = TypeVar("_F", bound=Callable)


def compiled(fn: _F) -> _F:
    """`fn` compiled as a whole, once for the shapes and what is no array in its arguments; inside `jit` as it stands.

    Operation by operation a first answer on a grid would take half a minute.  Functions of a user's go to
    `program`: what those close over may change, and would be kept.  Checks that raise with a value stay outside.
    """
    jit: Any = eqx.filter_jit
    return jit(fn, inline=True)
