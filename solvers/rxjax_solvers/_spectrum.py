"""The slowest modes of a generator."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ._checks import is_traced
from ._compiled import compiled
from ._deflated import Deflated, deflate
from ._factor import Factor, factorize
from ._factorization import repeated
from ._fokker_planck import FokkerPlanck
from ._generator import AbstractGenerator
from ._krylov import extend, start
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
    - `tol`: relative residual of each eigenpair; 1e-9, and 1e-3 in float32, if not given.
    - `throw`: with `False`, return `((eigenvalues, modes), result)`.

    **Returns:** `(eigenvalues, modes)`, shapes `(k,)` and `(k, *shape)`.  Of a closed generator the first pair is zero
    and the stationary law.  Real for `from_potential`, else complex, with conjugate pairs together.  Other modes are
    scaled to a sum of absolute values of 1 over the cells.  Eigenvalues differentiate (through left and right vectors);
    modes are constants to derivatives.

    **How it fails:** `RESULTS.not_converged` if `max_krylov` is too small, or if rates lie further apart than rounding
    tells, some 1e14 and 1e6 in float32, as behind a high barrier: ask for the slow ones alone by a smaller `k`.
    A `k` that parts a conjugate pair holds
    one of it.  Without a potential the small eigenvalue problem is solved by the host's LAPACK: CPU only.

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
    size = generator.size
    if not 1 <= k <= size:
        raise ValueError(f"Argument `k` must lie between 1 and the number of cells, {size}, but it is {k}.")
    if factor is None:
        method = repeated(generator)
        factor = factorize(generator, method=method) if _loses(generator) else deflate(generator, method=method)
    closed = isinstance(factor, Deflated)
    wanted = k - 1 if closed else k
    dtype = generator.dtype
    room = size - 1 if closed else size
    m = max(1, min(2 * k + 30 if max_krylov is None else max_krylov, room))
    tol = (1e-9 if dtype == jnp.float64 else 1e-3) if tol is None else tol
    return answer(*_slowest(generator, factor, m, wanted, jnp.asarray(tol, dtype)), throw)


@compiled
def _slowest(
    generator: AbstractGenerator, factor: Deflated | Factor, m: int, wanted: int, tol: Array
) -> tuple[tuple[Array, Array], RESULTS]:
    reversible = isinstance(generator, FokkerPlanck) and generator.log_gibbs is not None
    find = _symmetric if reversible else _general
    values, modes, left, residual = find(generator, factor, m, wanted)
    values = values + _slopes(generator, left, modes)
    if isinstance(factor, Deflated):
        law = factor.law
        values = jnp.concatenate([jnp.zeros(1, values.dtype), values])
        modes = jnp.concatenate([lax.stop_gradient(law)[None].astype(modes.dtype), modes])
    result = outcome((~jnp.all(residual <= tol), RESULTS.not_converged))
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


def _ritz(space, m: int, wanted: int, eig: Callable) -> tuple[Array, Array, Array]:
    """Eigenvalues of the inverse, largest first, their coordinates and relative residuals."""
    h = space.projected[:m]
    theta, y = eig(h)
    # Rounding may not part a conjugate pair.
    size = -jnp.round(jnp.log(jnp.maximum(jnp.abs(theta), jnp.finfo(h.dtype).tiny)), 6)
    order = jnp.lexsort((-jnp.imag(theta), size))[:wanted]
    theta, y = theta[order], y[:, order]
    residual = jnp.abs(space.projected[m, m - 1]) * jnp.abs(y[m - 1]) / jnp.abs(theta)
    return theta, y, residual


def _symmetric(generator, factor, m, wanted):
    """On `sqrt(pi) u` with `u` a mode of the backward equation: bounded where `pi` vanishes."""
    frozen, generator = lax.stop_gradient((factor, generator))
    gibbs = jnp.exp(generator.log_gibbs - jnp.max(generator.log_gibbs))
    root = jnp.sqrt(gibbs)
    safe = jnp.where(root > 0, root, 1)

    def apply(v):
        u = jnp.where(root > 0, v.reshape(root.shape) / safe, 0)
        return (root * frozen.transpose_solve(u)).ravel()

    noise = jax.random.normal(jax.random.key(1), root.shape, root.dtype)
    space = extend(start((root * frozen.transpose_solve(noise)).ravel(), m), apply, m)
    symmetric = lambda h: jnp.linalg.eigh((h + h.T) / 2)
    theta, y, residual = _ritz(space, m, wanted, symmetric)
    vectors = (y.T @ space.basis[:m]).reshape(wanted, *root.shape)
    # One more solve gives the mode where pi is too small for sqrt(pi) u to be seen.
    left = jax.vmap(lambda v, t: frozen.transpose_solve(jnp.where(root > 0, v / safe, 0)) / t)(vectors, theta)
    modes = gibbs[None] * left
    return -1 / theta, *_scaled(modes, left), residual


def _general(generator, factor, m, wanted):
    frozen = lax.stop_gradient(factor)
    shape, dtype = generator.shape, generator.dtype
    noise = jax.random.normal(jax.random.key(1), shape, dtype)

    def side(solve):
        space = extend(start(solve(noise).ravel(), m), lambda v: solve(v.reshape(shape)).ravel(), m)
        theta, y, residual = _ritz(space, m, wanted, jnp.linalg.eig)
        return theta, (y.T @ space.basis[:m].astype(y.dtype)).reshape(wanted, *shape), residual

    theta, modes, residual = side(frozen.solve)
    _, left, left_residual = side(frozen.transpose_solve)
    return -1 / theta, *_scaled(modes, left), jnp.maximum(residual, left_residual)


def _scaled(modes: Array, left: Array) -> tuple[Array, Array]:
    """Modes of absolute sum 1, and left vectors with `<left, mode> = 1`."""
    axes = tuple(range(1, modes.ndim))
    size = jnp.sum(jnp.abs(modes), axis=axes, keepdims=True)
    modes = modes / size.astype(modes.dtype)
    return lax.stop_gradient((modes, left / jnp.sum(left * modes, axis=axes, keepdims=True)))


def _slopes(generator: AbstractGenerator, left: Array, modes: Array) -> Array:
    """Zero, with the derivatives of the eigenvalues: `<left, dW mode>`."""

    def one(u, v):
        if not jnp.iscomplexobj(v):
            return jnp.sum(u * generator.apply(v))
        return jnp.sum(u * lax.complex(generator.apply(v.real), generator.apply(v.imag)))

    value = jax.vmap(one)(left, modes)
    return value - lax.stop_gradient(value)
