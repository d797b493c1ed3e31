"""The tree in which minima merge as the energy rises."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._minima import Minima
from ._find import Barriers
from ._union import kruskal, minimax


class MergeTree(eqx.Module):
    """Which minima are joined below which energy.

    Cluster `i < n` is minimum `i`; merge `k` makes cluster `n + k`.

    - `leaves`: `(n,)`, the energies of the minima.
    - `merges`: `(k, 2)`, the clusters that merge, in ascending order of energy.
    - `energies`: `(k,)`, the energy at which they do: that of the lowest saddle between them.
    - `saddles`: `(k,)`, the row of that saddle in the `Barriers`.
    - `minimax`: `(n, n)`, the highest point of the lowest path between any two minima; infinity where none was found,
        the minimum's own energy on the diagonal.
    """

    leaves: Float[Array, " n"]
    merges: Int[Array, "k 2"]
    energies: Float[Array, " k"]
    saddles: Int[Array, " k"]
    minimax: Float[Array, "n n"]


def merge_tree(minima: Minima, barriers: Barriers) -> MergeTree:
    r"""The tree of minima, joined at the lowest saddles: what a disconnectivity graph draws.

    **Arguments:**

    - `minima`: what [`find_minima`][] returned.
    - `barriers`: what [`find_barriers`][] returned for them.

    **Returns:** a `MergeTree` with at most $n - 1$ merges; fewer if the saddles leave parts unconnected.

    **Raises:** `ValueError` if the barriers name minima that are not there.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> surface = rx.landscapes.MullerBrown()
        >>> minima = rx.find_minima(surface)
        >>> tree = rx.merge_tree(minima, rx.find_barriers(surface, minima))
        >>> print(tree.merges, tree.energies.round(1))
        [[1 2]
         [0 3]] [-72.2 -40.7]

        ```
    """
    leaves = np.asarray(minima.energies)[np.asarray(minima.mask)]
    pairs = np.asarray(barriers.pairs)
    if pairs.size and int(pairs.max()) >= len(leaves):
        raise ValueError(
            f"Argument `barriers` must belong to `minima`, but it names minimum {int(pairs.max())} of {len(leaves)}."
        )
    energies = np.asarray(barriers.energies)
    order = np.argsort(energies, kind="stable")
    merges, rows = kruskal(len(leaves), pairs[order])
    saddles = order[np.asarray(rows, int)]
    return MergeTree(
        leaves=jnp.asarray(leaves),
        merges=jnp.asarray(np.asarray(merges, int).reshape(-1, 2)),
        energies=jnp.asarray(energies[saddles]),
        saddles=jnp.asarray(saddles),
        minimax=jnp.asarray(minimax(leaves, merges, energies[saddles])),
    )
