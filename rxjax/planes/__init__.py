"""From a network to a flow: planes through its parameters, what is measured on them, and real SGD projected there."""

from ._directions import (
    PrincipalDirections as PrincipalDirections,
    orthonormal as orthonormal,
    principal_directions as principal_directions,
)
from ._distance import DensityDistance as DensityDistance, density_distance as density_distance
from ._exits import ExitTime as ExitTime, exit_time as exit_time, first_reached as first_reached
from ._measured import MeasuredPlane as MeasuredPlane, measure_plane as measure_plane
from ._runs import PlaneRuns as PlaneRuns, sgd_on_plane as sgd_on_plane
