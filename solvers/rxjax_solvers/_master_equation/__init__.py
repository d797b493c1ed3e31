from ._master_equation import MasterEquation as MasterEquation
from ._separable import SeparableRate as SeparableRate
