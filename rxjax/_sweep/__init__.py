"""Functions evaluated over grids of settings: in chunks of bounded memory, resumable, on many devices and hosts."""

from ._sweep import sweep as sweep
