"""Implicit steps along one axis: `(loss - W)^-1 d` for tridiagonal `W`, without a single subtraction.

Elimination reads the system as a Markov chain that is censored state by state: what leaves an eliminated cell is
handed on to its neighbours in proportion to its rates (Grassmann, Taksar and Heyman 1985; Alfa, Xue and Ye 2002).
Every intermediate is a sum of products of positive numbers, so mass is kept to rounding and nothing turns negative at
any `tau`.  A scan over cells is fastest on a CPU; accelerators, where its launches would dominate, eliminate every
other cell at once (cyclic reduction).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

from ._face_rates import AxisRates


def _row(a: Array, i) -> Array:
    return lax.dynamic_index_in_dim(a, i, 0, keepdims=False, allow_negative_indices=False)


def _with_row(a: Array, row: Array, i) -> Array:
    return lax.dynamic_update_index_in_dim(a, row, i, 0, allow_negative_indices=False)


# Lanes from which on rows are wide: a row is then read from an array again.  Carried beside it, it would lie where the
# next one is written, and XLA computes such lanes one by one.  So it does complex ones in any case, and few are sooner
# done in registers.
_WIDE = 32


def _wide(x: Array) -> bool:
    return x[0].size >= _WIDE and not jnp.iscomplexobj(x)


def _parts(x: Array) -> tuple[Array, ...]:
    """Even and odd wide rows, each in an array of its own: rows are then made from an array that is not written to.

    XLA would first copy them out of one that is.  Taking rows apart and joining them costs what a single sweep saves.
    """
    return (x[::2], x[1::2]) if _wide(x) and x.shape[0] > 1 else (x,)


def _joined(parts: tuple[Array, ...]) -> Array:
    """Inverse of `_parts`."""
    if len(parts) == 1:
        return parts[0]
    even, odd = parts
    pairs = jnp.stack([even[: odd.shape[0]], odd], axis=1).reshape(-1, *odd.shape[1:])
    return jnp.concatenate([pairs, even[odd.shape[0] :]])


def _along(step: Callable[..., Array], parts: tuple[Array, ...], down: bool = False) -> tuple[Array, ...]:
    """Row after row but the first (the last, going down) replaced by `step(i, row, the row made before)`.

    In place: the sweeps are bound by memory.
    """
    n = sum(part.shape[0] for part in parts)
    by, start = (-1, n - 1) if down else (1, 0)

    if len(parts) == 1:
        wide = _wide(parts[0])

        def go(k, carry):
            x, before = carry
            i = start + by * k
            row = step(i, _row(x, i), _row(x, i - by) if wide else before)
            return _with_row(x, row, i), None if wide else row

        return (lax.fori_loop(1, n, go, (parts[0], None if wide else parts[0][start]))[0],)

    def one(parts, j, k):
        # Row `2k + j` from the start.
        i = start + by * j
        place, before = i // 2 + by * k, (i - by) // 2 + by * k
        row = step(i + 2 * by * k, _row(parts[i % 2], place), _row(parts[1 - i % 2], before))
        new = _with_row(parts[i % 2], row, place)
        return (parts[0], new) if i % 2 else (new, parts[1])

    def two(k, parts):
        # Else the second row would be made from the first itself, which would be kept beside the array.
        return one(lax.optimization_barrier(one(parts, 1, k)), 2, k)

    parts = lax.fori_loop(0, (n - 1) // 2, two, parts)
    return parts if n % 2 else one(parts, n - 1, 0)


def _scan_pivots(up: Array, down: Array, loss: Array) -> Array:
    """Reciprocal pivots of the elimination from the first cell upwards; `loss` may be one row for all."""
    n = up.shape[0]
    lost = lambda i: loss[0] if loss.shape[0] == 1 else _row(loss, i)

    def one(i, below, inverse):
        # What a cell loses, and the share of what it sends down that does not come up again.
        here = lost(i) + _row(down, i) * (below / (below + _row(up, i - 1)))
        # Else it would be made a second time.
        here = lax.optimization_barrier(here)
        return here, _with_row(inverse, 1 / (here + _row(up, i)), i)

    # Two rows in turns: one carried alone would lie where the next one is written.
    def two(k, carry):
        even, _, inverse = carry
        odd, inverse = one(2 * k + 1, even, inverse)
        even, inverse = one(2 * k + 2, odd, inverse)
        return even, odd, inverse

    # Nothing lies below the first cell: what it sends down (an absorbing side, the seam) leaves for good.
    first = loss[0] + down[0]
    inverse = jnp.zeros((n, *first.shape), first.dtype).at[0].set(1 / (first + up[0]))
    even, _, inverse = lax.fori_loop(0, (n - 1) // 2, two, (first, jnp.zeros_like(first), inverse))
    return inverse if n % 2 else one(n - 1, even, inverse)[1]


def _scan_solve(up: Array, down: Array, inverse: Array, d: Array) -> Array:
    return _scan_from(up, down, inverse, (d,), lambda i, here: here)[0]


def _scan_from(
    up: Array, down: Array, inverse: Array, parts: tuple[Array, ...], start: Callable[[Any, Array], Array]
) -> tuple[Array, ...]:
    """The solution for a right side whose row `i` is `start(i, x[i])`, made where it is read."""

    def ascend(i, here, below):
        return _row(inverse, i) * (start(i, here) + _row(up, i - 1) * below)

    def descend(i, here, above):
        return here + _row(inverse, i) * (_row(down, i + 1) * above)

    first, *rest = parts
    first = first.at[0].set(inverse[0] * start(0, first[0]))
    return _along(descend, _along(ascend, (first, *rest)), down=True)


def _ranked(a: Array, x: Array) -> Array:
    """A number, or one for each member of a batch in the last axis of `x`, with the rank of `x`."""
    return a.reshape((1,) * (x.ndim - a.ndim) + a.shape)


def _scan_sums(up: Array, down: Array, inverse: Array, a: Array, b: Array, p: Array, *parts: Array):
    def once(parts, shares):
        a, b = (_ranked(share, p)[0] for share in shares)
        return _scan_from(up, down, inverse, parts, lambda i, here: a * here + b * _row(p, i)), None

    # A loop over the sweeps compiles half as much as writing them out, and keeps transposes out of them.
    parts, _ = lax.scan(once, parts, (a, b))
    return _joined(parts), *parts


def _reduction_sums(up: Array, down: Array, loss: Array, a: Array, b: Array, p: Array, *parts: Array):
    def once(x, shares):
        a, b = (_ranked(share, p) for share in shares)
        return _reduction_solve(up, down, loss, a * x + b * p), None

    return lax.scan(once, _joined(parts), (a, b))[0], *parts


def _scan_transpose(up: Array, down: Array, inverse: Array, g: Array) -> Array:
    def ascend(i, here, below):
        return here + _row(down, i) * (_row(inverse, i - 1) * below)

    def descend(i, here, above):
        return _row(inverse, i) * (here + _row(up, i) * above)

    (x,) = _along(ascend, (g,))
    return _along(descend, (x.at[-1].multiply(inverse[-1]),), down=True)[0]


def _lanes_last(solve: Callable, whole: int = 1) -> Callable:
    """`vmap` puts the new axis behind the lanes, where rows stay contiguous, instead of before the cells.

    So many last arguments are made a batch in any case.
    """

    @jax.custom_batching.custom_vmap
    def wrapped(*args):
        return solve(*args)

    @wrapped.def_vmap
    def _(axis_size, in_batched, *args):
        if not any(in_batched):
            # A batch of tangents at one place: another batch would be one without end.
            out = solve(*args)
            return out, jax.tree.map(lambda _: False, out)
        moved = [jnp.moveaxis(a, 0, -1) if b else a[..., None] for a, b in zip(args, in_batched, strict=True)]
        for i in range(len(moved) - whole, len(moved)):
            moved[i] = jnp.broadcast_to(moved[i], (*moved[i].shape[:-1], axis_size))
        out = wrapped(*moved)
        return jax.tree.map(lambda a: jnp.moveaxis(a, -1, 0), out), jax.tree.map(lambda _: True, out)

    return wrapped


def _reduction_solve(up: Array, down: Array, loss: Array, d: Array) -> Array:
    # The excess of a cell is its column sum: its loss, and what leaves the chain.
    excess = loss.at[0].add(down[0]).at[-1].add(up[-1])
    up, down = up.at[-1].set(0), down.at[0].set(0)
    levels = []
    while d.shape[0]:
        u, v, out = up[::2], down[::2], d[::2]
        u_kept, v_kept = up[1::2], down[1::2]
        n, kept = u.shape[0], u_kept.shape[0]
        inverse = 1 / (u + v + excess[::2])
        to_above, to_below, lost = u * inverse, v * inverse, excess[::2] * inverse
        above, below = _resize(v_kept, n) * inverse, _shift_up(u_kept, n) * inverse
        levels.append((inverse * out, above, below))
        excess = excess[1::2] + v_kept * lost[:kept] + u_kept * _next(lost, kept)
        up, down = u_kept * _next(to_above, kept), v_kept * to_below[:kept]
        d = d[1::2] + (to_above * out)[:kept] + _next(to_below * out, kept)
    x = d
    for out, above, below in reversed(levels):
        n, kept = out.shape[0], x.shape[0]
        solved = out + above * _resize(x, n) + below * _shift_up(x, n)
        pairs = jnp.stack([solved[:kept], x], axis=1).reshape(2 * kept, *x.shape[1:])
        x = jnp.concatenate([pairs, solved[kept:]])
    return x


def _reduction_transpose(up: Array, down: Array, loss: Array, g: Array) -> Array:
    (out,) = jax.linear_transpose(lambda d: _reduction_solve(up, down, loss, d), g)(g)
    return out


def _resize(a: Array, n: int) -> Array:
    """The first `n` rows, with zeros where there are fewer."""
    return a[:n] if a.shape[0] >= n else jnp.concatenate([a, jnp.zeros((n - a.shape[0], *a.shape[1:]), a.dtype)])


def _next(a: Array, n: int) -> Array:
    """Row `k + 1` in row `k`."""
    return _resize(a[1:], n)


def _shift_up(a: Array, n: int) -> Array:
    """Row `k - 1` in row `k`."""
    return jnp.concatenate([jnp.zeros((1, *a.shape[1:]), a.dtype), _resize(a, n - 1)])


def _on(cpu: Callable, default: Callable) -> Callable:
    """Either of two, traced once for arguments of one kind, however often a program calls it."""
    return jax.jit(lambda *args: lax.platform_dependent(*args, cpu=cpu, default=default))


_pivots = _on(_scan_pivots, lambda up, down, loss: jnp.broadcast_to(loss, up.shape))
_solve = _on(_lanes_last(_scan_solve), _reduction_solve)
_transpose = _on(_lanes_last(_scan_transpose), _reduction_transpose)
# By the number of arrays that hold what is solved for.
_sums = {n: _on(_lanes_last(_scan_sums, 1 + n), _reduction_sums) for n in (1, 2)}


def _reused(spare: tuple[Array, ...], new: tuple[Array, ...]) -> tuple[Array, ...]:
    """`spare` in the shapes of `new` if as large, which saves filling new arrays."""
    fits = [a.size for a in spare] == [a.size for a in new]
    return tuple(a.reshape(b.shape) for a, b in zip(spare, new, strict=True)) if fits else new


class Chain(eqx.Module):
    """The factor of an open chain of cells; the sweep axis lies first.

    `pivots` are reciprocal pivots on a CPU and the losses elsewhere, where nothing is kept from solve to solve.
    """

    up: Inexact[Array, "n *rest"]
    down: Inexact[Array, "n *rest"]
    pivots: Inexact[Array, "n *rest"]

    def solve(self, d: Inexact[Array, "n *rest"]) -> Inexact[Array, "n *rest"]:
        return _solve(self.up, self.down, self.pivots, d)

    def room(self, p: Float[Array, "n *rest"], spare: tuple[Array, ...]) -> tuple[Array, ...]:
        """Where `solve_sums` for `p` may write: finite values, of `spare` if that is as large."""
        return _reused(spare, _parts(jnp.zeros_like(p)))

    def solve_sums(self, a: Array, b: Array, p: Float[Array, "n *rest"], parts: tuple[Array, ...]):
        """`x` replaced by the solution for `a[k] x + b[k] p`, for one `k` after the other, and what is spare then.

        Sums are not written out where memory is what a sweep waits for.  At first `x` is what lies in `parts`.
        """
        x, *spare = _sums[len(parts)](self.up, self.down, self.pivots, a, b, p, *parts)
        return x, tuple(spare)

    def transpose_solve(self, g: Inexact[Array, "n *rest"]) -> Inexact[Array, "n *rest"]:
        return _transpose(self.up, self.down, self.pivots, g)


class Ring(eqx.Module):
    """The factor of a ring: the last cell is eliminated last, and closes the chain with a rank-one correction."""

    chain: Chain
    to_last: Inexact[Array, "m *rest"]
    spread: Inexact[Array, "m *rest"]
    pivot: Inexact[Array, "*rest"]

    def solve(self, d: Inexact[Array, "n *rest"]) -> Inexact[Array, "n *rest"]:
        return self._closed(self.chain.solve(d[:-1]), d[-1])

    def room(self, p: Float[Array, "n *rest"], spare: tuple[Array, ...]) -> tuple[Array, ...]:
        """Where `solve_sums` for `p` may write: finite values, of `spare` if that is as large."""
        return _reused(spare, (jnp.zeros_like(p),))

    def solve_sums(self, a: Array, b: Array, p: Float[Array, "n *rest"], parts: tuple[Array, ...]):
        """As that of a chain."""

        def once(x, shares):
            # As one array: closing the ring would join its parts each time.
            a, b = shares
            y, _ = self.chain.solve_sums(a[None], b[None], p[:-1], (x[:-1],))
            return self._closed(y, a * x[-1] + b * p[-1]), None

        return lax.scan(once, parts[0], (a, b))[0], (p,)

    def _closed(self, y: Array, d: Array) -> Array:
        last = ((d + jnp.sum(self.to_last * y, axis=0)) / self.pivot)[None]
        return jnp.concatenate([y + self.spread * last, last])

    def transpose_solve(self, g: Inexact[Array, "n *rest"]) -> Inexact[Array, "n *rest"]:
        last = ((g[-1] + jnp.sum(self.spread * g[:-1], axis=0)) / self.pivot)[None]
        return jnp.concatenate([self.chain.transpose_solve(g[:-1] + self.to_last * last), last])


def _chain(up: Array, down: Array, loss: Array) -> Chain:
    return Chain(up, down, _pivots(up, down, loss))


def factor(
    up: Inexact[Array, "n *rest"], down: Inexact[Array, "n *rest"], loss: Inexact[Array, "rows *rest"], periodic: bool
) -> Chain | Ring:
    """The factor of `A p = (loss + up + down) p - inflow` along the first axis; `loss >= 0` are its column sums.

    `loss` has as many rows as the rates, or one for all.

    Complex ones, away from the spectrum, keep the accuracy though not the signs.
    """
    if not periodic:
        return _chain(up, down, loss)
    loss = jnp.broadcast_to(loss, up.shape)
    chain = _chain(up[:-1], down[:-1], loss[:-1])
    from_last = jnp.zeros_like(up[:-1]).at[0].add(up[-1]).at[-1].add(down[-1])
    to_last = jnp.zeros_like(up[:-1]).at[0].add(down[0]).at[-1].add(up[-2])
    spread = chain.solve(from_last)
    return Ring(chain, to_last, spread, loss[-1] + jnp.sum(loss[:-1] * spread, axis=0))


def _per(tau: Array) -> Array:
    """`1/tau`, finite where a step has no length, as those of a batch have that are done."""
    return lax.stop_gradient(1 / jnp.maximum(tau, 1e8 * float(jnp.finfo(tau.dtype).tiny)))


def step_factor(rates: AxisRates, tau: Float[Array, ""]) -> Chain | Ring:
    """The factor of `1/tau - W` along one axis: no rates but the generator's own, which lengths of step share."""
    up, down = lax.stop_gradient((rates.up, rates.down))
    return factor(up, down, jnp.broadcast_to(_per(tau), (1, *up.shape[1:])), rates.periodic)


def implicit_sums(tau: Float[Array, ""], factored: Chain | Ring, a: Array, b: Array, p: Array, parts):
    """`x = (I - tau W)^-1 (a[k] x + b[k] p)` for one `k` after the other, and what is spare then; not for derivatives.

    With `step_factor` of the same, in the place of `parts`, which are of its `room`.
    """
    per = _per(tau)
    return factored.solve_sums(a * per, b * per, p, parts)


def implicit(rates: AxisRates, tau: Float[Array, ""], factored: Chain | Ring) -> Callable[[Array], Array]:
    """`d -> (I - tau W)^-1 d` along one axis, sweep axis first, with `step_factor` of the same.

    Derivatives with respect to `d`, `tau` and the rates come from one solve with the (transposed) factor.
    """
    per = _per(tau)

    def apply(d: Float[Array, "n *rest"]) -> Float[Array, "n *rest"]:
        return lax.custom_linear_solve(
            lambda p: p - tau * rates.apply(p),
            d,
            solve=lambda _, b: factored.solve(per * b),
            transpose_solve=lambda _, b: factored.transpose_solve(per * b),
        )

    return apply
