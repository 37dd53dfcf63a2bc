"""Loading optimizer state: torch's checkpoints and ours, every dtype kept exactly."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fallline.core.optimizer import Optimizer


def load(
    optimizer: "Optimizer", state_dict: dict[str, Any], load_as_torch: Callable[[dict[str, Any]], None]
) -> None:
    """Load ``state_dict`` through torch's own method, then undo its casts and its sharing of tensors."""
    seen: dict[str, Any] = {}

    def remember(_: Any, final: dict[str, Any]) -> None:
        seen.update(final)

    def restore(_: Any) -> None:
        _restore(optimizer, seen)

    handles = [
        optimizer.register_load_state_dict_pre_hook(remember),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    ]
    try:
        load_as_torch(state_dict)
    finally:
        for handle in handles:
            handle.remove()


def _restore(optimizer: "Optimizer", saved: dict[str, Any]) -> None:
    ours = [p for group in optimizer.param_groups for p in group["params"]]
    ids = [i for group in saved["param_groups"] for i in group["params"]]
    for i, p in zip(ids, ours, strict=True):
        for key, value in saved["state"].get(i, {}).items():
            if isinstance(value, Tensor):
                device = value.device if value.dim() == 0 and not p.is_cpu else p.device
                optimizer.state[p][key] = value.detach().to(device, copy=True)


def tensors_from_numbers(optimizer: "Optimizer") -> None:
    """Turn the plain numbers that old checkpoints hold (``step``, ``mu_product``) into 0-d tensors."""
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                state[key] = torch.tensor(float(value), dtype=dtype)
