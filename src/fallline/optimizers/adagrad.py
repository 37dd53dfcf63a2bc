"""Adagrad: steps that shrink with the sum of squared gradients."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor
from fallline.core.plan import plan
from fallline.core.registry import Entry, register
from fallline.core.scalar import sqrt
from fallline.core.space import Range
from fallline.core.sparsity import Sparse
from fallline.core.state import make_state
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import MAXIMIZE, epsilon, learning_rate, space, weight_decay
from fallline.penalties.decay import coupled_decay


@per_tensor()
def decayed_learning_rate(*, step, lr, lr_decay):
    """The learning rate after ``step - 1`` steps of decay."""
    return dict(rate=lr / (1 + (step - 1) * lr_decay))


def _rate_over_root(sum, *, eps, rate):
    return rate / (sqrt(sum) + eps)


@transform(
    slots=(Slot("sum", "initial_accumulator_value", nonnegative=True),),
    per_tensor=decayed_learning_rate,
    gain=_rate_over_root,
)
def scale_by_root_sum_of_squares(g, sum, *, eps, rate):
    """Divide by the root of the sum of squares so far, and multiply by the learning rate."""
    sum = sum + g * g
    return rate * g / (sqrt(sum) + eps), sum


class Adagrad(Optimizer):
    r"""Adagrad: each element's learning rate falls with the root of its summed squared gradients.

    .. math::
        s_t = s_{t-1} + g_t^2, \qquad
        p_t = p_{t-1} - \frac{\eta}{1 + (t-1)\,\gamma}\, \frac{g_t}{\sqrt{s_t} + \epsilon}

    Weight decay adds :math:`\lambda p_{t-1}` to :math:`g_t`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; the change of an element in its first step.
        lr_decay: :math:`\gamma \ge 0`.
        weight_decay: :math:`\lambda \ge 0`, coupled (L2).
        initial_accumulator_value: :math:`s_0 \ge 0`, in squared gradient units.
        eps: :math:`\epsilon \ge 0`, in gradient units.
        maximize: climb instead of descend.
        foreach, differentiable, fused: as in torch.

    State, made by the constructor: ``step`` (0-d float32) and ``sum`` of each parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.Adagrad([p], lr=0.25)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> p.item()
        0.75

    Source: Duchi, Hazan and Singer 2011, https://jmlr.org/papers/v12/duchi11a.html.
    Differs from torch's: parameter groups may be added later.
    """

    hyperparameters = (
        learning_rate(1e-2, 1e-3, 1e0),
        Hyperparameter("lr_decay", 0.0, "decay of the learning rate per step", "γ", "per step", low=0),
        weight_decay(0.0),
        Hyperparameter(
            "initial_accumulator_value", 0.0, "starting value of the sum of squares", "s₀",
            "squared gradient units", low=0, search=Range(1e-6, 1e0, "log"),
        ),
        epsilon(1e-10),
        MAXIMIZE,
    )  # fmt: skip
    added_later = {**Optimizer.added_later, "fused": None}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay,
                initial_accumulator_value=initial_accumulator_value, foreach=foreach, maximize=maximize,
                differentiable=differentiable, fused=fused,
            ),
            **extra,
        )  # fmt: skip
        for group in self.param_groups:
            for p in group["params"]:
                make_state(self.state[p], plan(self.transforms(group)), group, p)

    def share_memory(self) -> None:
        """Move the state to shared memory, for training in several processes."""
        for state in self.state.values():
            state["sum"].share_memory_()
        self._dispatches = ()

    def takes_sparse(self, group: Mapping[str, Any]) -> Sparse | None:
        """Take sparse gradients unless weight decay makes every step dense, as torch does."""
        return super().takes_sparse(group) or (None if group["weight_decay"] else "dense")

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, then the adaptive scaling with its own learning rate."""
        return *coupled_decay(group), scale_by_root_sum_of_squares


register(Entry("adagrad", Adagrad, space(Adagrad, "lr", "initial_accumulator_value"), "Adagrad"))
