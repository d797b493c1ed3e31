"""Argument checks that are made once, while compiling, where the value is known by then.

Inside `jit` even a constant is traced, and its check would be compiled and run.  Most arguments are constants.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.core

import rxjax_solvers._checks as checks

_F = TypeVar("_F", bound=Callable)


def at_once_if_known(check: _F) -> _F:
    """`check`, evaluated at once wherever none of its arguments is traced."""

    @functools.wraps(check)
    def wrapped(*args, **kwargs):
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((args, kwargs))):
            return check(*args, **kwargs)
        with jax.ensure_compile_time_eval():
            return check(*args, **kwargs)

    return wrapped  # pyright: ignore[reportReturnType]


finite = at_once_if_known(checks.finite)
positive = at_once_if_known(checks.positive)
non_negative = at_once_if_known(checks.non_negative)
