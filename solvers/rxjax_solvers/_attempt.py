"""Krylov spaces of `(1 - W/s)^-1`: one attempt at the densities at all times from one factor."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ._factor import Factor, assemble
from ._factorization import AbstractFactorization
from ._generator import AbstractGenerator
from ._krylov import Krylov, combine, evolve, extend, inverse, rounding, start

# Products between two looks at the error, by iteration, of which later products take less, and once it is within this
# factor of what is asked.
_CHUNK, _ITERATED, _FEW, _NEARLY = 8, 4, 2, 1e3
# The error is also what so many products changed.
_LAG = 2
# Share of the error that a product by iteration may have, and of its vector.
SHARE, _MOST = 0.01, 0.1


class Parts(eqx.Module):
    """What an attempt leaves for its transpose."""

    factor: Factor
    krylov: Krylov


class _Growing(eqx.Module):
    """A space, what is known of its error, and how much of the density the newest of its vectors are."""

    krylov: Krylov
    error: Float[Array, ""]
    newest: Float[Array, ""]


def operator(factor: Factor, law: Array, generator: AbstractGenerator):
    """`(1 - W/s)^-1` on changes of density, flat in and out, and what takes their mass away.

    At late times an image is far smaller than its source, so that rounding in the mass of one would be another's law.
    """
    total = generator.mass(law)
    unit = law / jnp.where(total == 0, 1, total)

    def apply(v, error=None):
        error = None if error is None else error / factor.shift
        w = factor.shift * factor.elimination.solve(v.reshape(law.shape), error)
        return (w - unit * generator.mass(w)).ravel()

    return apply, lambda v: v - jnp.where(total > 0, jnp.mean(v), 0)


def transposed_operator(factor: Factor, law: Array):
    """The transpose of `(1 - W/s)^-1` on functions of mean zero under the law, and what takes their means away."""
    weight = law / jnp.where(jnp.any(law > 0), jnp.sum(law), 1)

    def apply(v, error=None):
        error = None if error is None else error / factor.shift
        u = factor.shift * factor.elimination.transpose_solve(v.reshape(law.shape), error)
        return (u - jnp.sum(weight * u)).ravel()

    unit = weight.ravel() / jnp.where(jnp.any(law > 0), jnp.linalg.norm(weight), 1)
    return apply, lambda v: v - unit * jnp.sum(unit * v)


def dimension(law: Array) -> Array:
    """Of what is left beside the law: in no more directions than that the inverse exists."""
    return law.size - jnp.any(law > 0).astype(jnp.int32)


def _begin(generator: AbstractGenerator, p0: Array, law: Array, tol: Array, rate: Array, size: int, method):
    """A factor at `rate`, the space of the first vector, and how it grows.

    `tol` is what errors of products may add up to with coordinates of one, in all the time there is.  Coordinates to
    come are no larger than the newest are (V. Simoncini and D. B. Szyld, SIAM J. Sci. Comput. 25, 454, 2003).
    """
    factor = assemble(generator, [], rate, method)
    apply, project = operator(factor, law, generator)

    def grow(krylov: Krylov, steps, newest: Array) -> Krylov:
        def rough(v):
            size = jnp.sum(jnp.abs(v))
            return apply(v, jnp.clip(SHARE * tol / newest, factor.elimination.tol * size, _MOST * size))

        return extend(krylov, rough, steps, dimension(law), project)

    return factor, start(project((p0 - law).ravel()), size, factor.elimination), grow


def room(generator: AbstractGenerator, p0: Array, law: Array, tol: Array, size: int, method) -> Parts:
    """Zeros in the place of what an attempt leaves."""

    def begun(rate):
        factor, krylov, _ = _begin(generator, p0, law, tol, rate, size, method)
        return Parts(factor, krylov)

    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), eqx.filter_eval_shape(begun, tol))


def attempt(
    generator: AbstractGenerator,
    p0: Array,
    law: Array,
    span: Array,
    rate: Array,
    tol: Array,
    size: int,
    method: AbstractFactorization,
    known: tuple[Array, Array],
) -> tuple[Array, Array, Array, Parts]:
    """A factor at `rate`, and vectors until the error is small at some of the times.

    `known` are densities, shape `(1 + times, *shape)` with a row for the first time before those of `span`, and errors
    of the latter as masses, shape `(times,)`.  Returns them with those that are better now, and which they are.
    """
    factor, krylov, grow = _begin(generator, p0, law, _total(generator, rate, span, tol), rate, size, method)
    some = span[jnp.unique(jnp.array([0, span.size // 3, 2 * span.size // 3, span.size - 1]), size=min(4, span.size))]
    iterated = not isinstance(factor.elimination.tol, float)

    def errors(krylov, times):
        both = jnp.stack([krylov.used, krylov.used - _LAG])
        (ys, before), (outside, _) = lax.map(lambda used: _coordinates(krylov, used, rate, times), both)
        lengths = krylov.sizes * _volume(generator)
        change = jnp.abs(ys - before) @ lengths
        error = jnp.maximum(change, outside * lengths[krylov.used])
        now, first = jnp.abs(ys) @ lengths, krylov.norm * lengths[0]
        error = error + rounding(rate * times, now, first)
        if iterated:
            error = error + SHARE * tol * krylov.used.astype(tol.dtype)
        return ys, jnp.where(jnp.isfinite(error), error, jnp.inf)

    many = _ITERATED if iterated else _CHUNK
    products = lambda error: jnp.where(error < _NEARLY * tol, _FEW, many).astype(jnp.int32)

    def go_on(s: _Growing):
        return (s.error > tol) & (s.krylov.used + products(s.error) <= size)

    def further(s: _Growing) -> _Growing:
        krylov = grow(s.krylov, products(s.error), s.newest)

        # One time after the other until one is not served: of spaces that are too small the first tells.
        look = lambda carry: (carry[0] + 1, jnp.maximum(carry[1], errors(krylov, some[carry[0]][None])[1][0]))
        unseen = jnp.zeros((), jnp.int32), jnp.zeros((), p0.dtype)
        error = lax.while_loop(lambda c: (c[0] < some.size) & (c[1] <= tol), look, unseen)[1]
        return _Growing(krylov, error, newest(krylov) if iterated else krylov.norm)

    def newest(krylov: Krylov) -> Array:
        # Errors act at all times: before the first, too.
        ys, _ = _coordinates(krylov, krylov.used, rate, jnp.concatenate([some[:1] / 2, some]))
        last = jnp.max(jnp.abs(lax.dynamic_slice_in_dim(ys, krylov.used - _FEW, _FEW, axis=1)))
        return jnp.where(jnp.isfinite(last), last, krylov.norm)

    begun = _Growing(krylov, jnp.full((), jnp.inf, p0.dtype), krylov.norm)
    krylov = lax.while_loop(go_on, further, begun).krylov
    ys, error = errors(krylov, span)
    ys = jnp.where(jnp.isfinite(error)[:, None], ys, 0)
    ps, before = known
    better = error < before
    rows = jnp.pad(better, (1, 0))[:, None]
    merge = lambda made, old, cut: jnp.where(rows, made + cut(law.ravel())[None], old)
    ps = combine(krylov, jnp.pad(ys, ((1, 0), (0, 0))), ps.reshape(rows.size, law.size), merge)
    return ps.reshape(-1, *law.shape), jnp.where(better, error, before), better, Parts(factor, krylov)


def again(
    generator: AbstractGenerator,
    p0: Array,
    law: Array,
    span: Array,
    rate: Array,
    used: Array,
    tol: Array,
    size: int,
    method: AbstractFactorization,
) -> Parts:
    """The factor and the space of an earlier attempt."""
    factor, krylov, grow = _begin(generator, p0, law, _total(generator, rate, span, tol), rate, size, method)
    return Parts(factor, grow(krylov, used, krylov.norm))


def _total(generator: AbstractGenerator, rate: Array, span: Array, tol: Array) -> Array:
    """Of errors of products with coordinates of one, such that in a time of one over `rate` each adds as much."""
    return tol / (_volume(generator) * jnp.maximum(1, rate * span[-1]))


def _volume(generator: AbstractGenerator) -> Array:
    one = jnp.ones((), generator.outflow().dtype)
    return one if generator.grid is None else generator.grid.cell_volume.astype(one.dtype)


def _coordinates(krylov: Krylov, used: Int[Array, ""], rate: Array, times: Array) -> tuple[Array, Array]:
    """The density's coordinates at some times; and what was outside of the space, now or in all the time before."""
    k, last = inverse(krylov, used), used - 1
    first = jnp.zeros(k.shape[0], k.dtype).at[0].set(krylov.norm)
    ys, ends = evolve(k, first, rate, times, last)
    outside = jnp.maximum(jnp.abs(krylov.projected[used, last] * ends), jnp.abs(ys[:, used]))
    return ys.at[:, used].set(0), outside
