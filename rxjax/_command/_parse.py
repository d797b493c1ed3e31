"""Options that are more than one number."""

import math
import re

from ._errors import Refusal

# Densities kept in memory: cells times frames.
_MOST_VALUES = 2**28


def numbers(text: str | None, option: str, dim: int | None = None) -> tuple[float, ...] | None:
    """`"1,2.5"` as numbers; one of them serves all `dim` axes."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise Refusal(
            f"Argument `{option}` must be a number or numbers separated by commas, one for each axis, but it is "
            f"{text!r}."
        ) from None
    for value in values:
        if not math.isfinite(value):
            raise Refusal(f"Argument `{option}` must be finite, but it is {text!r}.")
    if dim is not None and len(values) not in (1, dim):
        raise Refusal(f"Argument `{option}` must hold one number or {dim}, one for each axis, but it is {text!r}.")
    return values


def shape(text: str, dim: int, frames: int) -> tuple[int, ...]:
    """`"128x96"` as cells along each axis; `"128"` serves all axes."""
    if not re.fullmatch(r"\d+([x×,]\d+)*", text.strip()):
        raise Refusal(f"Argument `--shape` must be numbers of cells like 128 or 128x96, but it is {text!r}.")
    cells = tuple(int(part) for part in re.split(r"[x×,]", text.strip()))
    cells = cells * dim if len(cells) == 1 else cells
    if len(cells) != dim:
        raise Refusal(
            f"Argument `--shape` must hold one number of cells or {dim}, one for each axis of the landscape, but it is "
            f"{text!r}."
        )
    if min(cells) < 2:
        raise Refusal(f"Argument `--shape` must have at least 2 cells along every axis, but it is {text!r}.")
    if math.prod(cells) * frames > _MOST_VALUES:
        raise Refusal(
            f"Argument `--shape` must keep cells times frames within {_MOST_VALUES:,} to fit into memory, but {text!r} "
            f"and {frames} frames make {math.prod(cells) * frames:,}."
        )
    return cells


def bounds(text: str | None) -> tuple[tuple[float, float], ...] | None:
    """`"-2:2,-3:3"` as the ends of each axis."""
    if text is None:
        return None
    try:
        pairs = tuple(tuple(float(end) for end in axis.split(":")) for axis in text.split(","))
    except ValueError:
        pairs = ()
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise Refusal(f"Argument `--bounds` must be low:high for each axis, like -2:2,-3:3, but it is {text!r}.")
    for low, high in pairs:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise Refusal(f"Argument `--bounds` must be finite, low below high on every axis, but it is {text!r}.")
    return pairs  # pyright: ignore[reportReturnType]


def positive(value: float | None, option: str) -> float | None:
    """`value` if it is positive and finite, or not given."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise Refusal(f"Argument `{option}` must be positive and finite, but it is {value:g}.")
    return value
