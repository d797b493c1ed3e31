"""Ways of factoring a generator: nouns for `factorize`."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from ._checks import positive
from ._elimination import AbstractElimination, DenseElimination, DissectionElimination, TridiagonalElimination
from ._fokker_planck import FokkerPlanck
from ._generator import AbstractGenerator
from ._multigrid import IterativeElimination

# Numbers in the inverse of a full matrix, or of the largest separator of a grid, beyond which nothing is eliminated.
_MAX_STATES = 4096
_MAX_SEPARATOR = 2048
# Grids of more cells than this are solved by iteration where a potential makes it sure.
_SMALL = 4096


class AbstractFactorization(eqx.Module):
    """A way of factoring `loss - W` on the states that are kept."""

    @abc.abstractmethod
    def eliminate(
        self, generator: AbstractGenerator, loss: Float[Array, "*shape"], keep: Bool[Array, "*shape"]
    ) -> AbstractElimination:
        """The factored matrix."""


class Elimination(AbstractFactorization):
    """Elimination without a single subtraction: a sweep along one axis, nested dissection on two or three, else a full
    inverse.

    Every entry of the inverse is right to some roundings however slow the process is, so passage times over barriers of
    60 kT come out to nearly full precision.  256 x 256 cells: 47 MB, and `n^(3/2)` operations in two dimensions.

    **Raises:** `ValueError` for grids whose separators exceed 2048 cells (about 45^3) and more than 4096 states
    without a grid.

    ??? cite "References"

        A. S. Alfa, J. Xue and Q. Ye, Math. Comp. 71, 217 (2002).  A. George, SIAM J. Numer. Anal. 10, 345 (1973).
    """

    def eliminate(
        self, generator: AbstractGenerator, loss: Float[Array, "*shape"], keep: Bool[Array, "*shape"]
    ) -> AbstractElimination:
        if isinstance(generator, FokkerPlanck):
            if len(generator.shape) == 1:
                return TridiagonalElimination(generator, loss, keep)
            if _separator(generator) <= _MAX_SEPARATOR:
                return DissectionElimination(generator, loss, keep)
            raise ValueError(
                f"Argument `method` must not be Elimination() for separators of more than {_MAX_SEPARATOR} cells, but "
                f"a grid of shape {generator.shape} has {_separator(generator)}.  Use Iteration(), or a coarser grid."
            )
        if generator.size > _MAX_STATES:
            raise ValueError(
                f"Argument `method` must not be Elimination() for more than {_MAX_STATES} states without hops to "
                f"neighbours alone, but the generator has {generator.size}.  Use Iteration()."
            )
        return DenseElimination(generator, loss, keep)


class Iteration(AbstractFactorization):
    r"""Conjugate directions: multigrid on a grid with hops to neighbours, else scaled by the diagonal.

    Every other cell, along one axis after the other, becomes a cell of a coarser grid; those left out are eliminated
    along that axis, so that the ways between the others are resistances in series.  With a potential conjugate
    gradients solve, for functions (passage times, committors) in the inner product of its Gibbs law, for densities in
    that of its inverse; generalised conjugate residuals where there is none, or where it spans more than numbers do and
    fifty cycles were not enough.  Ten to thirty cycles, at any number of cells.

    **Arguments:**

    - `tol`: relative error of a solve: of densities in the sum of absolute values; of functions of each value by
        itself where the source is not negative (passage times, committors), else of the largest.  1e-10 if not given,
        and 3e-5 in float32.  `ShiftInvert` asks for less where that will do.
    - `max_steps`: cycles.

    **Good values:** the defaults.  **How it fails:** barriers beyond some 35 kT with a potential, 10 to 20 kT without
    one, valleys aslant to the axes that are narrower than two cells (`sqrt(kT/V'')` across), diffusion along a
    diagonal, and long chains of edges are slow or not solved; a solve that is not solved is not finite, and verbs then
    end with `RESULTS.unsolved`.

    ??? cite "References"

        M. R. Hestenes and E. Stiefel, J. Res. Natl. Bur. Stand. 49, 409 (1952).  S. C. Eisenstat, H. C. Elman and
        M. H. Schultz, SIAM J. Numer. Anal. 20, 345 (1983).  R. E. Alcouffe, A. Brandt, J. E. Dendy and
        J. W. Painter, SIAM J. Sci. Stat. Comput. 2, 430 (1981): coarser grids that follow the coefficients.
    """

    tol: Float[Array, ""] | None
    max_steps: int = eqx.field(static=True)

    def __init__(self, tol: Shaped[ArrayLike, ""] | None = None, max_steps: int = 200):
        # An array, so that another number needs no other program.
        self.tol = None if tol is None else positive(tol, "tol")
        self.max_steps = max_steps

    def eliminate(
        self, generator: AbstractGenerator, loss: Float[Array, "*shape"], keep: Bool[Array, "*shape"]
    ) -> AbstractElimination:
        tol = (1e-10 if loss.dtype == jnp.float64 else 3e-5) if self.tol is None else self.tol
        return IterativeElimination(generator, loss, keep, jnp.asarray(tol, loss.dtype), self.max_steps)


def usual(generator: AbstractGenerator) -> AbstractFactorization:
    """Elimination within its reach, but on large grids with a potential iteration, which is as accurate and faster."""
    if isinstance(generator, FokkerPlanck) and len(generator.shape) > 1 and generator.size > _SMALL:
        sure = generator.log_gibbs is not None and not generator.diagonals
        return Iteration() if sure else repeated(generator)
    return repeated(generator)


def repeated(generator: AbstractGenerator) -> AbstractFactorization:
    """For many solves with one factor: elimination within its reach."""
    if isinstance(generator, FokkerPlanck):
        within = len(generator.shape) == 1 or _separator(generator) <= _MAX_SEPARATOR
    else:
        within = generator.size <= _MAX_STATES
    return Elimination() if within else Iteration()


def _separator(generator: AbstractGenerator) -> int:
    return generator.size // max(generator.shape)
