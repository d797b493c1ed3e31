"""Adam's direction as optax gives it, up to rounding, with one division for each parameter instead of four."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, PyTree

from ._wide import safe_root


def scale_by_adam(b1: ArrayLike, b2: ArrayLike, eps: ArrayLike, nesterov: bool) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with the corrections for bias applied to scalars: the same state, to the bit.

    With `r = sqrt(1 - b2^t)`, both sides of optax's quotient are multiplied by it: `eps` and the weights of momentum
    and gradient take the factors that moments were divided by.  Arguments as there.

    ??? cite "References"

        D. P. Kingma and J. Ba, ICLR 2015, section 2.  T. Dozat, ICLR 2016 workshop (Nesterov momentum).
    """
    like = optax.scale_by_adam(b1, b2, eps, nesterov=nesterov)

    def update(updates: PyTree, state: optax.OptState, params: PyTree | None = None) -> tuple[PyTree, optax.OptState]:
        del params
        assert isinstance(state, optax.ScaleByAdamState)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        nu = optax.tree.cast_like(nu, state.nu)
        count = jnp.asarray(optax.safe_increment(state.count))
        decays = jnp.stack([jnp.asarray(b, float) for b in (b1, b2)])
        first, second = decays ** count.astype(decays.dtype)
        root = jnp.sqrt(1 - second)
        if nesterov:
            weights = decays[0] * root / (1 - decays[0] * first), (1 - decays[0]) * root / (1 - first)
        else:
            weights = root / (1 - first), jnp.zeros((), root.dtype)
        # Side by side, for one kernel to compute them all.
        of_mu, of_gradient, floor = jax.lax.optimization_barrier(jnp.stack([*weights, jnp.asarray(eps, float) * root]))

        def direction(m: Array, v: Array, g: Array) -> Array:
            above = of_mu.astype(m.dtype) * m
            if nesterov:
                above = above + of_gradient.astype(g.dtype) * g
            return above / (safe_root(v) + floor.astype(v.dtype))

        return jax.tree.map(direction, mu, nu, updates), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(like.init, update)
