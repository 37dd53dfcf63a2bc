"""What a step cannot take, refused before anything changes."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fallline.core.plan import Plan, WholePass

if TYPE_CHECKING:
    from fallline.core.optimizer import Optimizer


def refuse(optimizer: "Optimizer", group: dict[str, Any], p: Tensor) -> None:
    name = type(optimizer).__name__
    if not (p.is_floating_point() or p.is_complex()):
        raise RuntimeError(f"{name} cannot step a parameter of {p.dtype}; it needs a floating-point dtype")
    if p.grad is not None:
        _refuse_layout(optimizer, group, p.grad.layout)
    if group.get("capturable") and p.device.type == "cpu":
        raise AssertionError(
            f"If capturable=True, params and state_steps must be on supported devices: "
            f"['cuda', 'xpu', 'hpu', 'privateuseone', 'xla']; {name} got cpu, so leave capturable=False"
        )


def _refuse_layout(optimizer: "Optimizer", group: dict[str, Any], layout: torch.layout) -> None:
    name, dense_is_refused = type(optimizer).__name__, optimizer.refuses_dense(group)
    if dense_is_refused and layout != torch.sparse_coo:
        raise RuntimeError(f"{name} does not support dense gradients, {dense_is_refused}")
    if layout != torch.strided and not optimizer.takes_sparse(group):
        raise RuntimeError(
            f"{name} does not support sparse gradients (got {layout}) with these settings; "
            f"make them dense, for example Embedding(..., sparse=False)"
        )


def refuse_beyond_elements(rule: Plan, group: dict[str, Any], p: Tensor) -> None:
    """Refuse what only elementwise rules can do."""
    whole = next((one.transform.name for one in rule.passes if isinstance(one, WholePass)), None)
    if whole and p.is_complex():
        raise RuntimeError(f"{whole} cannot take a parameter of {p.dtype}; it works on whole real tensors")
    if rule.sums and group.get("differentiable"):
        raise RuntimeError(
            f"differentiable=True does not go through {rule.sums[0].name}, a sum; use fallline.functional"
        )


def refuse_mismatch(rule: Plan, state: dict[str, Any], p: Tensor) -> None:
    """Refuse a gradient or state that does not fit its parameter: a kernel would read beyond it."""
    wanted = {name: torch.Size(shape) for name, shape in rule.shapes(tuple(p.shape)).items()}
    wanted |= {"gradient": p.shape}
    for name, x in {**state, "gradient": p.grad}.items():
        if name not in wanted or x is None:
            continue
        if x.shape != wanted[name]:
            raise RuntimeError(
                f"{name} has shape {tuple(x.shape)}, not {tuple(wanted[name])} as its parameter of shape "
                f"{tuple(p.shape)} needs; after changing a parameter's shape call zero_grad() and delete "
                f"optimizer.state[parameter]"
            )
        if x.is_complex() > p.is_complex() or not (x.is_floating_point() or x.is_complex()):
            raise RuntimeError(f"{name} is {x.dtype}, which does not fit a parameter of {p.dtype}")
        if x.device != p.device and not (name != "gradient" and x.dim() == 0 and x.is_cpu):
            raise RuntimeError(f"{name} is on {x.device} and its parameter on {p.device}; move it there")
