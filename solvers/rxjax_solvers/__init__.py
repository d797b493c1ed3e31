"""The numerics of probability flow: grids, generators of Markov processes, and what one asks of them."""

from ._checks import checks_off as checks_off
from ._coefficients import NegativeGradient as NegativeGradient, TimeDependent as TimeDependent
from ._controller import DensityController as DensityController
from ._convention import AntiIto as AntiIto, Ito as Ito, Stratonovich as Stratonovich
from ._fokker_planck import FokkerPlanck as FokkerPlanck
from ._generator import AbstractGenerator as AbstractGenerator, GeneratorTerm as GeneratorTerm
from ._grid import Grid as Grid
from ._master_equation import MasterEquation as MasterEquation, SeparableRate as SeparableRate
from ._solution import Solution as Solution
from ._solve import solve as solve
from ._steppers import Strang as Strang
from ._uniformization import Uniformization as Uniformization, uniformization as uniformization
