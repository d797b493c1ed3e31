"""Gradient and gradient noise from the squared norms of two mini-batch gradients (section 5 of the theory)."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rxjax_solvers._checks import require

from .._arrays import real_arrays, summation_dtype
from .._hyperparameters import check_count
from .._known import non_negative
from ._estimate import deviation


class TwoBatchNoise(eqx.Module):
    r"""Unbiased estimates by [`noise_from_two_batches`][], one entry a trial.

    - `squared_gradient`: $|G|^2$ of the full loss.  A single estimate may be negative.
    - `trace`: $\mathrm{tr}\,\Sigma_1$, the total variance of the gradient of ONE example.  It may be negative too.
    """

    squared_gradient: Float[Array, "..."]
    trace: Float[Array, "..."]

    @property
    def standard_errors(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Of the means over all trials of `squared_gradient` and of `trace`; infinite for a single trial."""
        n = self.trace.size
        error = lambda x: deviation(x.reshape(n)) / n**0.5 if n > 1 else jnp.asarray(jnp.inf, x.dtype)
        return error(self.squared_gradient), error(self.trace)

    @property
    def critical_batch_size(self) -> Float[Array, ""]:
        r"""$B_{simple} = \mathrm{tr}\,\Sigma_1 / |G|^2$, each averaged over all trials BEFORE the division.

        A ratio is not unbiased, and the mean of the ratios is far off.  Where the mean of `squared_gradient` is not
        positive the noise hides the gradient, and so few trials say nothing.
        """
        return jnp.mean(self.trace) / jnp.mean(self.squared_gradient)


def noise_from_two_batches(
    small_squared_norm: ArrayLike, large_squared_norm: ArrayLike, small_batch: ArrayLike, large_batch: ArrayLike
) -> TwoBatchNoise:
    r"""Squared gradient and noise from gradients at two batch sizes $b < B$,

    $$|G|^2 \approx \frac{B |G_B|^2 - b |G_b|^2}{B - b}, \qquad
    \mathrm{tr}\,\Sigma_1 \approx \frac{|G_b|^2 - |G_B|^2}{1/b - 1/B}.$$

    Both are UNBIASED for batches drawn with replacement, since $E|G_b|^2 = |G|^2 + \mathrm{tr}\,\Sigma_1/b$; their
    ratio is not.  Average each over many steps, then divide: `critical_batch_size` does.

    **Arguments:**

    - `small_squared_norm`: $|G_b|^2$ of the mean gradient over $b$ examples, any shape, one entry a trial.
    - `large_squared_norm`: $|G_B|^2$, of the same shape.  The large batch may hold the small one, as where the
      gradients of several devices are averaged.
    - `small_batch`, `large_batch`: $1 \leq b < B$, numbers.

    **Returns:** a [`TwoBatchNoise`][], in the units of a squared gradient, summed in float32 at least.

    Good values: $B/b$ of 8 or more.  **How it fails:** the noise of a single estimate of $|G|^2$ is of the order of
    $\sqrt{2\,\mathrm{tr}\,\Sigma_1^2}/B$, so that hundreds of trials are needed where $B$ is far below
    $B_{simple}$.  Batches of a reshuffled epoch are anti-correlated and bias the mean over the epoch.

    **Raises:** `ValueError` (inside `jit`, a run-time error) for a norm that is negative or not finite, batch sizes
    that do not ascend, or shapes that differ.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> noise = rx.measure.noise_from_two_batches(jnp.array([6.0, 9.0]), jnp.array([2.0, 1.0]), 8, 64)
    >>> print(noise.trace.round(2), f"{noise.critical_batch_size:.2f}")
    [36.57 73.14] 85.33

    ```

    Source: McCandlish et al., "An empirical model of large-batch training" (2018), appendix A.1.
    """
    small, large, b, big = real_arrays(
        small_squared_norm=small_squared_norm,
        large_squared_norm=large_squared_norm,
        small_batch=small_batch,
        large_batch=large_batch,
    )
    if small.shape != large.shape:
        raise ValueError(
            f"Argument `large_squared_norm` must have the shape of `small_squared_norm`, but it has {large.shape} and "
            f"not {small.shape}."
        )
    for name, x in (("small_batch", b), ("large_batch", big)):
        if x.ndim:
            raise ValueError(f"Argument `{name}` must be one number, but it has shape {x.shape}. Vmap over many.")
    b, big = check_count(b, "small_batch"), check_count(big, "large_batch")
    big = require(big, "large_batch", "exceed `small_batch`", [(big <= b, "does not")])
    dtype = summation_dtype(jnp.result_type(small, large))
    small = non_negative(small, "small_squared_norm").astype(dtype)
    large = non_negative(large, "large_squared_norm").astype(dtype)
    b, big = b.astype(dtype), big.astype(dtype)
    return TwoBatchNoise((big * large - b * small) / (big - b), (small - large) * (b * big / (big - b)))
