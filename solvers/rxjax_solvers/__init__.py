"""The numerics of probability flow: grids, generators of Markov processes, and what one asks of them."""

from ._checks import checks_off as checks_off
from ._coefficients import NegativeGradient as NegativeGradient, TimeDependent as TimeDependent
from ._committor import committor as committor, reactive_flux as reactive_flux, transition_rate as transition_rate
from ._controller import DensityController as DensityController
from ._convention import AntiIto as AntiIto, Ito as Ito, Stratonovich as Stratonovich
from ._currents import entropy_production as entropy_production, probability_current as probability_current
from ._deflated import Deflated as Deflated, deflate as deflate
from ._factor import Factor as Factor, factorize as factorize
from ._factorization import Elimination as Elimination, Iteration as Iteration
from ._first_passage import (
    first_passage_variance as first_passage_variance,
    mean_first_passage_time as mean_first_passage_time,
)
from ._fokker_planck import FokkerPlanck as FokkerPlanck
from ._generator import AbstractGenerator as AbstractGenerator, GeneratorTerm as GeneratorTerm
from ._grid import Grid as Grid
from ._master_equation import MasterEquation as MasterEquation, SeparableRate as SeparableRate
from ._particles import (
    Ensemble as Ensemble,
    ExitTimes as ExitTimes,
    Jumps as Jumps,
    Paths as Paths,
    gillespie as gillespie,
    langevin as langevin,
    sample_exit_times as sample_exit_times,
    sgd_ensemble as sgd_ensemble,
)
from ._rational import Rational as Rational
from ._results import RESULTS as RESULTS
from ._shift_invert import ShiftInvert as ShiftInvert
from ._solution import Solution as Solution
from ._solve import solve as solve
from ._spectrum import spectrum as spectrum
from ._stationary import quasi_stationary as quasi_stationary, stationary as stationary
from ._steppers import Strang as Strang
from ._uniformization import Uniformization as Uniformization, uniformization as uniformization
