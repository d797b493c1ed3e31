"""How much memory there is, and sizes as people write them."""

import os
import re
from pathlib import Path
from typing import Any

import jax
from jaxtyping import ArrayLike

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
# Of what is free, the share that a program may plan with: other programs, and the allocator's own waste, take the rest.
_USABLE = 0.8


def available_memory(device: jax.Device | None = None) -> int:
    """Bytes that a program on `device` may plan with: 0.8 of what is free now.

    An accelerator's allocator says what it holds; on a CPU it is the memory that the operating system calls available,
    or what is left of the control group's limit where that is less.  All CPU devices of a process share it.

    **Arguments:**

    - `device`: one of `jax.devices()`; the default device if not given.
    """
    chosen: Any = jax.devices()[0] if device is None else device
    if chosen.platform != "cpu":
        stats = chosen.memory_stats()
        if stats and "bytes_limit" in stats:
            return int(_USABLE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    return int(_USABLE * min(_system_memory(), _group_memory()))


def _system_memory() -> float:
    table = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s*(\d+) kB", table.read_text()) if table.exists() else None
    if found:
        return 1024.0 * int(found.group(1))
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        # What is free is not known here; half of all there is, is a careful guess.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    raise RuntimeError("The free memory of this system is not known.  Give the limit: `memory=` in bytes.")


def _group_memory() -> float:
    """What is left of the limit of the control group (a container), if there is one."""
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if not (limit.exists() and used.exists()) or limit.read_text().strip() == "max":
        return float("inf")
    return max(0.0, float(limit.read_text()) - float(used.read_text()))


def as_bytes(size: ArrayLike | str, name: str = "memory") -> int:
    """A number of bytes, or a text like "256 MiB" or "1.5GB", as a number of bytes."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+]?[0-9]+)?)\s*([a-zA-Z]*)\s*", str(size))
    unit = None if found is None else _UNITS.get(found.group(2).upper())
    try:
        value = int(float(found.group(1)) * unit) if found and unit else 0
    except ValueError:
        value = 0
    if value <= 0:
        raise ValueError(
            f'Argument `{name}` must be a positive number of bytes, or a text like "256 MiB" or "1.5 GB", but it is '
            f"{size!r}."
        )
    return value


def written(size: float | int) -> str:
    """A number of bytes as a person reads it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
