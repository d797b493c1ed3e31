"""Clusters that merge along edges given in ascending order."""

from collections.abc import Iterable

import numpy as np


def kruskal(n: int, pairs: Iterable) -> tuple[list[tuple[int, int]], list[int]]:
    """The merges of `n` leaves along `pairs`: the two clusters merged, and the rows of `pairs` that merged them.

    Cluster `i < n` is leaf `i`, merge `k` makes cluster `n + k`; pairs within one cluster change nothing.
    """
    parent = list(range(n))
    merges, rows = [], []
    for row, (a, b) in enumerate(pairs):
        a, b = _root(parent, int(a)), _root(parent, int(b))
        if a != b:
            parent.append(len(parent))
            parent[a] = parent[b] = parent[-1]
            merges.append((min(a, b), max(a, b)))
            rows.append(row)
    return merges, rows


def minimax(leaves: np.ndarray, merges: list[tuple[int, int]], energies: np.ndarray) -> np.ndarray:
    """The highest point of the lowest path between any two leaves: infinity where there is none."""
    heights = np.full((len(leaves), len(leaves)), np.inf, leaves.dtype)
    heights[np.diag_indices(len(leaves))] = leaves
    members = [[i] for i in range(len(leaves))]
    for (a, b), energy in zip(merges, energies, strict=True):
        heights[np.ix_(members[a], members[b])] = energy
        heights[np.ix_(members[b], members[a])] = energy
        members.append(members[a] + members[b])
    return heights


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
