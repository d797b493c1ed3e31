"""Factors: made once per generator, shared by every question that is asked of it."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from ._checks import non_negative
from ._elimination import AbstractElimination, DenseElimination, DissectionElimination, TridiagonalElimination
from ._fokker_planck import FokkerPlanck
from ._generator import AbstractGenerator
from ._region import Region, Target, as_regions

# Numbers in the inverse of a full matrix, or of the largest separator of a grid, beyond which no factor is made.
_MAX_STATES = 4096
_MAX_SEPARATOR = 2048


class Factor(eqx.Module):
    """`A = shift - W` on the cells outside of a target, factored; differentiable, and a PyTree to carry around.

    In the cells of the target, where the process ends, `solve` returns zero and ignores its argument.  Derivatives with
    respect to the generator, the shift and the right-hand side take one more solve with the same factor.
    """

    generator: AbstractGenerator
    shift: Float[Array, ""]
    keep: Bool[Array, "*shape"]
    extra: Float[Array, "*shape"]
    elimination: AbstractElimination

    def solve(self, b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`A^-1 b`: mean density over a life that starts as `b` and ends at the target or with rate `shift`."""
        b = jnp.where(self.keep, b, 0)
        forward, backward = self.elimination.solve, self.elimination.transpose_solve
        return _linear_solve(self._matvec(self.generator.apply), b, forward, backward)

    def transpose_solve(self, b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`A^-T b`: mean integral of `b` along a life that starts in each cell."""
        b = jnp.where(self.keep, b, 0)
        forward, backward = self.elimination.solve, self.elimination.transpose_solve
        return _linear_solve(self._matvec(self.generator.adjoint), b, backward, forward)

    def _matvec(self, apply):
        loss = self.shift + self.extra

        def matvec(x):
            kept = jnp.where(self.keep, x, 0)
            return jnp.where(self.keep, loss * kept - apply(kept), x)

        return matvec


def _linear_solve(matvec, b, solve, transpose_solve):
    return lax.custom_linear_solve(
        matvec, b, solve=lambda _, b: solve(b), transpose_solve=lambda _, b: transpose_solve(b)
    )


def factorize(
    generator: AbstractGenerator,
    *,
    target: Target | Sequence[Target] | None = None,
    shift: Shaped[ArrayLike, ""] = 0.0,
) -> Factor:
    r"""Factor $s - W$ outside of a target.

    Elimination without a single subtraction: a sweep along one axis, nested dissection on a grid of two or three, a
    full inverse without a grid.  Every entry of the inverse is right to some roundings however slow the process is, so
    passage times over barriers of 60 kT come out to nearly full precision (Alfa, Xue and Ye 2002).

    **Arguments:**

    - `generator`: `W`; not time-dependent.
    - `target`: where the process ends: a mask (a set of cells), a predicate of `theta` (whose edge is placed where it
        lies), a sequence of them, or `None`: only absorbing sides and exits end it.
    - `shift`: $s \ge 0$, in 1/time; positive if nothing ends the process.

    **Returns:** a `Factor`; pass it as `factor=` to the verbs that ask for the same target.

    **Cost** in float64: 256 x 256 cells 55 MB, a few milliseconds a solve; `n^(3/2)` operations in 2-D.

    **How it fails:** a closed generator without target and shift is singular, and solves are not finite.

    **Raises:** `ValueError` for grids whose separators exceed 2048 cells (about 45^3) and more than 4096 states
    without a grid.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.FokkerPlanck(jnp.zeros(1), 0.5, rxs.Grid(-1, 1, 100, boundary="absorbing"))
        >>> time = rxs.factorize(W).transpose_solve(jnp.ones(100))
        >>> round(float(jnp.max(time)), 3)  # from the middle: 1
        1.0

        ```
    """
    if generator.time_dependent:
        raise ValueError(
            "Argument `generator` must not depend on time, but it does: a factor is of one instant.  Freeze it: "
            "`generator.at(t)`."
        )
    regions = as_regions(generator, target)
    return assemble(generator, regions, non_negative(jnp.asarray(shift, generator.outflow().dtype), "shift"))


def assemble(generator: AbstractGenerator, regions: Sequence[Region], shift: Float[Array, ""]) -> Factor:
    """The factor outside of some regions."""
    dtype = generator.outflow().dtype
    keep, extra = jnp.ones(generator.shape, bool), jnp.zeros(generator.shape, dtype)
    for one in regions:
        keep, extra = keep & ~one.members, extra + one.extra
    frozen, loss = lax.stop_gradient((generator, shift + jnp.where(keep, extra, 0)))
    return Factor(generator, shift, keep, extra, _eliminate(frozen, loss, keep))


def factorable(generator: AbstractGenerator) -> bool:
    """Whether `factorize` takes a generator of this kind and size."""
    if isinstance(generator, FokkerPlanck):
        return generator.size // max(generator.shape) <= _MAX_SEPARATOR
    return generator.size <= _MAX_STATES


def _eliminate(generator: AbstractGenerator, loss: Array, keep: Array) -> AbstractElimination:
    if isinstance(generator, FokkerPlanck):
        if len(generator.shape) == 1:
            return TridiagonalElimination(generator, loss, keep)
        if generator.size // max(generator.shape) <= _MAX_SEPARATOR:
            return DissectionElimination(generator, loss, keep)
        raise ValueError(
            f"A factor must have separators of at most {_MAX_SEPARATOR} cells, but a grid of shape {generator.shape} "
            f"has {generator.size // max(generator.shape)}.  Use a coarser grid, and `Strang()` for the density."
        )
    if generator.size > _MAX_STATES:
        raise ValueError(
            f"A factor of a master equation must have at most {_MAX_STATES} states, but it has {generator.size}.  Use "
            "`Uniformization()` for its probabilities."
        )
    return DenseElimination(generator, loss, keep)
