"""Probability currents and what they dissipate."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._checks import non_negative, require
from ._compiled import compiled
from ._deflated import leaks
from ._fokker_planck import FokkerPlanck
from ._generator import AbstractGenerator, check_generator
from ._grid import from_front, to_front


def probability_current(generator: AbstractGenerator, p: Float[Array, "*shape"]) -> tuple[Float[Array, "..."], ...]:
    """The scheme's own flux through every face, in probability per unit time and area.

    `dp/dt` in a cell is minus the difference of its two faces over the spacing, exactly; so the current of a
    stationary law is constant along a line.

    **Arguments:** `generator`, a `FokkerPlanck` without a full tensor, whose hops along diagonals cross two faces;
    `p`, a density.

    **Returns:** one array per axis, `n_i + 1` faces on axis `i`, the lower side first; on a periodic axis `n_i`, where
    face `k` lies below cell `k`.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> ring = rxs.Grid(0, 2 * jnp.pi, 48, boundary="periodic")
        >>> W = rxs.FokkerPlanck(jnp.array([0.5]), 1.0, ring)
        >>> (j,) = rxs.probability_current(W, jnp.full(48, 1 / (2 * jnp.pi)))
        >>> round(float(2 * jnp.pi * j[7]), 4)  # the velocity
        0.5

        ```
    """
    return _faces(_only_fokker_planck(generator), _on_cells(generator, p))


@compiled
def _faces(generator: FokkerPlanck, p: Array) -> tuple[Array, ...]:
    out = []
    for axis, rates in enumerate(generator.rates):
        p_axis, h = to_front(p, axis), generator.grid.spacing[axis]
        up, down = rates.up * p_axis, rates.down * p_axis
        if rates.periodic:
            net = jnp.roll(up, 1, 0) - down
        else:
            zero = jnp.zeros_like(up[:1])
            net = jnp.concatenate([zero, up]) - jnp.concatenate([down, zero])
        out.append(from_front(net * h, axis))
    return tuple(out)


def _on_cells(generator: AbstractGenerator, p: Array) -> Array:
    if p.shape != generator.shape:
        raise ValueError(f"Argument `p` must have the generator's shape {generator.shape}, but it has shape {p.shape}.")
    return p


def _only_fokker_planck(generator: AbstractGenerator) -> FokkerPlanck:
    if not isinstance(generator, FokkerPlanck):
        raise ValueError(
            "Argument `generator` must be a `FokkerPlanck`, whose jumps cross faces, but it is a "
            f"{type(generator).__name__}.  The current between two states i and j is W[j, i] p[i] - W[i, j] p[j]."
        )
    if generator.time_dependent:
        raise ValueError("This generator depends on time, so it must be frozen before use: `generator.at(t)`.")
    return generator


def entropy_production(generator: AbstractGenerator, p: Float[Array, "*shape"]) -> Float[Array, ""]:
    r"""Total rate of entropy production of a density, in units of k per unit time.

    $\sum_{i<j} (w_{ij} p_j - w_{ji} p_i) \log\frac{w_{ij} p_j}{w_{ji} p_i} \ge 0$ (Schnakenberg), zero in detailed
    balance.

    **Arguments:** `generator`, closed: what leaves for good has no way back; `p`, a density, often
    `stationary(generator)`.

    **Returns:** a scalar; infinite where a jump has no way back, as under `Ito()` where an off-diagonal of a full
    tensor changes its sign, and where `p` is zero beside a cell where it is not: a density whose tail underflows, in
    float32 sooner.

    ??? cite "References"

        J. Schnakenberg, Rev. Mod. Phys. 48, 571 (1976), eq. 7.6.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.MasterEquation.from_edges([0, 1, 2, 1, 2, 0], [1, 2, 0, 0, 1, 2], [2.0] * 3 + [1.0] * 3, size=3)
        >>> round(float(rxs.entropy_production(W, jnp.full(3, 1 / 3))), 4)  # log 2
        0.6931

        ```
    """
    check_generator(generator)
    if isinstance(generator, FokkerPlanck):
        generator = _only_fokker_planck(generator)
    p = non_negative(_on_cells(generator, p), "p")
    faults = [(leaks(generator), "loses mass for good")]
    remedy = "Look at `generator.exit_rates()`; the sum runs over jumps and their ways back."
    return _dissipation(generator, require(p, "generator", "be closed", faults, remedy, "absorbing sides or exits"))


@compiled
def _dissipation(generator: AbstractGenerator, p: Array) -> Array:
    if isinstance(generator, FokkerPlanck):
        total = jnp.zeros((), p.dtype)
        for axis, rates in enumerate(generator.axis_rates):
            p_axis = to_front(p, axis)
            up, down = rates.up * p_axis, rates.down * p_axis
            forth, back = (up, jnp.roll(down, -1, 0)) if rates.periodic else (up[:-1], down[1:])
            total = total + jnp.sum(_dissipated(forth, back))
        for rates in generator.diagonals:
            total = total + jnp.sum(_dissipated(rates.forward * p, rates.shifted(rates.backward * p, -1)))
        return total * generator.grid.cell_volume.astype(p.dtype)
    flux = generator.as_matrix() * p.ravel()[None]
    below = jnp.tril(jnp.ones(flux.shape, bool), -1)
    total = jnp.sum(jnp.where(below, _dissipated(flux, flux.T), 0))
    return total if generator.grid is None else total * generator.grid.cell_volume.astype(p.dtype)


def _dissipated(forth: Array, back: Array) -> Array:
    """`(a - b) log(a/b)`, zero where both are and infinite where one is."""
    both, one = (forth > 0) & (back > 0), (forth > 0) ^ (back > 0)
    a, b = jnp.where(both, forth, 1), jnp.where(both, back, 1)
    return jnp.where(one, jnp.inf, (a - b) * (jnp.log(a) - jnp.log(b)))
