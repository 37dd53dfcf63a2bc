"""Adafactor: second moments of a matrix as rows times columns, and steps relative to the weights."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, line_shape, per_line, per_tensor, summed
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, minimum, sqrt, where
from fallline.core.space import Range
from fallline.core.transform import Transform, transform
from fallline.optimizers.moments import mean, over_rows_and_columns, toward
from fallline.optimizers.settings import MAXIMIZE, learning_rate, space, weight_decay

_EPS = Hyperparameter(
    "eps", (None, 1e-3), "smallest root of the second moment, and smallest size of the weights",
    parts=(
        Hyperparameter(
            "eps1", None, "smallest root of the second moment; None: the spacing of the dtype at 1", "ε₁",
            "gradient units", low=0, complaint="epsilon1 should be >= 0 but is",
        ),
        Hyperparameter(
            "eps2", 1e-3, "smallest root mean square of the weights to step by", "ε₂", "parameter units",
            low=0, search=Range(1e-5, 1e-1, "log"), complaint="epsilon2 should be >= 0 but is",
        ),
    ),
)  # fmt: skip


def squares(g):
    """What rows and columns are summed of."""
    return g * g


@per_line(
    Slot("row_var", shape=partial(line_shape, "row")), Slot("col_var", shape=partial(line_shape, "column")),
    row_scale="row", column_scale="column",
)  # fmt: skip
def factored_rms(
    row_var, col_var, *, row_squares, column_squares, shape, step, beta2_decay, eps1, rounding
):  # fmt: skip
    """The root of the second moment of an element, from averages of mean squares of rows and columns."""
    share = step**beta2_decay
    rows, columns = shape
    row_var = toward(row_var, row_squares / max(columns, 1), share)
    col_var = toward(col_var, column_squares / max(rows, 1), share)
    relative = row_var / mean(row_var, -2).clamp(min=where(eps1 != eps1, rounding, eps1))
    return dict(row_var=row_var, col_var=col_var, row_scale=relative.sqrt(), column_scale=col_var.sqrt())


@transform(slots=(Slot("variance", nonnegative=True, wide=True),))
def scale_by_recent_rms(g, variance, *, beta2_decay=-0.8, eps1=None, step, rounding):
    """Divide by the root of the second moment, in which what is new weighs step ** beta2_decay."""
    share = step**beta2_decay
    variance = (1 - share) * variance + share * (g * g)
    return g / maximum(sqrt(variance), where(eps1 != eps1, rounding, eps1)), variance


@transform(sums=over_rows_and_columns(squares), per_line=factored_rms, vectors=scale_by_recent_rms)
def scale_by_factored_rms(g, row_scale, column_scale, *, beta2_decay=-0.8, eps1=None, rounding):
    """Divide by the root of the second moment, kept as means of rows and columns of the last two dimensions.

    What is new weighs step ** beta2_decay; ``eps1`` is the smallest divisor. Where it is None, which arrives
    as NaN, that is the spacing of the dtype at 1.
    """
    return g / maximum(row_scale * column_scale, where(eps1 != eps1, rounding, eps1))


@summed(over="tensor")
def relative_square_sum(g):
    """The squared norm of the update of one tensor."""
    return g * g


@summed(over="tensor")
def weight_square_sum(p):
    """The squared norm of the tensor."""
    return p * p


@summed(over="tensor")
def weight_count():
    """The number of its elements."""
    return 1.0


@per_tensor()
def relative_step(*, step, lr, d, eps2, relative_square_sum, weight_square_sum, weight_count):
    """The step per unit of update: by the size of the weights, less if the update is too long."""
    size = maximum(eps2, sqrt(weight_square_sum / weight_count))
    clipped = maximum(1.0, sqrt(relative_square_sum / weight_count) / d)
    return dict(rate=size * minimum(lr, 1 / sqrt(step)) / clipped)


@transform(sums=(relative_square_sum, weight_square_sum, weight_count), per_tensor=relative_step)
def scale_by_relative_step(g, p, *, rate, lr, weight_decay=0.0):
    """Multiply by the size of the weights times the learning rate, which falls by the root of the step."""
    return rate * g + lr * weight_decay * p


class Adafactor(Optimizer):
    r"""Adafactor: Adam without momentum, with a second moment that takes next to no memory.

    .. math::
        \rho_t &= t^{\tau}, \qquad
        R_t = (1 - \rho_t) R_{t-1} + \rho_t \operatorname{mean}_c G_t^2, \qquad
        C_t = (1 - \rho_t) C_{t-1} + \rho_t \operatorname{mean}_r G_t^2 \\
        U_t &= \frac{G_t}{\max(\sqrt{R_t C_t / \max(\operatorname{mean}_r R_t, \epsilon_1)}, \epsilon_1)} \\
        \alpha_t &= \max(\epsilon_2, \operatorname{RMS}(p_{t-1})) \min(\eta, 1/\sqrt{t}) \\
        p_t &= p_{t-1} - \eta\lambda p_{t-1} - \frac{\alpha_t}{\max(1, \operatorname{RMS}(U_t)/d)}\, U_t

    with means over the columns :math:`c` and rows :math:`r` of the last two dimensions; vectors keep the
    second moment of every element.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: largest relative step :math:`\eta \ge 0`: the share of its size by which a tensor moves.
        beta2_decay: the power :math:`\tau \le 0` by which the share of the newest gradient falls.
        eps: :math:`\epsilon_1 \ge 0`, the smallest divisor, in gradient units (None: the spacing of the
            parameter's dtype at 1), and :math:`\epsilon_2 \ge 0`, the smallest size of weights to step by.
        d: largest root mean square :math:`d \ge 1` of an update that is not shortened.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        foreach: as in torch.
        maximize: climb instead of descend.

    State: ``step``; of tensors with at least two dimensions ``row_var`` of shape (..., rows, 1) and
    ``col_var`` (..., 1, columns), of others ``variance``; in float32 for narrower parameters.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: a complex parameter or a sparse gradient, at the step.

    Example:
        >>> import torch, fallline
        >>> w = torch.nn.Parameter(torch.full((2, 3), 5.0))
        >>> optimizer = fallline.Adafactor([w], lr=0.01)
        >>> w.grad = torch.tensor([[1.0, 2.0, 3.0], [-10.0, -20.0, -30.0]])  # rank 1: its factors are exact
        >>> optimizer.step()
        >>> [round(x, 4) for x in (w.detach() / 5 - 1).flatten().tolist()]
        [-0.01, -0.01, -0.01, 0.01, 0.01, 0.01]

    Source: Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, algorithms 4 and 5 with relative steps.
    Differs from the paper as torch's does: ``lr`` caps the relative step, ``eps1`` bounds the divisor instead
    of being added to squares. Differs from torch's: in a group of several dtypes the spacing is each
    parameter's own (torch takes the first one's); means of narrow gradients are kept in float32.
    """

    hyperparameters = (
        replace(learning_rate(1e-2, 1e-4, 1e0), complaint="Learning rate should be >= 0 but is"),
        Hyperparameter(
            "beta2_decay", -0.8, "power by which the share of the newest gradient falls", "τ", high=0,
            search=Range(-1.0, -0.5, "linear"), complaint="beta2_decay should be <= 0 but is",
        ),
        _EPS,
        Hyperparameter(
            "d", 1.0, "largest root mean square of an update", "d", low=1,
            complaint="Clipping threshold d should be >= 1 but is",
        ),
        replace(weight_decay(0.0), complaint="weight_decay should be >= 0 but is"),
        MAXIMIZE,
    )  # fmt: skip
    added_later = {"foreach": None}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, beta2_decay=beta2_decay, eps=eps, d=d, weight_decay=weight_decay, foreach=foreach,
                maximize=maximize,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The factored scaling, then the step relative to the weights, clipped, with decay."""
        return scale_by_factored_rms, scale_by_relative_step


register(
    Entry("adafactor", Adafactor, space(Adafactor, "lr", "weight_decay", "beta2_decay"), "Adam, factored")
)
