"""What every landscape has, and the checks of its one argument."""

import abc
import operator
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

# What a user may type for an array: numbers, NumPy and JAX arrays, lists of them.
Numbers = ArrayLike | Sequence[Any]


class AbstractLandscape(eqx.Module):
    r"""A scalar function $L(\theta)$ of a point $\theta \in \mathbb{R}^d$, with what is known about it.

    Calling it takes `theta` of shape `(d,)` and returns a value of shape `()` in the dtype of `theta`: float32 in,
    float32 out.  Energies have no unit: a temperature given beside them means $kT$ in the same unit.

    `jax.grad`, `jax.vmap` and `jax.hessian` take a landscape as it is.  To compile one by itself use
    `eqx.filter_jit(landscape)`: `jax.jit` takes no module that holds arrays, unless inside a function.

    A new landscape is a subclass with the attributes below and one method, `_value(theta)`, which may take for granted
    that `theta` is a floating array of shape `(dim,)`.

    - `dim`: the number of coordinates, a Python integer.
    - `name`: what titles and tables call it.
    - `bounds`: `(d, 2)`, lower and upper end of each axis of a box that holds what is worth seeing, or `None`.
    - `minima`: `(n, d)`, the known local minima inside the bounds, or `None` where they are not known.
    - `saddles`: `(m, d)`, the known saddles of index 1 inside the bounds, or `None` where they are not known.  An
        array with no row says that there is none.

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp
        >>> import rxjax as rx
        >>> class Ripple(rx.landscapes.AbstractLandscape):
        ...     depth: jax.Array
        ...     dim = 1
        ...     name = "ripple"
        ...     bounds = minima = saddles = None
        ...     def _value(self, theta):
        ...         return self.depth * jnp.cos(theta[0])
        >>> Ripple(jnp.array(2.0))(jnp.zeros(1)).item()
        2.0

        ```
    """

    dim: eqx.AbstractVar[int]
    name: eqx.AbstractVar[str]
    bounds: eqx.AbstractVar[Array | None]
    minima: eqx.AbstractVar[Array | None]
    saddles: eqx.AbstractVar[Array | None]

    def __call__(self, theta: Numbers) -> Float[Array, ""]:
        """The value at `theta`.

        **Arguments:**

        - `theta`: the point, `(d,)`.  Use `jax.vmap(landscape)` for a batch, or `rx.landscapes.evaluate`.

        **Returns:** the value, `()`, in the dtype of `theta`.

        **Raises:** `ValueError` for any other shape, `TypeError` for a complex point.
        """
        return self._value(check_theta(theta, self.dim))

    @abc.abstractmethod
    def _value(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        """The value at a `theta` whose shape and dtype have been checked."""


def check_theta(theta: Numbers, dim: int) -> Float[Array, " d"]:
    """`theta` as a floating array, refused unless its shape is `(dim,)`."""
    theta = jnp.asarray(theta)
    if theta.shape != (dim,):
        raise ValueError(
            f"Argument `theta` must have shape ({dim},), one point, but it has shape {theta.shape}: "
            "use jax.vmap for a batch."
        )
    if jnp.issubdtype(theta.dtype, jnp.complexfloating):
        raise TypeError(f"Argument `theta` must be real, but its dtype is {theta.dtype}.")
    return as_float(theta)


def check_dim(dim: int, least: int = 1) -> int:
    """`dim` as a Python integer, refused below `least`."""
    try:
        number = operator.index(dim)
    except TypeError:
        raise TypeError(f"Argument `dim` must be a whole number, but it is {dim!r}.") from None
    if number < least:
        raise ValueError(f"Argument `dim` must be at least {least}, but it is {number}.")
    return number


def as_float(x: Numbers) -> Array:
    """`x` as an array of a floating dtype: its own, or JAX's default for integers and Python numbers."""
    x = jnp.asarray(x)
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else default_float()
    return jax.lax.convert_element_type(x, dtype)


def as_scalar(x: Numbers, name: str) -> Float[Array, ""]:
    """`x` as a floating scalar, refused with any other shape."""
    x = as_float(x)
    if x.shape != ():
        raise ValueError(
            f"Argument `{name}` must be a scalar, but it has shape {x.shape}: use jax.vmap over the constructor."
        )
    return x


def widest(*xs: Array) -> tuple[Array, ...]:
    """The floating arrays `xs` in the widest of their dtypes."""
    dtype = max((x.dtype for x in xs), key=lambda d: jnp.finfo(d).bits)
    return tuple(x.astype(dtype) for x in xs)


def default_float() -> np.dtype:
    """JAX's default floating dtype: float32, or float64 where x64 is on."""
    return jnp.zeros(()).dtype


def constant(x: object) -> Array:
    """A table of numbers as an array of the default floating dtype."""
    return jnp.asarray(np.asarray(x, dtype=np.float64), dtype=default_float())


def box(dim: int, low: float, high: float) -> Float[Array, "d 2"]:
    """The same bounds on every axis."""
    return constant(np.tile([low, high], (dim, 1)))
