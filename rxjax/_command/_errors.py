"""One line for whatever the user got wrong."""

import re

from .._messages import unwrapped


class Refusal(Exception):
    """Bad input, said in one line; the command prints it and exits with 2."""


# Names of the library's arguments, as typed on the command line.
_OPTIONS = {
    "learning_rate": "--learning-rate",
    "batch_size": "--batch-size",
    "dataset_size": "--dataset-size",
    "momentum": "--momentum",
    "covariance": "--covariance",
    "boundary": "--boundary",
    "bounds": "--bounds",
    "dim": "--dim",
    "landscape": "NAME",
    "mean": "--start",
    "std": "--std",
    "shape": "--shape",
}


def one_line(error: BaseException) -> str:
    """The message of `error` without banners, stack traces and line breaks, its arguments named as options."""
    text = unwrapped(error)
    text = re.sub(r"Argument `(\w+)`", lambda m: f"Argument `{_OPTIONS.get(m.group(1), m.group(1))}`", text)
    text = " ".join(text.split())
    return text or type(error).__name__
