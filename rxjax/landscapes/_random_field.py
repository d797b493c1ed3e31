"""A smooth random landscape."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Shaped

from rxjax_solvers._checks import non_negative, positive

from ._base import AbstractLandscape, as_scalar, box, check_dim, widest

# Up to here a Kronecker sequence spreads the wave vectors more evenly than independent draws.
_EVEN_UP_TO = 3


class RandomField(AbstractLandscape):
    r"""A stationary Gaussian random field with a radial-basis-function (RBF) covariance,

    $$L(\theta) = \sigma \sqrt{\tfrac{2}{M}} \sum_{m=1}^M r_m \cos(k_m \cdot \theta / \ell + \varphi_m)
    + \tfrac{\kappa}{2} |\theta|^2, \qquad \mathbb{E}[L(x) L(y)] = \sigma^2 e^{-|x-y|^2 / 2\ell^2} \;\; (\kappa = 0)$$

    with $k_m$ standard normal, $\varphi_m$ uniform and $r_m^2$ exponential with mean 1 (random Fourier features: Rahimi
    and Recht, NeurIPS 2007).  For given wave vectors the field is exactly Gaussian, and it is one smooth function that
    can be evaluated and differentiated anywhere.  In up to 3 dimensions the wave vectors are spread evenly (a Kronecker
    sequence with a random shift), which keeps the covariance of a single draw closer to the formula.

    A model of a rough loss landscape: in one dimension it has $\sqrt{3} / (2\pi\ell)$ minima per unit length.  A
    landscape is drawn once: the same key gives the same field in one dtype, and another in float32 than in float64,
    whose random numbers are others.  It is differentiable in `length_scale`, `std` and `confinement`, at fixed draw.

    **Good values:** `length_scale=1.0` and $kT$ from 0.2 to 1 standard deviations.  Given its wave vectors a field with
    `num_features=512` has the covariance above within 0.3, 2 and 3 % of $\sigma^2$ in one, two and three dimensions;
    twice as many halve the error.  A 256 by 256 grid takes a second or two on one core.  `bounds` is $\pm 5\,\ell$:
    $10^d$ correlation volumes.

    **How it fails:** points far apart keep a false correlation as large as these errors, in many dimensions about
    $1/\sqrt M$.  `minima` and `saddles` are `None`: find them.  In float32 the phase is right to about
    $10^{-7} |\theta|/\ell$.

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp
        >>> import rxjax as rx
        >>> field = rx.landscapes.RandomField(jax.random.key(0), dim=2, length_scale=0.5)
        >>> values = rx.landscapes.evaluate(field, jnp.linspace(-20.0, 20.0, 2000).reshape(1000, 2))
        >>> bool(abs(values.mean()) < 0.5), bool(abs(values.std() - 1.0) < 0.5)
        (True, True)

        ```
    """

    length_scale: Float[Array, ""]
    std: Float[Array, ""]
    confinement: Float[Array, ""]
    wave_vectors: Float[Array, "M d"]
    amplitudes: Float[Array, " M"]
    phases: Float[Array, " M"]
    dim: int = eqx.field(static=True)
    name = "random field"
    minima = None
    saddles = None

    def __init__(
        self,
        key: PRNGKeyArray | Shaped[Array, "..."],
        dim: int = 2,
        length_scale: ArrayLike = 1.0,
        std: ArrayLike = 1.0,
        *,
        confinement: ArrayLike = 0.0,
        num_features: int = 512,
    ):
        r"""**Arguments:**

        - `key`: a key of `jax.random`, which settles the whole field.
        - `dim`: the number of coordinates.
        - `length_scale`: $\ell > 0$, the distance over which values stay alike.
        - `std`: $\sigma > 0$, the standard deviation of the values.
        - `confinement`: $\kappa \ge 0$, the curvature of a bowl around the origin.
        - `num_features`: $M$, the number of waves.

        **Raises:** `ValueError` for values that are not positive or not finite, `TypeError` for a `dim` that is not
        whole.
        """
        self.dim = check_dim(dim)
        if num_features < 1:
            raise ValueError(f"Argument `num_features` must be at least 1, but it is {num_features}.")
        scalars = widest(
            positive(as_scalar(length_scale, "length_scale"), "length_scale"),
            positive(as_scalar(std, "std"), "std"),
            non_negative(as_scalar(confinement, "confinement"), "confinement"),
        )
        self.length_scale, self.std, self.confinement = scalars
        self.wave_vectors, self.amplitudes, self.phases = _draw(key, num_features, self.dim, self.std.dtype)

    @property
    def bounds(self) -> Float[Array, "d 2"]:
        return self.length_scale * box(self.dim, -5.0, 5.0).astype(self.length_scale.dtype)

    def _value(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        length, std, confinement, waves, amplitudes, phases = (
            x.astype(theta.dtype)
            for x in (self.length_scale, self.std, self.confinement, self.wave_vectors, self.amplitudes, self.phases)
        )
        angle = _phase(waves, theta / length) + phases
        field = std * math.sqrt(2.0 / phases.shape[0]) * jnp.sum(amplitudes * jnp.cos(angle))
        return field + 0.5 * confinement * jnp.sum(theta**2)


def _phase(waves: Float[Array, "M d"], x: Float[Array, " d"]) -> Float[Array, " M"]:
    """The products `waves @ x`; in few dimensions a plain sum, which XLA fuses with the cosine over a whole grid."""
    if x.shape[0] > _EVEN_UP_TO:
        return jnp.matmul(waves, x, precision="highest")
    return sum((waves[:, i] * x[i] for i in range(1, x.shape[0])), waves[:, 0] * x[0])


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _draw(key: Array, n: int, dim: int, dtype: np.dtype) -> tuple[Array, Array, Array]:
    """Wave vectors `(n, dim)`, amplitudes `(n,)` with a mean square of 1, and phases `(n,)`."""
    spread = dim <= _EVEN_UP_TO
    # One draw for everything: each further one would cost its own second of compilation.
    uniform = jr.uniform(key, (2 * n + (dim if spread else n * dim),), dtype)
    amplitudes, phases = jnp.sqrt(-jnp.log1p(-uniform[:n])), 2.0 * math.pi * uniform[n : 2 * n]
    ranks = uniform[2 * n :].reshape(-1, dim)
    if spread:
        # Evenly spread, each vector still exactly normal.  The root of x^(d+1) = x + 1, the golden ratio for d = 1,
        # makes Roberts' R sequence; the one random shift makes each of its points uniform.
        root = 2.0
        for _ in range(60):
            root = (1.0 + root) ** (1.0 / (dim + 1))
        sequence = np.outer(np.arange(1, n + 1), root ** -np.arange(1.0, dim + 1)) % 1.0
        ranks = (jnp.asarray(sequence, dtype) + ranks) % 1.0
    edge = 1.0 - float(jnp.finfo(dtype).eps)
    return math.sqrt(2.0) * jax.lax.erf_inv(jnp.clip(2.0 * ranks - 1.0, -edge, edge)), amplitudes, phases
