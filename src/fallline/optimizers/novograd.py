"""NovoGrad: momentum of gradients over the running norm of their tensor."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import per_tensor, summed
from fallline.core.registry import Entry, register
from fallline.core.scalar import sqrt, where
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import (
    MAXIMIZE,
    decay_rates,
    epsilon,
    learning_rate,
    space,
    weight_decay,
)
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import coupled_decay


@summed(over="tensor")
def normed_square_sum(g):
    """The squared norm of the gradient of one tensor."""
    return g * g


@per_tensor(exp_avg_sq=0.0)
def second_moment_of_tensor(exp_avg_sq, *, beta2, normed_square_sum):
    """The running squared norm, which begins with the first that is not 0."""
    running = beta2 * exp_avg_sq + (1 - beta2) * normed_square_sum
    exp_avg_sq = where(exp_avg_sq > 0, running, normed_square_sum)
    return dict(exp_avg_sq=exp_avg_sq, norm=sqrt(exp_avg_sq))


def _inverse_norm(*, eps, norm):
    return 1 / (norm + eps)


@transform(sums=(normed_square_sum,), per_tensor=second_moment_of_tensor, gain=_inverse_norm)
def scale_by_running_norm(g, *, eps=1e-8, norm):
    """Divide by the root of the running squared norm of the tensor."""
    return g / (norm + eps)


def _sum_of_shares(*, beta1):
    """What an update adds to all later ones together; it is the gain once the sum has grown."""
    return 1 / (1 - beta1)


@transform(slots=("exp_avg",), gain=_sum_of_shares)
def sum_with_decay(g, exp_avg, *, beta1=0.95):
    """Replace the update by the sum of all so far, each weighed by its age."""
    exp_avg = beta1 * exp_avg + g
    return exp_avg, exp_avg


class NovoGrad(Optimizer):
    r"""NovoGrad: SGD with momentum on gradients that each tensor's own norm has been divided out of.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) \lVert g_t \rVert^2, \qquad v_1 = \lVert g_1 \rVert^2 \\
        m_t &= \beta_1 m_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon} + \lambda p_{t-1}, \qquad
        p_t = p_{t-1} - \eta\, m_t

    where the norm is that of one tensor.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, added where gradients have been normalised.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch; the norm is a sum, which nothing is differentiated
            through.

    State: ``exp_avg_sq`` (0-d float32, one number per tensor), ``exp_avg`` of each parameter's shape and
    dtype: half of Adam's.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = fallline.NovoGrad([p], lr=0.5)
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> optimizer.step()
        >>> [round(x, 4) for x in p.tolist()]
        [0.7, 0.6]

    Source: Ginsburg et al. 2019, https://arxiv.org/abs/1905.11286, algorithm 1.
    Differs from NVIDIA's: its ``grad_averaging`` and ``amsgrad``, off by default, are left out, and ``betas``
    default to the paper's (0.95, 0.98) in place of (0.95, 0).
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 1e0),
        decay_rates((0.95, "sum of updates"), (0.98, "average of squared norms")),
        epsilon(1e-8),
        weight_decay(0.0),
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
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
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, foreach=foreach,
                capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The normalised gradient, decay, the sum, the learning rate."""
        return scale_by_running_norm, *coupled_decay(group), sum_with_decay, scale_by_learning_rate


register(
    Entry(
        "novograd",
        NovoGrad,
        space(NovoGrad, "lr", "weight_decay", "beta1", "beta2"),
        "momentum over the norm of each tensor",
    )
)
