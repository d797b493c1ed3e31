from ._base import AbstractElimination as AbstractElimination
from .dense import DenseElimination as DenseElimination
from .dissection import DissectionElimination as DissectionElimination
from .tridiagonal import TridiagonalElimination as TridiagonalElimination
