"""Problems with known answers, each solved by every method that claims it."""

from ._diffusions import (
    AbsorbingInterval as AbsorbingInterval,
)
from ._diffusions import (
    DrivenOrnsteinUhlenbeck as DrivenOrnsteinUhlenbeck,
)
from ._diffusions import (
    ForcedRing as ForcedRing,
)
from ._diffusions import (
    OrnsteinUhlenbeck as OrnsteinUhlenbeck,
)
from ._diffusions import (
    ReflectingWall as ReflectingWall,
)
from ._diffusions import (
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
