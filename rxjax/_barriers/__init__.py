"""Passes between minima: their search, their tree and its picture."""

from ._find import Barriers as Barriers, find_barriers as find_barriers
from ._merge_tree import MergeTree as MergeTree, merge_tree as merge_tree
from ._plot import disconnectivity_graph as disconnectivity_graph
