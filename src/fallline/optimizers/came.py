"""CAME: Adafactor with momentum, which goes less far where updates disagree with it."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.registry import Entry, register
from fallline.core.space import Range
from fallline.core.transform import Shape, Slot, Transform, transform
from fallline.optimizers.adam import with_decoupled_decay
from fallline.optimizers.moments import factors, in_parts, itself, mean, root_mean_square, toward
from fallline.optimizers.settings import MAXIMIZE, decay_rates, learning_rate, space, weight_decay

_EPS = Hyperparameter(
    "eps", (1e-30, 1e-16), "added to squares of gradients, and of deviations",
    parts=(
        Hyperparameter("eps1", 1e-30, "added to squares of gradients", "ε₁", "squared gradient units", low=0),
        Hyperparameter("eps2", 1e-16, "added to squared deviations of updates", "ε₂", low=0),
    ),
)  # fmt: skip


def _rows(shape: Shape) -> Shape | None:
    return shape[:-1] if len(shape) > 1 else None


def _columns(shape: Shape) -> Shape | None:
    return (*shape[:-2], shape[-1]) if len(shape) > 1 else None


def _vectors(shape: Shape) -> Shape | None:
    return shape if len(shape) < 2 else None


def averaged(
    squares: tuple[Tensor, Tensor], rows: Tensor, columns: Tensor, beta: Any, eps: Any
) -> tuple[Tensor, Tensor]:
    """Return the averages of mean ``squares`` plus ``eps`` of each row and of each column."""
    row, column = squares
    return (
        toward(rows, row.squeeze(-1) + eps, 1 - beta),
        toward(columns, column.squeeze(-2) + eps, 1 - beta),
    )


def inverse_roots(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return one over the root of the second moment with these means as factors of rows and of columns."""
    share = (rows / rows.mean(-1, keepdim=True)).rsqrt()
    return share.unsqueeze(-1), columns.rsqrt().unsqueeze(-2)


def product(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return ``x`` times both factors."""
    return x * row * column


@transform(
    whole=True,
    slots=(
        "exp_avg", Slot("exp_avg_sq", shape=_vectors),
        Slot("exp_avg_sq_row", shape=_rows), Slot("exp_avg_sq_col", shape=_columns),
        Slot("exp_avg_res_row", shape=_rows), Slot("exp_avg_res_col", shape=_columns),
    ),
)  # fmt: skip
def scale_by_came(
    g, exp_avg, exp_avg_sq, exp_avg_sq_row, exp_avg_sq_col, exp_avg_res_row, exp_avg_res_col, *,
    beta1=0.9, beta2=0.999, beta3=0.9999, eps1=1e-30, eps2=1e-16, clip_threshold=1.0,
):  # fmt: skip
    """Average clipped updates of Adafactor; divide by the root of their squared distance from it."""
    if exp_avg_sq is not None:
        exp_avg_sq = toward(exp_avg_sq, g * g + eps1, 1 - beta2)
        update = g * exp_avg_sq.rsqrt()
        length = (root_mean_square(update) / clip_threshold).clamp(min=1.0)
        exp_avg = toward(exp_avg, update / length, 1 - beta1)
        return exp_avg, exp_avg, exp_avg_sq, None, None, None, None
    rows, columns = averaged(factors(itself, g), exp_avg_sq_row, exp_avg_sq_col, beta2, eps1)
    update = g, *inverse_roots(rows, columns)
    mean_square = mean(factors(product, *update)[0].flatten(1), 1).reshape(-1, *(1 for _ in g.shape[1:]))
    length = (mean_square.sqrt() / clip_threshold).clamp(min=1.0)
    exp_avg = in_parts(
        lambda m, n, *update: toward(m, product(*update) / n, 1 - beta1), exp_avg, length, *update
    )
    deviations = factors(lambda m, n, *update: product(*update) / n - m, exp_avg, length, *update)
    residual = averaged(deviations, exp_avg_res_row, exp_avg_res_col, beta3, eps2)
    relative = in_parts(product, exp_avg, *inverse_roots(*residual))
    return relative, exp_avg, None, rows, columns, *residual


class CAME(Optimizer):
    r"""CAME: the average of Adafactor's updates, divided by how far single updates are from it.

    .. math::
        \hat u_t &= \frac{g_t}{\sqrt{V(g_t^2 + \epsilon_1; \beta_2)}}, \qquad
        u_t = \frac{\hat u_t}{\max(1, \operatorname{RMS}(\hat u_t) / d)}, \qquad
        m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, u_t \\
        p_t &= p_{t-1} - \eta \left(
            \frac{m_t}{\sqrt{V((u_t - m_t)^2 + \epsilon_2; \beta_3)}} + \lambda p_{t-1} \right)

    where :math:`V(x_t; \beta) = R_t C_t / \operatorname{mean}(R_t)` with the averages :math:`R_t` and
    :math:`C_t`, at the rate :math:`\beta`, of the means of :math:`x_t` over columns and over rows of the last
    two dimensions. For vectors :math:`V` in the first line is the average of every element, and the second
    root is left out.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element in one step.
        eps: :math:`(\epsilon_1, \epsilon_2)`, each :math:`\ge 0`, in units of squared gradients and updates.
        clip_threshold: largest root mean square :math:`d > 0` of an update that is not shortened.
        betas: decay rates :math:`(\beta_1, \beta_2, \beta_3)`, each in [0, 1).
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``exp_avg`` of each parameter's shape; of tensors with at least two dimensions ``exp_avg_sq_row``,
    ``exp_avg_sq_col``, ``exp_avg_res_row``, ``exp_avg_res_col``, of others ``exp_avg_sq``; all but the first
    in float32 for narrower parameters.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: a complex parameter or a sparse gradient, at the step.

    Example:
        >>> import torch, fallline
        >>> w = torch.nn.Parameter(torch.zeros(2, 2))
        >>> optimizer = fallline.CAME([w], lr=0.01)
        >>> for _ in range(200):
        ...     w.grad = w.detach() - torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        ...     optimizer.step()
        >>> bool((w > 0.5).all())
        True

    Source: Luo et al. 2023, https://arxiv.org/abs/2307.02047, algorithm 2.
    Differs from the paper as the authors' code does, with which we agree: updates are clipped, averages start
    at zero without correction, and vectors have no second root. Differs from it in keeping neither ``step``
    nor ``RMS``, which no formula reads.
    """

    hyperparameters = (
        learning_rate(2e-4, 1e-5, 1e-1),
        _EPS,
        Hyperparameter(
            "clip_threshold", 1.0, "largest root mean square of an update", "d", low=0, open_low=True,
            search=Range(1e-1, 1e1, "log"),
        ),
        decay_rates(
            (0.9, "average of updates"), (0.999, "average of squared gradients"),
            (0.9999, "average of squared deviations"),
        ),
        weight_decay(0.0),
        MAXIMIZE,
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-4,
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
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
                lr=lr, eps=eps, clip_threshold=clip_threshold, betas=betas, weight_decay=weight_decay,
                maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The confident average, decoupled decay, the learning rate."""
        return with_decoupled_decay(group, scale_by_came)


register(
    Entry("came", CAME, space(CAME, "lr", "weight_decay", "beta1", "beta2"), "Adafactor with confidence")
)
