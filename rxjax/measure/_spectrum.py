"""The outer eigenvalues of the Hessian by Lanczos' method."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PyTree

from rxjax_solvers._checks import one_of
from rxjax_solvers._program import program

from ._curvature import flat_loss, shaped_like
from ._lanczos import ritz_pairs


class Spectrum(eqx.Module):
    """What [`spectrum`][] found, in the order asked for.

    - `values`: Ritz values with their sign, in the units of a curvature.
    - `errors`: the norms of their residuals; an exact eigenvalue lies within each value plus or minus its error.
    - `known`: false where the Krylov space ended before `k` different eigenvalues; such a value is 0, its error
      infinite.
    - `vectors`: unit eigenvectors, a tree like the parameters with a leading axis of `k`, or `None`.
    """

    values: Float[Array, "k"]
    errors: Float[Array, "k"]
    known: Bool[Array, "k"]
    vectors: PyTree | None


def spectrum(
    loss_fn: Callable,
    params: PyTree,
    batch: PyTree,
    k: int = 10,
    *,
    which: str = "largest",
    steps: int | None = None,
    vectors: bool = False,
    key: Array | None = None,
) -> Spectrum:
    r"""The `k` outer eigenvalues of the Hessian of the loss on ONE fixed batch, with their signs.

    Lanczos' method with full reorthogonalisation from a random start.  A Ritz value lies inside the true spectrum: the
    largest are biased downward, the lowest upward, by about the squared residual over the gap to the next eigenvalue.

    **Arguments:**

    - `loss_fn`, `params`, `batch`: as in [`lambda_max`][].
    - `k`: how many.
    - `which`: `"largest"`, descending; `"smallest"`, ascending (the most negative first); `"magnitude"`, the largest
      in magnitude first.
    - `steps`: Hessian-vector products, each of the cost of about two gradients; `2 k + 20` if not given, and one more
      for their size.  Memory: `steps` vectors like the parameters.
    - `vectors`: return the eigenvectors too.
    - `key`: of the random start; fixed if not given.

    **Returns:** a [`Spectrum`][], in the units of the loss over squared parameters.

    Good values: look at `errors` and double `steps` where one exceeds the gap to its neighbour.  **How it fails:** an
    eigenvalue that occurs several times shows once, and the bulk near zero does not resolve.  The rounding of a long
    sum may exceed the one that each error holds.

    **Raises:** `ValueError` for `params` without a real floating array, an unknown `which`, or a `k` that exceeds
    `steps` or the number of parameters.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> loss = lambda p, x: jnp.sum(x * p["w"] ** 2) / 2
    >>> found = rx.measure.spectrum(loss, {"w": jnp.ones(3)}, jnp.array([1.0, -5.0, 3.0]), 2, which="magnitude")
    >>> print(found.values)
    [-5.  3.]

    ```

    Source: Lanczos (1950), by `matfree`; Ghorbani et al., "An investigation into neural net optimization via Hessian
    eigenvalue density" (2019).
    """
    one_of(which, "which", ("largest", "smallest", "magnitude"))
    steps = 2 * k + 20 if steps is None else steps
    if not 1 <= k <= steps:
        raise ValueError(f"Argument `k` must be from 1 to `steps`, here {steps}, but it is {k}.")
    return _measured(loss_fn, params, batch, k, which, steps, vectors, jr.key(0) if key is None else key)


@program
def _measured(
    loss_fn: Callable, params: PyTree, batch: PyTree, k: int, which: str, steps: int, vectors: bool, key: Array
) -> Spectrum:
    gradient, product = flat_loss(loss_fn, params, batch).expand()
    if k > gradient.size:
        raise ValueError(f"Argument `k` must be at most the number of parameters, {gradient.size}, but it is {k}.")
    found = ritz_pairs(product, jr.normal(key, gradient.shape, gradient.dtype), steps)
    rank = {"largest": found.values, "smallest": -found.values, "magnitude": jnp.abs(found.values)}[which]
    first = jax.lax.top_k(jnp.where(found.known, rank, -jnp.inf), k)[1]
    known = found.known[first]
    modes = None
    if vectors:
        rows = jnp.matmul(found.vectors[:, first].T, found.basis, precision=jax.lax.Precision.HIGHEST)
        modes = jax.vmap(lambda v: shaped_like(params, v))(jnp.where(known[:, None], rows, 0))
    return Spectrum(
        jnp.where(known, found.values[first], 0), jnp.where(known, found.errors[first], jnp.inf), known, modes
    )
