"""Numbers as the user types them (Python ints, NumPy arrays, lists of batch sizes) made into real floating arrays."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from ._known import at_once_if_known


@at_once_if_known
def real_arrays(**named: ArrayLike) -> list[Array]:
    """The arguments, in order, as real floating-point arrays.

    Floating arrays keep their dtype and Python scalars stay weakly typed, so that neither widens a float32 result.
    Integer arrays become the dtype that the floating arguments share.

    **Raises:** `ValueError` for a complex or non-numeric argument, by its name.
    """
    arrays = {}
    for name, x in named.items():
        try:
            arrays[name] = jnp.asarray(x)
        except (TypeError, ValueError) as error:
            message = f"Argument `{name}` must be a number or an array of numbers, but it is {type(x).__name__}."
            raise ValueError(message) from error
        if jnp.issubdtype(arrays[name].dtype, jnp.complexfloating):
            raise ValueError(f"Argument `{name}` must be real, but it has dtype {arrays[name].dtype}.")
    floating = [x for x in arrays.values() if jnp.issubdtype(x.dtype, jnp.floating)]
    dtype = jnp.result_type(float, *floating)
    return [x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(dtype) for x in arrays.values()]


def real_array(x: ArrayLike, name: str) -> Array:
    """`x` as a real floating-point array."""
    return real_arrays(**{name: x})[0]


def summation_dtype(dtype: Any) -> Any:
    """`dtype`, or float32 if it has fewer bits: sums and factorisations need that many."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def widened(x: Array) -> Array:
    """`x`, in float32 if it has fewer bits; otherwise as it is, weakly typed too."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def size_of(x: Array) -> Array:
    """The largest entry in magnitude, to divide by before squares leave the range; 1 where it is 0 or not finite."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x), initial=0))
    return jnp.where((size > 0) & (size < jnp.inf), size, 1)
