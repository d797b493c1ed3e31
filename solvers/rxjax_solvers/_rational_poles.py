"""The best rational approximations of `exp` on the negative half-line, as poles and residues.

`r(z) = limit + 2 Re sum_k residue_k / (z - pole_k)` of type (n, n), one pole of each conjugate pair, differs from
`exp(z)` by about `9.29^-n` at most on `z <= 0`, and reaches that difference `2n + 2` times with alternating sign.
Found by the Caratheodory-Fejer method and polished by Remez' exchange in 40 digits; a test does the former again, and
checks the latter's alternation.

Sources: A. J. Carpenter, A. Ruttan, R. S. Varga (1984), Lect. Notes Math. 1105, 383; L. N. Trefethen, J. A. C.
Weideman, T. Schmelzer, BIT 46, 653 (2006), whose method it is.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Poles(NamedTuple):
    """`limit + 2 Re sum_k residues[k] / (z - poles[k])`, the poles in the upper half-plane."""

    limit: float
    poles: np.ndarray
    residues: np.ndarray


def _poles(limit: float, *rows: tuple[float, float, float, float]) -> Poles:
    table = np.array(rows)
    return Poles(limit, table[:, 0] + 1j * table[:, 1], table[:, 2] + 1j * table[:, 3])


# Number of poles, conjugates included.  Rows: pole and residue, real and imaginary parts.
POLES = {
    6: _poles(
        1.0084543748996708e-06,
        (2.4006027476632035, 1.1931292641501556, -0.5790130101295049, -4.286887575347087),
        (1.1585523628230172, 3.6147724480383845, 0.6630068856471104, 1.4514124962062376),
        (-1.7819885196256904, 6.196512096265425, -0.08358162649145708, -0.1064292055299528),
    ),
    8: _poles(
        1.1722652116334906e-08,
        (3.2209452399451135, 1.193619604620652, -1.8317717057715204, -9.525608074064335),
        (2.292249142304867, 3.600771493483381, 2.436240725781765, 3.716755613508324),
        (0.2694909809127515, 6.0820325874935435, -0.6325880513115744, -0.44392309694789683),
        (-3.408539509663653, 8.77303455357904, 0.02812975702329899, 0.011577384208923706),
    ),
    12: _poles(
        1.5794568370512388e-12,
        (4.827493452161065, 1.1939879912230829, -11.799379956012233, -46.41163533352679),
        (4.206124204318301, 3.590920758884616, 18.785977421525416, 20.237285126063455),
        (2.9178685450793056, 6.017345924092372, -8.238255934234807, -2.7961912623038074),
        (0.8517070967155017, 8.503832825634635, 1.3194115340711865, -0.18352358287334647),
        (-2.2359682461306796, 11.10929623270284, -0.0685714942497601, 0.03841908288664805),
        (-6.998687908603617, 13.995916624970729, 0.0008184334992624442, -0.0005813535824261214),
    ),
    14: _poles(
        1.8321743782540412e-14,
        (5.623142572745977, 1.194069046343967, -27.875161940145645, -102.14733999056452),
        (5.089345060580625, 3.5888240290270064, 46.933274488831294, 45.643649768827764),
        (3.9933697105785684, 6.004831642235037, -23.498232091082702, -5.808359129714208),
        (2.2697838292311125, 8.461737973040222, 4.8071120988325085, -1.3209793837428725),
        (-0.20875863825013014, 10.99126056190126, -0.3763600387822697, 0.335183470294501),
        (-3.703275049423448, 13.656371871483268, 0.00943902531073617, -0.017184791958483017),
        (-8.89777318646889, 16.630982619902085, -7.154288063589067e-05, 0.000143610433495413),
    ),
}


def poles_for(dtype: Any) -> tuple[Poles, Poles]:
    """The poles that reach the precision of a dtype, and fewer ones for the estimate of the error."""
    return (POLES[14], POLES[12]) if dtype == jnp.float64 else (POLES[8], POLES[6])
