"""`dP/dt = -div(b P) + d_i (D^(1-a) d_i (D^a P))` on a grid of cells."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped

from ._checks import finite, non_negative, positive
from ._coefficients import NegativeGradient, TimeDependent, freeze, is_time_dependent
from ._convention import AbstractConvention, AntiIto
from ._face_rates import AxisRates, axis_rates
from ._generator import AbstractGenerator
from ._grid import Grid, evaluate, from_front, to_front

Drift = Callable | NegativeGradient | TimeDependent | Shaped[ArrayLike, "..."] | Sequence
Diffusion = Callable | TimeDependent | Shaped[ArrayLike, "..."] | Sequence


class FokkerPlanck(AbstractGenerator):
    """The Fokker-Planck equation of `dX = b(X) dt + sqrt(2 D(X)) dW` as a generator on a grid.

    `dP/dt = -div(b P) + sum_i d_i (D_i^(1-a) d_i (D_i^a P))`, with `a = 1` (`Ito()`), `1/2` (`Stratonovich()`) or `0`
    (`AntiIto()`), by finite volumes with exponentially fitted face rates: mass is exact, rates are never negative,
    second order in the cell size (first where nothing diffuses), and `W` is itself a master equation on the cells.
    Units: `theta` in any, `b` in theta/time, `D` in theta^2/time.

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
    rates: tuple[AxisRates, ...]
    log_gibbs: Float[Array, "*shape"] | None
    coefficients: tuple[Drift, Diffusion] | None
    convention: AbstractConvention

    def __init__(
        self,
        drift: Drift,
        diffusion: Diffusion,
        grid: Grid,
        convention: AbstractConvention | None = None,
    ):
        """**Arguments:**

        - `drift`: `b(theta) -> (d,)`, a constant of shape `(d,)`, `NegativeGradient(V)`, or `TimeDependent(f)` with
            `f(t, theta)`.
        - `diffusion`: `D >= 0`: a scalar, shape `(d,)`, a callable `theta -> ()` or `(d,)`, or `TimeDependent`.
        - `grid`: the cells and their boundaries.
        - `convention`: `Ito()`, `Stratonovich()` or `AntiIto()`; required as soon as `diffusion` is a callable.

        **Raises:** `ValueError` for wrong shapes or a missing convention; values that are not finite, or a negative
        diffusion, are refused outside and inside `jit`.
        """
        if convention is None:
            if callable(diffusion) or isinstance(diffusion, TimeDependent):
                raise ValueError(
                    "Argument `convention` must be Ito(), Stratonovich() or AntiIto() when `diffusion` is a function, "
                    "but it is None.  SGD noise is drawn at the start of a step: Ito()."
                )
            convention = AntiIto()
        self.grid = grid
        self.convention = convention
        drift = drift if callable(drift) or isinstance(drift, _NOUNS) else _constant(drift, "drift", grid)
        if not (callable(diffusion) or isinstance(diffusion, TimeDependent)):
            diffusion = _constant(diffusion, "diffusion", grid)
        changes = is_time_dependent(drift) or is_time_dependent(diffusion)
        # Once the rates are known the functions are dropped: what is left are arrays, for jit, vmap and grad.
        self.coefficients = (drift, diffusion) if changes else None
        self.rates = () if changes else _rates(drift, diffusion, grid, convention)
        self.log_gibbs = None

    @classmethod
    def from_potential(
        cls,
        potential: Callable | TimeDependent | Shaped[Array, "..."],
        grid: Grid,
        temperature: Shaped[ArrayLike, ""] | TimeDependent,
        mobility: Shaped[ArrayLike, "..."] | Sequence = 1.0,
    ) -> "FokkerPlanck":
        """Overdamped motion `dX = -mobility grad V dt + sqrt(2 mobility kT) dW`, stationary law `exp(-V/kT)`.

        The rates come from differences of `V`, so the discrete Gibbs law is stationary to rounding and obeys detailed
        balance, on a periodic axis across the seam too (a tilted ring is not periodic: give its force as `drift`).

        **Arguments:**

        - `potential`: `V(theta) -> ()`, an array of values in the cells, or `TimeDependent`.
        - `temperature`: `kT > 0` in units of `V`; `TimeDependent(f)` with `f(t, theta)` constant in `theta` anneals.
        - `mobility`: scalar or `(d,)`, positive.
        """
        mobility = positive(_constant(mobility, "mobility", grid), "mobility")
        drift = NegativeGradient(potential, mobility)
        if isinstance(temperature, TimeDependent):
            f = temperature.f

            def diffusion(t, theta):
                return mobility * positive(f(t, theta), "temperature").astype(mobility.dtype)

            return cls(drift, TimeDependent(diffusion), grid, AntiIto())
        temperature = positive(jnp.asarray(temperature, grid.lower.dtype), "temperature")
        self = cls(drift, mobility * temperature, grid, AntiIto())
        if self.time_dependent:
            return self
        values = _potential_values(potential, grid)
        return eqx.tree_at(lambda g: g.log_gibbs, self, -values / temperature, is_leaf=lambda x: x is None)

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

    def apply(self, p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return sum(
            (from_front(r.apply(to_front(p, i)), i) for i, r in enumerate(self._static_rates())), jnp.zeros_like(p)
        )

    def adjoint(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return sum(
            (from_front(r.adjoint(to_front(u, i)), i) for i, r in enumerate(self._static_rates())), jnp.zeros_like(u)
        )

    def outflow(self) -> Float[Array, "*shape"]:
        leaving = [from_front(r.up + r.down, i) for i, r in enumerate(self._static_rates())]
        return sum(leaving[1:], leaving[0])

    def _static_rates(self) -> tuple[AxisRates, ...]:
        if self.time_dependent:
            raise ValueError("This generator depends on time, so it must be frozen before use: `generator.at(t)`.")
        return self.rates


_NOUNS = (NegativeGradient, TimeDependent)


def _constant(value: Shaped[ArrayLike, "..."] | Sequence, name: str, grid: Grid) -> Array:
    value = jnp.asarray(value, grid.lower.dtype)
    if value.shape not in ((), (grid.dim,)):
        raise ValueError(
            f"Argument `{name}` must be a scalar or have shape ({grid.dim},), one entry per axis, but it has shape "
            f"{value.shape}."
        )
    return value


def _component(value: Array, axis: int, per_axis: bool) -> Array:
    return value[..., axis] if per_axis else value


def _potential_values(potential: Any, grid: Grid) -> Array:
    if callable(potential):
        return finite(evaluate(potential, grid.points, "potential", [()]), "potential")
    potential = jnp.asarray(potential)
    if potential.shape != grid.shape:
        raise ValueError(
            f"Argument `potential` must be a callable or have the grid's shape {grid.shape}, but it has shape "
            f"{potential.shape}."
        )
    return finite(potential.astype(grid.lower.dtype), "potential")


def _rates(drift: Any, diffusion: Any, grid: Grid, convention: AbstractConvention) -> tuple[AxisRates, ...]:
    """Face rates of each axis, from coefficients that no longer depend on time."""
    vector, scalar = (grid.dim,), ()
    potential: Any = _potential_values(drift.potential, grid) if isinstance(drift, NegativeGradient) else None

    def diffusion_at(points, axis):
        if not callable(diffusion):
            value = diffusion if diffusion.ndim == 0 else diffusion[axis]
            return jnp.broadcast_to(non_negative(value, "diffusion"), points.shape[:-1])
        value = evaluate(diffusion, points, "diffusion", [scalar, vector])
        return non_negative(_component(value, axis, value.ndim == points.ndim), "diffusion")

    def drift_at(points, axis):
        if not callable(drift):
            value = finite(jnp.asarray(drift), "drift")
            return jnp.broadcast_to(value if value.ndim == 0 else value[axis], points.shape[:-1])
        return finite(evaluate(drift, points, "drift", [vector])[..., axis], "drift")

    out = []
    for axis, (low, high) in enumerate(grid.boundary):
        h = grid.spacing[axis]
        cells = to_front(grid.points, axis)
        half = jnp.zeros(grid.dim, h.dtype).at[axis].set(h / 2).reshape((1,) * grid.dim + (-1,))
        periodic = low == "periodic"
        faces = (cells if periodic else cells[:-1]) + half
        sides = [(low, cells[:1] - half, -1), (high, cells[-1:] + half, 1)]
        ends = []
        if isinstance(drift, NegativeGradient):
            mobility = jnp.asarray(drift.mobility, h.dtype)
            mobility = mobility if mobility.ndim == 0 else mobility[axis]
            v = to_front(potential, axis)
            drop = -mobility * (jnp.roll(v, -1, 0) - v if periodic else v[1:] - v[:-1])
            for (side, points, _), inner in zip(sides, (v[:1], v[-1:]), strict=True):
                if side == "absorbing" and not callable(drift.potential):
                    raise ValueError(
                        "Argument `potential` must be a callable on a grid with absorbing sides, where its value on "
                        "the face is needed, but it is an array."
                    )
                outward = (
                    -mobility * (finite(evaluate(drift.potential, points, "potential", [()]), "potential") - inner)
                    if side == "absorbing"
                    else None
                )
                ends.append(outward)
        else:
            drop = drift_at(faces, axis) * h
            for side, points, sign in sides:
                ends.append(sign * drift_at(points, axis) * h / 2 if side == "absorbing" else None)
        at_low, at_high = (
            None if end is None else (end, diffusion_at(points, axis))
            for end, (_, points, _) in zip(ends, sides, strict=True)
        )
        out.append(
            axis_rates(
                drop,
                diffusion_at(faces, axis),
                diffusion_at(cells, axis),
                (at_low, at_high),
                h,
                convention.weight,
                periodic,
            )
        )
    return tuple(out)
