"""A smooth random landscape."""

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
_EVEN_UP_TO = 4


class RandomField(AbstractLandscape):
    r"""A stationary Gaussian random field with a radial-basis-function (RBF) covariance,

    $$L(\theta) = \sigma \sqrt{\tfrac{2}{M}} \sum_{m=1}^M r_m \cos(k_m \cdot \theta / \ell + \varphi_m) + \tfrac{\kappa}{2} |\theta|^2,
    \qquad \mathbb{E}[L(x) L(y)] = \sigma^2 e^{-|x-y|^2 / 2\ell^2} \;\; (\kappa = 0)$$

    with $k_m$ standard normal, $\varphi_m$ uniform and $r_m^2$ exponential with mean 1 (random Fourier features: Rahimi
    and Recht, NeurIPS 2007).  For given wave vectors the field is exactly Gaussian, and it is one smooth function that can be
    evaluated and differentiated anywhere.  In up to 4 dimensions the wave vectors are spread evenly (a Kronecker
    sequence with a random shift), which keeps the covariance of a single draw closer to the formula.

    A model of a rough loss landscape: in one dimension it has $\sqrt{3} / (2\pi\ell)$ minima per unit length.  A
    landscape is drawn once: the same key gives the same field.  It is differentiable in `length_scale`, `std` and
    `confinement`, at fixed draw.

    **Good values:** `length_scale=1.0` and $kT$ from 0.2 to 1 standard deviations.  `num_features=1024` gives the
    covariance to about 1 % of $\sigma^2$ in one and two dimensions; 256 is enough for a picture.  `bounds` is
    $\pm 5\,\ell$: $10^d$ correlation volumes.

    **How it fails:** far out, beyond some $\ell \sqrt M$, the finite sum is no longer like an independent field.
    `minima` and `saddles` are `None`: find them.  In float32 the phase keeps about $10^{-7} |\theta|/\ell$.

    !!! example

        ```python
        >>> import jax, jax.numpy as jnp
        >>> import rxjax as rx
        >>> draw = lambda key: rx.landscapes.RandomField(key, dim=2, length_scale=0.5, num_features=64)
        >>> fields = jax.vmap(draw)(jax.random.split(jax.random.key(0), 2000))
        >>> values = jax.vmap(lambda field: field(jnp.zeros(2)))(fields)
        >>> abs(values.mean()).item() < 0.1, abs(values.std() - 1.0).item() < 0.1
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
        num_features: int = 1024,
    ):
        r"""**Arguments:**

        - `key`: a key of `jax.random`, which settles the whole field.
        - `dim`: the number of coordinates.
        - `length_scale`: $\ell > 0$, the distance over which values stay alike.
        - `std`: $\sigma > 0$, the standard deviation of the values.
        - `confinement`: $\kappa \ge 0$, the curvature of a bowl around the origin.
        - `num_features`: $M$, the number of waves.

        **Raises:** `ValueError` for values that are not positive or not finite.
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
        dtype = self.std.dtype
        k_waves, k_sizes, k_phases = jr.split(key, 3)
        self.wave_vectors = _spread_normals(k_waves, num_features, self.dim, dtype)
        self.amplitudes = jnp.sqrt(jr.exponential(k_sizes, (num_features,), dtype))
        self.phases = jr.uniform(k_phases, (num_features,), dtype, 0.0, 2.0 * math.pi)

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


def _spread_normals(key: Array, n: int, dim: int, dtype: np.dtype) -> Float[Array, "n d"]:
    """`n` standard normal vectors; in few dimensions evenly spread, each of them still exactly normal."""
    if dim > _EVEN_UP_TO:
        return jr.normal(key, (n, dim), dtype)
    # The positive root of x^(d+1) = x + 1, the golden ratio for d = 1: Roberts' R sequence.
    root = 2.0
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (dim + 1))
    sequence = np.outer(np.arange(1, n + 1), root ** -np.arange(1.0, dim + 1)) % 1.0
    uniform = (jnp.asarray(sequence, dtype) + jr.uniform(key, (1, dim), dtype)) % 1.0
    tail = jnp.finfo(dtype).eps
    return jax.scipy.special.ndtri(jnp.clip(uniform, tail, 1.0 - tail))
