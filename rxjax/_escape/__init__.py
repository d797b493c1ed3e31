"""How long training stays in a minimum (row 17 of the theory)."""

from ._arrhenius import escape_time as escape_time
from ._arrhenius import log_escape_time as log_escape_time
from ._kramers import kramers_time as kramers_time
from ._kramers import log_kramers_time as log_kramers_time
from ._noise import AbstractNoise as AbstractNoise
from ._noise import ConstantNoise as ConstantNoise
from ._noise import CurvatureNoise as CurvatureNoise
from ._noise import SquareLossNoise as SquareLossNoise
from ._sgd import Escape as Escape
from ._sgd import sgd_escape_time as sgd_escape_time
