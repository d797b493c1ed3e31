"""Jumps whose rate is a product: leaving x jump x arriving, summed by fast Fourier transforms."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import finite, is_traced, require, seen
from .._compiled import compiled
from .._grid import Grid, evaluate
from ._halo import fold, unfold
from ._jumps import AbstractJumps, pick
from ._stencil import landing, reach_of

# Rounding of a transform is absolute: eps e^range of the lowest results.  A range of 30 is allowed in float64.
_LOST = math.exp(30) * float(np.finfo(np.float64).eps)


class SeparableRate(eqx.Module):
    r"""A rate density $e^{a(\theta) + j(\delta) + b(\theta + \delta)}$, given as three logarithms.

    **Arguments:**

    - `log_leave`: $a$, `theta (d,) -> ()`.
    - `log_jump`: $j$, `delta (d,) -> ()`.
    - `log_arrive`: $b$, `theta (d,) -> ()`, taken where the jump ends.

    For the symmetric law at temperature $kT$, $a = L/2kT$ and $b = -L/2kT$; for the literal Arrhenius law with the
    exact difference of the loss they are twice that.  Metropolis' and Glauber's laws are not of this form.  It may be
    used wherever a rate is asked for, and is what `MasterEquation.from_rates(..., fft=True)` needs.
    """

    log_leave: Callable
    log_jump: Callable
    log_arrive: Callable

    def __call__(self, theta: Float[Array, " d"], delta: Float[Array, " d"]) -> Float[Array, ""]:
        """The rate density."""
        return jnp.exp(self.log_leave(theta) + self.log_jump(delta) + self.log_arrive(theta + delta))


class SeparableJumps(AbstractJumps):
    """`leave[i] jump[j - i] arrive[j]` leads from cell `i` to `j`; `arrive` carries a margin for jumps that exit."""

    leave: Float[Array, "*shape"]
    jump: Float[Array, " m"]
    arrive: Float[Array, "*wide"]
    kernel: Array
    leaving: Float[Array, "*shape"]
    offsets: Int[Array, "m d"]
    reach: tuple[int, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)

    def __init__(self, rate: SeparableRate, grid: Grid, offsets: Int[np.ndarray, "m d"]):
        self.reach = reach_of(offsets, grid)
        self.periodic = tuple(low == "periodic" for low, _ in grid.boundary)
        self.offsets = jnp.asarray(offsets, jnp.int32)
        deltas = _deltas(grid, self.offsets)
        leave = finite(evaluate(rate.log_leave, grid.points, "log_leave", [()]), "log_leave")
        inside = finite(evaluate(rate.log_arrive, grid.points, "log_arrive", [()]), "log_arrive")
        jump = evaluate(rate.log_jump, deltas, "log_jump", [()])
        spread = _range(leave, inside)
        limit = math.log(_LOST / float(jnp.finfo(leave.dtype).eps))
        shown = None if is_traced(spread) else f"range {float(spread):.4g}"
        remedy = (
            "For the symmetric law it is range(L)/kT, for the literal one twice that.  Use `fft=False`: its sums are "
            "of positive numbers and keep relative accuracy."
        )
        name = f"vary by a factor of at most e^{limit:.3g} over the grid for a Fourier transform in {leave.dtype}"
        leave = require(leave, "rate", name, [(seen(spread) > limit, "varies by more")], remedy, shown)
        self.leave, jump, arrive, top = _factors(grid, leave, jump, inside)
        self.jump = finite(jump, "rate", "`log_jump` may be -inf, where nothing jumps, but no NaN, nor overflow.")
        self.arrive = self._with_margin(rate.log_arrive, arrive, top, grid)
        sizes = self._sizes
        self.kernel, self.leaving = _sums(self.leave, self.jump, self.arrive, self.offsets, self.reach, sizes)

    def _with_margin(self, log_arrive: Callable, inside: Array, top: Array, grid: Grid) -> Array:
        """`exp(log_arrive - top)`: zero beyond reflecting sides, evaluated beyond absorbing ones, wrapped elsewhere."""
        wide = _unfolded(inside, self.reach, self.periodic)
        if all("absorbing" not in sides for sides in grid.boundary):
            return wide
        axes = [
            grid.lower[i] + grid.spacing[i] * (jnp.arange(-w, n + w, dtype=inside.dtype) + 0.5)
            for i, (n, w) in enumerate(zip(grid.shape, self.reach, strict=True))
        ]
        beyond, closed = jnp.zeros(wide.shape, bool), jnp.zeros(wide.shape, bool)
        for axis, (n, w) in enumerate(zip(grid.shape, self.reach, strict=True)):
            at = np.arange(-w, n + w)
            for side, out in zip(grid.boundary[axis], (at < 0, at >= n), strict=True):
                out = jnp.asarray(out).reshape([-1 if i == axis else 1 for i in range(grid.dim)])
                beyond = beyond | out if side == "absorbing" else beyond
                closed = closed | out if side == "reflecting" else closed
        points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
        out = (beyond & ~closed)[..., None]
        # Where nothing lands the function need not exist.
        points = jnp.where(out, points, grid.points.reshape(-1, grid.dim)[0])
        there = jnp.exp(finite(evaluate(log_arrive, points, "log_arrive", [()]), "log_arrive") - top)
        return jnp.where(out[..., 0], there, wide)

    @property
    def _sizes(self) -> tuple[int, ...]:
        """Lengths of the transforms: room for what jumps off an axis that does not wrap."""
        # Here, since it would take a tenth of the time that importing this package takes.
        import scipy.fft

        axes = zip(self.leave.shape, self.reach, self.periodic, strict=True)
        fast: Any = scipy.fft.next_fast_len
        return tuple(n if wraps else fast(n + min(w, n - 1), real=True) for n, w, wraps in axes)

    def _convolve(self, f: Float[Array, "*shape"], kernel: Array) -> Float[Array, "*shape"]:
        full = jnp.fft.irfftn(jnp.fft.rfftn(f, s=self._sizes) * kernel, s=self._sizes)
        return full[tuple(slice(n) for n in f.shape)].astype(f.dtype)

    def _inside(self) -> Float[Array, "*shape"]:
        return self.arrive[tuple(slice(w, w + n) for n, w in zip(self.leave.shape, self.reach, strict=True))]

    def inflow(self, p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self._inside() * self._convolve(self.leave * p, self.kernel)

    def summed(self, p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`inflow` as a sum of products of positive numbers, jump by jump: for a matrix."""
        margin = jnp.asarray(self.reach, jnp.int32)

        def push(field, jump):
            weight, offset = jump
            start = tuple(offset + margin)
            landed = lax.dynamic_slice(field, start, p.shape) + weight * self.leave * p
            return lax.dynamic_update_slice(field, landed, start), None

        empty = jnp.zeros(self.arrive.shape, p.dtype)
        field = lax.scan(push, empty, (self.jump, self.offsets))[0] * self.arrive
        return fold(field, self.reach, self.periodic)

    def adjoint(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.leave * self._convolve(self._inside() * u, jnp.conj(self.kernel)) - self.leaving * u

    def draw(self, state: Int[Array, ""], key: PRNGKeyArray) -> Int[Array, ""]:
        at = jnp.stack(jnp.unravel_index(state, self.leave.shape)).astype(jnp.int32)
        margin = jnp.asarray(self.reach, jnp.int32)
        there = jax.vmap(lambda offset: self.arrive[tuple(at + offset + margin)])(self.offsets)
        return landing(state, self.offsets[pick(self.jump * there, key)], self.leave.shape, self.periodic)


_unfolded = compiled(unfold)


@compiled
def _deltas(grid: Grid, offsets: Array) -> Array:
    return offsets.astype(grid.lower.dtype) * grid.spacing[None]


@compiled
def _range(leave: Array, inside: Array) -> Array:
    """Of the logarithm of their product, at most."""
    return jnp.max(leave) - jnp.min(leave) + jnp.max(inside) - jnp.min(inside)


@compiled
def _factors(grid: Grid, leave: Array, jump: Array, inside: Array) -> tuple[Array, Array, Array, Array]:
    """Those of a rate, scaled to 1 at the largest so that none overflows by itself, and the last one's scale."""
    top_leave, top_arrive = jnp.max(leave), jnp.max(inside)
    jump = jnp.exp(jump + top_leave + top_arrive) * grid.cell_volume
    return jnp.exp(leave - top_leave), jump, jnp.exp(inside - top_arrive), top_arrive


@compiled
def _sums(
    leave: Array, jump: Array, wide: Array, offsets: Array, reach: tuple[int, ...], sizes: tuple[int, ...]
) -> tuple[Array, Array]:
    """Transform of the jumps, and total rates out of the cells."""
    # Jumps longer than an axis cannot land on the grid.
    lands = jnp.all(jnp.abs(offsets) < jnp.asarray(leave.shape, jnp.int32)[None], axis=1)
    at = tuple(offsets[:, i] % n for i, n in enumerate(sizes))
    kernel = jnp.fft.rfftn(jnp.zeros(sizes, jump.dtype).at[at].add(jnp.where(lands, jump, 0)))
    margin = jnp.asarray(reach, jnp.int32)

    # Products of positive numbers where the jumps land: no transform.
    def gather(total, term):
        weight, offset = term
        return total + weight * lax.dynamic_slice(wide, tuple(offset + margin), total.shape), None

    return kernel, leave * lax.scan(gather, jnp.zeros_like(leave), (jump, offsets))[0]
