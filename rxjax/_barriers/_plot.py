"""The disconnectivity graph: the tree of minima as a picture."""

from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Shaped

from .._minima import Minima
from ._find import Barriers
from ._merge_tree import merge_tree


def disconnectivity_graph(
    minima: Minima,
    barriers: Barriers,
    ax: Any = None,
    *,
    names: bool = True,
    colours: Shaped[ArrayLike, " n"] | None = None,
    ylabel: str = "energy",
) -> Any:
    """Draw which minima are joined below which energy.

    A line hangs down to each minimum's energy; two branches meet at the energy of the lowest saddle between them.
    Branches that no saddle joins end open at the top.  Deep funnels and glassy combs are told apart at a glance.

    **Arguments:**

    - `minima`, `barriers`: what [`find_minima`][] and [`find_barriers`][] returned.
    - `ax`: Matplotlib axes to draw on; a new figure if not given.
    - `names`: write the row number under each minimum.
    - `colours`: `(n,)`, one number for each minimum, such as its counts or its curvature, drawn as a coloured dot.
    - `ylabel`: what the energy is, with its unit.

    **Returns:** the Matplotlib `Figure`; save it with `figure.savefig(path)`.

    **Raises:** `ValueError` if barriers or colours do not belong to the minima, or there is no minimum.

    ??? cite "Reference"

        O. M. Becker and M. Karplus, J. Chem. Phys. 106, 1495 (1997).

    !!! example

        ```python
        >>> import rxjax as rx
        >>> landscape = rx.landscapes.MullerBrown()
        >>> minima = rx.find_minima(landscape)
        >>> figure = rx.disconnectivity_graph(minima, rx.find_barriers(landscape, minima))
        >>> figure.axes[0].get_ylabel()
        'energy'

        ```
    """
    from matplotlib.figure import Figure

    tree = merge_tree(minima, barriers)
    leaves, merges, energies = (np.asarray(x) for x in (tree.leaves, tree.merges, tree.energies))
    n = len(leaves)
    if n == 0:
        raise ValueError("Argument `minima` must hold at least one minimum, but it holds none.")
    shades = None if colours is None else np.asarray(colours)
    if shades is not None and shades.shape != (n,):
        raise ValueError(f"Argument `colours` must have shape ({n},), one number a minimum, but it has {shades.shape}.")
    place = np.full(n + len(merges), np.nan)
    place[_order(leaves, merges)] = np.arange(n)
    for k, (a, b) in enumerate(merges):
        place[n + k] = 0.5 * (place[a] + place[b])

    if ax is None:
        figure = Figure(figsize=(max(4.0, min(12.0, 0.35 * n)), 4.0), layout="constrained")
        ax = figure.add_subplot()
    figure = ax.get_figure(root=True)
    bottom = np.concatenate([leaves, energies])
    room = 0.06 * (np.ptp(bottom) or 1.0)
    top = np.full(n + len(merges), np.max(bottom) + room)
    joint = place.copy()
    for k, pair in enumerate(merges):
        top[pair] = energies[k]
        joint[pair] = place[n + k]
    # Straight down, then aslant to the branch above, over the last part of the height.
    for x, x_above, low, high in zip(place, joint, bottom, top, strict=True):
        knee = max(low, high - room)
        ax.plot([x, x, x_above], [low, knee, high], color="#30234f", lw=1.4, solid_joinstyle="round")
    if shades is not None:
        dots = ax.scatter(place[:n], leaves, c=shades, s=28, cmap="viridis", zorder=3)
        figure.colorbar(dots, ax=ax)
    if names:
        for i in range(n):
            ax.annotate(
                str(i), (place[i], leaves[i]), (0, -5), textcoords="offset points", ha="center", va="top", size=8
            )
    ax.set_ylabel(ylabel)
    ax.set_xticks([])
    ax.set_xlim(-0.8, n - 0.2)
    ax.set_ylim(np.min(bottom) - 2 * room, np.max(bottom) + room)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def _order(leaves: np.ndarray, merges: np.ndarray) -> list[int]:
    """The leaves from left to right, so that no branches cross: at each merge the deeper side on the left."""
    members = [[i] for i in range(len(leaves))]
    open_clusters = set(range(len(leaves)))
    for k, (a, b) in enumerate(merges):
        deep, shallow = sorted((int(a), int(b)), key=lambda c: min(leaves[members[c]]))
        members.append(members[deep] + members[shallow])
        open_clusters -= {int(a), int(b)}
        open_clusters.add(len(leaves) + k)
    roots = sorted(open_clusters, key=lambda c: min(leaves[members[c]]))
    return [i for c in roots for i in members[c]]
