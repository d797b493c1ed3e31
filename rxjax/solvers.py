"""The numerics, under one name: `rxjax.solvers.FokkerPlanck` and everything beside it."""

from rxjax_solvers import (
    AbstractGenerator as AbstractGenerator,
)
from rxjax_solvers import (
    AntiIto as AntiIto,
)
from rxjax_solvers import (
    DensityController as DensityController,
)
from rxjax_solvers import (
    FokkerPlanck as FokkerPlanck,
)
from rxjax_solvers import (
    GeneratorTerm as GeneratorTerm,
)
from rxjax_solvers import (
    Grid as Grid,
)
from rxjax_solvers import (
    Ito as Ito,
)
from rxjax_solvers import (
    NegativeGradient as NegativeGradient,
)
from rxjax_solvers import (
    Solution as Solution,
)
from rxjax_solvers import (
    Strang as Strang,
)
from rxjax_solvers import (
    Stratonovich as Stratonovich,
)
from rxjax_solvers import (
    TimeDependent as TimeDependent,
)
from rxjax_solvers import (
    checks_off as checks_off,
)
from rxjax_solvers import (
    solve as solve,
)
