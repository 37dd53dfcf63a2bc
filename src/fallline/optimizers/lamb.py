"""LAMB: AdamW whose step on each tensor is as long as its weights."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.registry import Entry, register
from fallline.core.transform import Transform
from fallline.optimizers.adam import scale_by_adam
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, space, weight_decay
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.optimizers.trust_ratio import scale_by_trust_ratio
from fallline.penalties.decay import coupled_decay


class LAMB(Optimizer):
    r"""LAMB: every tensor moves by the same share of its length, in the direction of AdamW.

    .. math::
        u_t = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda p_{t-1}, \qquad
        p_t = p_{t-1} - \eta\, \frac{\lVert p_{t-1} \rVert}{\lVert u_t \rVert}\, u_t

    with :math:`\hat m_t, \hat v_t` as in `Adam`; the norms are those of one tensor, and where either is 0
    their ratio counts as 1.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; the share of its length by which a tensor moves.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`; it changes the direction of the step and not its length.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch; norms are sums, which nothing is differentiated
            through.

    State: as `AdamW`, whose state loads.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = fallline.LAMB([p], lr=0.1, weight_decay=0.0)
        >>> p.grad = torch.tensor([2.0, -7.0])
        >>> optimizer.step()
        >>> round((p.detach() - torch.tensor([3.0, 4.0])).norm().item(), 4)
        0.5

    Source: You et al. 2020, https://arxiv.org/abs/1904.00962, algorithm 2.
    Differs from the authors' code for BERT, which leaves the bias corrections of algorithm 2 out, and from
    NVIDIA's, which also clips the global norm, as ``before=[clip_by_global_norm(1.0)]`` does here.
    The paper's bounds on the norm of the weights are left open, as in optax; biases and scales of norms are
    best put into a group of another optimizer.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-6),
        weight_decay(1e-2),
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
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
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, foreach=foreach,
                capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Adam's scaling, decay, the trust ratio, the learning rate."""
        return scale_by_adam, *coupled_decay(group), scale_by_trust_ratio, scale_by_learning_rate


register(
    Entry("lamb", LAMB, space(LAMB, "lr", "weight_decay", "beta1", "beta2"), "AdamW scaled to the weights")
)
