"""Yogi: Adam whose second moment moves by the gradient's square, whatever its own size."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot
from fallline.core.registry import Entry, register
from fallline.core.scalar import sign, sqrt
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import bias_corrections
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, space, weight_decay
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import coupled_decay


def _inverse_root(exp_avg_sq, *, eps, bias2):
    return 1 / (sqrt(exp_avg_sq / bias2) + eps)


@transform(
    slots=("exp_avg", Slot("exp_avg_sq", "initial_accumulator", nonnegative=True)),
    per_tensor=bias_corrections,
    gain=_inverse_root,
)
def scale_by_yogi(g, exp_avg, exp_avg_sq, *, beta1=0.9, beta2=0.999, eps=1e-3, bias1, bias2):
    """Divide the average of gradients by the root of a sum that follows their squares at a bounded speed."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = exp_avg_sq - (1 - beta2) * (sign(exp_avg_sq - g * g) * (g * g))
    return (exp_avg / bias1) / (sqrt(exp_avg_sq / bias2) + eps), exp_avg, exp_avg_sq


class Yogi(Optimizer):
    r"""Yogi: Adam whose second moment falls slowly where gradients become small or sparse.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        v_t = v_{t-1} - (1 - \beta_2) \operatorname{sign}(v_{t-1} - g_t^2)\, g_t^2 \\
        p_t &= p_{t-1} - \eta\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Weight decay adds :math:`\lambda p_{t-1}` to :math:`g_t`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`.
        betas: rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units; the paper recommends 1e-3.
        initial_accumulator: :math:`v_0 \ge 0`, in squared gradient units.
        weight_decay: :math:`\lambda \ge 0`, coupled (L2).
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_avg_sq``, each of the parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.Yogi(model.parameters(), lr=1e-2)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()

    Source: Zaheer et al. 2018, https://papers.nips.cc/paper/8186, algorithm 2.
    Differs from the paper, where the biases are not corrected: here, as in TensorFlow Addons, optax and
    torch-optimizer, they are. As in TensorFlow Addons the average begins at 0; optax and torch-optimizer
    begin it, too, at ``initial_accumulator``. The :math:`\epsilon` stands where theirs and Adam's does, which
    in TensorFlow Addons is smaller by the root of :math:`1 - \beta_2^t`.
    """

    hyperparameters = (
        learning_rate(1e-2, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-3),
        Hyperparameter(
            "initial_accumulator", 1e-6, "starting value of the second moment", "v₀",
            "squared gradient units", low=0,
        ),
        weight_decay(0.0),
        MAXIMIZE,
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-3,
        initial_accumulator: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, eps=eps, initial_accumulator=initial_accumulator,
                weight_decay=weight_decay, maximize=maximize, foreach=foreach, capturable=capturable,
                differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, the scaling, the learning rate."""
        return *coupled_decay(group), scale_by_yogi, scale_by_learning_rate


register(
    Entry("yogi", Yogi, space(Yogi, "lr", "beta1", "beta2", "eps"), "Adam whose second moment falls slowly")
)
