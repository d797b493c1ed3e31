"""Bad numbers, refused outside and inside `jit`: many cases in one compiled program."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import pytest

Case = tuple[Callable, float, str, float]


def assert_refused(cases: Sequence[Case]) -> None:
    """Each case `(f, bad, words, good)`: `f(bad)` raises with `words`, eagerly and under `jit`, where `f(good)` passes.

    Both ways share the check, and eagerly what comes after it takes many small programs.
    """
    for f, bad, words, _ in cases:
        with pytest.raises(ValueError, match=words):
            f(bad)

    branches = [lambda x, f=f: jnp.sum(f(x)).astype(jnp.float64) for f, *_ in cases]
    compiled = jax.jit(lambda i, x: jax.lax.switch(i, branches, x))
    for i, (_, bad, words, good) in enumerate(cases):
        jax.block_until_ready(compiled(i, good))
        with pytest.raises(Exception, match=words):
            jax.block_until_ready(compiled(i, bad))
