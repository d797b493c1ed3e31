"""Ready optimizers without a learning rate."""

from typing import Any

import optax
from jaxtyping import Array, ArrayLike

from ._adam import scale_by_adam
from ._rate_control import rate_control


def rate_adamw(
    total_steps: ArrayLike | None = None,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    weight_decay: float | int | Array = 1e-4,
    mask: Any = None,
    nesterov: bool = True,
    target: ArrayLike | None = None,
    growth: ArrayLike = 0.08,
    leap: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with Nesterov momentum, without a learning rate: [`rate_control`][] over `optax.adamw(1.0, ...)`.

    **Arguments:** `total_steps`, `target`, `growth` and `leap` as in [`rate_control`][], the others as in
    `optax.adamw`.  `nesterov` looks ahead along the momentum, which lowers the loss most where gradients carry little
    noise and hardly where they are mostly noise; `False` gives plain AdamW.

    **Returns:** a transformation with the state and the guarantees of [`rate_control`][].

    Good values: the defaults; for transformers `leap=1.0, growth=0.04`, a start as slow as their usual warm-up, which
    gave lower losses on most of six tried, and higher ones on many other networks in short runs.

    ```python
    >>> import jax.numpy as jnp, optax, rxjax as rx
    >>> optimizer = rx.optim.rate_adamw(total_steps=1000)
    >>> params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(params, state, params)
    >>> print(f"{optax.tree.get(state, 'learning_rate'):.5f}")
    0.00679

    ```
    """
    parts = scale_by_adam(b1, b2, eps, nesterov), optax.add_decayed_weights(weight_decay, mask), optax.scale(-1.0)
    base = optax.chain(*parts)
    return rate_control(base, total_steps, target=target, growth=growth, leap=leap, recompute=True)


def rate_sgd(
    total_steps: ArrayLike | None = None,
    *,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    target: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD without a learning rate, with heavy-ball or Nesterov momentum if given: `rate_control(optax.sgd(1.0, ...))`.

    **Arguments:** `total_steps` and `target` as in [`rate_control`][], the others as in `optax.sgd`.

    **Returns:** a transformation with the state and the guarantees of [`rate_control`][].  Without momentum its
    `log_rate` and `temperature` are the exact quantities of [`scale_by_reaction_rate`][].

    On losses with plateaus, where gradients span many orders of magnitude, take [`rate_adamw`][].

    ```python
    >>> import jax.numpy as jnp, optax, rxjax as rx
    >>> optimizer = rx.optim.rate_sgd(total_steps=1000, momentum=0.9)
    >>> params = jnp.array([3.0, 4.0])
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> print(updates)
    [-0.03 -0.04]

    ```
    """
    return rate_control(optax.sgd(1.0, momentum, nesterov), total_steps, target=target, recompute=True)
