"""NAdam: Adam with Nesterov's momentum."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor
from fallline.core.registry import Entry, register
from fallline.core.scalar import single, sqrt
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import with_decay
from fallline.optimizers.settings import (
    DECOUPLED,
    MAXIMIZE,
    betas,
    epsilon,
    learning_rate,
    space,
    weight_decay,
)


@per_tensor(mu_product=1.0)
def nesterov_weights(mu_product, *, step, beta1, beta2, momentum_decay):
    """The weights of gradient and average, from a momentum that grows towards ``beta1``."""
    mu = beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
    mu_product = single(mu_product * single(mu))
    return dict(
        mu_product=mu_product,
        of_gradient=(1 - mu) / (1 - mu_product),
        of_average=mu_next / (1 - mu_product * mu_next),
        bias2=1 - beta2**step,
    )


def _weights_over_root(exp_avg_sq, *, step, beta1, eps, of_gradient, of_average, bias2):
    return (of_gradient + of_average * (1 - beta1**step)) / (sqrt(exp_avg_sq / bias2) + eps)


@transform(
    slots=("exp_avg", Slot("exp_avg_sq", nonnegative=True)),
    per_tensor=nesterov_weights,
    gain=_weights_over_root,
)
def scale_by_nadam(g, exp_avg, exp_avg_sq, *, beta1, beta2, eps, of_gradient, of_average, bias2):
    """Divide the average of gradients, looked one step ahead, by the root of the average of squares."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    ahead = of_gradient * g + of_average * exp_avg
    return ahead / (sqrt(exp_avg_sq / bias2) + eps), exp_avg, exp_avg_sq


class NAdam(Optimizer):
    r"""NAdam: Adam that takes its momentum one step ahead, as Nesterov does.

    .. math::
        \mu_t &= \beta_1 \left(1 - \tfrac12\, 0.96^{t \psi}\right), \qquad
        \hat m_t = \frac{(1 - \mu_t)\, g_t}{1 - \prod_{i \le t} \mu_i}
                 + \frac{\mu_{t+1}\, m_t}{1 - \prod_{i \le t+1} \mu_i} \\
        p_t &= p_{t-1} - \eta\, \frac{\hat m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    with :math:`m_t, v_t` as in `Adam`. Weight decay adds :math:`\lambda p_{t-1}` to :math:`g_t`, or with
    ``decoupled_weight_decay`` to the step.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element in one step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`.
        momentum_decay: :math:`\psi \ge 0`, how fast the momentum grows, per step.
        decoupled_weight_decay: decay as AdamW does.
        foreach, maximize, capturable, differentiable: as in torch.

    State: ``step``, ``mu_product`` (0-d float32), ``exp_avg``, ``exp_avg_sq`` of each parameter's shape and
    dtype. ``mu_product`` is rounded to float32 in every step, as in torch.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.NAdam(model.parameters(), lr=2e-3)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()

    Source: Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ.
    Differs from torch's: nothing but speed.
    """

    hyperparameters = (
        learning_rate(2e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-8),
        weight_decay(0.0),
        Hyperparameter("momentum_decay", 4e-3, "how fast the momentum grows", "ψ", "per step", low=0),
        DECOUPLED,
        MAXIMIZE,
    )
    added_later = {**Optimizer.added_later, "capturable": False, "decoupled_weight_decay": False}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay,
                decoupled_weight_decay=decoupled_weight_decay, maximize=maximize, foreach=foreach,
                capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Adam's chain with the momentum looked ahead."""
        return with_decay(group, scale_by_nadam)


register(Entry("nadam", NAdam, space(NAdam, "lr", "beta1", "beta2", "eps"), "Adam with Nesterov's momentum"))
