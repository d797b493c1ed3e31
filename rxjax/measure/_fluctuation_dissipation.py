"""Is training in equilibrium?  Fluctuation against dissipation."""

import jax.numpy as jnp
from jaxtyping import ArrayLike

from rxjax_solvers._checks import require

from .._arrays import real_arrays, summation_dtype
from .._hyperparameters import check_momentum
from .._known import finite, non_negative, positive
from ._estimate import Estimate, ratio_of_means


def fluctuation_dissipation(
    work: ArrayLike, squared_step: ArrayLike, learning_rate: ArrayLike, *, momentum: ArrayLike = 0.0, blocks: int = 20
) -> Estimate:
    r"""Ratio of dissipation to fluctuation, 1 where training is stationary,

    $$\frac{E[\theta\cdot g_B]}{(\eta/2)\, E|g_B|^2}, \qquad \text{with momentum } b:\quad
      \frac{E[\theta\cdot g_B]}{(\eta/2)\,\frac{1+b}{1-b}\, E|d|^2}.$$

    Exact for SGD at any learning rate, also far from a quadratic: it says that $E|\theta|^2$ does not change.  Below 1,
    or negative, the parameters still drift; a rate can then be cut without loss only after it has reached 1.

    **Arguments:**

    - `work`: $\theta_t \cdot g_t$ of each step, shape `(n,)`, parameters and gradient BEFORE the step.  The origin is
      free: displacements from a fixed point near by have far smaller fluctuations than the parameters themselves.
    - `squared_step`: $|g_t|^2$, shape `(n,)`; with momentum $|d_t|^2$ of the moving average
      $d \leftarrow b d + (1-b) g$ that makes the step.
    - `learning_rate`: $\eta > 0$; with the heavy-ball form $v \leftarrow \mu v + g$ give $\eta/(1-\mu)$ and
      $d = (1-\mu) v$.
    - `momentum`: $b$ in $[0, 1)$.
    - `blocks`: steps are correlated, so that the standard error is taken from the means of that many blocks.

    **Returns:** an [`Estimate`][], without units.  The ratio of two means, biased by one over the number of independent
    stretches.

    Good values: several relaxation times $1/(\eta h)$ a block.  **How it fails:** flat directions relax so slowly that
    a real network is never stationary as a whole: the ratio then creeps towards 1.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for series that are not finite, of different lengths or
    shorter than `blocks`.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> ratio = rx.measure.fluctuation_dissipation(jnp.full(40, 0.2), jnp.full(40, 4.0), 0.1)
    >>> print(f"{ratio.value:.2f}")
    1.00

    ```

    Source: Yaida, "Fluctuation-dissipation relations for stochastic gradient descent" (2019).
    """
    dissipated, squares, eta = real_arrays(work=work, squared_step=squared_step, learning_rate=learning_rate)
    b = check_momentum(real_arrays(momentum=momentum)[0])
    if dissipated.ndim != 1 or squares.shape != dissipated.shape:
        raise ValueError(
            "Argument `squared_step` must be a series as long as `work`, but the shapes are "
            f"{squares.shape} and {dissipated.shape}."
        )
    for name, x in (("learning_rate", eta), ("momentum", b)):
        if x.ndim:
            raise ValueError(f"Argument `{name}` must be one number, but it has shape {x.shape}. Vmap over many.")
    if dissipated.shape[0] < 2:
        raise ValueError(f"Argument `work` must hold at least two steps, but it holds {dissipated.shape[0]}.")
    if not 2 <= blocks <= dissipated.shape[0]:
        raise ValueError(f"Argument `blocks` must be from 2 to {dissipated.shape[0]}, but it is {blocks}.")
    dtype = summation_dtype(jnp.result_type(dissipated, squares))
    dissipated, squares = finite(dissipated, "work").astype(dtype), non_negative(squares, "squared_step").astype(dtype)
    # What does not fill a block is the oldest and is left out.
    length = dissipated.shape[0] // blocks
    means = lambda x: jnp.mean(x[x.shape[0] - blocks * length :].reshape(blocks, length), axis=1)
    squares = means(squares)
    squares = require(squares, "squared_step", "have a non-zero entry", [(jnp.max(squares) == 0, "has none")])
    fluctuation = positive(eta, "learning_rate").astype(dtype) / 2 * ((1 + b) / (1 - b)).astype(dtype) * squares
    return ratio_of_means(means(dissipated), fluctuation)
