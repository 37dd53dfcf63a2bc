"""Steps under `torch.amp.GradScaler`, which tells the optimizer how the loss was scaled and what was found.

It sets two attributes for the time of a step: ``grad_scale``, by which gradients are to be divided, and
``found_inf``, not zero if any of them is infinite or NaN: then the step is not made.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fallline.core.plan import Plan, plan, unscale

if TYPE_CHECKING:
    from fallline.core.optimizer import Optimizer

#: The setting of `unscale`: no group has it, the scaler gives its value.
SCALE = "gradient_scale"


def rule_of(optimizer: "Optimizer", group: Mapping[str, Any]) -> Plan:
    """Return the plan of a group, with unscaling ahead of all rules where the loss was scaled."""
    chain = optimizer.transforms(group)
    return plan(chain) if optimizer.__dict__.get("grad_scale") is None else plan((unscale, *chain))


def settings_of_groups(optimizer: "Optimizer") -> list[dict[str, Any]]:
    """Return the groups' settings, with the scale where there is one."""
    scale, groups = optimizer.__dict__.get("grad_scale"), optimizer.param_groups
    return groups if scale is None else [{**group, SCALE: scale} for group in groups]


def withheld(optimizer: "Optimizer") -> Tensor | None:
    """Return what is not zero if the coming step is not to be made, None if nothing could forbid it."""
    found = optimizer.__dict__.get("found_inf")
    if found is None and not optimizer._timetable.tables:
        return None
    flags = [found] if isinstance(found, Tensor) else []  # 0 where no parameter had a gradient
    flags += optimizer._timetable.ended()
    return sum((flag.to(flags[0].device) for flag in flags[1:]), flags[0]) if flags else None
