"""The numerics, under one name: `rxjax.solvers.FokkerPlanck` and everything beside it."""

from rxjax_solvers import (
    AbstractGenerator as AbstractGenerator,
    AntiIto as AntiIto,
    DensityController as DensityController,
    FokkerPlanck as FokkerPlanck,
    GeneratorTerm as GeneratorTerm,
    Grid as Grid,
    Ito as Ito,
    MasterEquation as MasterEquation,
    NegativeGradient as NegativeGradient,
    SeparableRate as SeparableRate,
    Solution as Solution,
    Strang as Strang,
    Stratonovich as Stratonovich,
    TimeDependent as TimeDependent,
    Uniformization as Uniformization,
    checks_off as checks_off,
    solve as solve,
    uniformization as uniformization,
)
