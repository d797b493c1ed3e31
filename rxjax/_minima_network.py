"""The minima of a landscape as the states of a master equation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from rxjax_solvers import MasterEquation
from rxjax_solvers._program import program

from ._arrays import real_arrays
from ._barriers import Barriers
from ._escape._kramers import log_arrhenius, way_out
from ._limits import exponential
from ._minima import Minima


def minima_network(
    landscape: Callable, minima: Minima, barriers: Barriers, temperature: ArrayLike, *, k: ArrayLike = 1.0
) -> MasterEquation:
    r"""Hopping between minima at the rates of Eyring and Kramers, one edge each way for every saddle.

    $$w_{a \to b} = \frac{|\lambda_s|}{2\pi} \sqrt{\frac{\det H_a}{|\det H_s|}}\; e^{-(L_s - L_a)/kT}$$

    the inverse of [`kramers_time`][], for $dX = -\nabla L\,dt + \sqrt{2kT}\,dW$; two saddles between the same minima
    add up.  It obeys detailed balance with the weights $e^{-L_a/kT}/\sqrt{\det H_a}$ of the wells.

    **Arguments:**

    - `landscape`, `minima`, `barriers`: as given to and returned by [`find_minima`][] and [`find_barriers`][].
    - `temperature`: $T > 0$, a number; `jax.vmap` for a sweep.
    - `k`: scaling constant.

    **Returns:** a `rxjax.solvers.MasterEquation` without a grid; state `i` is row `i` of `minima`, and time is learning
    rate x steps.  Differentiable in the temperature and the landscape's parameters.

    **Raises:** `ValueError` for a temperature or `k` that is no number, or negative.

    **How it fails:** as [`kramers_time`][] does, with barriers below $5\,kT$; and what is not on the list is not in
    the network: look at `barriers.stats["components"]`, which should be 1.

    !!! example

        ```python
        >>> import rxjax as rx
        >>> well = rx.landscapes.DoubleWell(barrier=0.25)
        >>> minima = rx.find_minima(well)
        >>> W = rx.minima_network(well, minima, rx.find_barriers(well, minima), 0.05)
        >>> print((1 / W.outflow()).round(1))
        [659.4 659.4]

        ```
    """
    temperature, k = real_arrays(temperature=temperature, k=k)
    for name, x in (("temperature", temperature), ("k", k)):
        if x.ndim:
            raise ValueError(f"Argument `{name}` must be a scalar, but it has shape {x.shape}. Vmap over many.")
    source, target, barrier, log_prefactor = _passes(landscape, minima.points, barriers.pairs, barriers.saddles)
    rates = exponential(-log_arrhenius(barrier, log_prefactor, temperature, k))
    return MasterEquation.from_edges(source, target, rates, minima.points.shape[0])


@program
def _passes(landscape: Callable, points: Array, pairs: Array, saddles: Array) -> tuple[Array, Array, Array, Array]:
    """Sources and targets of the edges, barriers and logarithms of the prefactors."""
    first, second = pairs[:, 0], pairs[:, 1]
    source, target = jnp.concatenate([first, second]), jnp.concatenate([second, first])
    if not source.shape[0]:
        none = jnp.zeros((0,), points.dtype)
        return source, target, none, none

    def one(a, s):
        way = way_out(landscape, a, s)
        return way.barrier, way.log_prefactor

    barrier, log_prefactor = jax.vmap(one)(points[source], jnp.concatenate([saddles, saddles]))
    return source, target, barrier, log_prefactor
