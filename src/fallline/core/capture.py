"""Steps that are captured into a CUDA graph: what they cannot do there, refused with what to do instead."""

from typing import TYPE_CHECKING, Any

import torch

from fallline.core.backend import choose
from fallline.core.parts import STEP
from fallline.core.plan import WholePass
from fallline.core.precision import precision_of
from fallline.core.scaling import rule_of
from fallline.core.shards import shard, spread_of

if TYPE_CHECKING:
    from fallline.core.optimizer import Optimizer


def going_on() -> bool:
    """Tell whether a graph is being captured on the present stream."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def refuse(optimizer: "Optimizer") -> None:
    """Refuse what a captured step cannot do: a replay runs kernels alone, and the host sees nothing of it."""
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        if not group.get("capturable"):
            raise RuntimeError(
                f"Attempting CUDA graph capture of step() for an instance of {name} but param_groups' "
                f"capturable is False."
            )
        rule = rule_of(optimizer, group)
        for each in rule.sums:
            if each.vetoes:
                raise RuntimeError(
                    f"a captured step cannot be vetoed ({each.name}): the host would have to look; use "
                    f"torch.amp.GradScaler, which leaves out steps on the device"
                )
        if rule.line_numbers:
            _refuse_torch_operations_on_lines(name, group)
        for one in rule.passes:
            counts = isinstance(one, WholePass) and STEP in one.transform.reads
            if counts or (isinstance(one, WholePass) and precision_of(group).is_random):
                raise RuntimeError(
                    f"{one.transforms[0].name} needs the number of the step on the host, so {name} cannot be "
                    f"captured; call step() between replays"
                )


def _refuse_torch_operations_on_lines(name: str, group: dict[str, Any]) -> None:
    for p in group["params"]:
        backend, reasons = choose(group, shard(p), lines=True, divided=spread_of(p) is not None)
        if not backend.fuses:
            raise RuntimeError(
                f"sums over rows, columns and channels are torch operations here ({'; '.join(reasons)}), "
                f"which wait for the host, so {name} cannot be captured; call step() between replays"
            )


def refuse_new_dispatch(optimizer: "Optimizer") -> None:
    """Refuse to make state and tables during a capture: each replay would make them anew."""
    if going_on():
        raise RuntimeError(
            f"{type(optimizer).__name__} has made no step yet with these parameters and gradients, or they "
            f"have changed; make a step before the capture"
        )


def refuse_waiting() -> None:
    """Refuse, during a capture, to let the host find out whether the step is to be made."""
    if going_on():
        raise RuntimeError(
            "whether this step is to be made is asked by the host where rules on whole tensors take part, so "
            "it cannot be captured with a GradScaler, nor with a schedule that ends: append .hold() to that"
        )
