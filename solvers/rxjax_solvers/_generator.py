"""What every generator of a Markov process can do, and its face towards diffrax."""

import abc
import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree, Shaped

from ._grid import Grid

# as_matrix() is dense: beyond this many cells (800 MB in float64) it is refused.
_MAX_DENSE = 10_000


class AbstractGenerator(eqx.Module):
    """A generator `W` of a Markov process, `dp/dt = W p`.

    On a grid `p` holds densities, cell averages of shape `(*shape)`; without one, `grid` is `None` and `p` holds the
    probabilities of `n` states, shape `(n,)`.  The columns of `W` sum to zero, to minus the exit rate where mass is
    lost for good.  Linear in `p`, differentiable in every number that it was made from.
    """

    grid: eqx.AbstractVar[Grid | None]

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of a density."""

    @property
    def size(self) -> int:
        """Number of cells or states."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> jnp.dtype:
        """Of the rates; nothing is computed for it."""
        return jax.eval_shape(lambda: self.outflow()).dtype

    def mass(self, p: Float[Array, "*batch_and_shape"]) -> Float[Array, "*batch"]:
        """Total probability of `p`, shape `(*batch, *shape)`."""
        if self.grid is not None:
            return self.grid.integrate(p)
        return jnp.sum(p, axis=tuple(range(p.ndim - len(self.shape), p.ndim)))

    @property
    @abc.abstractmethod
    def time_dependent(self) -> bool:
        """Whether `W` changes with time: then ask for `at(t)` first."""

    @abc.abstractmethod
    def at(self, t: Shaped[ArrayLike, ""]) -> "AbstractGenerator":
        """The generator at time `t`; itself if it does not depend on time."""

    @abc.abstractmethod
    def apply(self, p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`W p`: Kolmogorov's forward operator."""

    @abc.abstractmethod
    def adjoint(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`W' u`: Kolmogorov's backward operator, `<u, W p> = <W' u, p>`."""

    @abc.abstractmethod
    def outflow(self) -> Float[Array, "*shape"]:
        """Total rate at which each cell is left, exits included: minus the diagonal of `W`."""

    def exit_rates(self) -> Float[Array, "*shape"]:
        """Rate at which mass in each cell is lost for good: minus the column sums of `W`."""
        return -self.adjoint(jnp.ones_like(self.outflow()))

    def as_matrix(self) -> Float[Array, "cells cells"]:
        """`W` as a dense matrix on densities raveled in C order, for up to 10,000 cells."""
        size = self.size
        if size > _MAX_DENSE:
            raise ValueError(
                f"A dense matrix of {size} x {size} entries must stay below {_MAX_DENSE} cells, but the generator has "
                f"{size}.  Use `apply` and `adjoint`, which need no matrix, or a coarser grid."
            )
        basis = jnp.eye(size, dtype=self.outflow().dtype).reshape(size, *self.shape)
        return jax.vmap(self._column)(basis).reshape(size, size).T

    def _column(self, unit: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """`W unit` for all of the mass in one cell, each rate right to its own rounding."""
        return self.apply(unit)


def check_generator(generator: Any) -> None:
    """Refuse what is no generator, as a matrix or a grid."""
    if not isinstance(generator, AbstractGenerator):
        raise ValueError(
            "Argument `generator` must be a FokkerPlanck, a MasterEquation or another AbstractGenerator, but it is of "
            f"type {type(generator).__name__}."
        )


class GeneratorTerm(diffrax.AbstractTerm):
    """`dp/dt = W p` as a term for `diffrax.diffeqsolve`, for our steppers and for diffrax's own solvers.

    !!! example

        ```python
        >>> import diffrax, rxjax_solvers as rxs
        >>> grid = rxs.Grid(-2, 2, 64)
        >>> generator = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2, grid, temperature=0.2)
        >>> term = rxs.GeneratorTerm(generator)
        >>> p0 = grid.gaussian(-1, 0.2)
        >>> sol = diffrax.diffeqsolve(term, rxs.Strang(), t0=0, t1=1.0, dt0=0.05, y0=p0)
        >>> round(float(grid.integrate(sol.ys[0])), 6)
        1.0

        ```
    """

    generator: AbstractGenerator

    def vf(self, t, y: Float[Array, "*shape"], args: PyTree) -> Float[Array, "*shape"]:
        return self.generator.at(t).apply(y)

    def contr(self, t0, t1, **kwargs):
        return t1 - t0

    def prod(self, vf: Float[Array, "*shape"], control) -> Float[Array, "*shape"]:
        return vf * jnp.asarray(control, vf.dtype)
