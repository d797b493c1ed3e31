"""What a proposal is: a density of updates whose exponential moments are known in closed form."""

from abc import abstractmethod
from collections.abc import Sequence

import equinox as eqx
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._arrays import real_array
from .._known import at_once_if_known, finite, positive


class AbstractProposal(eqx.Module):
    r"""A probability density $q(\delta)$ of updates $\delta$ in $d$ dimensions, centred at zero.

    The integral of a rate density over all updates diverges without a reference measure.  With one, everything follows
    from the moment generating function $M(\lambda) = \mathrm{E}_q[e^{\lambda\cdot\delta}]$ at $\lambda = -g/(kT)$: the
    total rate is $A\,M$ and the flow $A\,\nabla M$.  A new proposal is one subclass with these four methods; $d$ is
    taken from the arrays they are called with.
    """

    @abstractmethod
    def log_density(self, delta: ArrayLike) -> Float[Array, ""]:
        r"""$\log q(\delta)$ for `delta` of shape `(d,)`; minus infinity outside the support."""

    @abstractmethod
    def sample(self, key: PRNGKeyArray, shape: Sequence[int]) -> Float[Array, "..."]:
        """Independent updates of shape `shape`, whose last axis is `d`."""

    @abstractmethod
    def log_mgf(self, tilt: ArrayLike) -> Float[Array, ""]:
        r"""$\log \mathrm{E}_q[e^{\lambda\cdot\delta}]$ for a tilt $\lambda$ of shape `(d,)`; zero at zero tilt."""

    @abstractmethod
    def tilted_mean(self, tilt: ArrayLike) -> Float[Array, " d"]:
        r"""Mean of the density $q(\delta) e^{\lambda\cdot\delta} / M(\lambda)$, the gradient of [`log_mgf`][]."""


def check_vector(x: ArrayLike, name: str, width: Array) -> Array:
    """`x` if it is finite, of shape `(d,)`, and fits a width of shape `()` or `(d,)`."""
    x = real_array(x, name)
    if x.ndim != 1:
        raise ValueError(f"Argument `{name}` must have shape (d,), but it has shape {x.shape}. Vmap over many.")
    if width.ndim and width.shape != x.shape:
        raise ValueError(f"Argument `{name}` must have shape {width.shape} as the proposal, but it has {x.shape}.")
    return finite(x, name)


def check_shape(shape: Sequence[int], width: Array) -> tuple[int, ...]:
    """`shape` if its last axis is that of a width of shape `()` or `(d,)`."""
    shape = tuple(shape)
    if not shape or shape[-1] < 1 or (width.ndim and width.shape[0] != shape[-1]):
        expected = "d" if width.ndim == 0 else str(width.shape[0])
        raise ValueError(f"Argument `shape` must end with the dimension {expected}, but it is {shape}.")
    return shape


@at_once_if_known
def check_width(x: ArrayLike, name: str, per_axis: bool) -> Array:
    """A positive width of shape `()`, or `(d,)` where the axes may differ."""
    x = positive(real_array(x, name), name)
    if x.ndim > int(per_axis):
        allowed = "() or (d,)" if per_axis else "()"
        raise ValueError(f"Argument `{name}` must have shape {allowed}, but it has shape {x.shape}.")
    return x
