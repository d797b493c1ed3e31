"""The numerics, under one name: `rxjax.solvers.FokkerPlanck` and everything beside it."""

from rxjax_solvers import (
    AbstractGenerator as AbstractGenerator,
    AntiIto as AntiIto,
    DensityController as DensityController,
    FokkerPlanck as FokkerPlanck,
    GeneratorTerm as GeneratorTerm,
    Grid as Grid,
    Ito as Ito,
    NegativeGradient as NegativeGradient,
    Solution as Solution,
    Strang as Strang,
    Stratonovich as Stratonovich,
    TimeDependent as TimeDependent,
    checks_off as checks_off,
    solve as solve,
)
