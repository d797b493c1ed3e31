"""Fields on a grid with a margin around it, where jumps that leave the grid land."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped


def fold(field: Shaped[Array, "..."], reach: tuple[int, ...], periodic: tuple[bool, ...]) -> Shaped[Array, "..."]:
    """Take the margins off: on a periodic axis what landed there is added on the other side, elsewhere it is lost."""
    for axis, (width, wraps) in enumerate(zip(reach, periodic, strict=True)):
        n = field.shape[axis] - 2 * width
        low, inner, high = jnp.split(field, [width, width + n], axis=axis)
        if wraps and width:
            inner = jnp.moveaxis(inner, axis, 0)
            inner = inner.at[n - width :].add(jnp.moveaxis(low, axis, 0)).at[:width].add(jnp.moveaxis(high, axis, 0))
            inner = jnp.moveaxis(inner, 0, axis)
        field = inner
    return field


def unfold(field: Shaped[Array, "..."], reach: tuple[int, ...], periodic: tuple[bool, ...]) -> Shaped[Array, "..."]:
    """Put margins on: copies of the other side on a periodic axis, elsewhere zeros.  The transpose of `fold`."""
    for axis, (width, wraps) in enumerate(zip(reach, periodic, strict=True)):
        margins = [(width, width) if i == axis else (0, 0) for i in range(field.ndim)]
        field = jnp.pad(field, margins, mode="wrap") if wraps else jnp.pad(field, margins)
    return field
