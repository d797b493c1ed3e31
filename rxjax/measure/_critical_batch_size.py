"""The batch size beyond which larger batches buy little."""

from collections.abc import Callable

from jaxtyping import PyTree

from ._estimate import Estimate
from ._gradient_noise import gradient_noise


def critical_batch_size(loss_fn: Callable, params: PyTree, batch: PyTree, **options) -> Estimate:
    r"""Critical batch size $B_{simple} = \mathrm{tr}\,\Sigma_1/|G|^2$, at which half of a gradient's length is noise.

    Larger batches buy little: the optimal learning rate grows like $1/(1 + B_{simple}/B)$.

    **Arguments:** `loss_fn`, `params`, `batch` and all `options` as in [`gradient_noise`][].

    **Returns:** an [`Estimate`][] in examples, infinite where the estimate of $|G|^2$ is not positive.  Numerator and
    denominator are unbiased and their ratio is not: the bias is of the order of the squared relative error of $|G|^2$,
    upwards.  The standard error is that of the jackknife.

    **How it fails:** late in training $|G|^2$ is far below its noise and thousands of examples are needed; average
    both over many steps there, as `rx.Monitor` does, then divide.

    ```python
    >>> import jax.numpy as jnp, rxjax as rx
    >>> loss = lambda w, x: jnp.mean((w - x) ** 2) / 2
    >>> found = rx.measure.critical_batch_size(loss, jnp.array(0.0), jnp.array([1.0, 2.0, 3.0, 6.0]))
    >>> print(f"{found.value:.3f}")
    0.596

    ```

    Source: McCandlish et al. (2018).
    """
    return gradient_noise(loss_fn, params, batch, **options).ratio
