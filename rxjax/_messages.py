"""What a run-time error says, without the advice that it is wrapped in."""

import re


def unwrapped(error: BaseException) -> str:
    """The text of an error; of one raised inside compiled code, the message alone."""
    text = str(error)
    # Equinox wraps its run-time errors in advice on debugging; the message stands after the last of these names.
    wrapped = re.search(r"EquinoxRuntimeError: (.*?)(?:\n\s*\n|\n-{4,}|\Z)", text, re.DOTALL)
    return wrapped.group(1) if wrapped else text
