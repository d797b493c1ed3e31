"""Problems with known answers, each solved by every method that claims it."""

from ._diffusions import (
    AbsorbingInterval as AbsorbingInterval,
    DrivenOrnsteinUhlenbeck as DrivenOrnsteinUhlenbeck,
    ForcedRing as ForcedRing,
    OrnsteinUhlenbeck as OrnsteinUhlenbeck,
    ReflectingWall as ReflectingWall,
    RotationalOrnsteinUhlenbeck as RotationalOrnsteinUhlenbeck,
)

TIME_DEPENDENT = (
    OrnsteinUhlenbeck(),
    RotationalOrnsteinUhlenbeck(),
    ForcedRing(),
    AbsorbingInterval(),
    ReflectingWall(),
    DrivenOrnsteinUhlenbeck(),
)
