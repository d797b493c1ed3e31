"""How large the next batch should be: three rules of host-side arithmetic, traceable as well."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

RULES = ("anneal", "noise_scale", "norm_test")


def annealed_accumulation(progress: ArrayLike, k_max: ArrayLike) -> Float[Array, "..."]:
    r"""Micro-batches per step that cool as annealing the rate would, $k = \min(k_{max}, 1/(1 - t/T))$.

    $T_{eff} = (\eta/2)\,\mathrm{tr}\,\Sigma_1/B$: growing the batch by $k$ at a constant rate has the same path as
    multiplying the rate by $1 - t/T$, with fewer updates.

    **Arguments:** `progress`, $t/T$ in [0, 1], of the examples seen; `k_max`, at which $k$ stops.

    **Returns:** $k$, rounded to a whole number.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> print(rx.optim.annealed_accumulation(jnp.array([0.0, 0.5, 0.9, 1.0]), 16))
    [ 1.  2. 10. 16.]

    ```
    """
    p = jnp.asarray(progress, float)
    return jnp.round(jnp.minimum(1 / jnp.maximum(1 - p, 1 / jnp.asarray(k_max, p.dtype)), k_max))


def noise_scale_batch(trace: ArrayLike, gradient_square: ArrayLike, target: ArrayLike = 1.0) -> Float[Array, "..."]:
    r"""The batch that is `target` times the critical batch $\mathrm{tr}\,\Sigma_1/|G|^2$.

    Holding this ratio fixed holds fixed what share of a mini-batch gradient is noise: a half at 1.

    **Arguments:** `trace`, $\mathrm{tr}\,\Sigma_1$ of ONE example; `gradient_square`, $|G|^2$ of the mean gradient;
    both averages of unbiased estimates; `target` > 0.

    **Returns:** the batch size in examples, not rounded; infinite where $|G|^2$ is not positive.

    ```python
    >>> import rxjax as rx
    >>> print(rx.optim.noise_scale_batch(52.5, 0.5))
    105.0

    ```

    Source: McCandlish et al., "An empirical model of large-batch training" (2018).
    """
    trace, square = jnp.asarray(trace, float), jnp.asarray(gradient_square, float)
    positive = square > 0
    return jnp.where(positive, target * trace / jnp.where(positive, square, 1), jnp.inf)


def norm_test_batch(trace: ArrayLike, batch_square: ArrayLike, theta: ArrayLike = 0.5) -> Float[Array, "..."]:
    r"""The batch that just passes the norm test $\mathrm{tr}\,\Sigma_1/B \leq \theta^2 |g_B|^2$.

    The test asks that a mini-batch gradient points downhill with high probability.

    **Arguments:** `trace`, $\mathrm{tr}\,\Sigma_1$; `batch_square`, $|g_B|^2$ of the mini-batch gradient itself, noise
    included; `theta` in (0, 1), small for precise gradients.

    **Returns:** the batch size in examples, not rounded; infinite where $|g_B|^2$ is zero.

    ```python
    >>> import rxjax as rx
    >>> print(rx.optim.norm_test_batch(50.0, 2.0, theta=0.5))
    100.0

    ```

    Source: Byrd et al., "Sample size selection in optimization methods for machine learning" (2012).
    """
    return noise_scale_batch(trace, batch_square, 1 / jnp.square(jnp.asarray(theta, float)))
