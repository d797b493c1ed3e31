"""Hops along the diagonals of two axes, and the lines on which they lie."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from ._face_rates import AxisRates
from ._grid import from_front, to_front


class DiagonalRates(eqx.Module):
    """Hopping rates along one diagonal of two axes, shape `(*shape)`, unit 1/time.

    `forward` leads one cell up on the first axis and `sign` cells on the second, `backward` the opposite way.  They
    wrap on periodic axes and are zero where they would leave the grid: exits are kept with the axes' rates.
    """

    forward: Float[Array, "*shape"]
    backward: Float[Array, "*shape"]
    axes: tuple[int, int] = eqx.field(static=True)
    sign: int = eqx.field(static=True)
    periodic: tuple[bool, bool] = eqx.field(static=True)

    def shifted(self, f: Float[Array, "*shape"], by: int) -> Float[Array, "*shape"]:
        """`f` moved by one hop forwards (1) or backwards (-1)."""
        return jnp.roll(f, (by, by * self.sign), self.axes)

    def apply(self, p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`W p` along this diagonal."""
        arriving = self.shifted(self.forward * p, 1) + self.shifted(self.backward * p, -1)
        return arriving - (self.forward + self.backward) * p

    def adjoint(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`W' u` along this diagonal."""
        return self.forward * (self.shifted(u, -1) - u) + self.backward * (self.shifted(u, 1) - u)


class Lines(eqx.Module):
    """A grid read along lines: `enter` brings the direction of sweep to the front, `leave` puts it back."""

    rates: AxisRates
    axes: tuple[int, ...] = eqx.field(static=True)
    slope: int = eqx.field(static=True)

    def enter(self, p: Float[Array, "*shape"]) -> Float[Array, "n *rest"]:
        """`p` with the cells of each line along the first axis."""
        p = _moved(to_front, p, self.axes[0])
        return _sheared(p, self._second, self.slope) if self.slope else p

    def leave(self, p: Float[Array, "n *rest"]) -> Float[Array, "*shape"]:
        """Inverse of `enter`."""
        p = _sheared(p, self._second, -self.slope) if self.slope else p
        return _moved(from_front, p, self.axes[0])

    @property
    def _second(self) -> int:
        """Where the second axis lies once the first is in front."""
        first, second = self.axes
        return second + 1 if second < first else second


def _moved(move: Callable[[Array, int], Array], p: Array, axis: int) -> Array:
    """`move(p, axis)`, written out where the last axis is moved.

    XLA would leave it as it lies and turn it where it is read, entry by entry, in up to five times the time.
    """
    if axis == 0 or axis < p.ndim - 1:
        return move(p, axis)
    in_rows = lambda p: with_layout_constraint(p, Layout(tuple(range(p.ndim))))
    return in_rows(move(in_rows(p), axis))


def axis_lines(rates: AxisRates, axis: int) -> Lines:
    """Lines along an axis."""
    return Lines(rates, (axis,), 0)


def diagonal_lines(rates: DiagonalRates) -> Lines:
    """Lines along a diagonal: each ends at the sides, or closes on itself.

    **Raises:** `ValueError` on a torus whose two axes do not divide each other: a diagonal then winds around it many
    times before it closes.
    """
    shape = rates.forward.shape
    for front, other in (rates.axes, rates.axes[::-1]):
        wraps = rates.periodic[rates.axes.index(front)]
        if not wraps or (rates.periodic == (True, True) and shape[front] % shape[other] == 0):
            break
    else:
        raise ValueError(
            "Argument `method` must not be a splitting here: on two periodic axes of "
            f"{shape[rates.axes[0]]} and {shape[rates.axes[1]]} cells the diagonals of a full-tensor diffusion do not "
            "close after one turn.  Use Uniformization(), or as many cells on one axis as on the other."
        )
    lines = Lines(AxisRates(rates.forward, rates.backward, wraps), (front, other), rates.sign)
    # Seen from the second axis the way up is `sign` times that of the first.
    up, down = rates.forward, rates.backward
    if front != rates.axes[0] and rates.sign < 0:
        up, down = down, up
    return Lines(AxisRates(lines.enter(up), lines.enter(down), wraps), (front, other), rates.sign)


def _sheared(p: Float[Array, "n *rest"], axis: int, slope: int) -> Float[Array, "n *rest"]:
    """Row `k` rolled by `-slope k` along another axis."""
    n, m = p.shape[0], p.shape[axis]
    index = (np.arange(m)[None, :] + slope * np.arange(n)[:, None]) % m
    shape = [1] * p.ndim
    shape[0], shape[axis] = n, m
    return jnp.take_along_axis(p, jnp.asarray(index, jnp.int32).reshape(shape), axis)
