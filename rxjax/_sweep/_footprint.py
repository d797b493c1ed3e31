"""What a sweep adds to its process beside the chunks: programs that were compiled, and results that stay."""

import ctypes
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

# What one more compilation leaves, as a rule, once its working memory is given back; and the step to which what the
# next program will find is rounded up, so that small differences between runs do not change the chunk.
_LEFT, _STEP = 2**24, 2**25
# Copies of a chunk's outputs: as fetched; and as a store compresses and writes them.
FETCHED, STORED = 1, 3
# An option of the C library, and the blocks that count as large.
_MMAP_THRESHOLD, _LARGE = -3, 2**20
# Assumed to be taken where the operating system does not say what a process holds.
_UNKNOWN = 2**26


def resident() -> int | None:
    """Bytes of this process in memory; `None` where the operating system does not say."""
    counts = Path("/proc/self/statm")
    return int(counts.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if counts.exists() else None


def highest() -> int | None:
    """The most bytes that this process ever had in memory."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found.group(1)) if found else None


def give_back() -> None:
    """Return freed memory to the operating system, where the C library keeps it: compiling leaves 100 MiB and more."""
    trim = _library("malloc_trim")
    if trim is not None:
        trim(0)


def separate_blocks() -> None:
    """Have the C library map large blocks by themselves, from now on.

    It stops doing so for blocks as large as one that was freed before; they then lie in heaps with holes between them,
    and chunk after chunk the process grows.  Mapping costs time, so that it is for sweeps whose memory is short.
    """
    option = _library("mallopt")
    if option is not None:
        option(_MMAP_THRESHOLD, _LARGE)


def _library(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


class Footprint:
    """Bytes that are taken of the memory of a sweep, counted from here."""

    def __init__(self) -> None:
        self._before, self._highest = resident(), highest()
        self.results, self.copies = 0, STORED

    def grown(self) -> int:
        """By all that is there now."""
        now = resident()
        return _UNKNOWN if now is None or self._before is None else max(0, now - self._before)

    def taken(self) -> int:
        """By what was compiled, between a compilation and the first chunk, and by results that stay."""
        return self.grown() + self.results

    def expected(self) -> int:
        """The same once another program is compiled."""
        return _STEP * math.ceil((self.taken() + _LEFT) / _STEP)

    def peak(self) -> int:
        """The most that was added at any moment; 0 where the process had been larger before."""
        most = highest()
        if self._before is None or most is None or most == self._highest:
            return 0
        return max(0, most - self._before)
