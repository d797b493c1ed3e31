"""What a task is."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import PyTree


class Task(NamedTuple):
    """Something to train."""

    name: str
    steps: int  # as many as it takes to be about done
    batch_size: int
    init: Callable  # key -> params
    loss: Callable  # (params, batch) -> mean loss
    accuracy: Callable  # (params, batch) -> share of right answers
    draw: Callable  # (train, key, batch size) -> a batch drawn with replacement
    train: PyTree  # arrays
    valid: PyTree  # one batch
