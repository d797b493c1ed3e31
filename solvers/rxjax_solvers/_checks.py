"""Argument checks that speak the same sentence outside and inside `jit`.

The house form is "Argument `x` must ..., but ...".  Outside `jit` the sentence ends with the offending value and a
remedy; inside, where no value is known while compiling, `equinox.error_if` raises at run time and the sentence names
what is wrong with the value (negative, not finite, ...).
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

_RUN_TIME_CHECKS = ContextVar("run_time_checks", default=True)


@contextlib.contextmanager
def checks_off() -> Iterator[None]:
    """Compile without the checks that run inside `jit`: they call back to the host.

    Needed to lower for an accelerator on a machine without one, and to export a compiled function.  Values that are
    known outside `jit` are checked all the same; a verb that does not succeed inside `jit` is not refused either: ask
    for its result with `throw=False`.  diffrax keeps checks of its own, so a solve by stepping cannot be exported.
    """
    token = _RUN_TIME_CHECKS.set(False)
    try:
        yield
    finally:
        _RUN_TIME_CHECKS.reset(token)


def checks_on() -> bool:
    """Whether checks that run inside `jit` are compiled."""
    return _RUN_TIME_CHECKS.get()


def is_traced(*xs: ArrayLike) -> bool:
    """Whether any argument is an abstract value of a transformation in progress (`jit`, `vmap`, `grad`)."""
    return any(isinstance(x, jax.core.Tracer) for x in xs)


def require(
    x: ArrayLike, name: str, must: str, faults: Sequence[tuple[ArrayLike, str]], remedy: str = "", shown: object = None
) -> Array:
    """Return `x` as an array if none of `faults` holds, else raise.

    **Arguments:**

    - `x`: the value to check and hand back.  Use the returned value: an unused check is compiled away.
    - `name`: the argument's name as the user typed it.
    - `must`: what it must be, to follow "Argument `name` must".
    - `faults`: pairs `(bad, what)` of a Boolean array, true where `x` is at fault, and words that follow "but it".
    - `remedy`: what to type instead, one sentence.
    - `shown`: what to print for the value, `x` itself if not given.

    **Raises:** `ValueError` at once if the values are known; a run-time error through `equinox.error_if` otherwise.
    """
    x = jnp.asarray(x)
    tail = f" {remedy}" if remedy else ""
    head = f"Argument `{name}` must {must}, but it"
    known = [(bad, what) for bad, what in faults if not is_traced(bad)]
    for bad, what in known:
        if np.any(np.asarray(bad)):
            shown = printed(x) if shown is None else shown
            raise ValueError(f"{head} {what}{'' if shown is None else f': got {shown}'}.{tail}")
    traced = [(bad, what) for bad, what in faults if is_traced(bad)]
    if not traced or not checks_on():
        return x
    bads = jnp.stack([jnp.any(bad) for bad, _ in traced])
    return eqx.branched_error_if(x, jnp.any(bads), jnp.argmax(bads), [f"{head} {what}.{tail}" for _, what in traced])


def printed(x: ArrayLike) -> str | None:
    """A value as an error shows it, nothing for one that is traced."""
    if is_traced(x):
        return None
    value = np.asarray(x)
    return f"{value.item():.6g}" if value.ndim == 0 else np.array2string(value, threshold=8, precision=6)


def seen(x: ArrayLike) -> Any:
    """`x` to be compared: known values by NumPy, which compiles nothing for a new shape."""
    return x if is_traced(x) else np.asarray(x)


def finite(x: ArrayLike, name: str, remedy: str = "") -> Array:
    """`x` if every entry is finite."""
    x = jnp.asarray(x)
    return require(x, name, "be finite", [not_finite(seen(x))], remedy)


def not_finite(x: Any) -> tuple[Any, str]:
    """The fault of a value that has been `seen`."""
    return ~(jnp if is_traced(x) else np).isfinite(x), "is not finite"


def positive(x: ArrayLike, name: str, remedy: str = "") -> Array:
    """`x` if every entry is finite and above zero."""
    x = jnp.asarray(x)
    value = seen(x)
    faults = [not_finite(value), (value < 0, "is negative"), (value == 0, "is zero")]
    return require(x, name, "be positive and finite", faults, remedy)


def non_negative(x: ArrayLike, name: str, remedy: str = "") -> Array:
    """`x` if every entry is finite and not below zero."""
    x = jnp.asarray(x)
    value = seen(x)
    faults = [not_finite(value), (value < 0, "is negative")]
    return require(x, name, "be non-negative and finite", faults, remedy)


def check_times(ts: Array, start: str = "p0") -> Array:
    """`ts` if it is a vector of finite, strictly ascending times, the first that of the argument `start`."""
    if ts.ndim != 1 or ts.shape[0] < 1:
        raise ValueError(f"Argument `ts` must be a vector of at least one time, but it has shape {ts.shape}.")
    times = seen(ts)
    faults = [not_finite(times), (times[1:] <= times[:-1], "is not")]
    return require(ts, "ts", "be finite and strictly ascending", faults, f"The first time is that of `{start}`.")


def one_of(x: object, name: str, allowed: Sequence[str], remedy: str = "") -> None:
    """Refuse a name that is not on the list, and print the list."""
    if x not in allowed:
        names = ", ".join(f'"{a}"' for a in allowed)
        raise ValueError(f"Argument `{name}` must be one of {names}, but it is {x!r}.{' ' + remedy if remedy else ''}")
