"""Plain callables as landscapes, and the checks that any landscape passes before it is used."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float

from rxjax_solvers._checks import is_traced, require
from rxjax_solvers._program import hashable, program

from ._base import AbstractLandscape, Numbers, as_float, check_dim, default_float


class CallableLandscape(AbstractLandscape):
    r"""$L(\theta) = f(\theta)$, a plain callable with a dimension and bounds.  Made by `rx.landscapes.as_landscape`.

    `minima` and `saddles` are `None`: nothing is known about a plain callable.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> import rxjax as rx
        >>> landscape = rx.landscapes.as_landscape(lambda x: jnp.sum(x**4), dim=2)
        >>> type(landscape).__name__, landscape.name, landscape.minima
        ('CallableLandscape', '<lambda>', None)

        ```
    """

    fn: Callable[..., Any]
    dim: int = eqx.field(static=True)
    bounds: Array | None
    name: str = eqx.field(static=True)

    def __init__(self, fn: Callable[..., Any], dim: int, bounds: Array | None, name: str):
        """Takes what `rx.landscapes.as_landscape` has checked."""
        self.fn, self.dim, self.bounds, self.name = fn, dim, bounds, name

    @property
    def minima(self) -> None:
        return None

    @property
    def saddles(self) -> None:
        return None

    def _value(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.asarray(one_number(self.fn(theta), "landscape")).astype(theta.dtype)


def as_landscape(
    fn: Callable[..., Any], dim: int | None = None, bounds: Numbers | None = None, name: str | None = None
) -> AbstractLandscape:
    r"""Make $L(\theta) = f(\theta)$ a landscape: give a plain callable a dimension, bounds and a name.

    A landscape comes back as it is, unless it is given new bounds or a new name.  Arrays inside an `eqx.Module` or a
    `functools.partial` stay differentiable leaves; those a plain function closes over are constants.

    **Arguments:**

    - `fn`: `theta (d,) -> ()`, written with `jax.numpy`.
    - `dim`: the number of coordinates.  May be left out where `fn` has a `dim` or `bounds` are given.
    - `bounds`: `(d, 2)`, the box worth seeing.  `None` takes those of `fn`, if it has any.
    - `name`: for titles and tables.  `None` takes the one of `fn`.

    **Returns:** an `AbstractLandscape`.

    **Raises:** `ValueError` or `TypeError` if the dimension is not known, if it contradicts `fn.dim` or the bounds, or
    if `fn` does not return a real floating scalar.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> import rxjax as rx
        >>> landscape = rx.landscapes.as_landscape(lambda x: jnp.sum(x**4), bounds=jnp.array([[-1.0, 1.0]]))
        >>> landscape.dim, landscape(jnp.array([2.0])).item()
        (1, 16.0)

        ```
    """
    is_landscape = isinstance(fn, AbstractLandscape)
    if is_landscape and bounds is None and name is None and dim in (None, fn.dim):
        return fn
    bounds = getattr(fn, "bounds", None) if bounds is None else bounds
    if bounds is not None:
        bounds = check_bounds(bounds, getattr(fn, "dim", dim))
    if dim is None:
        dim = getattr(fn, "dim", None) if bounds is None else bounds.shape[0]
    if dim is None:
        raise ValueError("Argument `dim` must be given for a plain callable, but it is None. Type `dim=2`, say.")
    dim = check_dim(dim)
    check_landscape(fn, dim)
    if name is None:
        name = getattr(fn, "name", None) or getattr(fn, "__name__", type(fn).__name__)
    return CallableLandscape(without_leaf(fn), dim, bounds, str(name))


def without_leaf(fn: Any) -> Callable[..., Any]:
    """`fn` as a PyTree in which a plain function is no leaf, so that jit, vmap and grad take it as an argument."""
    leafless: Any = fn if isinstance(fn, eqx.Module) else jtu.Partial(hashable(fn))
    return leafless


def check_bounds(bounds: Numbers, dim: int | None, name: str = "bounds") -> Float[Array, "d 2"]:
    """`bounds` as a `(dim, 2)` array with lower ends below upper ends; `(2,)` serves every axis if `dim` is known."""
    bounds = as_float(bounds)
    if bounds.shape == (2,) and dim is not None:
        bounds = jnp.tile(bounds, (dim, 1))
    if bounds.ndim != 2 or bounds.shape[1] != 2 or (dim is not None and bounds.shape[0] != dim):
        rows = "d" if dim is None else dim
        raise ValueError(
            f"Argument `{name}` must have shape ({rows}, 2), a lower and an upper end for each coordinate, but it has "
            f"shape {bounds.shape}."
        )
    faults = [(~jnp.isfinite(bounds), "is not finite"), (~(bounds[:, 0] < bounds[:, 1]), "does not ascend")]
    return require(bounds, name, "be finite, lower end before upper end", faults)


def check_landscape(landscape: Callable[..., Any], dim: int, dtype: Any = None) -> Callable[..., Any]:
    r"""Refuse, before anything is computed, a `landscape` that is not a map $L: \mathbb{R}^d \to \mathbb{R}$ for JAX.

    The callable is traced with `jax.eval_shape`: it costs no evaluation and finds a vector or a tuple returned, an
    integer or complex dtype, a forgotten `return`, and code that only NumPy can run.  Values are not seen: see
    `rx.landscapes.require_finite_values`.

    **Arguments:**

    - `landscape`: `theta (d,) -> ()`.
    - `dim`: the number of coordinates.
    - `dtype`: the dtype of `theta`, JAX's default floating one if not given.

    **Returns:** `landscape`, unchanged.

    **Raises:** `ValueError` for a wrong shape or dimension, `TypeError` for a wrong type.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> rx.landscapes.check_landscape(lambda theta: 2 * theta, 3)
        Traceback (most recent call last):
        ValueError: Argument `landscape` must return one number, an array of shape (), but it returns shape (3,). ...

        ```
    """
    if not callable(landscape):
        raise TypeError(f"Argument `landscape` must be callable, theta (d,) -> (), but it is {landscape!r}.")
    own = getattr(landscape, "dim", dim)
    if own != dim:
        raise ValueError(f"Argument `landscape` must take {dim} coordinates, but it takes {own}.")
    theta = jax.ShapeDtypeStruct((dim,), default_float() if dtype is None else dtype)
    check_output(landscape, theta, "landscape", "theta")
    return landscape


def check_output(fn: Callable[..., Any], argument: Any, name: str, of_what: str) -> None:
    """Trace `fn(argument)` and refuse anything but a real floating scalar."""
    faults: list[Exception | None] = []
    try:
        eqx.filter_eval_shape(lambda x: faults.append(_fault(fn(x), name)), argument)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise TypeError(
            f"Argument `{name}` must be written with jax.numpy so that JAX can trace it, but it asks for the numbers "
            f"in {of_what}. Use jax.numpy instead of numpy, jnp.where instead of if, and no float(...)."
        ) from error
    if faults[0] is not None:
        raise faults[0]


def require_finite_values(values: Numbers, name: str = "landscape") -> Array:
    r"""$L(\theta_i) \in \mathbb{R}$ for every $i$: hand back `values` if none is NaN or infinite.

    **Arguments:**

    - `values`: what the landscape returned, any shape.
    - `name`: the argument's name as the user typed it.

    **Returns:** `values` as an array.  Use it: inside `jit` an unused check is compiled away.

    **Raises:** `ValueError` outside `jit`, a run-time error inside.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> import rxjax as rx
        >>> rx.landscapes.require_finite_values(jnp.array([0.0, jnp.nan, 1.0]))
        Traceback (most recent call last):
        ValueError: Argument `landscape` must return finite values, but it returns NaN: got 1 such value of 3. ...

        ```
    """
    values = jnp.asarray(values)
    nan, infinite = jnp.isnan(values), jnp.isinf(values)
    shown = None
    if not is_traced(values):
        count = int(np.sum(np.asarray(nan if bool(jnp.any(nan)) else infinite)))
        shown = f"{count} such value{'' if count == 1 else 's'} of {values.size}"
    faults = [(nan, "returns NaN"), (infinite, "returns infinity")]
    remedy = "Look for a division, logarithm or overflow inside the grid's bounds, or choose narrower bounds."
    return require(values, name, "return finite values", faults, remedy, shown)


def evaluate(landscape: Callable[..., Any], points: Numbers, batch_size: int | None = None) -> Array:
    r"""$L(\theta_i)$ at many points, in chunks of bounded memory.

    **Arguments:**

    - `landscape`: `theta (d,) -> ()`, any callable.
    - `points`: `(*shape, d)`, such as `grid.points`.
    - `batch_size`: how many points are evaluated at once.  `None` takes the landscape's own `batch_size` if it has one
        (a plane through a network has), else 4096: good for toy functions, too much for anything large.

    **Returns:** the values, `(*shape)`.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> import rxjax as rx
        >>> rx.landscapes.evaluate(lambda x: jnp.sum(x), jnp.ones((4, 5, 3))).shape
        (4, 5)

        ```
    """
    points = jnp.asarray(points)
    if points.ndim < 1:
        raise ValueError(f"Argument `points` must have shape (*shape, d), but it has shape {points.shape}.")
    chunk = int(getattr(landscape, "batch_size", 4096) if batch_size is None else batch_size)
    if chunk < 1:
        raise ValueError(f"Argument `batch_size` must be at least 1, but it is {batch_size}.")
    shape, dim = points.shape[:-1], points.shape[-1]
    return _map(landscape, points.reshape(-1, dim), chunk).reshape(shape)


@program
def _map(fn: Callable[..., Any], points: Array, batch_size: int) -> Array:
    if points.shape[0] <= batch_size:
        return jax.vmap(fn)(points)
    return jax.lax.map(fn, points, batch_size=batch_size)


def one_number(value: Any, name: str) -> Any:
    """`value`, returned by the user's function `name`, unless it is no real floating scalar."""
    fault = _fault(value, name)
    if fault is not None:
        raise fault
    return value


def _fault(value: Any, name: str) -> Exception | None:
    """What is wrong with the output of a landscape, an exception ready to raise, or `None`."""
    must = f"Argument `{name}` must return one number, an array of shape (), but it returns"
    if value is None:
        return TypeError(f"{must} None. Is a `return` missing?")
    if isinstance(value, (bool, int, float, complex)):
        value = np.asarray(value)
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return TypeError(f"{must} a {type(value).__name__}. Return the loss alone, without auxiliary output.")
    if value.shape != ():
        return ValueError(f"{must} shape {value.shape}. Sum or average the entries, or take one of them.")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return TypeError(
            f"Argument `{name}` must return a real floating number, but it returns dtype {value.dtype}. "
            "Multiply by 1.0, or take the real part."
        )
    return None
