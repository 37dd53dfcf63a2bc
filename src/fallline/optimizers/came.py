"""CAME: Adafactor with momentum, which goes less far where updates disagree with it."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Shape, Slot, per_line, summed
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, sqrt
from fallline.core.space import Range
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import with_decoupled_decay
from fallline.optimizers.moments import mean, over_rows_and_columns, toward
from fallline.optimizers.settings import MAXIMIZE, decay_rates, learning_rate, space, weight_decay

_EPS = Hyperparameter(
    "eps", (1e-30, 1e-16), "added to squares of gradients, and of deviations",
    parts=(
        Hyperparameter("eps1", 1e-30, "added to squares of gradients", "ε₁", "squared gradient units", low=0),
        Hyperparameter("eps2", 1e-16, "added to squared deviations of updates", "ε₂", low=0),
    ),
)  # fmt: skip


def _rows(shape: Shape) -> Shape:
    return shape[:-1]


def _columns(shape: Shape) -> Shape:
    return (*shape[:-2], *shape[-1:])


def averaged(
    averages: tuple[Tensor, Tensor], squares: tuple[Tensor, Tensor], shape: Shape, beta: Any, eps: Any
) -> tuple[Tensor, Tensor]:
    """Return the averages of the means of rows and of columns, from sums of ``squares``, plus ``eps``."""
    row, column = squares
    return (
        toward(averages[0], row.squeeze(-1) / max(shape[-1], 1) + eps, 1 - beta),
        toward(averages[1], column.squeeze(-2) / max(shape[-2], 1) + eps, 1 - beta),
    )


def inverse_roots(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return one over the root of the second moment with these means as factors of rows and of columns."""
    share = (rows / mean(rows, -1)).rsqrt()
    return share.unsqueeze(-1), columns.rsqrt().unsqueeze(-2)


def squares(g):
    """The square of an update."""
    return g * g


@per_line(
    Slot("exp_avg_sq_row", shape=_rows), Slot("exp_avg_sq_col", shape=_columns),
    row_scale="row", column_scale="column",
)  # fmt: skip
def second_moment(exp_avg_sq_row, exp_avg_sq_col, *, row_squares, column_squares, shape, beta2, eps1):
    """One over the root of the average of squares, as a factor of the row and one of the column."""
    row, column = averaged(
        (exp_avg_sq_row, exp_avg_sq_col), (row_squares, column_squares), shape, beta2, eps1
    )
    row_scale, column_scale = inverse_roots(row, column)
    return dict(exp_avg_sq_row=row, exp_avg_sq_col=column, row_scale=row_scale, column_scale=column_scale)


@transform(slots=(Slot("exp_avg_sq", nonnegative=True, wide=True),))
def scale_by_root_mean_square(g, exp_avg_sq, *, beta2=0.999, eps1=1e-30):
    """Divide by the root of the average of squares."""
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g + eps1)
    return g / sqrt(exp_avg_sq), exp_avg_sq


@transform(sums=over_rows_and_columns(squares), per_line=second_moment, vectors=scale_by_root_mean_square)
def scale_by_factored_moment(g, row_scale, column_scale, *, beta2=0.999, eps1=1e-30):
    """Divide by the root of the average of squares, of matrices as the product of a row's and a column's."""
    return g * (row_scale * column_scale)


@summed(over="tensor")
def update_squares(g):
    """The squared norm of the update of one tensor."""
    return g * g


@summed(over="tensor")
def update_elements():
    """The number of its elements."""
    return 1.0


@transform(sums=(update_squares, update_elements))
def clip_by_threshold(g, *, clip_threshold=1.0, update_squares, update_elements):
    """Shorten the update of each tensor to the root mean square ``clip_threshold`` if it is larger."""
    return g / maximum(1.0, sqrt(update_squares / update_elements) / clip_threshold)


def deviations(g, exp_avg, *, beta1):
    """The squared distance of an update from the average that it joins."""
    return (beta1 * (g - exp_avg)) * (beta1 * (g - exp_avg))


@per_line(
    Slot("exp_avg_res_row", shape=_rows), Slot("exp_avg_res_col", shape=_columns),
    row_trust="row", column_trust="column",
)  # fmt: skip
def confidence(exp_avg_res_row, exp_avg_res_col, *, row_deviations, column_deviations, shape, beta3, eps2):
    """One over the root of the average of squared deviations, as factors of the row and of the column."""
    row, column = averaged(
        (exp_avg_res_row, exp_avg_res_col), (row_deviations, column_deviations), shape, beta3, eps2
    )
    row_trust, column_trust = inverse_roots(row, column)
    return dict(exp_avg_res_row=row, exp_avg_res_col=column, row_trust=row_trust, column_trust=column_trust)


@transform(slots=("exp_avg",))
def average_updates(g, exp_avg, *, beta1=0.9):
    """Replace the update by its running average."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    return exp_avg, exp_avg


@transform(
    slots=("exp_avg",), sums=over_rows_and_columns(deviations), per_line=confidence,
    vectors=average_updates,
)  # fmt: skip
def scale_by_confidence(g, exp_avg, row_trust, column_trust, *, beta1=0.9, beta3=0.9999, eps2=1e-16):
    """Replace the update by its running average; of matrices divided by the root of squared deviations."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    return exp_avg * (row_trust * column_trust), exp_avg


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
        foreach, capturable, differentiable: as in torch; the norm of an update is a sum, which nothing is
            differentiated through.

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
        """Adafactor's scaling and clipping, the confident average, decoupled decay, the learning rate."""
        return with_decoupled_decay(group, scale_by_factored_moment, clip_by_threshold, scale_by_confidence)


register(
    Entry("came", CAME, space(CAME, "lr", "weight_decay", "beta1", "beta2"), "Adafactor with confidence")
)
