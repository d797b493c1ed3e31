"""Operations of a traced function with its loops counted as often as they run."""

import math
from typing import Any, NamedTuple

import numpy as np


class Count(NamedTuple):
    """Operations and bytes with the trips of loops, the same with each loop once, and loops of unknown length."""

    work: float
    once: float
    open_loops: int

    def __add__(self, other: Any) -> "Count":
        return Count(self.work + other.work, self.once + other.once, self.open_loops + other.open_loops)


_NOTHING = Count(0.0, 0.0, 0)


def count(jaxpr: Any) -> Count:
    """The operations of a jaxpr, roughly one for each number that each of its equations reads or writes.

    Only ratios of counts are used: how many times more a program does because of its loops than XLA, which counts the
    body of every loop once, says.
    """
    return sum((_equation(eqn) for eqn in jaxpr.eqns), _NOTHING)


def _equation(eqn: Any) -> Count:
    inner = [j for value in eqn.params.values() for j in _jaxprs(value)]
    if eqn.primitive.name == "scan":
        body = sum(map(count, inner), _NOTHING)
        return Count(eqn.params["length"] * body.work, body.once, body.open_loops)
    if eqn.primitive.name == "while":
        body = sum(map(count, inner), _NOTHING)
        return body._replace(open_loops=body.open_loops + 1)
    if eqn.primitive.name == "cond":
        return max(map(count, inner), key=lambda c: c.work)
    if inner:
        return sum(map(count, inner), _NOTHING)
    size = sum(math.prod(getattr(v.aval, "shape", ())) for v in (*eqn.invars, *eqn.outvars))
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        size += 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
    return Count(float(size), float(size), 0)


def _jaxprs(value: Any) -> list[Any]:
    """The jaxprs in a parameter of an equation."""
    if isinstance(value, (tuple, list)):
        return [j for v in value for j in _jaxprs(v)]
    inner = getattr(value, "jaxpr", value)
    return [inner] if hasattr(inner, "eqns") and not isinstance(value, np.ndarray) else []
