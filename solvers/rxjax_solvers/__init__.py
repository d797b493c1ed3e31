"""The numerics of probability flow: grids, generators of Markov processes, and what one asks of them."""

from ._checks import checks_off as checks_off
from ._coefficients import NegativeGradient as NegativeGradient
from ._coefficients import TimeDependent as TimeDependent
from ._controller import DensityController as DensityController
from ._convention import AntiIto as AntiIto
from ._convention import Ito as Ito
from ._convention import Stratonovich as Stratonovich
from ._fokker_planck import FokkerPlanck as FokkerPlanck
from ._generator import AbstractGenerator as AbstractGenerator
from ._generator import GeneratorTerm as GeneratorTerm
from ._grid import Grid as Grid
from ._solution import Solution as Solution
from ._solve import solve as solve
from ._steppers import Strang as Strang
