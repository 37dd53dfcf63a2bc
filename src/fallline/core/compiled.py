"""Steps inside training steps that `torch.compile` compiles: one operation of the graph.

The kernels are fused already, so the compiler needs to know only that the operation writes the parameters.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fallline.core.optimizer import Optimizer

_optimizers: WeakValueDictionary[str, "Optimizer"] = WeakValueDictionary()
_numbers = count(1)


class Traceable:
    """What tracing may look at: the number of an optimizer, and its parameters one after the other.

    The compiler would compile anew for each other value in the parameter groups, so it is kept off them. The
    number is text, because a number might become one that is known only when the graph runs.
    """

    _number = ""
    _traced: Sequence[Tensor] = ()
    param_groups: list[dict[str, Any]]

    def _register(self) -> None:
        """Note the parameters as they are now; there is no number where one is no plain tensor."""
        self._traced = _params(self)
        if not all(type(p) in (Tensor, torch.nn.Parameter) for p in self._traced):
            self._number = ""
            return
        self._number = self._number or str(next(_numbers))
        _optimizers[self._number] = self  # type: ignore[assignment]


def step(optimizer: Traceable) -> None:
    """Step, while a graph is traced; in a graph, an error would leave `torch.no_grad` switched on."""
    params = optimizer._traced
    grads = [None if p.grad is None else p.grad.detach() for p in params]
    _operation(optimizer._number, [p.detach() for p in params], grads)


def zero_grad(optimizer: Traceable) -> None:
    """Let go of all gradients, while a graph is traced."""
    for p in optimizer._traced:
        p.grad = None


@torch.library.custom_op(
    "fallline::step",
    mutates_args=("params",),
    schema="(str number, Tensor(a!)[] params, Tensor?[] grads) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),  # the host looks at addresses and settings
)
def _operation(number: str, params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    optimizer = _optimizers[number]
    if [id(p) for p in _params(optimizer)] != [id(p) for p in optimizer._traced]:
        raise RuntimeError("parameters were replaced by hand, unseen by compiled steps; make a new optimizer")
    if any(group.get("differentiable") for group in optimizer.param_groups):
        raise RuntimeError("differentiable=True does not go through a compiled step; use fallline.functional")
    with _as_given(optimizer._traced, params, grads):
        optimizer._step_watched()


@_operation.register_fake
def _(number: str, params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    return None


@contextmanager
def _as_given(
    own: Sequence[Tensor], given: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> Iterator[None]:
    """Let parameters have the values and gradients that the graph gives, and the graph what becomes of them.

    Some compilers hand on copies of parameters.
    """
    copies = [(p, x) for p, x in zip(own, given, strict=True) if p.data_ptr() != x.data_ptr()]
    before = [(p, p.grad) for p, g in zip(own, grads, strict=True) if not _same(p.grad, g)]
    for p, x in copies:
        p.detach().copy_(x)
    for p, g in zip(own, grads, strict=True):
        if not _same(p.grad, g):
            p.grad = g
    try:
        yield
    finally:
        for p, g in before:
            p.grad = g
    for p, x in copies:
        x.copy_(p.detach())


def _params(optimizer: Any) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _same(x: Tensor | None, y: Tensor | None) -> bool:
    """Tell whether two gradients are one, or one is a view of all of the other."""
    if x is None or y is None:
        return x is y
    return x.data_ptr() == y.data_ptr() and x.stride() == y.stride()
