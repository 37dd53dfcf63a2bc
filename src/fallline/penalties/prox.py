"""Proximal operators: penalties that are minimised exactly instead of through their gradient."""

from dataclasses import dataclass
from typing import ClassVar

from fallline.core.errors import UnknownNameError, suggestion
from fallline.core.hyperparameter import Hyperparameter, Range
from fallline.core.scalar import maximum, sign
from fallline.core.transform import Transform, transform

_operators: dict[str, type["Prox"]] = {}

STRENGTH = Hyperparameter(
    "strength", 0.0, "strength of the penalty", "λ", "loss units per parameter unit", low=0,
    search=Range(1e-6, 1e-2, "log"),
)  # fmt: skip


@transform()
def prox_none(p):
    """Leave the parameter as it is."""
    return p


@transform()
def prox_l1(p, *, lr, strength):
    """Soft-threshold: the minimiser of (p' - p)² / (2 lr) + strength |p'|."""
    return sign(p) * maximum(abs(p) - lr * strength, 0.0)


@dataclass(frozen=True)
class Prox:
    """A penalty given by its proximal operator; a subclass names itself and its transform."""

    name: ClassVar[str] = "none"
    transform: ClassVar[Transform] = prox_none
    strength: float = 0.0

    def __init_subclass__(cls) -> None:
        if cls.name in _operators:
            raise TypeError(f"{cls.__name__} needs a name of its own; {cls.name!r} is taken")
        _operators[cls.name] = cls

    def __post_init__(self):
        STRENGTH.check(self.strength)


_operators[Prox.name] = Prox


class L1(Prox):
    """The penalty strength · ‖p‖₁, whose operator shrinks every element by lr · strength, to zero at least.

    Args:
        strength: λ, in loss units per parameter unit; at least 0.

    Example:
        >>> L1(1e-4).strength
        0.0001

    Source: Parikh and Boyd, Proximal Algorithms, 2014, section 6.5.2.
    """

    name: ClassVar[str] = "l1"
    transform: ClassVar[Transform] = prox_l1


def operator(name: str) -> Transform:
    """Return the transform of the proximal operator called ``name``."""
    if name not in _operators:
        raise UnknownNameError(f"unknown proximal operator {name!r}{suggestion(name, _operators)}")
    return _operators[name].transform
