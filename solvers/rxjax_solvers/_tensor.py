"""A diffusion tensor as hops to neighbouring cells, along the axes and along the diagonals of pairs of axes.

`D_ij d_i d_j = sum_e r_e (e.grad)^2` over the hops `e`: `h_i` along an axis, `h_i +- h_j` along a diagonal.  The
diagonal whose sign is that of `D_ij` has `r = |D_ij|/(h_i h_j)`, and the axis keeps
`r_i h_i^2 = D_ii - sum_j |D_ij| h_i/h_j`, which must not be negative.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._checks import is_traced, require

Numbers = Array | np.ndarray


def check_tensor(tensor: Float[Array, "*shape d d"], h: Float[Array, " d"], name: str) -> Float[Array, "*shape d d"]:
    """`tensor` if it is finite, symmetric and no more anisotropic than the cells, so that no hop has a negative rate.

    **Raises:** a sentence that names the worst tensor, the spacing and the remedy, outside and inside `jit`.
    """
    known = not is_traced(tensor, h)
    # Known values by NumPy, which compiles nothing for a new shape.
    xp: Any = np if known else jnp
    value: Any = np.asarray(tensor) if known else tensor
    cells: Any = np.asarray(h) if known else h
    rest = xp.stack([along_axis(value, cells, i) for i in range(h.shape[0])], axis=-1)
    diagonal = xp.diagonal(value, axis1=-2, axis2=-1)
    # A degenerate tensor, noise along a diagonal of the cells, lies on the limit.
    tolerance = 64 * jnp.finfo(tensor.dtype).eps
    skew = abs(value - xp.swapaxes(value, -1, -2))
    largest = xp.max(abs(value), axis=(-2, -1), keepdims=True)
    short = rest < -tolerance * abs(diagonal)
    shown = None
    if known:
        worst = int(np.argmin(np.min(rest, axis=-1)))
        text = lambda x: np.array2string(x, precision=4, separator=", ").replace("\n", "")
        shown = f"{text(value.reshape(-1, *value.shape[-2:])[worst])} on cells of {text(cells)}"
    faults = [
        (~xp.isfinite(value), "is not finite"),
        (skew > tolerance * largest, "is not symmetric"),
        (diagonal < 0, "has a negative diagonal"),
        (short, "is more anisotropic than the cells"),
    ]
    remedy = (
        "Hops to neighbouring cells would need a negative rate.  Take cells with h_i/h_j = sqrt(D_ii/D_jj), which in "
        "two dimensions is always enough, or turn the axes of the grid to those of the noise and give a diagonal."
    )
    must = "be symmetric with D_ii >= sum of |D_ij| h_i/h_j over the other axes j"
    return require(tensor, name, must, faults, remedy, shown)


def shared_out(
    tensor: Float[Array, "... d d"], drift: Float[Array, "*shape d"]
) -> tuple[Float[Array, "*shape d"], Float[Array, "*shape d"]]:
    """The force `F = D^-1 b`, in 1/theta, by which each hop `e` carries `r_e (e.F) e` of a drift; and what is left.

    The sum over hops is `D F`, the drift, so nothing is left, and `r_e (e.F)^2` adds up to the `b' D^-1 b` of the
    equation.  Where the tensor has no inverse to rounding the force is zero, and all of the drift is left.
    """
    d = drift.shape[-1]
    rows = [[tensor[..., i, j] for j in range(d)] for i in range(d)]
    force = [drift[..., i] for i in range(d)]
    regular: Any = True
    for k in range(d):
        # Symmetric and nowhere negative: elimination needs no pivoting.
        regular = regular & (rows[k][k] > 64 * jnp.finfo(tensor.dtype).eps * tensor[..., k, k])
        rows[k] = [jnp.where(regular, x, float(k == j)) for j, x in enumerate(rows[k])]
        for i in range(k + 1, d):
            share = rows[i][k] / rows[k][k]
            rows[i] = [below - share * x for below, x in zip(rows[i], rows[k], strict=True)]
            force[i] = force[i] - share * force[k]
    for k in reversed(range(d)):
        force[k] = sum((-rows[k][j] * force[j] for j in range(k + 1, d)), force[k]) / rows[k][k]
    whole = regular[..., None]
    return jnp.where(whole, jnp.stack(jnp.broadcast_arrays(*force), -1), 0), jnp.where(whole, 0, drift)


def along_axis(tensor: Numbers, h: Numbers, axis: int) -> Any:
    """What the hops along an axis keep of a tensor `(*shape, d, d)`, in theta^2/time; cells of sizes `h` `(d,)`."""
    others = [j for j in range(h.shape[0]) if j != axis]
    taken = [-abs(tensor[..., axis, j]) * h[axis] / h[j] for j in others]
    return sum(taken, tensor[..., axis, axis])


def along_diagonal(
    tensor: Float[Array, "*shape d d"], h: Float[Array, " d"], axes: tuple[int, int], sign: int
) -> Float[Array, "*shape"]:
    """Rate of the hops along the diagonal of two axes, forth and back each."""
    i, j = axes
    return jnp.maximum(sign * tensor[..., i, j], 0) / (h[i] * h[j])
