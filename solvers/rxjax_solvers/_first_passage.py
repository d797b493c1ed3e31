"""When a process first reaches a target."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._checks import is_traced
from ._compiled import compiled
from ._factor import Factor, check_factor, factorize
from ._generator import AbstractGenerator
from ._long_lives import apart
from ._region import Target, cells
from ._results import RESULTS, answer, outcome


def mean_first_passage_time(
    generator: AbstractGenerator,
    target: Target | Sequence[Target] | None,
    *,
    factor: Factor | None = None,
    throw: bool = True,
) -> Any:
    r"""Mean time from each cell to a target, $-W^\top \tau = 1$ outside of it and $\tau = 0$ in it.

    **Arguments:**

    - `generator`: `W`.
    - `target`: a mask (a set of cells); a predicate of `theta`, whose edge is placed where it lies, second order in
        the cell size; a sequence of these; or `None`, the absorbing sides.  Derivatives by the bounds of the grid know
        of that edge; those by what a predicate itself reads are zero.  With a full-tensor diffusion a predicate is the
        set of its cells: first order, and moved by the bounds.
    - `factor`: `factorize(generator, target=target)`, if you have it.  One of other cells is refused; inside `jit` only
        where the target is a mask.  Edges between the same cells are not compared.
    - `throw`: with `False`, return `(value, result)`.

    **Returns:** shape `(*shape)`, in the time units of the generator, zero in the target.  Every value relative to
    itself: right near rounding at any temperature by `Elimination()`, to 1e-10 by `Iteration()`, which `factorize`
    takes on large grids with a potential.  Gradients by `Elimination()` are as good behind a single barrier, in forward
    mode alone for full matrices; else they lose `eps e^(E_b/kT)` of it, those of `transition_rate` hardly anything.

    **How it fails:** `RESULTS.unreachable` where some state cannot reach the target; `RESULTS.unsolved` where the
    iteration did not converge, mostly for barriers beyond 35 kT: then pass
    `factor=factorize(generator, target=target, method=Elimination())`.

    ??? cite "References"

        C. W. Gardiner, Handbook of Stochastic Methods, 3rd ed. (2004), 5.2.7.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> grid = rxs.Grid(-3, 3, 300)
        >>> W = rxs.FokkerPlanck.from_potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, grid, temperature=0.1)
        >>> tau = rxs.mean_first_passage_time(W, lambda x: x[0] >= 1)
        >>> round(float(jnp.interp(-1.0, grid.axes[0], tau)), 1)
        66.3

        ```
    """
    return answer(*_mean(_factor_of(generator, target, factor)), throw)


def first_passage_variance(
    generator: AbstractGenerator,
    target: Target | Sequence[Target] | None,
    *,
    factor: Factor | None = None,
    throw: bool = True,
) -> Any:
    r"""Variance of the time from each cell to a target.

    $-W^\top m = 2 \tau$ with $\tau$ the mean gives the second moment $m$, and the variance is $m - \tau^2$.
    Arguments, accuracy and failures as in `mean_first_passage_time`.

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.FokkerPlanck(jnp.zeros(1), 0.5, rxs.Grid(-1, 1, 101, boundary="absorbing"))
        >>> round(float(rxs.first_passage_variance(W, None)[50]), 3)  # 2/3
        0.667

        ```
    """
    return answer(*_variance(_factor_of(generator, target, factor)), throw)


def _factor_of(generator: AbstractGenerator, target: Any, factor: Factor | None) -> Factor:
    if factor is None:
        return factorize(generator, target=target)
    targets = () if target is None else target if isinstance(target, (tuple, list)) else (target,)
    members: Any = np.zeros(generator.shape, bool)
    for one in targets:
        members = members | cells(generator, one, "target")
    # A mask is compared inside `jit` too; what else is traced there would be a check at run time for each call.
    masked = len(targets) == 1 and not callable(target)
    compared = masked or not is_traced(factor.keep, members)
    return check_factor(factor, generator, members if compared else None, "target")


@compiled
def _mean(factor: Factor) -> tuple[Array, RESULTS]:
    tau = _integral(factor, jnp.ones_like(factor.extra))
    return tau, _reached(factor, tau)


@compiled
def _variance(factor: Factor) -> tuple[Array, RESULTS]:
    tau = _integral(factor, jnp.ones_like(factor.extra))
    variance = 2 * _integral(factor, tau) - tau**2
    return variance, _reached(factor, variance)


@eqx.filter_custom_jvp
def _integral(factor: Factor, b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`A^-T b`: the mean integral of `b >= 0` until the target is reached."""
    return factor.transpose_solve(b)


@_integral.def_jvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    r"""$A^\top du = db - dA^\top u$: rates act on differences of `u`, which rounding of a long life covers.

    So they act on those from where a life is spent most.
    """
    (factor, b), (factor_tangent, b_tangent) = primals, tangents
    u = _integral(factor, b)
    parts = apart(factor, b, u)
    _, change = eqx.filter_jvp(parts.backward, (factor,), (factor_tangent,))
    return u, factor.transpose_solve(-change if b_tangent is None else b_tangent - change)


def _reached(factor: Factor, tau: Array) -> RESULTS:
    return outcome((~jnp.all(jnp.isfinite(tau)), factor.elimination.fault))
