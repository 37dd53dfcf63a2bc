"""What a backend is: it prepares batches of parameters that share a plan, and steps them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fallline.core.formats import Format
from fallline.core.plan import Pass, Plan
from fallline.core.precision import AS_TORCH, Precision
from fallline.core.shards import Spread

#: Sums by tensor: here, or on the device that took them.
Sums = np.ndarray | Tensor


@dataclass
class Batch:
    """Parameters that share a plan, a backend, dtypes and formats, in the order of the parameter groups.

    ``rows[i]`` is the parameter group of parameter ``i`` and ``indices[i]`` its place among all parameters;
    ``fresh[i]`` tells whether the state of a rule that asks was made for the coming step. ``states[i]`` is
    the optimizer's own state dict of parameter ``i``. Of a parameter that several processes hold together,
    parameter, state and gradient are this process's shards, and ``spreads[i]`` tells how it lies over them.
    ``differentiable`` asks that autograd can follow, ``by_rows`` that only those rows are looked at that the
    parameters' sparse gradients touch. ``formats`` tells how the parameter, ``p``, and each slot are stored,
    ``grad_dtype`` the gradients, ``joint`` whether any parameter is held together.
    """

    plan: Plan
    differentiable: bool = False
    precision: Precision = AS_TORCH
    formats: Mapping[str, Format] = field(default_factory=dict)
    params: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    fresh: list[bool] = field(default_factory=list)
    spreads: list[Spread | None] = field(default_factory=list)
    by_rows: bool = False
    grad_dtype: torch.dtype = torch.float32
    joint: bool = False

    def add(
        self,
        param: Tensor,
        state: dict[str, Any],
        row: int,
        index: int,
        fresh: bool,
        spread: Spread | None = None,
    ) -> None:
        """Add one parameter."""
        self.params.append(param)
        self.states.append(state)
        self.rows.append(row)
        self.indices.append(index)
        self.fresh.append(fresh)
        self.spreads.append(spread)
        self.joint |= spread is not None


class Prepared(Protocol):
    """A batch that a backend has got ready to step again and again."""

    @property
    def defers(self) -> bool:
        """Whether its kernels can see for themselves that the coming step is not to be made."""
        ...

    def defer(self, withheld: Tensor) -> None:
        """Make the step that is `ready` only if ``withheld``, on the device, is zero."""
        ...

    def ready(self, grads: Sequence[Tensor], settings: Mapping[int, Sequence[Any]]) -> bool:
        """Take the values of ``plan.settings`` by group; tell whether the tensors are still as prepared.

        Nothing is changed yet: a bad setting is refused here, before any batch has stepped.
        """
        ...

    def advance(self, grads: Sequence[Tensor]) -> Sums | None:
        """Run the passes up to the next reduction; return its sums, (tensors, sums), or None at the end."""
        ...

    def take(self, totals: Any) -> None:
        """Take the totals, over tensor, group or model, of the sums that `advance` returned last."""
        ...

    def release(self) -> None:
        """Let go of the gradients, and of what a step that does not go on has computed from them."""
        ...


class AtOnce:
    """What is prepared to step when it is told to: whether a step is to be made is known by then."""

    defers = False

    def defer(self, withheld: Tensor) -> None:
        """Nothing is deferred."""


class Backend(Protocol):
    """A way to execute plans; ``fuses`` tells whether a pass of the plan is one pass over memory."""

    name: str
    fuses: bool

    def refuses(self, group: Mapping[str, Any], param: Tensor) -> str | None:
        """Return why this backend cannot step ``param``, or None if it can."""
        ...

    def refuses_lines(self, divided: bool) -> str | None:
        """Return why it cannot evaluate functions of lines, or None if it can.

        ``divided`` tells that several processes hold the tensor together.
        """
        ...

    def prepare(self, batch: Batch) -> Prepared:
        """Return the batch ready to step."""
        ...

    def traffic(self, batch: Batch, one: Pass) -> tuple[float, float] | None:
        """Return the bytes that a pass reads and writes per element, or None where that is not one number."""
        ...

    def source(self, batch: Batch) -> str:
        """Return the code that steps the batch, for `show_kernel`."""
        ...


#: Constructors of backends, fastest first; `fallline.backends` fills it. The last one refuses nothing.
available: list[Callable[[], Backend]] = []
#: Those that look at the rows that sparse gradients touch, and at no others.
available_by_rows: list[Callable[[], Backend]] = []


def on_accelerator(params: Sequence[Tensor]) -> bool:
    """Tell whether the host would have to wait to read from what these parameters' kernels write.

    Triton's interpreter, in which kernels are tested, counts as a device.
    """
    return bool(params) and (not params[0].is_cpu or os.environ.get("TRITON_INTERPRET") == "1")


def choose(
    group: Mapping[str, Any], param: Tensor, by_rows: bool = False, lines: bool = False, divided: bool = False
) -> tuple[Backend, list[str]]:
    """Return the fastest backend that can step ``param``, and why each faster one cannot.

    ``lines`` tells that a rule has functions of lines, ``divided`` that other processes hold the rest of it.
    """
    reasons = []
    for get in available_by_rows if by_rows else available:
        backend = get()
        reason = backend.refuses(group, param) or (backend.refuses_lines(divided) if lines else None)
        if reason is None:
            return backend, reasons
        reasons.append(f"{backend.name}: {reason}")
    raise RuntimeError(f"no backend can step this parameter: {'; '.join(reasons)}")
