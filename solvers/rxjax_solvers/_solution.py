"""What `solve` returns."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from ._results import RESULTS


class Solution(eqx.Module):
    """Densities at the times that were asked for.

    - `ts`: shape `(times,)`.
    - `ps`: shape `(times, *grid.shape)`, cell averages; `ps[0]` is the initial density.
    - `result`: a member of `RESULTS`, `successful` or why not.
    - `stats`: `num_steps`, `num_accepted_steps`, `num_rejected_steps`; `mass` at each time; `min`, the lowest value of
        `ps`; and what the method reports of itself (`limited_steps`, `moved_mass` for `Strang`, `num_factors`, `error`
        for `ShiftInvert`, `error`, `moved_mass` for `Rational`); `far`, where `solve` chose at run time.
    - `method`: the name of the method, which `solve` may have chosen; "Strang or ShiftInvert" if at run time.
    """

    ts: Float[Array, "times"] | None
    ps: PyTree
    result: RESULTS
    stats: dict[str, Any]
    method: str = eqx.field(static=True)
