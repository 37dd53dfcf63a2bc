"""What an optimizer promises beside what can be read off its plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

#: Settings under other names than these move no parameter whose gradient is zero.
DECAYS = ("weight_decay", "lambd")


@dataclass(frozen=True)
class Traits:
    """What `check_optimizer` cannot find out by itself.

    Args:
        settings: what the optimizer is made with throughout.
        fixed_point: further settings under which gradients of zero move nothing; ``weight_decay`` and
            ``lambd`` are set to 0 anyhow. None if there are none: a penalty pulls without any gradient.
        scale_invariant: settings under which steps do not depend on the scale of the gradients, such as
            ``{"eps": 0.0}``; None if that is not promised.
        not_smooth: settings that no derivative is taken in, as numbers derived from them are rounded to
            float32, or since nothing depends on them smoothly.
        counterpart: the class of ``torch.optim`` that it replaces, if it has another name or is not ours.
        shapes: of the parameters that it is tried on.

    Example:
        >>> Traits(settings={"lr": 0.1}, scale_invariant={"eps": 0.0}).fixed_point
        {}
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    fixed_point: Mapping[str, Any] | None = field(default_factory=dict)
    scale_invariant: Mapping[str, Any] | None = None
    not_smooth: frozenset[str] = frozenset()
    counterpart: type[torch.optim.Optimizer] | None = None
    shapes: tuple[tuple[int, ...], ...] = ((3, 5), (7,), (1,), (33, 20))
