"""SparseAdam: Adam on the rows that a sparse gradient touches."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Unpack

from torch import Tensor

from fallline.core.errors import RuleError
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import STEP, Slot, per_tensor
from fallline.core.plan import plan
from fallline.core.scalar import sqrt
from fallline.core.schedule import follows
from fallline.core.sparsity import Sparse, leaves_the_rest_alone
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate


@per_tensor()
def corrected_learning_rate(*, step, lr, beta1, beta2):
    """The learning rate, with what the averages lack because they started at zero."""
    return dict(rate=lr * sqrt(1 - beta2**step) / (1 - beta1**step))


@transform(slots=("exp_avg", Slot("exp_avg_sq", nonnegative=True)), per_tensor=corrected_learning_rate)
def scale_by_sparse_adam(g, exp_avg, exp_avg_sq, *, beta1, beta2, eps, rate):
    """Divide the averages by the root of that of squares, which is not corrected before eps is added."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    return rate * exp_avg / (sqrt(exp_avg_sq) + eps), exp_avg, exp_avg_sq


class OfRows(Optimizer):
    """An optimizer whose step is defined on the rows that a sparse gradient touches, and on no others."""

    added_later = {"maximize": False}
    #: The optimizer that takes dense gradients instead.
    of_all_rows = ""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, after a look at its parameters."""
        params = param_group.get("params", set()) if isinstance(param_group, dict) else set()
        if not isinstance(params, set):  # torch refuses a set
            params = [params] if isinstance(params, Tensor) else list(params)
            self._refuse_params([p[1] if isinstance(p, tuple) else p for p in params])
            param_group = {**param_group, "params": params}
        super().add_param_group(param_group)

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse transforms that move what the gradient does not touch."""
        super().check_together(group)
        around = (*self.before, *self.after)
        if around and not leaves_the_rest_alone(plan(around)):
            names = ", ".join(t.name for t in around)
            raise RuleError(
                f"{type(self).__name__} looks at touched rows alone, and with {names} others would have to "
                f"move; leave that out, or use {self.of_all_rows} with Embedding(..., sparse=False)"
            )

    def takes_sparse(self, group: Mapping[str, Any]) -> Sparse:
        """Take the rows of sparse gradients."""
        return "rows"

    def refuses_dense(self, group: Mapping[str, Any]) -> str:
        """Refuse dense gradients, as torch does."""
        return f"please consider {self.of_all_rows} instead"

    def state_dict(self) -> dict[str, Any]:
        """Return state and groups as torch does, the number of steps as an int."""
        packed = super().state_dict()
        for key, kept in packed["state"].items():
            packed["state"][key] = {**kept, STEP: int(kept[STEP])} if STEP in kept else kept
        return packed

    def _refuse_params(self, params: list[Any]) -> None:
        name, places = type(self).__name__, [[len(self.param_groups), i] for i in range(len(params))]
        tensors = [(at, p) for at, p in zip(places, params, strict=True) if isinstance(p, Tensor)]
        if found := [at for at, p in tensors if p.is_sparse]:
            raise ValueError(f"Sparse params at indices {found}: {name} requires dense parameter tensors")
        if found := [at for at, p in tensors if p.is_complex()]:
            raise ValueError(f"Complex params at indices {found}: {name} does not support complex parameters")


class SparseAdam(OfRows):
    r"""SparseAdam: Adam that leaves alone what the gradient does not touch, averages included.

    In each row that the sparse gradient has, whatever its values are,

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 \\
        p_t &= p_{t-1} - \eta\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\, \frac{m_t}{\sqrt{v_t} + \epsilon}

    and all other rows stay, so that a step costs as much as it has rows. :math:`t` counts the steps of the
    parameter, not of the row.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs; what an ``nn.Embedding(sparse=True)`` has.
        lr: learning rate :math:`\eta > 0`; about the change of an element in one step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon > 0`, in units of the gradient.
        maximize: climb instead of descend.

    State: ``step`` (an int in `state_dict`), ``exp_avg``, ``exp_avg_sq``, each of the parameter's shape and
    dtype.

    Raises:
        ValueError: a setting out of range; a parameter that is complex or sparse itself.
        RuleError: transforms around the rule that would move other rows.
        RuntimeError: a dense gradient, at the step.

    Example:
        >>> import torch, fallline
        >>> words = torch.nn.Embedding(1000, 8, sparse=True)
        >>> optimizer = fallline.SparseAdam(words.parameters(), lr=0.25)
        >>> before = words.weight.detach().clone()
        >>> words(torch.tensor([5, 7, 5])).sum().backward()
        >>> optimizer.step()
        >>> (words.weight != before).any(dim=1).nonzero().flatten().tolist()
        [5, 7]

    Source: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, the rows as in torch.
    Differs from torch's: parameters added later are looked at, too. Differs from `Adam`: a row does not go on
    moving by its momentum, and eps is added before the averages are corrected.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-8),
        MAXIMIZE,
    )
    of_all_rows = "Adam"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        **extra: Unpack[Extra],
    ):
        for h, value in zip((self.hyperparameters[0], self.hyperparameters[2]), (lr, eps), strict=True):
            if not follows(value):
                replace(h, open_low=True).check(value)
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, maximize=maximize), **extra)

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The adaptive scaling, the learning rate included."""
        return (scale_by_sparse_adam,)
