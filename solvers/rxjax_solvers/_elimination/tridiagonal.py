"""Elimination along one axis."""

from typing import ClassVar

from jaxtyping import Array, Bool, Float

from .._fokker_planck import FokkerPlanck
from .._results import RESULTS
from .._sweeps import Chain, Ring, factor
from ._base import AbstractElimination
from ._neighbours import kept_rates


class TridiagonalElimination(AbstractElimination):
    """A chain or a ring of cells: as many operations as cells, and as many numbers."""

    factored: Chain | Ring

    tol: ClassVar[float] = 0.0
    fault: ClassVar[RESULTS] = RESULTS.unreachable

    def __init__(self, generator: FokkerPlanck, loss: Float[Array, "n"], keep: Bool[Array, "n"]):
        ((up, down),), loss = kept_rates(generator, loss, keep)
        self.factored = factor(up, down, loss, generator.rates[0].periodic)

    def solve(self, b: Float[Array, "n"], error: Float[Array, ""] | None = None) -> Float[Array, "n"]:
        del error
        return self.factored.solve(b)

    def transpose_solve(self, b: Float[Array, "n"], error: Float[Array, ""] | None = None) -> Float[Array, "n"]:
        del error
        return self.factored.transpose_solve(b)
