"""Ctrl-C that is not lost.

Python drops a `KeyboardInterrupt` that is raised while it runs a destructor, a weak reference's callback or one of the
garbage collector, of which JAX has several.  So it is noted here, and looked for again between the parts of a run.
"""

import signal
from types import FrameType

_heard = False


def _hear(number: int, frame: FrameType | None) -> None:
    del number, frame
    global _heard
    _heard = True
    raise KeyboardInterrupt


def listen() -> None:
    """Note every Ctrl-C of this process from now on, unless it is ignored or somebody else's."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _hear)


def check() -> None:
    """Raise `KeyboardInterrupt` if there was a Ctrl-C since the last time."""
    global _heard
    if _heard:
        _heard = False
        raise KeyboardInterrupt
