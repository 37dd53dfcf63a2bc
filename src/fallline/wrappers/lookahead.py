"""Lookahead: slow weights that follow the fast ones of any optimizer."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fallline.core.dispatch import make_state
from fallline.core.hyperparameter import Hyperparameter, Range
from fallline.core.optimizer import Optimizer
from fallline.core.plan import plan
from fallline.core.registry import Entry, register
from fallline.core.transform import Slot, Transform, transform
from fallline.optimizers.adam import Adam
from fallline.optimizers.settings import space


@transform(slots=(Slot("slow", "p"),))
def pull_to_slow(p, slow, *, alpha):
    """Move the slow weights towards the fast ones, and start the fast ones from there."""
    slow = slow + alpha * (p - slow)
    return slow, slow


class SlowWeights(Optimizer):
    """The second half of Lookahead: one step moves slow and fast weights together; needs no gradient."""

    hyperparameters = (
        Hyperparameter(
            "alpha", 0.5, "share of the way that the slow weights follow", "α", "", low=0, high=1,
            search=Range(0.2, 0.9, "linear"),
        ),
    )  # fmt: skip
    added_later = {}

    def __init__(self, params: Any, alpha: float):
        super().__init__(params, {"alpha": alpha})
        self.remember()

    def remember(self) -> None:
        """Take the parameters as they are for slow weights, where there are none yet."""
        for group in self.param_groups:
            for p in group["params"]:
                make_state(self.state[p], plan(self.transforms(group)), group, p)

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Move slow and fast weights together."""
        return (pull_to_slow,)


class Lookahead(torch.optim.Optimizer):
    r"""Lookahead: every ``k`` steps, slow weights follow those of any optimizer, which restarts from them.

    .. math::
        \phi \leftarrow \phi + \alpha\,(\theta - \phi), \qquad \theta \leftarrow \phi
        \qquad \text{after every } k \text{ steps of } \theta \text{ by the inner optimizer}

    Args:
        optimizer: any ``torch.optim.Optimizer``; its parameter groups are this optimizer's.
        k: inner steps :math:`k \ge 1` from one synchronisation to the next.
        alpha: :math:`\alpha` in [0, 1], the share of the way that the slow weights follow.

    State: ``slow`` of each parameter's shape and dtype, and the count of steps; the inner optimizer's state
    stays its own.

    Raises:
        TypeError: ``optimizer`` is not an optimizer.
        ValueError: ``k`` or ``alpha`` out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.Lookahead(fallline.SGD([p], lr=0.5), k=1, alpha=0.5)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> p.item()
        0.5

    Source: Zhang et al. 2019, https://arxiv.org/abs/1907.08610. torch has no such optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, k: int = 5, alpha: float = 0.5):
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"Lookahead goes around an optimizer, got {type(optimizer).__name__}")
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"Invalid k value: {k}; k must be a whole number of at least 1")
        self.optimizer, self.k, self.steps = optimizer, k, 0
        super().__setstate__({})  # torch's hooks, without parameters of this object's own
        self.slow = SlowWeights([{"params": g["params"]} for g in optimizer.param_groups], alpha)

    @property
    def parts(self) -> tuple[torch.optim.Optimizer, ...]:
        """Both halves, for `explain` and `show_kernel`."""
        return self.optimizer, self.slow

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The inner optimizer's defaults."""
        return self.optimizer.defaults

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The inner optimizer's parameter groups."""
        return self.optimizer.param_groups

    @property
    def state(self) -> defaultdict[torch.Tensor, Any]:  # type: ignore[override]
        """The slow weights, by parameter."""
        return self.slow.state

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the inner optimizer, and every ``k`` steps synchronise; return the loss of ``closure``."""
        loss = self.optimizer.step(closure)
        self.steps += 1
        if self.steps % self.k == 0:
            self.slow.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all parameters."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the inner optimizer, with slow weights of its own."""
        self.optimizer.add_param_group(param_group)
        self.slow.add_param_group({"params": self.optimizer.param_groups[-1]["params"]})
        self.slow.remember()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both halves: ``optimizer``, ``slow`` and ``steps``."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state = {
            "optimizer": self.optimizer.state_dict(),
            "slow": self.slow.state_dict(),
            "steps": self.steps,
        }
        for after in self._optimizer_state_dict_post_hooks.values():
            state = after(self, state) or state
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        state = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state = before(self, state) or state
        missing = {"optimizer", "slow", "steps"} - set(state)
        if missing:
            raise ValueError(
                f"not a state of Lookahead: {sorted(missing)} missing; load it in the inner optimizer"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        self.slow.load_state_dict(state["slow"])
        self.steps = state["steps"]
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "k": self.k, "steps": self.steps, "slow": self.slow}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        super().__setstate__({})

    def __repr__(self) -> str:
        return f"Lookahead(k={self.k}, alpha={self.slow.param_groups[0]['alpha']}, {self.optimizer!r})"


def _lookahead_adam(params: Any, lr: float, k: int = 5, alpha: float = 0.5) -> Lookahead:
    return Lookahead(Adam(params, lr), k, alpha)


register(
    Entry(
        "lookahead",
        _lookahead_adam,
        {**space(Adam, "lr"), **space(SlowWeights, "alpha")},
        "Lookahead around Adam",
    )
)
