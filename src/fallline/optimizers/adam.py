"""Adam, and its AMSGrad variant."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, sqrt
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import (
    DECOUPLED,
    MAXIMIZE,
    betas,
    epsilon,
    flag,
    learning_rate,
    space,
    weight_decay,
)
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import add_decayed_weights, coupled_decay


@per_tensor()
def bias_corrections(*, step, beta1, beta2):
    """What the averages lack because they started at zero."""
    return dict(bias1=1 - beta1**step, bias2=1 - beta2**step)


def _inverse_root(exp_avg_sq, *, eps, bias2):
    return 1 / (sqrt(exp_avg_sq / bias2) + eps)


def _inverse_root_of_maximum(max_exp_avg_sq, *, eps, bias2):
    return 1 / (sqrt(max_exp_avg_sq / bias2) + eps)


SQUARES = Slot("exp_avg_sq", nonnegative=True)


@transform(slots=("exp_avg", SQUARES), per_tensor=bias_corrections, gain=_inverse_root)
def scale_by_adam(g, exp_avg, exp_avg_sq, *, beta1=0.9, beta2=0.999, eps=1e-8, bias1, bias2):
    """Divide the average of gradients by the root of the average of their squares."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    return (exp_avg / bias1) / (sqrt(exp_avg_sq / bias2) + eps), exp_avg, exp_avg_sq


@transform(
    slots=("exp_avg", SQUARES, Slot("max_exp_avg_sq", nonnegative=True)),
    per_tensor=bias_corrections,
    gain=_inverse_root_of_maximum,
)
def scale_by_amsgrad(
    g, exp_avg, exp_avg_sq, max_exp_avg_sq, *, beta1=0.9, beta2=0.999, eps=1e-8, bias1, bias2
):
    """Divide by the root of the largest average of squares so far (Reddi et al. 2018)."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
    update = (exp_avg / bias1) / (sqrt(max_exp_avg_sq / bias2) + eps)
    return update, exp_avg, exp_avg_sq, max_exp_avg_sq


class Adam(Optimizer):
    r"""Adam: each element's step is its average gradient over the root of its average squared gradient.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 \\
        p_t &= p_{t-1} - \eta\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Weight decay adds :math:`\lambda p_{t-1}` to :math:`g_t`, or with ``decoupled_weight_decay`` to the step
    before :math:`\eta` scales it. With ``amsgrad`` the largest :math:`v` so far replaces :math:`v_t`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element in one step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in units of the gradient.
        weight_decay: :math:`\lambda \ge 0`.
        amsgrad: use the largest average of squares so far.
        maximize: climb instead of descend.
        foreach, fused, capturable, differentiable: as in torch; ``foreach=False, fused=False`` or
            ``differentiable=True`` select the eager backend.
        decoupled_weight_decay: decay as AdamW does.

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_avg_sq``, with amsgrad ``max_exp_avg_sq``, each of the
    parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.Adam([p], lr=0.25)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> round(p.item(), 6)
        0.75

    Source: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980; Reddi et al. 2018 (AMSGrad).
    Differs from torch's: amsgrad may be turned on after training started; the step counter goes on
    counting beyond 2**24.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-8),
        weight_decay(0.0),
        flag("amsgrad", "use the largest average of squares so far"),
        MAXIMIZE,
        DECOUPLED,
    )
    added_later = {
        **Optimizer.added_later, "amsgrad": False, "capturable": False, "fused": None,
        "decoupled_weight_decay": False,
    }  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, foreach=foreach,
                maximize=maximize, capturable=capturable, differentiable=differentiable, fused=fused,
                decoupled_weight_decay=decoupled_weight_decay,
            ),
            **extra,
        )  # fmt: skip

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse mixed betas, and Tensors where torch's foreach refuses them."""
        super().check_together(group)
        first, second = group["betas"][0], group["betas"][1]
        both = [all(isinstance(b, kind) for b in (first, second)) for kind in (float, Tensor)]
        if not any(both):
            raise ValueError("betas must be either both floats or both Tensors; write 0.0 instead of 0")
        if group["foreach"] and not group["capturable"]:
            for name, value in (("lr", group["lr"]), ("betas[0]", first), ("betas[1]", second)):
                if isinstance(value, Tensor):
                    raise ValueError(
                        f"{name} as a Tensor is not supported for capturable=False and foreach=True; "
                        f"leave foreach=None"
                    )

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, the adaptive scaling, decoupled decay, the learning rate."""
        scale = scale_by_amsgrad if group["amsgrad"] else scale_by_adam
        return with_decay(group, scale)


def with_decay(group: Mapping[str, Any], *scaling: Transform) -> tuple[Transform, ...]:
    """Return ``scaling`` and the learning rate, with weight decay before it or, decoupled, after it."""
    if group["weight_decay"] and not group["decoupled_weight_decay"]:
        return add_decayed_weights, *scaling, scale_by_learning_rate
    return with_decoupled_decay(group, *scaling)


def with_decoupled_decay(group: Mapping[str, Any], *scaling: Transform) -> tuple[Transform, ...]:
    """Return ``scaling``, decoupled weight decay if there is any, and the learning rate."""
    return *scaling, *coupled_decay(group), scale_by_learning_rate


register(Entry("adam", Adam, space(Adam, "lr", "beta1", "beta2", "eps"), "Adam"))
