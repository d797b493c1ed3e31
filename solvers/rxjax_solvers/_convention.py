"""Which side of a jump a position-dependent diffusion is read on."""

from typing import ClassVar

import equinox as eqx


class AbstractConvention(eqx.Module):
    """`weight` is the share `a` of the diffusion under the outer derivative: `d_i (D^(1-a) d_i (D^a P))`."""

    weight: eqx.AbstractClassVar[float]


def check_convention(convention: object) -> None:
    """Refuse what is not one of the three: a name or a class would be read as another one."""
    if not isinstance(convention, AbstractConvention):
        raise ValueError(
            f"Argument `convention` must be Ito(), Stratonovich() or AntiIto(), an object, but it is {convention!r}."
        )


class Ito(AbstractConvention):
    """`d_i d_i (D P)`: the limit of discrete steps whose noise is drawn at their start, hence that of SGD."""

    weight: ClassVar[float] = 1.0


class Stratonovich(AbstractConvention):
    """`d_i (sqrt(D) d_i (sqrt(D) P))`: the limit of smooth noise of short memory."""

    weight: ClassVar[float] = 0.5


class AntiIto(AbstractConvention):
    """`d_i (D d_i P)`: Fick's law (Haenggi-Klimontovich, isothermal); keeps `exp(-V/kT)` for `D = kT mobility`."""

    weight: ClassVar[float] = 0.0
