"""Several optimizers stepped as one: their tensors lie in one table, looked at and launched once for all."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fallline.core.backend import choose
from fallline.core.dispatch import Dispatch, Outcome
from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Optimizer
from fallline.core.plan import ElementPass, plan
from fallline.core.precision import AS_TORCH, precision_of
from fallline.core.sparsity import Sparse
from fallline.core.timetable import Timetable
from fallline.core.transform import Transform


def joinable(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether a step of ``optimizer`` does nothing but what kernels do to each element by itself.

    Sums over a group or the model would run over the parameters of all, and random rounding follows from a
    parameter's place among them. Wrappers, hooks and schedules do something besides. Without kernels nothing
    is launched once for all, and a rule may raise when others have stepped.
    """
    return (
        isinstance(optimizer, Optimizer)
        and getattr(optimizer.step, "__func__", None) is Optimizer.step
        and not optimizer._watched()
        and not optimizer._timetable.active
        and all(_elementwise(optimizer, group) for group in optimizer.param_groups)
    )


def _elementwise(optimizer: Optimizer, group: Mapping[str, Any]) -> bool:
    passes = [one for rule in plan(optimizer.transforms(group)).variants for one in rule.passes]
    alone = all(isinstance(one, ElementPass) and not one.sums for one in passes)
    fused = all(choose(group, p)[0].fuses for p in group["params"])
    return alone and fused and precision_of(group) == AS_TORCH


class Joint(Optimizer):
    """Optimizers that are `joinable`, as one: groups and state are theirs, and each ends as if alone.

    Example:
        >>> import fallline
        >>> params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
        >>> for p in params:
        ...     p.grad = torch.ones(2)
        >>> Joint([fallline.SGD([p], lr=lr) for p, lr in zip(params, (0.25, 0.5))]).step()
        >>> [p.tolist() for p in params]
        [[0.75, 0.75], [0.5, 0.5]]
    """

    def __init__(self, optimizers: Sequence[Optimizer]):
        self._owners = {id(group): each for each in optimizers for group in each.param_groups}
        self.param_groups = [group for each in optimizers for group in each.param_groups]
        self.state = _States(optimizers)  # type: ignore[assignment]
        self._timetable = Timetable()

    def step(self) -> None:  # type: ignore[override]
        """Make a step of each; if it raises, none has been made."""
        if self._dispatches and self._dispatches[0].step(self) is Outcome.DONE:
            return
        self._dispatches = (Dispatch(self),)
        if self._dispatches[0].step(self) is not Outcome.DONE:
            raise RuntimeError("parameters or state changed during the step; use one thread per optimizer")

    def transforms(self, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The chain of the group's optimizer."""
        return self._owners[id(group)].transforms(group)

    def hyperparameters_of(self, group: Mapping[str, Any]) -> tuple[Hyperparameter, ...]:
        """The records of the group's optimizer."""
        return self._owners[id(group)].hyperparameters_of(group)

    def takes_sparse(self, group: Mapping[str, Any]) -> Sparse | None:
        """What becomes of sparse gradients in the group's optimizer."""
        return self._owners[id(group)].takes_sparse(group)

    def refuses_dense(self, group: Mapping[str, Any]) -> str | None:
        """What the group's optimizer refuses."""
        return self._owners[id(group)].refuses_dense(group)


class _States:
    """The states of several optimizers as one, which a `Dispatch` reads, adds to and takes from."""

    def __init__(self, optimizers: Sequence[Optimizer]):
        self._optimizers = optimizers
        self._owners = {
            p: each for each in optimizers for group in each.param_groups for p in group["params"]
        }

    def __getitem__(self, p: Tensor) -> dict[str, Any]:
        return self._owners[p].state[p]

    def __delitem__(self, p: Tensor) -> None:
        del self._owners[p].state[p]

    def get(self, p: Tensor, default: dict[str, Any]) -> dict[str, Any]:
        """Return the state of ``p``, without making any."""
        return self._owners[p].state.get(p, default)

    def values(self) -> list[dict[str, Any]]:
        """Return the states of all parameters that have some."""
        return [state for each in self._optimizers for state in each.state.values()]
