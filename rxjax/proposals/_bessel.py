r"""The logarithm of the normalised modified Bessel function, the moment generating function of a uniform ball.

$F_\nu(x) = \Gamma(\nu+1) (2/x)^\nu I_\nu(x)$ with $\nu = d/2$ is a smooth function of $y = x^2$ and $F_\nu(0) = 1$.
The recurrence of the Bessel functions, written so that every term is positive,

$$\log F_\nu = \log F_\mu + \sum_{j=1}^{\mu-\nu} \log(1 + y\,h_{\nu+j} / 2(\nu+j)), \qquad
  h_\nu = \frac{I_{\nu+1}}{x I_\nu} = \frac{1}{2(\nu+1) + y\,h_{\nu+1}},$$

shifts the order to $\mu \geq 16$, where Debye's uniform expansion (DLMF 10.41.3) holds for ALL $y$ at once to 1e-12.
So there is no switch between small and large arguments, and nothing cancels or overflows.
"""

from fractions import Fraction
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

_LEAST_ORDER = 16
_TERMS = 10


@partial(jax.jit, static_argnums=1)
def log_bessel(y: Float[ArrayLike, "..."], dim: int) -> Float[Array, "..."]:
    r"""$\log F_{d/2}(\sqrt{y})$ for `y >= 0`: the log moment generating function of the unit ball at squared tilt `y`.

    Elementwise, of relative accuracy 1e-12 in float64 and 1e-6 in float32 for all `y` and every `dim` >= 1.
    """
    return _log_bessel(jnp.asarray(y), dim)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_bessel(y: Array, dim: int) -> Array:
    half = dim / 2
    shift = _shift(dim)
    total, slope = _debye(y, half + shift)
    for j in range(shift, 0, -1):
        factor = y * slope / (2 * (half + j))
        total = total + jnp.log1p(factor)
        slope = 1 / (2 * (half + j) + y * slope)
    return total


@_log_bessel.defjvp
def _log_bessel_jvp(dim, primals, tangents):
    (y,), (dy,) = primals, tangents
    return _log_bessel(y, dim), log_bessel_slope(y, dim) * dy / 2


@partial(jax.jit, static_argnums=1)
def log_bessel_slope(y: Float[ArrayLike, "..."], dim: int) -> Float[Array, "..."]:
    r"""$h = I_{d/2+1}(x) / (x\,I_{d/2}(x))$ at $x = \sqrt{y}$, twice the derivative of [`log_bessel`][] by `y`."""
    y = jnp.asarray(y)
    half = dim / 2
    shift = _shift(dim)
    _, slope = _debye(y, half + shift)
    for j in range(shift, 0, -1):
        slope = 1 / (2 * (half + j) + y * slope)
    return slope


def _shift(dim: int) -> int:
    """By how many integers the order is raised."""
    return max(0, -((dim - 2 * _LEAST_ORDER) // 2))


def _debye(y: Array, order: float) -> tuple[Array, Array]:
    r"""$\log F_\mu$ and $h_\mu$ by Debye's expansion at a large order."""
    quotient, derivative = _debye_polynomials(order)
    z = y * order**-2.0
    root = jnp.sqrt(1 + z)
    # root = 1 + 2 t without cancellation.
    t = z / (2 * (1 + root))
    p = 1 / root
    log = order * (2 * t - jnp.log1p(t)) - jnp.log1p(2 * t) / 2 - 2 * t * p * _horner(quotient, p)
    slope = (order * root / (1 + root) - p / 2 - p * p * _horner(derivative, p)) * (p * order**-2.0)
    return log, slope


def _horner(coefficients: tuple[float, ...], x: Array) -> Array:
    total = jnp.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


@lru_cache(maxsize=256)
def _debye_polynomials(order: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    r"""Coefficients, lowest first, of $(V(1) - V(p))/(1 - p)$ and $V'(p)$.

    $V(p) = \log \sum_k u_k(p)/\mu^k$ truncated after $\mu^{-10}$, in exact arithmetic.
    """
    mu = Fraction(order)
    total = [Fraction(0)] * (3 * _TERMS + 1)
    for k, v in enumerate(_debye_cumulants()):
        for i, c in enumerate(v):
            total[i] += c / mu**k
    # Division by 1 - p: the i-th coefficient of the quotient is the sum of those above i.
    quotient = [sum(total[i + 1 :], Fraction(0)) for i in range(3 * _TERMS)]
    derivative = [i * c for i, c in enumerate(total)][1:]
    return tuple(map(float, quotient)), tuple(map(float, derivative))


@lru_cache(maxsize=1)
def _debye_cumulants() -> list[list[Fraction]]:
    """Polynomials v_k(p), k = 0.., with log(sum u_k e^k) = sum v_k e^k, from the recurrence DLMF 10.41.9."""
    u = [[Fraction(1)]]
    for _ in range(_TERMS):
        new = [Fraction(0)] * (len(u[-1]) + 3)
        for i, c in enumerate(u[-1]):
            # p^2 (1 - p^2) u' / 2 + (1/8) int_0^p (1 - 5 t^2) u dt
            new[i + 1] += c * i / 2 + c / (8 * (i + 1))
            new[i + 3] -= c * i / 2 + 5 * c / (8 * (i + 3))
        u.append(new)
    v: list[list[Fraction]] = [[Fraction(0)]]
    for k in range(1, _TERMS + 1):
        rest = [k * c for c in u[k]]
        for j in range(1, k):
            for a, x in enumerate(v[j]):
                for b, z in enumerate(u[k - j]):
                    rest[a + b] -= j * x * z
        v.append([c / k for c in rest])
    return v
