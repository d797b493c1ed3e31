"""`dP_j/dt = sum_i (w_ij P_i - w_ji P_j)`: jumps between states."""

from collections.abc import Callable, Sequence

from jaxtyping import Array, ArrayLike, Float, Shaped

from .._generator import AbstractGenerator
from .._grid import Grid, check_grid
from .._offsets import offsets_within
from ._dense import DenseJumps
from ._edges import EdgeJumps
from ._jumps import AbstractJumps
from ._separable import SeparableJumps, SeparableRate
from ._stencil import StencilJumps


class MasterEquation(AbstractGenerator):
    r"""A master equation $\dot P_j = \sum_i (w_{i \to j} P_i - w_{j \to i} P_j)$ as a generator.

    Made by one of three constructors: [`from_rates`][] for jumps on a grid, [`from_matrix`][] for a full matrix,
    [`from_edges`][] for a list of transitions between numbered states.  Rates are constant in time.  Columns sum to
    zero up to rounding, or to minus the rate of exit; inflow is a sum of products of positive numbers.

    ??? cite "References"

        N. G. van Kampen, Stochastic Processes in Physics and Chemistry, 3rd ed. (2007), ch. V.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.MasterEquation.from_edges([0, 1, 1], [1, 0, 2], [1.0, 2.0, 3.0], size=3)
        >>> print(W.as_matrix())
        [[-1.  2.  0.]
         [ 1. -5.  0.]
         [ 0.  3.  0.]]

        ```
    """

    grid: Grid | None
    jumps: AbstractJumps

    @classmethod
    def from_rates(
        cls,
        rate: Callable,
        grid: Grid,
        radius: Shaped[ArrayLike, "..."] | Sequence | None = None,
        *,
        reach: int | Sequence[int] | None = None,
        fft: bool = False,
    ) -> "MasterEquation":
        r"""Jumps $\theta \to \theta + \delta$ on a grid, with all $\delta$ up to a radius.

        $\dot P(\theta) = \int [\rho(\theta - \delta, \delta) P(\theta - \delta) - \rho(\theta, \delta) P(\theta)]\,
        d\delta$.  The rate from a cell to another is $\rho$ at their centres times the volume of a cell: the midpoint
        rule, exact up to $e^{-2\pi^2 s^2/h^2}$ for a Gaussian of width $s$ on cells of width $h$ (3e-9 at $s = h$), of
        second order in $h$ where the density jumps.  The cell itself is left out: staying changes nothing.

        **Boundaries:** a jump beyond a reflecting side is rejected, beyond a periodic one it wraps, beyond an absorbing
        one it is lost.

        **Arguments:**

        - `rate`: `rate(theta, delta) -> ()`, a density in `delta`, in 1/(time x volume); both of shape `(d,)`.  It is
            evaluated beyond absorbing and periodic sides too, where jumps lead there.
        - `grid`: the cells.
        - `radius`: in units of `theta`, a number for a ball or `(d,)` for the half axes of an ellipsoid.  Good values:
            4 to 5 standard deviations of a Gaussian proposal, each of 1.5 cells or more.  It and the grid must be known
            while compiling.
        - `reach`: the same in cells, whole numbers, instead; the grid may then be traced.
        - `fft`: sum by Fourier transforms; `rate` must then be a `SeparableRate`.  It stores no rates and its work
            does not grow with the radius, but its rounding is absolute: `eps` times the range of the factors over the
            grid, so the range is limited to e^30 (float32: e^10) and densities may fall below zero by as much.

        Without `fft` the rates are stored, one field for each offset: 40 MB for 128² cells and 317 offsets in float64.

        **Raises:** `ValueError` for a radius below a cell or around a periodic axis, a rate of the wrong shape, and
        (inside `jit`, a run-time error) one that is negative or not finite, or too large a range for `fft`.

        !!! example

            ```python
            >>> import jax.numpy as jnp, rxjax_solvers as rxs
            >>> grid = rxs.Grid(-1, 1, 20, boundary="periodic")
            >>> rate = lambda theta, delta: jnp.exp(-theta[0] - 50 * delta[0] ** 2)
            >>> W = rxs.MasterEquation.from_rates(rate, grid, radius=0.5)
            >>> print(jnp.abs(grid.integrate(W.apply(grid.gaussian(0.3, 0.2)))) < 1e-6)
            True

            ```
        """
        check_grid(grid)
        offsets = offsets_within(grid, radius, reach)
        if not fft:
            return cls(grid, StencilJumps(rate, grid, offsets))
        if not isinstance(rate, SeparableRate):
            raise ValueError(
                f"Argument `rate` must be a SeparableRate for `fft=True`, but it is {type(rate).__name__}.  Give its "
                "three factors as `SeparableRate(log_leave, log_jump, log_arrive)`, or use `fft=False`."
            )
        return cls(grid, SeparableJumps(rate, grid, offsets))

    @classmethod
    def from_matrix(cls, W: Shaped[ArrayLike, "..."] | Sequence) -> "MasterEquation":
        """A full matrix of rates between `n` states without a grid.

        **Arguments:**

        - `W`: shape `(n, n)`; `W[j, i]`, off the diagonal, is the rate from `i` to `j`.  Columns sum to zero, or to
            minus the rate of exit; sums within rounding of zero are taken as zero.

        **Raises:** `ValueError` (inside `jit`, a run-time error) for a negative rate or a column with a positive sum.
        """
        return cls(None, DenseJumps(W))

    @classmethod
    def from_edges(
        cls,
        source: Shaped[ArrayLike, "..."] | Sequence,
        target: Shaped[ArrayLike, "..."] | Sequence,
        rate: Shaped[ArrayLike, "..."] | Sequence,
        size: int,
        *,
        exits: Shaped[ArrayLike, "..."] | Sequence = 0.0,
    ) -> "MasterEquation":
        """Transitions between numbered states without a grid.

        Memory and work grow with the number of edges; a million is fine.

        **Arguments:**

        - `source`, `target`: integers, shape `(edges,)`, from 0 to `size - 1`.  Edges given twice add up.
        - `rate`: shape `(edges,)` or a number, not negative; a differentiable array.
        - `size`: the number of states.
        - `exits`: the rate at which each state is left for good, a number or shape `(size,)`.

        **Raises:** `ValueError` (inside `jit`, a run-time error) for states out of range, an edge from a state to
        itself, or a rate that is negative or not finite.
        """
        return cls(None, EdgeJumps(source, target, rate, size, exits))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.jumps.leaving.shape

    @property
    def time_dependent(self) -> bool:
        return False

    def at(self, t: Shaped[ArrayLike, ""]) -> "MasterEquation":
        return self

    def apply(self, p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.jumps.inflow(p) - self.jumps.leaving * p

    def _column(self, unit: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        # A transform spreads its rounding over cells that no jump reaches.
        jumps = self.jumps
        inflow = jumps.summed if isinstance(jumps, SeparableJumps) else jumps.inflow
        return inflow(unit) - jumps.leaving * unit

    def adjoint(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.jumps.adjoint(u)

    def outflow(self) -> Float[Array, "*shape"]:
        return self.jumps.leaving
