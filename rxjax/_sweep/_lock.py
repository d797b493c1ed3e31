"""A lock that the operating system gives up when its owner dies."""

import os
import socket
import sys
from pathlib import Path


class Locked(Exception):
    """Somebody else holds the lock; the text says who."""


class Lock:
    """An exclusive lock on a file, held while the block runs; the file goes when the block ends in order.

    The kernel ties the lock to the open file and not to its existence, so it ends with the process, by SIGKILL too.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "Lock":
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            if not _take(descriptor):
                owner = os.read(descriptor, 200).decode(errors="replace").strip()
                os.close(descriptor)
                raise Locked(owner or "another process")
            # An owner that was ending may have removed the file between the two calls: then the lock is on nothing.
            if self.path.exists() and os.path.samestat(os.stat(self.path), os.fstat(descriptor)):
                break
            os.close(descriptor)
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        return self

    def __exit__(self, *_) -> None:
        if sys.platform != "win32":
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _take(descriptor: int) -> bool:
    """Take the lock without waiting; whether that was possible."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # A byte far behind the text, which stays readable for others.
            os.lseek(descriptor, 2**20, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        return False
    return True
