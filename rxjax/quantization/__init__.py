"""Low-precision number formats: which updates survive rounding, and what stochastic rounding and noise bring back."""

from ._dither import dithered_step as dithered_step, rounding_diffusion as rounding_diffusion
from ._formats import FORMATS as FORMATS
from ._report import SurvivalReport as SurvivalReport, report as report
from ._round import nearest_round as nearest_round, stochastic_round as stochastic_round
from ._survival import spacing as spacing, survival as survival
