"""The slowest modes of a generator."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ._checks import is_traced
from ._compiled import compiled
from ._deflated import Deflated, check_deflated, deflate
from ._factor import Factor, check_factor, factorize
from ._factorization import repeated
from ._first_order import once
from ._fokker_planck import FokkerPlanck
from ._generator import AbstractGenerator, check_generator
from ._krylov import extend, product, start
from ._long_lives import apart
from ._results import RESULTS, answer, outcome


def spectrum(
    generator: AbstractGenerator,
    k: int,
    *,
    factor: Deflated | Factor | None = None,
    max_krylov: int | None = None,
    tol: float | None = None,
    throw: bool = True,
) -> Any:
    r"""The `k` eigenvalues of $W$ closest to zero, and their modes $W v = \lambda v$.

    Arnoldi's method on the inverse of $-W$ with the stationary law split off: slow rates come out to their own relative
    accuracy, $\lambda_1 = 10^{-20}$ too.  A generator made by `from_potential` is symmetric in the inner product
    weighted by its law, and everything is real.

    **Arguments:**

    - `generator`: `W`.
    - `k`: how many.
    - `factor`: `deflate(generator)`, or `factorize(generator)` where mass is lost at absorbing sides.
    - `max_krylov`: solves, `2 k + 30` if not given.
    - `tol`: relative residual of each eigenpair, and what rounding does to its eigenvalue; 1e-6, and 1e-3 in float32,
        if not given.
    - `throw`: with `False`, return `((eigenvalues, modes), result)`.

    **Returns:** `(eigenvalues, modes)`, shapes `(k,)` and `(k, *shape)`.  Of a closed generator the first pair is zero
    and the stationary law.  Real for `from_potential`, else complex, with conjugate pairs together.  Other modes are
    scaled to a sum of absolute values of 1 over the cells.  Eigenvalues differentiate once (through left and right
    vectors); modes are constants to derivatives.

    **How it fails:** `RESULTS.not_converged` if `max_krylov` is too small, or if rounding in the slow modes covers the
    fast ones.  Behind barriers slow modes are split off before fast ones are looked for; these come out up to 60 kT on
    one axis and 35 kT in the plane with a potential, 45 and 25 kT without, and 20 kT of a full matrix.  Beyond, ask for
    the slow ones alone by a smaller `k`.  Gradients are as good behind a single barrier, without a potential up to
    40 kT; behind several, or by `Iteration()`, those of slow eigenvalues lose `eps e^(E_b/kT)`.  A `k` that parts a
    conjugate pair holds one of it.  Without a potential the small eigenvalue problem is solved by the host's LAPACK:
    CPU only.

    ??? cite "References"

        W. E. Arnoldi, Quart. Appl. Math. 9, 17 (1951).  T. Ericsson and A. Ruhe, Math. Comp. 35, 1251 (1980).

    !!! example

        ```python
        >>> import jax.numpy as jnp, rxjax_solvers as rxs
        >>> W = rxs.FokkerPlanck.from_potential(lambda x: x[0] ** 2 / 2, rxs.Grid(-6, 6, 200), temperature=0.5)
        >>> print(rxs.spectrum(W, 3)[0].round(2))
        [ 0. -1. -2.]

        ```
    """
    check_generator(generator)
    size = generator.size
    if not 1 <= k <= size or k != int(k):
        raise ValueError(f"Argument `k` must be whole, from 1 to the number of cells, {size}, but it is {k}.")
    if factor is None:
        method = repeated(generator)
        factor = factorize(generator, method=method) if _loses(generator) else deflate(generator, method=method)
    closed = isinstance(factor, Deflated)
    factor = check_deflated(factor, generator) if closed else check_factor(factor, generator, None, "None")
    wanted = k - 1 if closed else k
    dtype = generator.dtype
    room = size - 1 if closed else size
    m = max(1, min(2 * k + 30 if max_krylov is None else max_krylov, room))
    tol = (1e-6 if dtype == jnp.float64 else 1e-3) if tol is None else tol
    generator = once(generator, "`spectrum` has the first of eigenvalues.  Take differences of `jax.grad`s.")
    return answer(*_slowest(generator, factor, m, wanted, jnp.asarray(tol, dtype)), throw)


@compiled
def _slowest(
    generator: AbstractGenerator, factor: Deflated | Factor, m: int, wanted: int, tol: Array
) -> tuple[tuple[Array, Array], RESULTS]:
    reversible = isinstance(generator, FokkerPlanck) and generator.log_gibbs is not None
    find = _symmetric if reversible else _general
    values, modes, left, error = find(generator, factor, m, wanted, tol)
    values = _moving(generator, lax.stop_gradient(factor), values, modes, left)
    if isinstance(factor, Deflated):
        law = factor.law
        values = jnp.concatenate([jnp.zeros(1, values.dtype), values])
        modes = jnp.concatenate([lax.stop_gradient(law)[None].astype(modes.dtype), modes])
    result = outcome((~jnp.all(error <= tol), RESULTS.not_converged))
    if isinstance(factor, Deflated):
        result = RESULTS.where(factor.result == RESULTS.successful, result, factor.result)
    return (values, modes), result


def _loses(generator: AbstractGenerator) -> bool:
    """Whether mass is lost, as far as is known while compiling: on a grid its sides say so."""
    if generator.grid is not None:
        return any("absorbing" in sides for sides in generator.grid.boundary)
    loses = _exits(generator)
    return False if is_traced(loses) else bool(loses)


@compiled
def _exits(generator: AbstractGenerator) -> Array:
    return jnp.any(generator.exit_rates() > 1e-9 * generator.outflow())


def _pairs(apply: Callable, b: Array, m: int, wanted: int, eig: Callable) -> tuple[Array, ...]:
    """Eigenvalues of an inverse, largest first, vectors, relative residuals, and the rounding of products in them."""
    other, norm = b[::-1], lambda v: jnp.sqrt(jnp.sum(v**2))
    both, one, two = lax.map(apply, jnp.stack([b + other, b, other]))
    space = extend(start(one, m), apply, m)
    h = space.projected[:m]
    theta, y = eig(h)
    size = jnp.abs(theta)
    # Rounding may not part a conjugate pair.
    rank = -jnp.round(jnp.log(jnp.maximum(size, jnp.finfo(h.dtype).tiny)), 6)
    order = jnp.lexsort((-jnp.imag(theta), rank))[:wanted]
    theta, y, size = theta[order], y[:, order], size[order]
    residual = jnp.abs(space.projected[m, m - 1]) * jnp.abs(y[m - 1]) / size
    # Products are linear but for rounding.
    noise = norm(both - one - two) / norm(b + other)
    return theta, product(y.T, space.basis[:m].astype(y.dtype)), residual, noise / size


def _in_rounds(find: Callable, wanted: int, size: int, symmetric: bool, tol: Array) -> tuple[Array, ...]:
    """The inverse's largest eigenvalues, right and left vectors, their errors, and how many the first round knew.

    Rounding in the largest covers what is smaller by more than the dtype's digits.  So a round looks beside the modes
    that are known from those before: `find(off_right, off_left)` gives pairs of the inverse between such projections.
    """
    place = jnp.arange(wanted)
    nothing = jnp.zeros((wanted, size), tol.dtype)
    vectors = nothing if symmetric else lax.complex(nothing, nothing)

    def look(carry):
        count, first, _, theta, right, left, error, modes, duals = carry
        off = lambda along, onto: lambda x: x - product(product(along, x), onto)
        new_theta, new_right, new_left, new_error = find(off(duals, modes), off(modes, duals))
        later, beside = place >= count, jnp.maximum(place - count, 0)
        fill = lambda old, new: jnp.where(later.reshape(-1, *[1] * (old.ndim - 1)), new[beside], old)
        theta, error = fill(theta, new_theta), fill(error, new_error)
        right, left = fill(right, new_right), fill(left, new_left)
        known = jnp.cumprod((error <= tol) & (jnp.imag(theta) == 0)) > 0
        modes, duals = (jnp.where(known[:, None], jnp.real(x), 0) for x in (right, left))
        # Pairs of equal eigenvalues may have been mixed differently on the two sides.
        among = product(duals, modes.T)
        duals = jnp.linalg.solve(jnp.where(known[:, None] & known[None], among, jnp.eye(wanted)), duals)
        new = jnp.sum(known, dtype=count.dtype)
        return new, jnp.where(count > 0, first, new), count, theta, right, left, error, modes, duals

    def further(carry):
        count, _, before, *_, error, _, _ = carry
        return (count > before) & ~jnp.all(error <= tol)

    counts, unknown = (jnp.asarray(0), jnp.asarray(0), jnp.asarray(-1)), jnp.full(wanted, jnp.inf, tol.dtype)
    none = *counts, jnp.ones(wanted, vectors.dtype), vectors, vectors, unknown, nothing, nothing
    _, first, _, *found, _, _ = lax.while_loop(further, look, none)
    return *found, first


def _symmetric(generator, factor, m, wanted, tol):
    """On `sqrt(pi) u` with `u` a mode of the backward equation: bounded where `pi` vanishes."""
    frozen, generator = lax.stop_gradient((factor, generator))
    gibbs = jnp.exp(generator.log_gibbs - jnp.max(generator.log_gibbs))
    root = jnp.sqrt(gibbs)
    safe = jnp.where(root > 0, root, 1)

    def apply(v):
        u = jnp.where(root > 0, v.reshape(root.shape) / safe, 0)
        return (root * frozen.transpose_solve(u)).ravel()

    b = (root * jax.random.normal(jax.random.key(1), root.shape, root.dtype)).ravel()
    symmetric = lambda h: jnp.linalg.eigh((h + h.T) / 2)

    def find(off, _):
        theta, vectors, residual, noise = _pairs(lambda v: off(apply(off(v))), b, m, wanted, symmetric)
        # A symmetric eigenvalue is wrong by the square of what is wrong with its vector, measured to a factor of three.
        return theta, vectors, vectors, jnp.maximum(residual, (3 * noise) ** 2)

    theta, vectors, _, error, first = _in_rounds(find, wanted, root.size, True, tol)

    def backward(i, left):
        # One more solve gives slow modes where pi is too small for sqrt(pi) u to be seen; it would cover fast ones.
        v = vectors[i].reshape(root.shape)
        u = jnp.where(root > 0, v / safe, 0)
        u = lax.cond(i < first, lambda u: frozen.transpose_solve(u) / theta[i], lambda u: u, u)
        u = u - jnp.tensordot(jnp.tensordot(left, gibbs * u, root.ndim), left, 1)
        return left.at[i].set(u / jnp.sqrt(jnp.sum(gibbs * u**2)))

    left = lax.fori_loop(0, wanted, backward, jnp.zeros((wanted, *root.shape), root.dtype))
    modes = gibbs[None] * left
    return -1 / theta, *_scaled(modes, left), error


def _general(generator, factor, m, wanted, tol):
    frozen = lax.stop_gradient(factor)
    shape, dtype = generator.shape, generator.dtype
    b = jax.random.normal(jax.random.key(1), (generator.size,), dtype)

    def side(solve, off):
        apply = lambda v: off(solve(off(v).reshape(shape)).ravel())
        return _pairs(apply, b, m, wanted, jnp.linalg.eig)

    def find(off_right, off_left):
        theta, modes, residual, noise = side(frozen.solve, off_right)
        _, left, left_residual, left_noise = side(frozen.transpose_solve, off_left)
        residual, noise = jnp.maximum(residual, left_residual), jnp.maximum(noise, left_noise)
        return theta, modes, left, jnp.maximum(residual, noise)

    theta, modes, left, error, _ = _in_rounds(find, wanted, generator.size, False, tol)
    field = lambda x: x.reshape(wanted, *shape)
    return -1 / theta, *_scaled(field(modes), field(left)), error


def _scaled(modes: Array, left: Array) -> tuple[Array, Array]:
    """Modes of absolute sum 1, and left vectors with `<left, mode> = 1`."""
    axes = tuple(range(1, modes.ndim))
    size = jnp.sum(jnp.abs(modes), axis=axes, keepdims=True)
    modes = modes / size.astype(modes.dtype)
    return lax.stop_gradient((modes, left / jnp.sum(left * modes, axis=axes, keepdims=True)))


@eqx.filter_custom_jvp
def _moving(generator: AbstractGenerator, factor: Deflated | Factor, values: Array, modes: Array, left: Array) -> Array:
    return values


@_moving.def_jvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """`d lambda = <dW' left, mode>`; rates act on differences of `left` that rounding has not covered."""
    (generator, factor, values, modes, left), (tangent, *_) = primals, tangents

    def change(u):
        return eqx.filter_jvp(lambda g: g.adjoint(u), (generator,), (tangent,))[1]

    def moved(u, b):
        # `W' u = -b`.  Relative to the likeliest state of a closed process, and to that where it is most without it.
        if isinstance(factor, Deflated):
            held, away, level = factor.factor, u - jnp.sum(jnp.where(factor.factor.keep, 0, u)), 0
            near = held.transpose_solve(b)
            parts = apart(held, b, near)
            far = jnp.where(held.keep, parts.beyond, -parts.home)
        else:
            near, away, parts = u, u, apart(factor, b, u)
            far, level = parts.beyond, parts.home
        # Where slow modes have covered a fast one, it stays as it was found.
        found = jnp.max(jnp.abs(near - away)) <= 1e-6 * jnp.max(jnp.abs(u))
        near = jnp.where(found, near, away)
        closer = ~found | (jnp.abs(near) <= jnp.abs(far))
        return jnp.where(closer, change(near), level * change(jnp.ones_like(u)) + change(far))

    def slope(value, mode, u):
        if jnp.iscomplexobj(u):
            b = -value * u
            return jnp.sum(lax.complex(moved(u.real, b.real), moved(u.imag, b.imag)) * mode)
        return jnp.sum(moved(u, -value * u) * mode)

    return values, jax.vmap(slope)(values, modes, left)
