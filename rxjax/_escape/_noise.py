"""Models of gradient noise along the way out of a minimum."""

import math
from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped

from rxjax_solvers._checks import positive, require

from .._arrays import real_array
from .._covariance import check_covariance
from .._hyperparameters import Hyperparameters
from .._temperature import batch_covariance
from ._kramers import WayOut


class AbstractNoise(eqx.Module):
    r"""How the covariance $\Sigma_1$ of one example's gradient depends on the place.

    SGD is $dX = -\nabla L\,dt + \sqrt{2D}\,dW$ in Itô's sense with $D = (\eta/2)\,C$ and $C = \Sigma_1/B$ (or its form
    without replacement), in time units of learning rate x steps.  In one dimension, for barriers high against $D$,
    Laplace's method in the exact mean first-passage time gives

    $$\tau = 2\pi \sqrt{\frac{D_s}{D_a\,L''_a\,|L''_s|}}\; \exp \int_a^s \frac{L'}{D}\, dx$$

    of which each model is a case.  A new model is a subclass with one method.
    """

    @abstractmethod
    def log_time(
        self, landscape: Callable, way: WayOut, rate: Float[Array, "..."], run: Hyperparameters
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """The logarithm of the mean time to the next minimum, and the exponent in it.

        `rate` is the learning rate with the factor of momentum.
        """


class ConstantNoise(AbstractNoise):
    r"""The same noise everywhere: a barrier linear in the loss, $\tau \propto e^{\Delta L / kT}$.

    $kT = (\eta/2)\, v^\top C\, v$ along the unstable direction $v$ of the saddle, with the prefactor of Eyring and
    Kramers.  Exact for small noise in one dimension and for isotropic noise in any.

    **How it fails:** with noise that is not isotropic the way out bends, and neither the lowest saddle nor $v$ alone
    decides.  The formula then takes the way to be straight along a principal axis of the noise, and the ratio of the
    determinants as in equilibrium: a factor of order one is open.
    """

    covariance: Float[Array, "..."]

    def __init__(self, covariance: Shaped[ArrayLike, "..."]):
        r"""**Arguments:**

        - `covariance`: $\Sigma_1$, the covariance of ONE example's gradient: a number, a diagonal `(d,)`, or `(d, d)`.
        """
        self.covariance = check_covariance(covariance, "covariance")

    def log_time(self, landscape, way, rate, run):
        c = batch_covariance(self.covariance, run)
        # The form is that of what was given: of a number and several batches come several numbers, and no diagonal.
        form, dim = self.covariance.ndim, way.direction.shape[0]
        if form and c.shape[0] != dim:
            raise ValueError(f"Argument `covariance` must be of dimension {dim}, but it has shape {c.shape}.")
        v = way.direction.astype(c.dtype)
        along = c if form == 0 else jnp.sum(c * v**2) if form == 1 else v @ c @ v
        remedy = "Without noise along the way out there is no escape."
        exponent = way.barrier / positive(rate * along / 2, "covariance", remedy)
        return way.log_prefactor + exponent, exponent


class CurvatureNoise(AbstractNoise):
    r"""Noise in proportion to the curvature, $\Sigma_1 = H$: sharp minima are left exponentially faster.

    $\Sigma_1 = H$ is Fisher's information for a log-likelihood near its best fit.  Along the way out
    $D = (\eta/2B)|L''|$:
    the curvature $h_a$ of the minimum up to the inflection point, where a fraction $f$ of the barrier is climbed, and
    the $|\lambda_s|$ of the saddle from there on:

    $$\tau = \frac{2\pi}{h_a} \exp\Big[\frac{2B\,\Delta L}{\eta}\Big(\frac{f}{h_a} + \frac{1-f}{|\lambda_s|}\Big)\Big]$$

    with $h_a$ along the unstable direction of the saddle.  The exponents are those of Xie, Sato and Sugiyama (ICLR
    2021); their prefactor is $2\pi/|\lambda_s|$, which belongs to noise in the anti-Itô sense, while this
    one is Itô's, that of SGD.

    **How it fails:** with $D = (\eta/2B)|L''(x)|$ taken to the letter nothing ever crosses the inflection point, where
    the noise would vanish: the two constant pieces are part of the model.  The way out is taken as straight.
    """

    fraction: Float[Array, ""] | None

    def __init__(self, fraction: ArrayLike | None = None):
        r"""**Arguments:**

        - `fraction`: $f$ in (0, 1); if not given, it is read off the landscape on the line from minimum to saddle.
        """
        if fraction is not None:
            f = real_array(fraction, "fraction")
            faults = [(~(f > 0), "is not above 0"), (~(f < 1), "is not below 1")]
            fraction = require(f, "fraction", "lie in (0, 1)", faults, "It is the share of the barrier climbed.")
        self.fraction = fraction

    def log_time(self, landscape, way, rate, run):
        unit = rate / 2 * batch_covariance(jnp.ones((), rate.dtype), run)
        remedy = "A full batch without replacement has no noise."
        unit = positive(unit, "hyperparameters", remedy)
        below = _along(way)
        f = _climbed(landscape, way) if self.fraction is None else self.fraction
        exponent = way.barrier / unit * (f / below + (1 - f) / way.unstable)
        return math.log(2 * math.pi) - jnp.log(below) + exponent + 0 * way.log_prefactor, exponent


class SquareLossNoise(AbstractNoise):
    r"""Noise in proportion to loss and curvature, $\Sigma_1 = 2 L H$: a barrier logarithmic in the loss.

    For a square loss near its best fit, with $H$ constant and equal to $h$ in the $n$ directions of large curvature
    (the outliers) that carry the noise:

    $$\tau = \frac{2\pi}{|\lambda_s|} \sqrt{\frac{|\det H_s|}{\det H_a}}
    \Big(\frac{L_s}{L_a}\Big)^{B/(\eta h) + 1 - n/2}$$

    with the determinants over the outliers.  In one dimension it is $2\pi / \sqrt{h_a |\lambda_s|}\,
    (L_s/L_a)^{B/(\eta h) + 1/2}$.  The loss must count from zero, with what it is at the minimum included.

    Good values: $B/(\eta h)$ above 3, for it plays the part of $\Delta L/kT$; at 3 the formula is 7 % too long for a
    double well with $L_s/L_a = 6$.

    **How it fails:** with $n < d$ nothing moves in the other directions, and derivatives take the outlier directions
    as fixed.  Noise that is left at zero loss is not in the model.

    Source: T. Mori, L. Ziyin, K. Liu and M. Ueda, ICML 2022, "Power-law escape rate of SGD", with the
    prefactor from the same change of time, in which SGD has constant noise in the potential $\log L$.
    """

    curvature: Float[Array, ""] | None
    outliers: int | None = eqx.field(static=True)

    def __init__(self, curvature: ArrayLike | None = None, outliers: int | None = None):
        r"""**Arguments:**

        - `curvature`: $h$; if not given, that of the minimum along the unstable direction of the saddle.
        - `outliers`: $n$, a whole number from 1 to $d$; if not given, $d$.
        """
        self.curvature = None if curvature is None else positive(real_array(curvature, "curvature"), "curvature")
        if outliers is not None and outliers < 1:
            raise ValueError(f"Argument `outliers` must be at least 1, but it is {outliers}.")
        self.outliers = outliers

    def log_time(self, landscape, way, rate, run):
        dim = way.direction.shape[0]
        n = dim if self.outliers is None else self.outliers
        if n > dim:
            raise ValueError(f"Argument `outliers` must be at most the dimension {dim}, but it is {n}.")
        remedy = "The noise is in proportion to the loss: add what the landscape lacks at the minimum."
        loss = positive(way.loss, "landscape", remedy)
        h = _along(way) if self.curvature is None else self.curvature
        share = batch_covariance(jnp.ones((), rate.dtype), run)
        power = 1 / positive(rate * share * h, "hyperparameters", "A full batch without replacement has no noise.")
        prefactor = way.log_prefactor if n == dim else _among_outliers(way, n)
        exponent = (power + 1 - n / 2) * jnp.log1p(way.barrier / loss)
        return prefactor + exponent, exponent


def _along(way: WayOut) -> Float[Array, ""]:
    """The curvature of the minimum along the unstable direction of the saddle."""
    return way.direction @ way.hessian_minimum @ way.direction


def _among_outliers(way: WayOut, n: int) -> Float[Array, ""]:
    """The logarithm of the prefactor in the `n` directions of largest curvature of the minimum."""
    top = jnp.linalg.eigh(jax.lax.stop_gradient(way.hessian_minimum))[1][:, -n:]
    below, above = top.T @ way.hessian_minimum @ top, top.T @ way.hessian_saddle @ top
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(above))
    unstable = -vectors[:, 0] @ above @ vectors[:, 0]
    faults = [(~((values[0] < 0) & jnp.all(values[1:] > 0)), "leaves out the way over the saddle")]
    unstable = require(unstable, "outliers", "include the unstable direction", faults, "Count more outliers.", None)
    log_dets = jnp.linalg.slogdet(above)[1] - jnp.linalg.slogdet(below)[1]
    return math.log(2 * math.pi) - jnp.log(unstable) + log_dets / 2 + 0 * way.log_prefactor


def _climbed(landscape: Callable, way: WayOut) -> Float[Array, ""]:
    """The share of the barrier climbed at the first inflection point on the line from the minimum to the saddle."""

    def on_line(t):
        return landscape(way.minimum + t * (way.saddle - way.minimum))

    curvature = jax.grad(jax.grad(on_line))
    ts = jnp.linspace(0.0, 1.0, 257, dtype=way.minimum.dtype)
    bends = jax.lax.stop_gradient(jax.vmap(curvature)(ts)) < 0
    first = jnp.argmax(bends)
    faults = [(~(bends[-1] & (first > 0)), "does not bend down on the line to the saddle")]
    start = require(ts[first], "landscape", "have an inflection point", faults, "Give the `fraction`.", None)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        up = jax.lax.stop_gradient(curvature(middle)) > 0
        return jnp.where(up, middle, low), jnp.where(up, high, middle)

    low, high = jax.lax.fori_loop(0, 50, halve, (start - 1 / 256, start))
    middle = jax.lax.stop_gradient((low + high) / 2)
    # Newton steps with fixed slope: it moves with the landscape's parameters as the inflection point does.
    slope = jax.lax.stop_gradient(jax.grad(curvature)(middle))
    for _ in range(2):
        middle = middle - curvature(middle) / jnp.where(slope == 0, 1, slope)
    return (on_line(middle) - way.loss) / way.barrier
