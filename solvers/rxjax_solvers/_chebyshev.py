"""The transpose of `exp(t W)` at many times by one sweep: Chebyshev series in `K = (1 - W/s)^-1`, the same for all.

With `z` in (0, 1] an eigenvalue of `K`, `exp(t W)` is `exp(-t s (1/z - 1)) = sum_m c_m(t) T_m(2 z - 1)`.
The series is transposed by the recursion of C. W. Clenshaw, Math. Tables Aids Comput. 9, 118 (1955).
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from ._factor import Factor
from ._fokker_planck import FokkerPlanck
from ._generator import AbstractGenerator

# Fewer times than this are not worth two solves for each term.
FEW = 5
# Terms come in blocks, so many at most.
_BLOCK, _BLOCKS = 8, 12
# Coefficients are integrals by so many nodes, enough for `t s` up to the latest; those beyond the last are nothing.
_NODES, _LATEST, _LAST = 256, 1000.0, 192


class Swept(NamedTuple):
    """Which times were served, and their share of the derivatives with respect to the start and the generator."""

    served: Bool[Array, "times"]
    dp0: Float[Array, "*shape"]
    slope: AbstractGenerator


def sweep(
    generator: AbstractGenerator,
    law: Float[Array, "*shape"],
    factor: Factor,
    apply: Callable[[Array], Array],
    transposed: Callable[[Array], Array],
    p0: Float[Array, "*shape"],
    gs: Float[Array, "times *shape"],
    times: Float[Array, "times"],
    tol: Float[Array, ""],
) -> Swept:
    """Derivatives of `sum_j <gs_j, exp(times_j W) p0>` by as many solves and transposed solves as the series has terms.

    `apply` and `transposed` are `K` and its transpose beside the law, flat in and out.  Serves the times whose series
    ends within the terms there are: none of a generator without detailed balance, whose `K` has other eigenvalues, nor
    of too few times to be worth it.
    """
    rate, mass = factor.shift, generator.mass(p0)
    flat = gs.reshape(times.size, -1)
    coefficients, tails = _series(rate * times)
    asked = jnp.any(flat != 0, axis=1)
    reached = asked & (rate * times <= _LATEST) & (tails[:, -1] <= tol) & _balanced(generator, law)
    reached = reached & (jnp.sum(reached) >= FEW)
    blocks, kept, longest = _ahead(apply, (p0 - law).ravel(), tails, reached, tol, mass, generator)
    served = reached & (tails[:, blocks] * longest <= tol)
    # The functions of a closed process beside their means, which stay.
    weight = (law / jnp.where(jnp.sum(law) > 0, jnp.sum(law), 1)).ravel()
    means = jnp.where(served, jnp.matmul(flat, weight, precision=lax.Precision.HIGHEST), 0)
    flat = jnp.where(served[:, None], flat - means[:, None], 0)
    dp0, slope, tallest = _back(transposed, flat, coefficients, blocks, kept, law, generator)
    # Terms far larger than their sum: their rounding is too.
    eps = jnp.finfo(tol.dtype).eps
    good = (eps * longest <= tol) & (eps * tallest <= tol * jnp.sum(jnp.max(jnp.abs(flat), axis=1)))
    dp0 = jnp.where(good, dp0 + jnp.sum(means), 0).reshape(p0.shape)
    return Swept(served & good, dp0, jax.tree.map(lambda x: jnp.where(good, 2 / rate * x, 0), slope))


def _series(ts: Array) -> tuple[Array, Array]:
    """Coefficients; and bounds for the change of the series' slope by what is left out after each number of blocks."""
    terms, odd = np.arange(_LAST), 2 * np.arange(_NODES) + 1
    # In halves of the nodes' distance; reduced to one turn while these are integers.
    cosines = np.cos(np.pi / (2 * _NODES) * (terms * odd[:, None] % (4 * _NODES)))
    cosines = np.where(terms == 0, 1, 2) / _NODES * cosines
    values = jnp.exp(-ts[:, None] * jnp.asarray(np.tan(np.pi / (4 * _NODES) * odd[None]) ** 2, ts.dtype))
    coefficients = jnp.matmul(values, jnp.asarray(cosines, ts.dtype), precision=lax.Precision.HIGHEST)
    # Of slopes, of T_m some m, not counting what is rounding alone.
    sizes = jnp.where(jnp.abs(coefficients) > 2 * jnp.finfo(ts.dtype).eps, jnp.abs(coefficients), 0)
    left = jnp.cumsum((sizes * jnp.asarray(terms[None], ts.dtype))[:, ::-1], axis=1)[:, ::-1]
    return coefficients, left[:, 1 : _BLOCK * _BLOCKS + 2 : _BLOCK]


def _balanced(generator: AbstractGenerator, law: Array) -> Array:
    """Whether each hop is as frequent as its opposite, so that the rates of all modes are real."""
    if isinstance(generator, FokkerPlanck) and generator.log_gibbs is not None:
        return jnp.ones((), bool)
    probe = jax.random.uniform(jax.random.key(0), law.shape, law.dtype)
    off = jnp.abs(generator.apply(law * probe) - law * generator.adjoint(probe))
    small = off <= jnp.sqrt(jnp.finfo(law.dtype).eps) * generator.outflow() * law
    return jnp.any(law > 0) & jnp.all(small)


def _factors(block: Array, dtype) -> Array:
    """`T_{m+1} = f_m (2 z - 1) T_m - T_{m-1}`, one block of the `f_m`."""
    m = _BLOCK * block + jnp.arange(_BLOCK, dtype=jnp.int32)
    return jnp.where(m == 0, 1, 2).astype(dtype)


def _ahead(apply, first: Array, tails: Array, reached: Array, tol: Array, mass: Array, generator):
    """How many blocks are needed, `K` on the terms of the start, and the longest of these over the mass."""

    def go_on(carry):
        block, _, _, longest = carry
        return (block < _BLOCKS) & jnp.any(reached & (tails[:, block] * longest > tol))

    def step(carry, factor):
        x, before = carry
        image = apply(x)
        return (factor * (2 * image - x) - before, x), (image, generator.mass(jnp.abs(x).reshape(generator.shape)))

    def more(carry):
        block, terms, kept, longest = carry
        terms, (images, lengths) = lax.scan(step, terms, _factors(block, first.dtype))
        kept = lax.dynamic_update_index_in_dim(kept, images, block, 0)
        return block + 1, terms, kept, jnp.maximum(longest, jnp.max(lengths) / mass)

    kept = jnp.zeros((_BLOCKS, _BLOCK, first.size), first.dtype)
    none = jnp.zeros((), jnp.int32), (first, jnp.zeros_like(first)), kept, jnp.ones((), first.dtype)
    block, _, kept, longest = lax.while_loop(go_on, more, none)
    return block, kept, longest


def _back(transposed, gs: Array, coefficients: Array, blocks: Array, kept: Array, law: Array, generator):
    """Clenshaw's recursion: the derivatives with respect to `p0` and, over `2/s`, the generator; the largest term."""
    nothing = eqx.filter(jax.tree.map(jnp.zeros_like, generator), eqx.is_inexact_array)

    def combined(start, size):
        weights = lax.dynamic_slice_in_dim(coefficients, start, size, axis=1)
        return jnp.matmul(weights.T, gs, precision=lax.Precision.HIGHEST)

    def step(carry, inputs):
        (b, after), (g, factor) = carry, inputs
        image = transposed(b)
        return (g + factor * (2 * image - b) - after, b), (factor * image, jnp.max(jnp.abs(b)))

    def less(i, carry):
        terms, slope, total, tallest = carry
        block = blocks - 1 - i
        here = combined(_BLOCK * block, _BLOCK), _factors(block, gs.dtype)
        terms, (images, heights) = lax.scan(step, terms, here, reverse=True)
        starts = lax.dynamic_index_in_dim(kept, block, 0, keepdims=False)
        slope = jax.tree.map(jnp.add, slope, paired(generator, images, starts))
        return terms, slope, total + jnp.sum(images, axis=0), jnp.maximum(tallest, jnp.max(heights))

    last = combined(_BLOCK * blocks, 1)[0]
    zero = jnp.zeros_like(last)
    carry = (last, zero), nothing, zero, jnp.zeros((), gs.dtype)
    (dp0, _), slope, total, tallest = lax.fori_loop(0, blocks, less, carry)
    # The law is a term of every degree.
    return dp0, jax.tree.map(jnp.add, slope, paired(generator, total[None], law.ravel()[None])), tallest


def paired(generator: AbstractGenerator, duals: Array, ps: Array):
    """Derivative of `sum_i <duals_i, W ps_i>` with respect to the generator."""

    def total(generator):
        applied = jax.vmap(lambda p: generator.apply(p.reshape(generator.shape)).ravel())(ps)
        return jnp.sum(duals * applied)

    return eqx.filter_grad(total)(generator)
