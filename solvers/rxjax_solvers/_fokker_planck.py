"""`dP/dt = -div(b P) + d_i (D^(1-a) d_i (D^a P))` on a grid of cells."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped

from ._checks import positive
from ._coefficients import Corrected, NegativeGradient, Tabulated, TimeDependent, freeze, is_time_dependent
from ._compiled import compiled
from ._convention import AbstractConvention, AntiIto, Ito, Stratonovich, check_convention
from ._diagonals import DiagonalRates, Lines, axis_lines, diagonal_lines
from ._discretise import discretise, potential_values
from ._face_rates import AxisRates
from ._generator import AbstractGenerator
from ._grid import Grid, check_grid, from_front, to_front
from ._noise import diffusion_of, stratonovich_drift

Drift = Callable | Corrected | NegativeGradient | TimeDependent | Shaped[ArrayLike, "..."] | Sequence
Diffusion = Callable | TimeDependent | Shaped[ArrayLike, "..."] | Sequence


class FokkerPlanck(AbstractGenerator):
    """The Fokker-Planck equation of `dX = b(X) dt + sqrt(2 D(X)) dW` as a generator on a grid.

    `dP/dt = -div(b P) + sum_i d_i (D_i^(1-a) d_i (D_i^a P))`, with `a = 1` (`Ito()`), `1/2` (`Stratonovich()`) or `0`
    (`AntiIto()`), by finite volumes with exponentially fitted face rates: mass is exact, rates are never negative,
    second order in the cell size (first where nothing diffuses), and `W` is itself a master equation on the cells.
    Units: `theta` in any, `b` in theta/time, `D` in theta^2/time.

    **A full tensor**, `d_i d_j (D_ij P)` for `Ito()` and `d_i (D_ij d_j P)` for `AntiIto()`, hops along the diagonals
    of pairs of axes too.  Rates stay non-negative as long as `D_ii >= sum_j |D_ij| h_i/h_j` for cells of size `h`, and
    more anisotropic tensors are refused: take `h_i/h_j` near `sqrt(D_ii/D_jj)`, in two dimensions always enough.  A
    drift acts along every hop by the force `D^-1 b`, so that flows and entropy production are those of the equation; a
    potential with a tensor `mobility` by its differences, so that its Gibbs law is exactly stationary.  Where the
    tensor has no inverse hops along the axes carry the drift.  A hop that would cross a reflecting side is rejected;
    where the tensor is oblique to that side and varies along it, `Ito()` is first order in the cell size, `AntiIto()`
    second.  Where `D` is nearly singular the force is large: a drift spreads as if upwinded until `h |D^-1 b| < 2`.

    **Degenerate noise**, `D = 0` along an axis (position, in the phase space of underdamped motion), is upwinded along
    that axis: it spreads by a spurious `|b| h/2`, which falls with the cell size.

    **How it fails:** cells wider than the narrowest feature `sqrt(kT / V'')` of the stationary law give smooth but
    inaccurate densities; nothing breaks, so refine once and compare.

    ??? cite "References"

        D. L. Scharfetter and H. K. Gummel, IEEE Trans. Electron Devices 16, 64 (1969), eq. 15: the face rates.
        H. Risken, The Fokker-Planck Equation, 2nd ed. (1989), ch. 4: the equation and its conventions.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> grid = rxs.Grid(-5, 5, 200)
        >>> ou = rxs.FokkerPlanck(lambda x: -x, 0.5, grid)
        >>> p = rxs.solve(ou, grid.gaussian(2, 0.1), jnp.array([0.0, 1.0])).ps[-1]
        >>> round(float(grid.integrate(grid.axes[0] * p)), 3)  # 2 exp(-1)
        0.736

        ```
    """

    grid: Grid
    axis_rates: tuple[AxisRates, ...]
    diagonals: tuple[DiagonalRates, ...]
    log_gibbs: Float[Array, "*shape"] | None
    coefficients: tuple[Any, Any] | None
    convention: AbstractConvention

    def __init__(
        self,
        drift: Drift,
        diffusion: Diffusion | None,
        grid: Grid,
        convention: AbstractConvention | None = None,
        *,
        noise: Diffusion | None = None,
    ):
        """**Arguments:**

        - `drift`: `b(theta) -> (d,)`, a constant of shape `(d,)`, `NegativeGradient(V)`, or `TimeDependent(f)` with
            `f(t, theta)`.
        - `diffusion`: `D >= 0`: a scalar, shape `(d,)` or `(d, d)`, a callable of `theta` that returns one of these,
            or `TimeDependent`.
        - `grid`: the cells and their boundaries.
        - `convention`: `Ito()`, `Stratonovich()` or `AntiIto()`; required as soon as `diffusion` is a callable.
        - `noise`: `sigma` in `dX = b dt + sigma dW` instead, `D = sigma sigma'/2`; pass `None` for `diffusion`.  A
            scalar, shape `(d,)` or `(d, m)` for `m` sources of noise, a callable or `TimeDependent`.

        **Raises:** `ValueError` for what is no grid, wrong shapes, a missing convention, or `Stratonovich()` with a
        tensor as `diffusion`, which does not determine it; values that are not finite, a negative diffusion, or a
        tensor more anisotropic than the cells are refused outside and inside `jit`.
        """
        check_grid(grid)
        if (diffusion is None) == (noise is None):
            raise ValueError(
                "Argument `diffusion` must be given or `noise`, but not both.  For noise: "
                "`FokkerPlanck(drift, None, grid, convention, noise=sigma)`."
            )
        if convention is None:
            if any(callable(x) or isinstance(x, TimeDependent) for x in (diffusion, noise)):
                raise ValueError(
                    "Argument `convention` must be Ito(), Stratonovich() or AntiIto() when `diffusion` is a function, "
                    "but it is None.  SGD noise is drawn at the start of a step: Ito()."
                )
            convention = AntiIto()
        check_convention(convention)
        drift = drift if callable(drift) or isinstance(drift, _NOUNS) else _constant(drift, "drift", grid)
        if noise is not None:
            if isinstance(convention, Stratonovich) and (callable(noise) or isinstance(noise, TimeDependent)):
                # As an Ito equation with another drift: for a tensor there is no other way.
                drift, convention = Corrected(drift, stratonovich_drift(noise, grid)), Ito()
            diffusion = diffusion_of(noise, grid)
        elif not (callable(diffusion) or isinstance(diffusion, TimeDependent)):
            diffusion = _constant(diffusion, "diffusion", grid, tensor=True)
        self.grid = grid
        self.convention = convention
        changes = is_time_dependent(drift) or is_time_dependent(diffusion)
        # Once the rates are known the functions are dropped: what is left are arrays, for jit, vmap and grad.
        self.coefficients = (drift, diffusion) if changes else None
        self.axis_rates, self.diagonals = ((), ()) if changes else discretise(drift, diffusion, grid, convention)
        self.log_gibbs = None

    @classmethod
    def from_potential(
        cls,
        potential: Callable | TimeDependent | Shaped[Array, "..."],
        grid: Grid,
        temperature: Shaped[ArrayLike, "..."] | TimeDependent,
        mobility: Shaped[ArrayLike, "..."] | Sequence = 1.0,
    ) -> "FokkerPlanck":
        """Overdamped motion `dX = -mobility grad V dt + sqrt(2 mobility kT) dW`, stationary law `exp(-V/kT)`.

        The rates come from differences of `V`, so the discrete Gibbs law is stationary to rounding and obeys detailed
        balance, on a periodic axis across the seam too (a tilted ring is not periodic: give its force as `drift`).

        **Arguments:**

        - `potential`: `V(theta) -> ()`, an array of values in the cells, or `TimeDependent`.
        - `temperature`: `kT > 0` in units of `V`; `TimeDependent(f)` with `f(t, theta)` constant in `theta` anneals.
        - `mobility`: scalar or `(d,)`, positive; or a symmetric tensor `(d, d)`, no more anisotropic than the cells.
        """
        check_grid(grid)
        mobility = _constant(mobility, "mobility", grid, tensor=True)
        mobility = positive(mobility, "mobility") if mobility.ndim < 2 else mobility
        if isinstance(temperature, TimeDependent):
            f = temperature.f

            def diffusion(t, theta):
                return mobility * positive(f(t, theta), "temperature").astype(mobility.dtype)

            return cls(NegativeGradient(potential, mobility), TimeDependent(diffusion), grid, AntiIto())
        if callable(temperature) or jnp.ndim(temperature):
            raise ValueError(
                "Argument `temperature` must be one number or TimeDependent(f) with f(t, theta), but it is "
                f"{'a function' if callable(temperature) else f'of shape {jnp.shape(temperature)}'}.  Where it depends "
                "on place give a drift and a `diffusion` to FokkerPlanck; for many temperatures use `jax.vmap`."
            )
        temperature = positive(jnp.asarray(temperature, grid.lower.dtype), "temperature")
        if isinstance(potential, TimeDependent):
            return cls(NegativeGradient(potential, mobility), mobility * temperature, grid, AntiIto())
        values = potential_values(potential, grid)
        known = Tabulated(potential, values) if callable(potential) else values
        self = cls(NegativeGradient(known, mobility), mobility * temperature, grid, AntiIto())
        gibbs = _log_gibbs(values, temperature)
        return eqx.tree_at(lambda g: g.log_gibbs, self, gibbs, is_leaf=lambda x: x is None)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.grid.shape

    @property
    def time_dependent(self) -> bool:
        return self.coefficients is not None

    def at(self, t: Shaped[ArrayLike, ""]) -> "FokkerPlanck":
        if self.coefficients is None:
            return self
        drift, diffusion = (freeze(c, t) for c in self.coefficients)
        return FokkerPlanck(drift, diffusion, self.grid, self.convention)

    @property
    def rates(self) -> tuple[AxisRates, ...]:
        """Hopping rates along the axes, where they are all there is."""
        if self.diagonals:
            raise ValueError(
                "This generator has a full-tensor diffusion and hops along diagonals too, which is not supported "
                "here.  Turn the axes of the grid to those of the noise, or use `apply`, `adjoint` or `as_matrix`."
            )
        return self._static_rates()

    def lines(self) -> tuple[Lines, ...]:
        """The grid read along each axis, then along each diagonal: what a splitting sweeps over."""
        axes = tuple(axis_lines(r, axis) for axis, r in enumerate(self._static_rates()))
        return axes + tuple(diagonal_lines(r) for r in self.diagonals)

    def apply(self, p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        along = [from_front(r.apply(to_front(p, i)), i) for i, r in enumerate(self._static_rates())]
        return sum(along + [d.apply(p) for d in self.diagonals], jnp.zeros_like(p))

    def adjoint(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        along = [from_front(r.adjoint(to_front(u, i)), i) for i, r in enumerate(self._static_rates())]
        return sum(along + [d.adjoint(u) for d in self.diagonals], jnp.zeros_like(u))

    def outflow(self) -> Float[Array, "*shape"]:
        leaving = [from_front(r.up + r.down, i) for i, r in enumerate(self._static_rates())]
        return sum(leaving[1:] + [d.forward + d.backward for d in self.diagonals], leaving[0])

    def _static_rates(self) -> tuple[AxisRates, ...]:
        if self.time_dependent:
            raise ValueError("This generator depends on time, so it must be frozen before use: `generator.at(t)`.")
        return self.axis_rates


@compiled
def _log_gibbs(values: Array, temperature: Array) -> Array:
    return -values / temperature


_NOUNS = (Corrected, NegativeGradient, TimeDependent)


def _constant(value: Any, name: str, grid: Grid, tensor: bool = False) -> Array:
    value = jnp.asarray(value, grid.lower.dtype)
    allowed = [(), (grid.dim,)] + [(grid.dim, grid.dim)] * tensor
    if value.shape not in allowed:
        more = f", one entry per axis, or {(grid.dim, grid.dim)}" if tensor else ", one entry per axis"
        raise ValueError(
            f"Argument `{name}` must be a scalar or have shape ({grid.dim},){more}, but it has shape {value.shape}."
        )
    return value
