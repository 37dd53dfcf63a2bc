"""Sparse gradients: which rules may be stepped on the rows that a gradient touches, the others left alone."""

from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fallline.core.parts import FRESH, GAIN, GRAD, STEP, G, P, keywords
from fallline.core.plan import Plan
from fallline.core.precision import AS_TORCH, precision_of

if TYPE_CHECKING:
    from fallline.core.optimizer import Optimizer

#: What becomes of a sparse gradient: its ``"rows"`` alone are stepped, or it is made ``"dense"``.
Sparse = Literal["rows", "dense"]

#: Parameters at which a rule is tried: some are small, some beyond any bound that a rule may keep them in.
_PARAMETERS = 0.317, -0.0473, 53.9, -71.3
#: Every setting, number and state: nothing that a formula would single out.
_GENERIC = 0.6180339887
#: The number of the step, on either side of any at which a rule may begin or end to do something.
_STEPS = tuple(_GENERIC * 10**k for k in range(10))


def by_rows(optimizer: "Optimizer", group: dict[str, Any], rule: Plan, p: Tensor) -> bool:
    """Tell whether only the rows of ``p`` are to be stepped that its gradient touches."""
    sparse = p.grad is not None and p.grad.layout == torch.sparse_coo
    if not sparse or not rule.uses_grad or group.get("differentiable") or precision_of(group) != AS_TORCH:
        return False
    return optimizer.takes_sparse(group) == "rows"


@cache
def leaves_the_rest_alone(rule: Plan) -> bool:
    """Tell whether an element whose gradient is zero stays as it is, as does its state, and adds to no sum.

    The rules are tried on numbers that nobody would choose: what they leave alone there stays whatever the
    settings are.
    """
    try:
        return all(
            _stays(rule, p, {FRESH: fresh, STEP: step})
            for p in _PARAMETERS
            for fresh in (0.0, 1.0)
            for step in _STEPS
        )
    except (ValueError, ArithmeticError):  # undefined without a gradient
        return False


def _stays(rule: Plan, p: float, known: dict[str, float]) -> bool:
    before = {P: p, **{slot.name: _GENERIC for slot in rule.slots}}
    values = {**before, G: 0.0, GRAD: 0.0, GAIN: _GENERIC}

    def value(function: Any, inputs: tuple[str, ...]) -> Any:
        numbers = {name: known.get(name, _GENERIC) for name in keywords(function)}
        return function(*(values[name] for name in inputs), **numbers)

    for t in rule.transforms:
        if t.whole or t.per_line or any(value(each.function, each.inputs) for each in t.sums):
            return False
        out = value(t.rule, t.inputs)
        values |= zip(t.outputs, out if isinstance(out, tuple) else (out,), strict=True)
    return all(values[name] == x for name, x in before.items())
