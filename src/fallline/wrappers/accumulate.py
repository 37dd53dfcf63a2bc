"""Gradient accumulation: one step with the mean gradient of several micro-batches."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.parts import per_tensor
from fallline.core.transform import Transform, transform
from fallline.wrappers.wrapper import Companion, Wrapper, check_count, refuse_closures, refuse_released

SAMPLES = Hyperparameter("samples", 1.0, "weight of a micro-batch", "n", "samples", low=0, open_low=True)


@per_tensor(seen=0.0)
def count_samples(seen, *, samples):
    """Count the samples of which this tensor has a gradient."""
    return dict(seen=seen + samples)


@transform(slots=("total",), per_tensor=count_samples)
def add_to_total(p, g, total, *, samples):
    """Add the weighted gradient to the total, and leave the parameter."""
    return p, total + samples * g


class Totals(Companion):
    """The sums of gradients; those of half precision are summed in float32."""

    hyperparameters = (SAMPLES,)

    def __init__(self, optimizer: torch.optim.Optimizer):
        super().__init__(optimizer, {"samples": 1.0})

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Add to the totals."""
        return (add_to_total,)

    def add(self, samples: float) -> None:
        """Add the gradients, weighted by ``samples``."""
        for group in self.param_groups:
            group["samples"] = samples
            for p in group["params"]:
                if p.dtype.itemsize == 2 and p.grad is not None and not self.state[p]:
                    self.state[p]["total"] = torch.zeros_like(p, dtype=torch.float32)
        self.step()

    def mean(self, p: Tensor, samples: float) -> Tensor | None:
        """Return the mean gradient of ``p`` over all samples, None if there was none."""
        own = self.state.get(p)
        return (own["total"] / samples).to(p.dtype) if own and own["seen"] else None

    def clear(self) -> None:
        """Begin a new window."""
        for own in self.state.values():
            for total in own.values():
                total.zero_()


class Accumulate(Wrapper):
    r"""Gradient accumulation: every ``steps`` calls, one step with the mean gradient of those micro-batches.

    .. math::
        \bar g = \frac{\sum_i n_i g_i}{\sum_i n_i}

    where :math:`g_i` is the gradient of the mean loss over the :math:`n_i` samples of micro-batch i: the
    result is the gradient of the mean over all samples, also if the micro-batches differ in size. A parameter
    that has no gradient in a micro-batch counts as having zero there. Call ``zero_grad()`` before each
    micro-batch, and divide no loss by ``steps``. ``p.grad`` is never written; the inner optimizer sees
    tensors of its own.

    Args:
        optimizer: any ``torch.optim.Optimizer`` that takes gradients as they are; other wrappers go inside.
        steps: micro-batches to a step, at least 1.

    State: ``total`` of each parameter, in float32 if that is in half precision; the calls and samples of the
    unfinished window.

    Raises:
        TypeError: ``optimizer`` is not an optimizer.
        ValueError: ``steps`` or ``samples`` out of range, or an inner optimizer that evaluates the loss
            itself or leaves no gradients.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([0.0]))
        >>> optimizer = fallline.Accumulate(fallline.SGD([p], lr=1.0), steps=2)
        >>> for gradient, size in ((1.0, 30), (5.0, 10)):
        ...     p.grad = torch.tensor([gradient])
        ...     optimizer.step(samples=size)
        ...     print(optimizer.stepped, p.item())  # a scheduler steps if optimizer.stepped
        False 0.0
        True -2.0

    Differs from calling ``backward`` several times in torch: weighted by samples, exact in half precision,
    and an unfinished window is part of the state.
    """

    owned = ("totals", "calls", "samples")
    without_gradients = "accumulate inside its own `with release.accumulating():`"

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int):
        check_count("steps", steps, 1)
        refuse_closures("Accumulate", optimizer)
        refuse_released(Accumulate, optimizer)
        super().__init__(optimizer)
        self.steps, self.totals = steps, Totals(optimizer)
        self.calls, self.samples, self.moved = 0, 0.0, False

    @property
    def stepped(self) -> bool:
        """Whether the last call moved the parameters."""
        return self.moved and super().stepped

    @property
    def skips_steps(self) -> bool:
        """True: most calls only add."""
        return True

    def step(self, closure: Callable[[], Any] | None = None, samples: float = 1.0) -> Any:
        """Add the gradients of a micro-batch, and step if it is the window's last; return the closure's loss.

        ``samples`` is the number of samples, or another weight; by default all micro-batches weigh the same.
        """
        SAMPLES.check(samples)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.moved = False
        self.totals.add(float(samples))
        self.calls, self.samples = self.calls + 1, self.samples + float(samples)
        if self.calls >= self.steps:
            self.flush()
        return loss

    def flush(self) -> None:
        """Step with the mean of an unfinished window, such as the last of an epoch, if there is one."""
        self.moved = False
        if not self.calls:
            return
        with self._means_in_place():
            self._step_inner()
        self.totals.clear()
        self.calls, self.samples, self.moved = 0, 0.0, True

    @contextmanager
    def _means_in_place(self) -> Iterator[None]:
        """Let the parameters have the window's mean gradients inside the block, and their own after it."""
        params = self.params
        own = [p.grad for p in params]
        try:
            for p in params:
                p.grad = self.totals.mean(p, self.samples)
            yield
        finally:
            for p, grad in zip(params, own, strict=True):
                p.grad = grad
