"""Problems with known answers, each solved by every method that claims it."""

from ._diffusions import (
    AbsorbingInterval as AbsorbingInterval,
    DrivenOrnsteinUhlenbeck as DrivenOrnsteinUhlenbeck,
    ForcedRing as ForcedRing,
    OrnsteinUhlenbeck as OrnsteinUhlenbeck,
    ReflectingWall as ReflectingWall,
    RotationalOrnsteinUhlenbeck as RotationalOrnsteinUhlenbeck,
)
from ._master_equations import (
    JUMP_SYSTEMS as JUMP_SYSTEMS,
    ExclusionProcess as ExclusionProcess,
    ImmigrationDeath as ImmigrationDeath,
    Isomerisation as Isomerisation,
    JumpSystem as JumpSystem,
    ThreeStateCycle as ThreeStateCycle,
)

TIME_DEPENDENT = (
    OrnsteinUhlenbeck(),
    RotationalOrnsteinUhlenbeck(),
    ForcedRing(),
    AbsorbingInterval(),
    ReflectingWall(),
    DrivenOrnsteinUhlenbeck(),
)
