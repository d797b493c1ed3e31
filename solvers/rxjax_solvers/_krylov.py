"""Krylov spaces, and exponentials of what a generator looks like in one."""

from collections.abc import Callable
from math import comb, perm

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

# Degree of the approximation of exp: right to rounding up to 1, and small enough beyond that its 64th power is none.
_DEGREE, _SQUARINGS = 8, 6
# Steps of less than this are not taken from one time to the next.
_SHORT = 0.3
# Vectors are read by so many at once, and only those that are there.
BLOCK = 8
# Sums of vectors are made for so many of their elements at once.
_COLUMNS = 1024
# Products that add less than so many roundings to the space add nothing.
_NOTHING = 32
# What a pass leaves is orthogonal to so many roundings times how much shorter it has become.
_MUCH = 100.0


def _quadratics() -> list:
    """`(a, b)` of `1 + a z + b z^2` above and below: the rational approximation that vanishes at minus infinity."""
    n = _DEGREE
    above = [comb(n - 1, j) / perm(2 * n - 1, j) for j in range(n)]
    below = [(-1) ** j * comb(n, j) / perm(2 * n - 1, j) for j in range(n + 1)]
    halves = []
    for coefficients in (above, below):
        roots = np.sort_complex(np.roots(coefficients[::-1]))
        pairs = [(-2 * np.real(1 / r), 1 / abs(r) ** 2) for r in roots if r.imag > 0]
        alone = [(-1 / np.real(r), 0.0) for r in roots if r.imag == 0]
        halves.append([(float(a), float(b)) for a, b in pairs + alone])
    return list(zip(*halves, strict=True))


_QUADRATICS = _quadratics()


class Krylov(eqx.Module):
    """An orthonormal basis of `b, K b, K^2 b, ...` and `K` in it.

    - `blocks`: the basis, at least m + 1 vectors, so many at a time; zeros where there are none yet.
    - `newest`, `second`: the last of them, and the one before.
    - `projected`: (m + 1, m), `K basis[j] = sum_i projected[i, j] basis[i]`.
    - `sizes`: (m + 1,), sums of absolute values of the basis.
    - `norm`: of `b = norm basis[0]`.
    - `used`: how many columns have been computed.
    """

    blocks: tuple[Float[Array, "block n"], ...]
    newest: Float[Array, "n"]
    second: Float[Array, "n"]
    projected: Float[Array, "m1 m"]
    sizes: Float[Array, "m1"]
    norm: Float[Array, ""]
    used: Int[Array, ""]

    @property
    def basis(self) -> Float[Array, "rows n"]:
        return jnp.concatenate(self.blocks)


def start(b: Float[Array, "n"], size: int, made: PyTree = ()) -> Krylov:
    """The space of `b` alone, with room for `size` products, which is not there before what was `made` for them is."""
    norm = jnp.sqrt(jnp.sum(b**2))
    first = b / jnp.where(norm > 0, norm, 1)
    none = jnp.full((BLOCK, b.size), _zero_after(made), b.dtype)
    blocks = (none.at[0].set(first), *[none] * (size // BLOCK))
    sizes = jnp.zeros(size + 1, b.dtype).at[0].set(jnp.sum(jnp.abs(first)))
    second, projected = jnp.zeros_like(first), jnp.zeros((size + 1, size), b.dtype)
    return Krylov(blocks, first, second, projected, sizes, norm, jnp.zeros((), jnp.int32))


def _zero_after(made: PyTree) -> Array:
    """Zero, but not before some arrays are made.

    XLA writes what depends on nothing first: room for vectors would lie beside all that it takes to make a factor, in
    memory that is new to the process, which is slow.
    """
    ends = [jnp.ravel(x)[0] for x in jax.tree.leaves(made) if eqx.is_inexact_array(x) and x.size]
    return jnp.nan_to_num(sum(jnp.minimum(jnp.abs(x), 0) for x in ends))


def extend(
    krylov: Krylov,
    apply: Callable[[Array], Array],
    steps: int | Int[Array, ""],
    dimension: int | Int[Array, ""] | None = None,
    project: Callable[[Array], Array] = lambda w: w,
) -> Krylov:
    """`steps` further products with `apply`, orthogonal to the others; images of `apply` fill `dimension` at most.

    First the last two, which hold most of an image where the process is reversible, are taken from it, then all, and
    once more where that takes away much (Daniel, Gragg, Kaufman and Stewart 1976).  `project` removes, orthogonally,
    what no image of `apply` may hold.
    """
    dimension = krylov.newest.size if dimension is None else dimension

    def step(j, krylov):
        j = krylov.used
        w = apply(krylov.newest)
        scale = jnp.sqrt(jnp.sum(w**2))
        last = jnp.sum(krylov.newest * w)
        w = w - last * krylov.newest
        second = jnp.sum(krylov.second * w)
        w = w - second * krylov.second
        column = jnp.zeros(krylov.sizes.shape[0], w.dtype).at[j].set(last)
        column = column.at[jnp.maximum(j - 1, 0)].add(jnp.where(j > 0, second, 0))

        def orthogonalise(carry):
            passes, w, column, _, norm = carry
            along, part = _within(krylov.blocks, w, j)
            w = project(w - part)
            return passes + 1, w, column + along[: column.size], norm, jnp.sqrt(jnp.sum(w**2))

        def go_on(carry):
            passes, _, _, before, norm = carry
            return (passes == 0) | ((passes == 1) & (norm < before / _MUCH))

        begin = jnp.zeros((), jnp.int32), w, column, scale, jnp.sqrt(jnp.sum(w**2))
        passes, w, column, before, norm = lax.while_loop(go_on, orthogonalise, begin)
        # Nothing new but rounding, much of it within the space: the space is invariant, and what follows stays zero.
        new = (norm > _NOTHING * jnp.finfo(w.dtype).eps * scale) & ((passes < 2) | (norm > before / 2))
        new = new & (j + 1 < dimension)
        norm = jnp.where(new, norm, 0)
        column = column.at[j + 1].set(norm)
        w = jnp.where(new, w / jnp.where(new, norm, 1), 0)
        blocks = tuple(_put(block, w, j + 1 - i * BLOCK) for i, block in enumerate(krylov.blocks))
        sizes = krylov.sizes.at[j + 1].set(jnp.sum(jnp.abs(w)))
        projected = krylov.projected.at[:, j].set(column)
        return Krylov(blocks, w, krylov.newest, projected, sizes, krylov.norm, j + 1)

    return lax.fori_loop(0, steps, step, krylov)


def combine(
    krylov: Krylov,
    ys: Float[Array, "rows m1"],
    onto: Float[Array, "rows n"],
    merge: Callable[[Array, Array, Callable[[Array], Array]], Array],
) -> Float[Array, "rows n"]:
    """`onto` with what `merge(made, onto, cut)` makes of it and of the vectors' sums with shares `ys`.

    It is given some columns at a time, and `cut` takes the same from an array of shape (n,).  The shares beyond the
    last vector are zero.
    """
    shares = jnp.pad(ys, ((0, 0), (0, len(krylov.blocks) * BLOCK - ys.shape[1])))
    counts = range(1, len(krylov.blocks) + 1)

    n = onto.shape[1]
    width = min(_COLUMNS, n)

    # In place, some columns after the other: memory that is new to a process is slow.
    def some(i, onto):
        begin = jnp.minimum(i * width, n - width)
        cut = lambda a: lax.dynamic_slice_in_dim(a, begin, width, axis=a.ndim - 1)

        def made(count):
            vectors = jnp.concatenate([cut(block) for block in krylov.blocks[:count]])
            return jnp.matmul(shares[:, : count * BLOCK], vectors, precision=lax.Precision.HIGHEST)

        sums, before = (
            lax.switch(krylov.used // BLOCK, [lambda count=count: made(count) for count in counts]),
            cut(onto),
        )
        # The last of them may begin within those before.
        new = begin + jnp.arange(width, dtype=i.dtype) >= i * width
        return lax.dynamic_update_slice_in_dim(
            onto, jnp.where(new[None], merge(sums, before, cut), before), begin, axis=1
        )

    return lax.fori_loop(0, -(-n // width), some, onto)


# Traced once for the blocks of a space.
@jax.jit
def _put(block: Array, w: Array, at: Array) -> Array:
    """`w` in a row of the block, if there is one of that number."""
    here = (at >= 0) & (at < BLOCK)
    return lax.cond(
        here, lambda block, w: block.at[jnp.clip(at, 0, BLOCK - 1)].set(w), lambda block, w: block, block, w
    )


@jax.jit
def _along(block: Array, w: Array, part: Array, here: Array) -> tuple[Array, Array]:
    """Coordinates of `w` along the vectors of a block, if any are `here`, and `part` with what they make of `w`."""

    def add(block, part):
        along = jnp.matmul(block, w, precision=lax.Precision.HIGHEST)
        return along, part + jnp.matmul(along, block, precision=lax.Precision.HIGHEST)

    def skip(_, part):
        return jnp.zeros(BLOCK, w.dtype), part

    return lax.cond(here, add, skip, block, part)


def _within(blocks: tuple[Array, ...], w: Array, last: Array) -> tuple[Array, Array]:
    """Coordinates of `w` along the vectors up to the last, and what they make of `w`."""
    along, part = [], jnp.zeros_like(w)
    # Blocks are arrays of their own, and read where they lie: part of an array would be copied first.
    for i, block in enumerate(blocks):
        here, part = _along(block, w, part, i * BLOCK <= last)
        along.append(here)
    return jnp.concatenate(along), part


def evolve(
    k: Float[Array, "m m"],
    first: Float[Array, "m"],
    rate: Float[Array, ""],
    ts: Float[Array, "times"],
    last: int | Int[Array, ""] = 0,
) -> tuple[Float[Array, "times m"], Float[Array, "times"]]:
    """`y = exp(t W) first` at ascending times from 0 on for `W = rate (1 - k^-1)`, and element `last` of `k^-1 y`."""

    def advance(carry, t):
        before, dt, step, y = carry
        # Evenly spaced times share one exponential; where rounding would be large the start is nearer.
        short = rate * jnp.minimum(t - before, before) < _SHORT
        same = ~short & (jnp.abs(t - before - dt) <= 16 * jnp.finfo(t.dtype).eps * jnp.abs(t))
        y = jnp.where(short, first, y)
        new = jnp.where(short, t, t - before)
        dt, step = lax.cond(same, lambda: (dt, step), lambda: (new, exponential(k, rate * new, last)))
        change, row = step
        end = product(row, y)
        y = y + product(change, y)
        return (t, dt, step, y), (y, end)

    zero = jnp.zeros_like(ts[0])
    step = jnp.zeros_like(k), jnp.zeros_like(first)
    return lax.scan(advance, (zero, zero, step, first), ts)[1]


@jax.jit
def exponential(
    k: Float[Array, "m m"], time: Float[Array, ""], last: int | Int[Array, ""] = 0
) -> tuple[Float[Array, "m m"], Float[Array, "m"]]:
    r"""`exp(time (1 - k^-1)) - 1`, and row `last` of `k^-1 exp(time (1 - k^-1))`.

    `k` is never inverted: in directions of no size, which the fast modes leave, nothing survives.  A rational
    approximation that vanishes there, as a product of ratios of quadratics in `k`, is squared as often as needed.
    """
    squarings = jnp.maximum(jnp.ceil(jnp.log2(jnp.maximum(time, 1))).astype(jnp.int32), _SQUARINGS)
    dt = time * jnp.exp2(-squarings.astype(k.dtype))
    eye = jnp.eye(k.shape[0], dtype=k.dtype)
    # With z = dt (1 - 1/k): k k, k k z and k k z z.
    near = dt * (k - eye)
    powers = product(k, k), product(k, near), product(near, near)

    # One ratio after the other: many small solves at once wait for each other, for ever with some versions of XLA.
    def multiply(carry, weights):
        change, _ = carry
        zero, pole = weights
        below = powers[0] + pole[0] * powers[1] + pole[1] * powers[2]
        above = (zero[0] - pole[0]) * powers[1] + (zero[1] - pole[1]) * powers[2]
        # The last ratio, whose upper part is linear, over k.
        over = product(k + zero[0] * near, eye + change)
        both = jnp.linalg.solve(below, jnp.concatenate([above, over], axis=1))
        factor, row = both[:, : k.shape[0]], both[last, k.shape[0] :]
        return (change + factor + product(change, factor), row), None

    # Changes, not factors: those of the slow modes are small.
    (change, row), _ = lax.scan(multiply, (jnp.zeros_like(k), k[0]), jnp.asarray(_QUADRATICS, k.dtype))

    def square(carry):
        n, change, row = carry
        return n + 1, 2 * change + product(change, change), row + product(row, change)

    _, change, row = lax.while_loop(lambda c: c[0] < squarings, square, (0, change, row))
    return change, row


def rounding(time: Float[Array, "times"], now: Float[Array, "times"], first: Float[Array, ""]) -> Float[Array, "times"]:
    """Rounding of `exponential` where `first` has become `now`: in slow rates at late times, in fast ones at early."""
    eps = jnp.finfo(time.dtype).eps
    # The quadratics' condition is the square of this.
    steep = _DEGREE * 2.0**_SQUARINGS / time
    known = (steep**2 * eps < 1) & (time * eps < 0.1)
    return jnp.where(known, eps * (time * now + steep * first), jnp.inf)


def product(a: Array, b: Array) -> Array:
    """`a b` in the full precision of the dtype on any device."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def inner_integral(
    a: Float[Array, "k k"],
    b: Float[Array, "m m"],
    x: Float[Array, "k"],
    y: Float[Array, "m"],
    rate: Float[Array, ""],
    t: Float[Array, ""],
) -> Float[Array, "k m"]:
    """`int_0^t exp((t - s) A) x (exp(s B) y)' ds`, `A = rate (1 - a^-1)`, from one exponential (Van Loan 1978)."""
    k, m = a.shape[0], b.shape[0]
    block = jnp.zeros((k + m, k + m), a.dtype)
    both = jnp.outer(product(a, x), product(b, y)) / rate
    block = block.at[:k, :k].set(a).at[k:, k:].set(b.T).at[:k, k:].set(both)
    return exponential(block, rate * t)[0][:k, k:]


def inverse(krylov: Krylov, used: Int[Array, ""]) -> Float[Array, "m1 m1"]:
    """`K` on the first `used` vectors.  The one after them stands still, and holds what has left the space."""
    m = jnp.arange(krylov.sizes.size, dtype=jnp.int32)
    k = jnp.pad(krylov.projected, ((0, 0), (0, 1)))
    k = jnp.where((m[:, None] <= used) & (m[None] < used), k, 0)
    return k.at[used, used].set(1)
