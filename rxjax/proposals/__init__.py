"""Proposals: the distribution of candidate updates that a rate density is taken with respect to."""

from ._ball import Ball as Ball
from ._base import AbstractProposal as AbstractProposal
from ._box import Box as Box
from ._gaussian import Gaussian as Gaussian
