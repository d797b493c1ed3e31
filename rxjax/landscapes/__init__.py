"""Loss landscapes: toy functions with known minima and saddles, random ones, and planes through a real network.

A landscape is a callable `theta -> ()` of a point `theta` of shape `(d,)`.  Any plain callable serves where one is
asked for; the classes here also know their `dim`, `bounds`, `minima`, `saddles` and `name`.

Verbs compile a callable once and keep the program until something that it reads by name, a global, an enclosing
variable, an attribute or an entry, is another object.  An array changed in place is the same object: give a copy.  A
function that you `jax.jit` yourself keeps what it read first.
"""

from ._base import AbstractLandscape as AbstractLandscape
from ._callable import (
    CallableLandscape as CallableLandscape,
    as_landscape as as_landscape,
    check_landscape as check_landscape,
    evaluate as evaluate,
    require_finite_values as require_finite_values,
)
from ._directions import plane_through as plane_through, random_directions as random_directions
from ._double_well import DoubleWell as DoubleWell
from ._gaussian_wells import GaussianWells as GaussianWells
from ._himmelblau import Himmelblau as Himmelblau
from ._muller_brown import MullerBrown as MullerBrown
from ._plane import PlaneLandscape as PlaneLandscape, plane as plane
from ._quadratic import Quadratic as Quadratic
from ._random_field import RandomField as RandomField
from ._rastrigin import Rastrigin as Rastrigin
from ._rosenbrock import Rosenbrock as Rosenbrock
from ._styblinski_tang import StyblinskiTang as StyblinskiTang
