"""Hyperparameters as data: one record drives validation, error text, documentation and search space."""

from dataclasses import dataclass
from math import inf, isnan
from typing import Any

import torch

from fallline.core.space import Range


@dataclass(frozen=True)
class Hyperparameter:
    """One setting of an optimizer: its name, meaning, default, allowed values, unit and search range.

    ``low`` and ``high`` bound the allowed values; each end is allowed unless ``open_low`` / ``open_high``.
    ``complaint`` is how the error for a bad value starts: torch's own words, so that a search finds them.
    A tuple such as ``betas`` has ``parts``, one record for each scalar that the rule reads. ``read_as`` is
    the name that rules have for it, if not its own. A setting whose default is None may be None: the rule
    decides.
    """

    name: str
    default: Any
    meaning: str
    symbol: str = ""
    unit: str = ""
    low: float = -inf
    high: float = inf
    open_low: bool = False
    open_high: bool = False
    search: Range | None = None
    complaint: str = ""
    parts: tuple["Hyperparameter", ...] = ()
    read_as: str = ""

    def check(self, value: Any) -> None:
        """Raise ValueError, TypeError or IndexError, as torch does, when ``value`` is not allowed."""
        if self.parts:
            self._check_parts(value)
        elif value is None and self.default is None:
            return
        elif isinstance(self.default, bool):
            if not isinstance(value, (bool, int)):
                raise TypeError(f"Invalid {self.name} value: {value!r}; use True or False")
        else:
            self._check_number(value)

    @property
    def readers(self) -> dict[str, tuple[str, int | None]]:
        """Where the numbers that rules read lie in a parameter group: key and index, by name."""
        if self.parts:
            return {part.name: (self.name, i) for i, part in enumerate(self.parts)}
        return {self.read_as or self.name: (self.name, None)}

    @property
    def interval(self) -> str:
        """The allowed values in interval notation, such as ``[0, 1)``."""
        left, right = "(" if self.open_low or self.low == -inf else "[", ")" if self.open_high else "]"
        return f"{left}{self.low:g}, {self.high:g}{')' if self.high == inf else right}"

    def _check_parts(self, value: Any) -> None:
        """Check each number of a tuple; torch, too, raises IndexError where there are too few."""
        wanted, given = len(self.parts), len(value) if hasattr(value, "__len__") else None
        if given != wanted:
            kind = TypeError if given is None else IndexError if given < wanted else ValueError
            raise kind(f"Invalid {self.name} value: {value!r}; give {wanted} numbers, such as {self.default}")
        for part, own in zip(self.parts, value, strict=True):
            part.check(own)

    def _check_number(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                raise ValueError(f"Tensor {self.name} must be 1-element, got shape {tuple(value.shape)}")
            value = value.item()
        complaint = self.complaint or f"Invalid {self.name} value"
        try:
            above = value > self.low if self.open_low else value >= self.low
            below = value < self.high if self.open_high or self.high == inf else value <= self.high
            allowed = above and below and not isnan(value)
        except TypeError:
            demand = f"{self.name} must be a number in {self.interval}"
            raise TypeError(f"{complaint}: {value!r}; {demand}") from None
        if not allowed:
            raise ValueError(f"{complaint}: {value}; {self.name} must lie in {self.interval}")
