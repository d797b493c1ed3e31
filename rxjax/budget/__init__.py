"""What a computation will cost before it is run, and the finest one that a budget allows."""

from ._estimate import Estimate as Estimate, estimate as estimate
from ._fit import Proposal as Proposal, fit as fit
