"""Lookahead: slow weights that follow the fast ones of any optimizer."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.parts import Slot
from fallline.core.plan import plan
from fallline.core.registry import Entry, register
from fallline.core.space import Range
from fallline.core.state import make_state
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import Adam
from fallline.optimizers.settings import space
from fallline.wrappers.wrapper import Companion, Wrapper, check_count


@transform(slots=(Slot("slow", "p"),))
def pull_to_slow(p, slow, *, alpha):
    """Move the slow weights towards the fast ones, and start the fast ones from there."""
    slow = slow + alpha * (p - slow)
    return slow, slow


class SlowWeights(Companion):
    """The second half of Lookahead: one step moves slow and fast weights together; needs no gradient."""

    hyperparameters = (
        Hyperparameter(
            "alpha", 0.5, "share of the way that the slow weights follow", "α", "", low=0, high=1,
            search=Range(0.2, 0.9, "linear"),
        ),
    )  # fmt: skip

    def __init__(self, optimizer: torch.optim.Optimizer, alpha: float):
        super().__init__(optimizer, {"alpha": alpha})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, and take its parameters as they are for slow weights."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            make_state(self.state[p], plan(self.transforms(group)), group, p)

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Move slow and fast weights together."""
        return (pull_to_slow,)


class Lookahead(Wrapper):
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

    owned = ("slow", "steps")

    def __init__(self, optimizer: torch.optim.Optimizer, k: int = 5, alpha: float = 0.5):
        check_count("k", k, 1)
        super().__init__(optimizer)
        self.k, self.steps = k, 0
        self.slow = SlowWeights(optimizer, alpha)

    @property
    def alpha(self) -> float:
        """The share of the way that the slow weights follow."""
        return self.slow.param_groups[0]["alpha"]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the inner optimizer, and every ``k`` steps synchronise; return the loss of ``closure``."""
        loss = self._step_inner(closure)
        self.steps += self.stepped
        if self.stepped and self.steps % self.k == 0:
            self.slow.step()
        return loss


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
