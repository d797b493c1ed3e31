"""What XLA made of a program."""

from collections.abc import Callable
from typing import Any

import jax


def longest_kernel(fn: Callable, *args: Any) -> int:
    """Lines of the longest computation in the compiled text of `fn`, but for that which calls the others."""
    text = str(jax.jit(fn).lower(*args).compile().as_text())
    return max(len(each.splitlines()) for each in text.split("\n\n") if each.startswith("%"))
