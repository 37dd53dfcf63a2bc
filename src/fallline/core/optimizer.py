"""The base of every optimizer: torch.optim's contract, and the one step loop."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch.autograd import profiler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fallline.core import checkpoint
from fallline.core.dispatch import Dispatch, Outcome
from fallline.core.errors import UnknownOptionError, suggestion
from fallline.core.hyperparameter import Hyperparameter
from fallline.core.transform import Transform, transform

#: Keys that belong in a parameter group whatever the optimizer: torch's own and its schedulers'.
COMMON_KEYS = {
    "params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum",
    "swa_lr",
}  # fmt: skip


@transform()
def negate(g):
    """Turn descent into ascent, for ``maximize``."""
    return -g


class Optimizer(torch.optim.Optimizer):
    """An update rule as a ``torch.optim.Optimizer``; a subclass gives its hyperparameters and `rules`."""

    hyperparameters: tuple[Hyperparameter, ...] = ()
    #: Group keys that checkpoints of older torch versions lack, with the value they stood for.
    added_later: ClassVar[dict[str, Any]] = {"maximize": False, "foreach": None, "differentiable": False}

    _dispatch: Dispatch | None = None

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Refuse options that the constructor does not have, with the nearest name."""
        accepted = inspect.signature(cls.__init__).parameters
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values()):
            _refuse_unknown(cls.__name__, options, set(accepted) - {"self"})
        return super().__new__(cls)

    def __init__(self, params: Any, defaults: dict[str, Any]):
        self.defaults = defaults
        self._check(defaults)
        super().__init__(params, defaults)

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Return the chain of transforms for a parameter group with these settings."""
        raise NotImplementedError(f"{cls.__name__} must define rules(group)")

    def takes_sparse(self, group: Mapping[str, Any]) -> bool:
        """Tell whether gradients may be sparse; they are then made dense, which changes only the speed."""
        return False

    def transforms(self, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Return the whole chain for a parameter group: its `rules`, uphill if it maximizes."""
        rules = self.rules(group)
        return (negate, *rules) if group.get("maximize") else rules

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the loss of ``closure`` if one is given."""
        if torch.compiler.is_compiling():
            return _step_outside_the_graph(self, closure)
        if self._watched():
            return _step_with_hooks(self) if closure is None else _step_with_hooks(self, closure)
        return _step(self, closure)

    step.hooked = True  # type: ignore[attr-defined]  # hooks run when there are any: torch need not wrap it

    def _watched(self) -> bool:
        """Tell whether a hook or a profiler wants to see the step."""
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or profiler._is_profiler_enabled
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; unknown keys and values out of range are refused before anything changes."""
        if isinstance(param_group, dict):
            self._check(param_group)
            _refuse_unknown(type(self).__name__, param_group, set(self.defaults) | COMMON_KEYS)
        super().add_param_group(param_group)
        self._dispatch = None

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Load a state made by `state_dict` of this class or of torch's; dtypes are kept exactly.

        Parameters are matched by name where both sides know names (an optimizer made from ``(name, tensor)``
        pairs does), whatever their order and groups; by position otherwise. A group takes the settings of
        the saved group that its parameters were in.

        Args:
            state_dict: what `state_dict` returned.
            strict: refuse a state dict that does not fit in every respect; otherwise load what fits, leave
                the rest as it is, and warn.

        Raises:
            CheckpointMismatch: it does not fit; all mismatches are named, and nothing was changed.
            TypeError: not a dict.

        Differs from torch's, which matches by position alone and looks at the number of parameters alone.
        """
        checkpoint.load(self, state_dict, super().load_state_dict, strict)
        self._dispatch = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._dispatch = None
        for group in self.param_groups:
            for key, value in self.added_later.items():
                group.setdefault(key, value)
        checkpoint.tensors_from_numbers(self)

    def _advance(self) -> Outcome:
        """Step every batch, with a new dispatch if the present one does not hold."""
        outcome = self._dispatch.step(self) if self._dispatch else Outcome.STALE
        if outcome is Outcome.STALE:
            self._dispatch = Dispatch(self)
            outcome = self._dispatch.step(self)
        if outcome is Outcome.STALE:
            raise RuntimeError("parameters or state changed during the step; use one thread per optimizer")
        return outcome

    def hyperparameters_of(self, group: Mapping[str, Any]) -> tuple[Hyperparameter, ...]:
        """Return the records of the settings that a group's rules read."""
        return self.hyperparameters

    def _check(self, group: Mapping[str, Any]) -> None:
        for h in self.hyperparameters_of(group):
            if h.name in group:
                h.check(group[h.name])
        self.check_together({**self.defaults, **group})

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse settings that are allowed alone but not together."""
        fused, foreach = group.get("fused"), group.get("foreach")
        if fused and group.get("differentiable"):
            raise RuntimeError("`fused` does not support `differentiable`; drop one of them")
        if fused and foreach:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def _refuse_unknown(name: str, options: Iterable[str], known: set[str]) -> None:
    for option in options:
        if option not in known:
            raise UnknownOptionError(f"{name} has no option {option!r}{suggestion(str(option), known)}")


def _step(optimizer: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    optimizer._advance()
    return loss


_step_with_hooks = torch.optim.Optimizer.profile_hook_step(_step)
#: A compiled training step calls the kernels as they are: they are fused already.
_step_outside_the_graph = torch._disable_dynamo(Optimizer.step)  # type: ignore[attr-defined]
