"""Himmelblau's function."""

from jaxtyping import Array, Float

from ._base import AbstractLandscape, constant

# Newton's method in 40 digits.
_MINIMA = (
    (3.0, 2.0),
    (-2.805118086952744853, 3.131312518250572966),
    (-3.779310253377746892, -3.283185991286169412),
    (3.584428340330491745, -1.848126526964403554),
)
_SADDLES = (
    (3.385154183607020938, 0.07385187983774928772),
    (0.08667750455539635182, 2.884254701174776113),
    (-3.07302575076438961, -0.08135304428796751155),
    (-0.1279613467306800663, -1.953714980244576426),
)


class Himmelblau(AbstractLandscape):
    r"""Himmelblau's function, four minima of equal depth:

    $$L(x, y) = (x^2 + y - 11)^2 + (x + y^2 - 7)^2$$

    (Himmelblau, Applied Nonlinear Programming, 1972).  Four minima with energy 0, four saddles with energies 13.31,
    67.72, 104.02 and 178.34, lowest first, and one maximum, 181.62, between them.

    **Good values:** $kT$ from 2 to 20.  `bounds` is $[-6, 6]^2$, where it rises to 2186 in a corner.

    **How it fails:** the minima have equal energy but not equal curvature: the Gibbs weights of the four wells differ,
    by a factor 2.1 between the flattest and the stiffest.

    !!! example

        ```python
        >>> import jax
        >>> import rxjax as rx
        >>> surface = rx.landscapes.Himmelblau()
        >>> print(jax.vmap(surface)(surface.saddles).round(2))
        [ 13.31  67.72 104.02 178.34]

        ```
    """

    dim = 2
    name = "Himmelblau"

    def __init__(self):
        """Takes no argument."""

    @property
    def bounds(self) -> Float[Array, "2 2"]:
        return constant([[-6.0, 6.0], [-6.0, 6.0]])

    @property
    def minima(self) -> Float[Array, "4 2"]:
        return constant(_MINIMA)

    @property
    def saddles(self) -> Float[Array, "4 2"]:
        return constant(_SADDLES)

    def _value(self, theta: Float[Array, " d"]) -> Float[Array, ""]:
        x, y = theta[0], theta[1]
        return (x**2 + y - 11.0) ** 2 + (x + y**2 - 7.0) ** 2
