"""What a step cannot take, refused before anything changes."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fallline.core.backend import on_accelerator
from fallline.core.plan import Plan
from fallline.core.precision import AS_TORCH, precision_of
from fallline.core.shards import Spread, elsewhere, lies_as, spread_of
from fallline.core.state import coded, fits

if TYPE_CHECKING:
    from fallline.core.optimizer import Optimizer


def refuse(optimizer: "Optimizer", group: dict[str, Any], p: Tensor) -> None:
    name = type(optimizer).__name__
    if not (p.is_floating_point() or p.is_complex()):
        raise RuntimeError(f"{name} cannot step a parameter of {p.dtype}; it needs a floating-point dtype")
    if p.grad is not None:
        _refuse_layout(optimizer, group, p.grad.layout)
    if group.get("capturable") and not on_accelerator([p]):
        raise AssertionError(
            f"If capturable=True, params and state_steps must be on supported devices: "
            f"['cuda', 'xpu', 'hpu', 'privateuseone', 'xla']; {name} got cpu, so leave capturable=False"
        )


def _refuse_layout(optimizer: "Optimizer", group: dict[str, Any], layout: torch.layout) -> None:
    name, dense_is_refused = type(optimizer).__name__, optimizer.refuses_dense(group)
    if dense_is_refused and layout != torch.sparse_coo:
        raise RuntimeError(f"{name} does not support dense gradients, {dense_is_refused}")
    if dense_is_refused and precision_of(group) != AS_TORCH:
        raise RuntimeError(f"{name} steps rows, whose state is kept as torch keeps it; leave precision out")
    if layout != torch.strided and not optimizer.takes_sparse(group):
        raise RuntimeError(
            f"{name} does not support sparse gradients (got {layout}) with these settings; "
            f"make them dense, for example Embedding(..., sparse=False)"
        )


def refuse_complex(rule: Plan, p: Tensor) -> None:
    """Refuse complex parameters, whatever their shape, where a rule works on whole tensors or lines."""
    whole = next((t.name for t in rule.transforms if t.whole or t.per_line), None)
    if whole and p.is_complex():
        raise RuntimeError(f"{whole} cannot take a parameter of {p.dtype}; it works on real tensors alone")


def refuse_differentiable(rule: Plan, group: dict[str, Any]) -> None:
    """Refuse sums that autograd would have to follow."""
    if rule.sums and group.get("differentiable"):
        raise RuntimeError(
            f"differentiable=True does not go through {rule.sums[0].name}, a sum; use fallline.functional"
        )


def refuse_precision(rule: Plan, group: dict[str, Any], p: Tensor) -> None:
    """Refuse a precision that the parameter or the rule cannot have."""
    precision = precision_of(group)
    if precision == AS_TORCH:
        return
    if p.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise RuntimeError(
            f"a parameter of {p.dtype} has no precision but its own; put it into a group with precision=None"
        )
    if group.get("differentiable"):
        raise RuntimeError("precision does not go with differentiable=True: rounding has no derivative")
    if precision.params and p.dtype == torch.float32:
        raise RuntimeError(
            f"params={precision.params!r} is for parameters of bfloat16 or float16, and one is float32, "
            f"which loses nothing; put it into a group with precision=Precision(state={precision.state!r})"
        )
    if precision.params == "master" and p.dtype != torch.bfloat16:
        raise RuntimeError(f"params='master' splits bfloat16 parameters; for {p.dtype} use params='kahan'")
    coarse = [t.name for t in rule.transforms if t.whole and any(s.shape is None for s in t.slots)]
    coarse += [t.name for t in rule.transforms if t.per_line and rule.slots]
    if precision.state in ("8bit", "4bit") and coarse:
        raise RuntimeError(
            f"{coarse[0]} works on whole tensors or lines, whose state has no {precision.state} format; "
            f"use precision=Precision(state='bf16')"
        )


def refuse_mismatch(rule: Plan, state: dict[str, Any], p: Tensor) -> None:
    """Refuse a gradient or state that does not fit its parameter: a kernel would read beyond it."""
    wanted = {name: torch.Size(shape) for name, shape in rule.shapes(tuple(p.shape)).items()}
    wanted |= {"gradient": p.shape}
    codes = coded(rule, tuple(p.shape), spread_of(p)) if state.keys() - wanted.keys() else {}
    wanted |= {name: torch.Size(shape) for name, (shape, _) in codes.items()}
    for name, x in {**state, "gradient": p.grad}.items():
        if name not in wanted or x is None:
            continue
        if x.shape != wanted[name]:
            raise RuntimeError(
                f"{name} has shape {tuple(x.shape)}, not {tuple(wanted[name])} as its parameter of shape "
                f"{tuple(p.shape)} needs; after changing a parameter's shape call zero_grad() and delete "
                f"optimizer.state[parameter]"
            )
        if not fits(x, p, *codes.get(name, ())[1:]):
            raise RuntimeError(f"{name} is {x.dtype}, which does not fit a parameter of {p.dtype}")
        if x.device != p.device and not (name != "gradient" and x.dim() == 0 and x.is_cpu):
            raise RuntimeError(f"{name} is on {x.device} and its parameter on {p.device}; move it there")


def refuse_misplaced(rule: Plan, state: dict[str, Any], p: Tensor) -> None:
    """Refuse a parameter that is no tensor yet, and state that does not lie over processes as it does."""
    spread = spread_of(p)
    if spread and any(each.is_partial() for each in spread.placements):
        raise RuntimeError(
            f"a parameter is {spread}, a sum still to be made; make it of p.redistribute(placements=...)"
        )
    if p.grad is not None:
        refuse_grad_elsewhere(spread, p.grad)
    for slot in rule.slots:
        x = state.get(slot.name)
        if x is not None and not lies_as(spread, x):
            raise RuntimeError(
                f"{slot.name} is {spread_of(x) or 'whole in each process'} and its parameter "
                f"{spread or 'is whole'}; load it with torch.distributed.checkpoint, which places it"
            )


def refuse_grad_elsewhere(spread: Spread | None, grad: Tensor) -> None:
    """Refuse a gradient that is not held by the processes that hold its parameter."""
    if elsewhere(spread, grad):
        raise RuntimeError(
            f"a gradient is {spread_of(grad) or 'whole in each process'} and its parameter "
            f"{spread or 'is whole'}; make the gradient from the parameter itself"
        )
