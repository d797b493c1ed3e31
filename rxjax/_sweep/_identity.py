"""What makes two sweeps the same, and the words for where they differ."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ._axes import Points
from ._outputs import Output


def identity(name: str, traced: Any, points: Points, outputs: Sequence[Output], seed: int | None) -> dict[str, Any]:
    """All that a stored sweep must share with the one that resumes it, as JSON can hold it.

    The function counts by the operations that it traces to and the constants in them, not by its name or its text.
    """
    return {
        "function": name,
        "program": _program(traced),
        "zipped": points.zipped,
        "axes": {k: {"dtype": str(v.dtype), "values": _listed(v)} for k, v in points.values.items()},
        "outputs": {o.name: _told(o) for o in outputs},
        "seed": seed,
        "precision": 64 if jax.config.jax_enable_x64 else 32,  # pyright: ignore[reportAttributeAccessIssue]
    }


def _told(o: Output) -> dict[str, Any]:
    return {"shape": list(o.shape), "dtype": str(o.dtype), "dims": list(o.dims), "result": o.result is not None}


def _listed(values: np.ndarray) -> list[Any]:
    return [str(v) for v in values] if np.iscomplexobj(values) else values.tolist()


def _program(traced: Any) -> str:
    digest = hashlib.sha256()
    # Functions inside are printed with their addresses, which change from run to run.
    digest.update(re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr)).encode())
    for constant in traced.consts:
        array = np.asarray(constant)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def difference(stored: dict[str, Any], ours: dict[str, Any]) -> str | None:
    """The first difference in words, or `None`."""
    for key, what in (("zipped", "zipped"), ("seed", "seed"), ("precision", "bits of a number")):
        if stored[key] != ours[key]:
            return f"its {what} is {stored[key]} and not {ours[key]}"
    if list(stored["axes"]) != list(ours["axes"]):
        return f"its axes are {', '.join(stored['axes'])} and not {', '.join(ours['axes'])}"
    for name, axis in ours["axes"].items():
        there, here = stored["axes"][name]["values"], axis["values"]
        if len(there) != len(here):
            return f"its axis `{name}` has {len(there)} values and not {len(here)}"
        for i, (a, b) in enumerate(zip(there, here, strict=True)):
            if a != b:
                return f"value {i} of its axis `{name}` is {a} and not {b}"
        if stored["axes"][name]["dtype"] != axis["dtype"]:
            return f"its axis `{name}` holds {stored['axes'][name]['dtype']} and not {axis['dtype']}"
    if list(stored["outputs"]) != list(ours["outputs"]):
        return f"its function returns {', '.join(stored['outputs'])} and not {', '.join(ours['outputs'])}"
    for name, output in ours["outputs"].items():
        for key, here in output.items():
            there = stored["outputs"][name][key]
            if there != here:
                return f"the {key} of its `{name}` is {there} and not {here}"
    if stored["program"] != ours["program"]:
        return (
            f"its function {stored['function']} computes something else than {ours['function']} does now: other "
            "operations or other constants"
        )
    return None
