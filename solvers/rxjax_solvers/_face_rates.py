"""Exponentially fitted hopping rates between neighbouring cells (Scharfetter and Gummel 1969).

Between two cells a distance `h` apart the flux of `J = b u - D du/dx` with constant `b`, `D` and `J` is exactly
`(D/h^2) [B(-x) u_left - B(x) u_right]` per cell, `x = b h / D`, with the Bernoulli function `B(x) = x / (e^x - 1)`.
Both rates are positive for every `x`, their ratio is `e^x`, so `exp(-V/kT)` is stationary to rounding when
`b h = -(V_right - V_left)`.
"""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class AxisRates(eqx.Module):
    """Hopping rates along one axis; the sweep axis lies first, shape `(n, *other axes)`, unit 1/time.

    `up[k]` leads from cell `k` to `k + 1` and `down[k]` from `k` to `k - 1`.  Past the ends they wrap on a periodic
    axis, leave the grid at an absorbing side, and are zero at a reflecting one.
    """

    up: Float[Array, "n *rest"]
    down: Float[Array, "n *rest"]
    periodic: bool = eqx.field(static=True)

    def inflow(self, p: Float[Array, "n *rest"]) -> Float[Array, "n *rest"]:
        """What enters each cell per unit time."""
        right, left = self.up * p, self.down * p
        if self.periodic:
            return jnp.roll(right, 1, 0) + jnp.roll(left, -1, 0)
        zero = jnp.zeros_like(p[:1])
        return jnp.concatenate([zero, right[:-1]]) + jnp.concatenate([left[1:], zero])

    def apply(self, p: Float[Array, "n *rest"]) -> Float[Array, "n *rest"]:
        """`W p` along this axis."""
        return self.inflow(p) - (self.up + self.down) * p

    def adjoint(self, u: Float[Array, "n *rest"]) -> Float[Array, "n *rest"]:
        """`W' u` along this axis."""
        if self.periodic:
            above, below = jnp.roll(u, -1, 0), jnp.roll(u, 1, 0)
        else:
            # An absorbing side sees u = 0 outside; at a reflecting one the rate is zero.
            zero = jnp.zeros_like(u[:1])
            above, below = jnp.concatenate([u[1:], zero]), jnp.concatenate([zero, u[:-1]])
        return self.up * (above - u) + self.down * (below - u)


@partial(jax.jit, inline=True)
def fitted(m: Float[Array, "..."], diffusion: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`D B(-x)` and `D B(x)` with `x = m/D`, the rates with and against `m`, finite and differentiable for `D >= 0`.

    For `D -> 0` they tend to `max(m, 0)` and `max(-m, 0)`: upwinding, first order.  Where `m` is zero too both are `D`,
    with the slopes of that.
    """
    # Beyond, the rate against the drift is below all numbers, and slopes of `x` overflow.
    tiny, eps = float(jnp.finfo(diffusion.dtype).tiny), float(jnp.finfo(diffusion.dtype).eps)
    steepest = 1 - math.log(tiny * eps)
    diffuses = (diffusion > 0) & (jnp.abs(m) < steepest * diffusion)
    d = jnp.where(diffuses & ((m != 0) | (diffusion > tiny**0.5)), diffusion, 1)
    x = m / d
    small = diffuses & (jnp.abs(x) < 1e-2) | (m == 0)
    xs = jnp.where(small, x, 0)
    even, odd = diffusion * (1 + xs**2 / 12 - xs**4 / 720), d * xs / 2
    size = jnp.abs(jnp.where(small | ~diffuses, 1, x))
    fast = jnp.where(diffuses, d * size / -jnp.expm1(-size), jnp.abs(m))
    slow = jnp.where(diffuses, jnp.exp(-size) * fast, 0)
    with_m = jnp.where(small, even + odd, jnp.where(m > 0, fast, slow))
    against = jnp.where(small, even - odd, jnp.where(m > 0, slow, fast))
    return with_m, against


# Compiled as a whole: operation by operation each new shape would cost a second.
@partial(jax.jit, static_argnums=(5, 6), inline=True)
def axis_rates(
    drop: Float[Array, "faces *rest"],
    face_diffusion: Float[Array, "faces *rest"],
    cell_diffusion: Float[Array, "n *rest"],
    ends: tuple[tuple[Array, Array] | None, tuple[Array, Array] | None],
    h: Float[Array, ""],
    weight: float,
    periodic: bool,
) -> AxisRates:
    """Rates along one axis.

    **Arguments:**

    - `drop`: drift times distance on the faces between neighbouring cells, in the direction of the axis; `n - 1`
        faces, or `n` with the seam last on a periodic axis.
    - `face_diffusion`, `cell_diffusion`: `D` on those faces and in the cells.
    - `ends`: for an absorbing low or high side `(drift out of the grid times h/2, D on the side)`, else `None`.
    - `weight`: the convention's share of `D` under the outer derivative.
    """
    with_m, against = fitted(drop, face_diffusion)

    def share(cell, face):
        # (D_cell / D_face)^weight; where nothing diffuses the drift alone moves mass and the share is 1.
        if weight == 0.0:
            return jnp.ones_like(face)
        both = (face > 0) & (cell > 0)
        return jnp.where(both, jnp.where(both, cell, 1) / jnp.where(both, face, 1), 1) ** weight

    above = jnp.roll(cell_diffusion, -1, 0) if periodic else cell_diffusion[1:]
    below = cell_diffusion if periodic else cell_diffusion[:-1]
    up = with_m * share(below, face_diffusion) / h**2
    down = against * share(above, face_diffusion) / h**2
    if periodic:
        return AxisRates(up, jnp.roll(down, 1, 0), True)
    zero = jnp.zeros_like(cell_diffusion[:1])
    exits = []
    for end, cell in zip(ends, (cell_diffusion[:1], cell_diffusion[-1:]), strict=True):
        # The density vanishes on the face, half a cell away: exit rate 2 D/h^2, not D/h^2.
        exits.append(zero if end is None else 2 * fitted(end[0], end[1])[0] * share(cell, end[1]) / h**2)
    return AxisRates(jnp.concatenate([up, exits[1]]), jnp.concatenate([exits[0], down]), False)
