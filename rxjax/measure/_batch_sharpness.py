"""Batch sharpness of a network: the curvature that its own stochastic steps meet."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from rxjax_solvers._program import program

from .._arrays import size_of
from ._curvature import flat_loss
from ._estimate import Estimate, ratio_of_means
from ._gradient_noise import leading_axis


def batch_sharpness(loss_fn: Callable, params: PyTree, batches: PyTree) -> Estimate:
    r"""Batch sharpness, $E[g_B^\top H_B\, g_B] / E|g_B|^2$, over mini-batches of a data set.

    SGD trains at an edge of its own, where this quantity, and not $\lambda_{max}$ of the full Hessian, settles at
    $2/\eta$.

    **Arguments:**

    - `loss_fn`: `loss_fn(params, batch)`, a real number.
    - `params`: any PyTree; its real floating arrays are the parameters.
    - `batches`: a PyTree of arrays with a leading axis over batches, of the batch size in use.  One batch is in memory
      at a time.

    **Returns:** an [`Estimate`][] in the units of a curvature: the ratio of two means, whose bias falls like one over
    the number of batches, and its standard error by the delta method (infinite for one batch).  The cost is one
    gradient and one Hessian-vector product a batch, three to four gradients.

    Good values: 30 batches.  **How it fails:** near a minimum all gradients vanish and the ratio is that of noise;
    with all gradients zero it is NaN, for no step is taken there.

    **Raises:** `ValueError` for arrays without a common leading axis, or no batch.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> loss = lambda w, h: jnp.mean(h) * jnp.sum(w**2) / 2
    >>> found = rx.measure.batch_sharpness(loss, jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> print(f"{found.value:.3f}")
    3.190

    ```

    Source: Andreyev and Beneventano, "Edge of stochastic stability" (2024).
    """
    leading_axis(batches, "batches", "batches")
    return _measured(loss_fn, params, batches)


@program
def _measured(loss_fn: Callable, params: PyTree, batches: PyTree) -> Estimate:
    def one(batch):
        g, product = flat_loss(loss_fn, params, batch).expand()
        # In units of its size: the third power of a gradient is out of range long before the gradient is.
        size = size_of(g)
        unit = g / size
        return jnp.sum(unit * product(unit)), jnp.sum(unit * unit), jnp.where(jnp.any(g != 0), size, 0)

    tops, bottoms, sizes = jax.lax.map(one, batches)
    weights = (sizes / size_of(sizes)) ** 2
    return ratio_of_means(weights * tops, weights * bottoms)
