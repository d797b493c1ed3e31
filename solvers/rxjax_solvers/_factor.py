"""Factors: made once per generator, shared by every question that is asked of it."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from ._checks import non_negative, require, seen
from ._compiled import compiled
from ._elimination import AbstractElimination
from ._factorization import AbstractFactorization, usual
from ._generator import AbstractGenerator, check_generator
from ._region import Region, Target, as_regions

# Beyond so many states a Krylov space of them does not fit into memory.
_MAX_STATES = 2**20


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
        return _solve(self, b)

    def transpose_solve(self, b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`A^-T b`: mean integral of `b` along a life that starts in each cell."""
        return _transpose_solve(self, b)

    def forward(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`A x`, and `x` itself in the target."""
        return self._matvec(self.generator.apply)(x)

    def backward(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`A^T x`, and `x` itself in the target."""
        return self._matvec(self.generator.adjoint)(x)

    def _matvec(self, apply):
        loss = self.shift + self.extra

        def matvec(x):
            kept = jnp.where(self.keep, x, 0)
            return jnp.where(self.keep, loss * kept - apply(kept), x)

        return matvec


@compiled
def _solve(factor: Factor, b: Array) -> Array:
    b = jnp.where(factor.keep, b, 0)
    forward, backward = factor.elimination.solve, factor.elimination.transpose_solve
    return _outside(factor, _linear_solve(factor.forward, b, forward, backward))


@compiled
def _transpose_solve(factor: Factor, b: Array) -> Array:
    b = jnp.where(factor.keep, b, 0)
    forward, backward = factor.elimination.solve, factor.elimination.transpose_solve
    return _outside(factor, _linear_solve(factor.backward, b, backward, forward))


def _outside(factor: Factor, x: Array) -> Array:
    """`x`, zero in the target already, so that what reverse mode brings there (NaN, of a logarithm) stays there."""
    return jnp.where(factor.keep, x, 0)


def _linear_solve(matvec, b, solve, transpose_solve):
    return lax.custom_linear_solve(
        matvec, b, solve=lambda _, b: solve(b), transpose_solve=lambda _, b: transpose_solve(b)
    )


def factorize(
    generator: AbstractGenerator,
    *,
    target: Target | Sequence[Target] | None = None,
    shift: Shaped[ArrayLike, ""] = 0.0,
    method: AbstractFactorization | None = None,
) -> Factor:
    r"""Factor $s - W$ outside of a target.

    **Arguments:**

    - `generator`: `W`; not time-dependent.
    - `target`: where the process ends: a mask (a set of cells), a predicate of `theta` (whose edge is placed where it
        lies), a sequence of them, or `None`: only absorbing sides and exits end it.  Derivatives by what a predicate
        itself reads are zero.
    - `shift`: $s \ge 0$, in 1/time; positive if nothing ends the process.
    - `method`: `Elimination()`, right to rounding at any temperature, or `Iteration()`.  If not given, elimination
        within its reach (in one dimension, up to separators of 2048 cells, up to 4096 states without a grid), but
        iteration on more than 4096 cells of two or three dimensions with a potential, where it is several times faster,
        compiles about as long and is as accurate up to barriers of some 35 kT.

    **Returns:** a `Factor`; pass it as `factor=` to the verbs that ask for the same target.

    **How it fails:** a solve is not finite for a closed generator without target and shift, which is singular, and
    where an iteration does not converge.

    **Many at once:** `jax.lax.map` over temperatures.  Under `vmap` iterations go on until the last one is done, and
    their memory is that of all together.

    **Raises:** `ValueError` for what is no generator, and if `method` is `Elimination()` beyond its reach.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.FokkerPlanck(jnp.zeros(1), 0.5, rxs.Grid(-1, 1, 100, boundary="absorbing"))
        >>> time = rxs.factorize(W).transpose_solve(jnp.ones(100))
        >>> round(float(jnp.max(time)), 3)  # from the middle: 1
        1.0

        ```
    """
    check_generator(generator)
    if generator.time_dependent:
        raise ValueError(
            "Argument `generator` must not depend on time, but it does: a factor is of one instant.  Freeze it: "
            "`generator.at(t)`."
        )
    regions = as_regions(generator, target)
    return assemble(generator, regions, non_negative(jnp.asarray(shift, generator.dtype), "shift"), method)


def check_factor(factor: Factor, generator: AbstractGenerator, members: Any, target: str) -> Factor:
    """`factor` if it is of a generator of the same shape and, where its cells are given, of the same target."""
    remedy = f"Pass `factorize(generator, target={target})`."
    if factor.keep.shape != generator.shape:
        raise ValueError(
            f"Argument `factor` must be of a generator of shape {generator.shape}, but that has shape "
            f"{factor.keep.shape}.  {remedy}"
        )
    if members is None:
        return factor
    other = [((seen(factor.keep) == members).any(), "is of another")]
    keep = require(factor.keep, "factor", f"be of the same `{target}`", other, remedy, "other cells")
    return eqx.tree_at(lambda f: f.keep, factor, keep)


def assemble(
    generator: AbstractGenerator,
    regions: Sequence[Region],
    shift: Float[Array, ""],
    method: AbstractFactorization | None = None,
) -> Factor:
    """The factor outside of some regions."""
    method = usual(generator) if method is None else method
    return Factor(generator, shift, *_parts(generator, tuple(regions), shift, method))


@compiled
def _parts(
    generator: AbstractGenerator, regions: tuple[Region, ...], shift: Array, method: AbstractFactorization
) -> tuple[Array, Array, AbstractElimination]:
    keep, extra = jnp.ones(generator.shape, bool), jnp.zeros(generator.shape, generator.dtype)
    for one in regions:
        keep, extra = keep & ~one.members, extra + one.extra
    frozen, loss = lax.stop_gradient((generator, shift + jnp.where(keep, extra, 0)))
    return keep, extra, method.eliminate(frozen, loss, keep)


def factorable(generator: AbstractGenerator) -> bool:
    """Whether a Krylov space of densities fits into memory beside the factor."""
    return generator.size <= _MAX_STATES
