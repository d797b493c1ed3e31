"""Low-precision number formats: which updates survive rounding, and what stochastic rounding and noise bring back."""

from ._dither import dithered_step as dithered_step
from ._dither import rounding_diffusion as rounding_diffusion
from ._formats import FORMATS as FORMATS
from ._report import SurvivalReport as SurvivalReport
from ._report import report as report
from ._round import nearest_round as nearest_round
from ._round import stochastic_round as stochastic_round
from ._survival import spacing as spacing
from ._survival import survival as survival
