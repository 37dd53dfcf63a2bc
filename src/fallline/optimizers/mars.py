"""MARS: AdamW on gradients whose noise the last gradient has reduced."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import summed
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, sqrt
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import scale_by_adam, with_decoupled_decay
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, space, weight_decay


@transform(slots=("last_grad",), gain=1.0)
def reduce_variance(g, last_grad, *, beta1, gamma=0.025):
    """Add a share of the change since the last gradient, which is taken to have been 0 before the first."""
    return g + gamma * (beta1 / (1 - beta1)) * (g - last_grad), g


@summed(over="tensor")
def corrected_square_sum(g):
    """The squared norm of a tensor's corrected gradient."""
    return g * g


def _share_of_unit_norm(*, corrected_square_sum):
    return 1 / maximum(1.0, sqrt(corrected_square_sum))


@transform(sums=(corrected_square_sum,), gain=_share_of_unit_norm)
def clip_by_unit_norm(g, *, corrected_square_sum):
    """Shorten the gradient of each tensor to norm 1 if it is longer."""
    return g / maximum(1.0, sqrt(corrected_square_sum))


class MARS(Optimizer):
    r"""MARS-AdamW: AdamW on a gradient corrected by its change since the last step.

    .. math::
        c_t &= g_t + \gamma\, \frac{\beta_1}{1 - \beta_1}\, (g_t - g_{t-1}), \qquad g_0 = 0, \qquad
        \tilde c_t = \frac{c_t}{\max(1, \lVert c_t \rVert)} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, \tilde c_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, \tilde c_t^2 \\
        p_t &= p_{t-1} - \eta \left( \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}
             + \lambda p_{t-1} \right)

    where the norm is that of one tensor.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element in one step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        gamma: strength :math:`\gamma \ge 0` of the correction; 0 is AdamW with clipping.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch; the norm is a sum, which nothing is differentiated
            through.

    State: ``step`` (0-d float32), ``last_grad``, ``exp_avg``, ``exp_avg_sq``, each of the parameter's shape
    and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.MARS(model.parameters(), lr=3e-3)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()

    Source: Yuan et al. 2024, https://arxiv.org/abs/2411.10438, MARS-AdamW with approximate gradients.
    Differs from the authors': every tensor is stepped so, as by their ``optimize_1d=True``; they leave all
    but matrices to AdamW by default, which here is `fallline.route`. Only ``mars_type="mars-adamw"`` with
    ``is_approx=True``, their defaults.
    """

    hyperparameters = (
        learning_rate(3e-3, 1e-4, 3e-1),
        betas(0.95, 0.99),
        epsilon(1e-8),
        weight_decay(0.0),
        Hyperparameter("gamma", 0.025, "strength of the variance reduction", "γ", "", low=0),
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 3e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
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
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, gamma=gamma, maximize=maximize,
                foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The correction, clipping, then AdamW's chain."""
        return with_decoupled_decay(group, reduce_variance, clip_by_unit_norm, scale_by_adam)


register(
    Entry("mars", MARS, space(MARS, "lr", "weight_decay", "beta1", "beta2"), "AdamW on less noisy gradients")
)
