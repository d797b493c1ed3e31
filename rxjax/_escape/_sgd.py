"""Escape times of stochastic gradient descent, by the model of its noise."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from .._hyperparameters import Hyperparameters
from .._limits import exponential
from ._kramers import way_out
from ._noise import AbstractNoise

# Above this value of learning rate times curvature a discrete step is no longer a diffusion.
_VALID_ETA_H = 0.2


class Escape(eqx.Module):
    """How long SGD stays in a minimum.

    - `log_time`: logarithm of the mean time to the next minimum, in units of learning rate x steps (with momentum,
        learning rate / (1 - momentum) x steps); `time` is its exponential.
    - `log_steps`: logarithm of the same in steps; `steps` is its exponential.
    - `barrier`: the loss of the saddle above that of the minimum.
    - `exponent`: what stands in the exponential: the barrier in units of the noise.
    - `eta_h`: learning rate x the largest curvature of minimum and saddle.
    - `valid`: whether it is at most 0.2, up to where SGD's steps behave like a diffusion.  At 1 an escape is over three
        times faster than the diffusion says.
    """

    log_time: Float[Array, "..."]
    log_steps: Float[Array, "..."]
    barrier: Float[Array, ""]
    exponent: Float[Array, "..."]
    eta_h: Float[Array, "..."]
    valid: Bool[Array, "..."]

    @property
    def time(self) -> Float[Array, "..."]:
        """Mean time to the next minimum, in units of learning rate x steps."""
        return exponential(self.log_time)

    @property
    def steps(self) -> Float[Array, "..."]:
        """Mean number of steps to the next minimum."""
        return exponential(self.log_steps)


def sgd_escape_time(
    landscape: Callable,
    minimum: Shaped[ArrayLike, "..."] | Sequence,
    saddle: Shaped[ArrayLike, "..."] | Sequence,
    hyperparameters: Hyperparameters,
    noise: AbstractNoise,
) -> Escape:
    r"""Mean time that SGD takes from a minimum over a saddle to the next minimum, for a model of its noise.

    The model decides how the time depends on the barrier, so it must be named: there is no default.

    | noise | time grows like |
    |---|---|
    | `ConstantNoise(covariance)`, $\Sigma_1$ constant | $\exp(2B\,\Delta L / \eta\Sigma_1)$ |
    | `CurvatureNoise()`, $\Sigma_1 = H$ | $\exp[(2B\,\Delta L/\eta)(f/h_a + (1-f)/\lvert h_s\rvert)]$ |
    | `SquareLossNoise()`, $\Sigma_1 = 2LH$ | $(L_s/L_a)^{B/(\eta h) + 1 - n/2}$ |

    **Arguments:**

    - `landscape`: the loss, `theta (d,) -> ()`.
    - `minimum`, `saddle`: as for [`kramers_time`][].
    - `hyperparameters`: learning rate, batch size, data-set size, momentum and sampling; scalars, with `jax.vmap` over
        its fields for a sweep.
    - `noise`: the model.

    **Returns:** an `Escape`.  Look at `valid`.  Its times are means of an exponential law.

    **Raises:** `ValueError` (inside `jit`, a run-time error) as [`kramers_time`][] does, for `sampling="epoch"`, and
    where there is no noise to escape by.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> run = rx.Hyperparameters(learning_rate=0.05, batch_size=1, dataset_size=1000)
        >>> well = rx.landscapes.DoubleWell(barrier=0.25)
        >>> escape = rx.sgd_escape_time(well, -1.0, 0.0, run, rx.ConstantNoise(2.0))
        >>> print(escape.time.round(1), escape.exponent.round(3), escape.valid)
        659.4 5.0 True

        ```
    """
    way = way_out(landscape, minimum, saddle)
    run = jax.tree.map(lambda x: x.astype(way.loss.dtype), hyperparameters)
    rate = run.learning_rate / (1 - run.momentum)
    log_time, exponent = noise.log_time(landscape, way, rate, run)
    ends = jnp.stack([jax.lax.stop_gradient(h) for h in (way.hessian_minimum, way.hessian_saddle)])
    eta_h = rate * jnp.max(jnp.abs(jnp.linalg.eigvalsh(ends)))
    return Escape(log_time, log_time - jnp.log(rate), way.barrier, exponent, eta_h, eta_h <= _VALID_ETA_H)
