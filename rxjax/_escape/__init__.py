"""How long training stays in a minimum (row 17 of the theory)."""

from ._arrhenius import escape_time as escape_time, log_escape_time as log_escape_time
from ._kramers import kramers_time as kramers_time, log_kramers_time as log_kramers_time
from ._noise import (
    AbstractNoise as AbstractNoise,
    ConstantNoise as ConstantNoise,
    CurvatureNoise as CurvatureNoise,
    SquareLossNoise as SquareLossNoise,
)
from ._sgd import Escape as Escape, sgd_escape_time as sgd_escape_time
