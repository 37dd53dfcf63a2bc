"""Shampoo: gradients divided by roots of the products of a matrix's rows, and of its columns."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from math import ceil
from typing import Any, Unpack

import torch
from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Shape, Slot
from fallline.core.registry import Entry, register
from fallline.core.transform import Transform, transform
from fallline.optimizers import settings
from fallline.optimizers.adam import with_decoupled_decay
from fallline.optimizers.muon import matrices
from fallline.optimizers.preconditioning import Factors, grams, inverse_root, matrix_shape, moved, multiply
from fallline.optimizers.settings import DECOUPLED, MAXIMIZE, epsilon, learning_rate, space, weight_decay
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import coupled_decay

BLOCK_SIZE = 1024
#: Whose steps on each tensor give the length: nobody's, those of the average gradient, or of Adam.
GRAFTINGS = NONE, SGD, ADAM = "none", "sgd", "adam"

_betas = settings.betas(0.9, 0.999)
_BETAS = replace(_betas, parts=(_betas.parts[0], replace(_betas.parts[1], open_high=False)))


def pieces(n: int, block_size: int) -> tuple[int, int]:
    """Return into how many pieces of which equal length a side is divided; the last may be cut short."""
    count = max(1, ceil(n / max(1, block_size)))
    return count, ceil(n / count)


def blocked(axis: int, block_size: int, shape: Shape) -> Shape | None:
    """Return the shape of one side's statistics: for each block a square; vectors have those of rows."""
    if axis == 1 and len(shape) < 2:
        return None
    sides = [pieces(n, block_size) for n in matrix_shape(shape)]
    return (sides[0][0], sides[1][0], sides[axis][1], sides[axis][1])


def absent(shape: Shape) -> None:
    """Say of any tensor that it has no such state."""


@cache
def preconditioning(block_size: int, grafting: str) -> Transform:
    """Return the rule for blocks up to ``block_size``, with steps as long as those of another method."""
    rows, columns = (partial(blocked, axis, block_size) for axis in (0, 1))
    lengthened = {NONE: alone, SGD: as_long_as, ADAM: as_long_as}[grafting]

    @transform(
        whole="products",
        slots=(
            Slot("exp_avg"),
            Slot("exp_avg_sq", shape=None if grafting == ADAM else absent),
            Slot("gram_rows", shape=rows),
            Slot("gram_columns", shape=columns),
            Slot("root_rows", shape=rows),
            Slot("root_columns", shape=columns),
        ),
    )
    def scale_by_shampoo(
        g, exp_avg, exp_avg_sq, gram_rows, gram_columns, root_rows, root_columns, *, beta1, beta2, eps,
        grafting_eps, precondition_frequency, start_preconditioning_step, inverse_exponent_override, step,
        fresh,
    ):  # fmt: skip
        """Multiply the average gradient by the inverse roots of both sides' statistics."""
        exp_avg = moved(exp_avg, g, beta1)
        update, lacking = exp_avg / (1 - beta1**step), 1 - beta2**step if beta2 < 1 else 1.0
        other = update
        if exp_avg_sq is not None:
            exp_avg_sq = moved(exp_avg_sq, g * g, beta2)
            other = update / ((exp_avg_sq / lacking).sqrt() + grafting_eps)
        statistics, roots = learned(g, (gram_rows, gram_columns), beta2), (root_rows, root_columns)
        start = precondition_frequency if start_preconditioning_step < 0 else start_preconditioning_step
        if step >= start:
            if fresh or step == start or step % precondition_frequency == 0:
                roots = inverse_roots(statistics, lacking, inverse_exponent_override, eps)
            other = lengthened(block_wise(update, roots), other)
        return other, exp_avg, exp_avg_sq, *statistics, *roots

    return scale_by_shampoo


def split(g: Tensor, sides: Factors) -> Tensor:
    """Return the blocks of a stack of tensors, taken as matrices, by place: (count, down, across, a, b)."""
    rows, columns = sides
    x, (down, across, a) = matrices(g), rows.shape[1:4]
    b = 1 if columns is None else columns.shape[-1]
    x = torch.nn.functional.pad(x, (0, across * b - x.shape[2], 0, down * a - x.shape[1]))
    return x.reshape(len(x), down, a, across, b).transpose(2, 3)


def joined(blocks: Tensor, g: Tensor) -> Tensor:
    """Return the tensors shaped like ``g`` of which these are the blocks."""
    x = blocks.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    rows, columns = matrices(g).shape[1:]
    return x[:, :rows, :columns].reshape(g.shape)


def learned(g: Tensor, statistics: Factors, beta2: float) -> Factors:
    """Return the statistics with this gradient: averages, or sums if ``beta2`` is 1."""
    (rows, columns), (of_rows, of_columns) = statistics, grams(split(g, statistics))
    return moved(rows, of_rows, beta2), None if columns is None else moved(columns, of_columns, beta2)


def inverse_roots(statistics: Factors, lacking: float, root: float, eps: float) -> Factors:
    """Return the statistics to the power -1/(2k) for k sides, or to -1 / ``root`` if that is not 0."""
    rows, columns = statistics
    root = root or (2 if columns is None else 4)
    columns = None if columns is None else inverse_root(columns / lacking, root, eps)
    return inverse_root(rows / lacking, root, eps), columns


def block_wise(update: Tensor, roots: Factors) -> Tensor:
    """Return the update with each block multiplied by its roots."""
    return joined(multiply(split(update, roots), roots), update)


def alone(update: Tensor, other: Tensor) -> Tensor:
    """Return the update as it is."""
    return update


def as_long_as(update: Tensor, other: Tensor) -> Tensor:
    """Return the update as long as ``other``, tensor by tensor."""
    lengths, wanted = (x.flatten(1).norm(dim=1) if x.dim() > 1 else x.abs() for x in (update, other))
    factors = wanted / lengths.clamp(min=torch.finfo(update.dtype).tiny)
    return update * factors.reshape(-1, *[1] * (update.dim() - 1))


class Shampoo(Optimizer):
    r"""Shampoo: the average gradient between inverse roots of the products of its rows, and of its columns.

    .. math::
        L_t &= \beta_2 L_{t-1} + (1 - \beta_2)\, G_t G_t^\top, \qquad
        R_t = \beta_2 R_{t-1} + (1 - \beta_2)\, G_t^\top G_t, \qquad
        M_t = \beta_1 M_{t-1} + (1 - \beta_1)\, G_t \\
        U_t &= (\hat L_t + \epsilon I)^{-1/4}\, \hat M_t\, (\hat R_t + \epsilon I)^{-1/4} \\
        p_t &= p_{t-1} - \eta \left( \frac{\lVert A_t \rVert}{\lVert U_t \rVert}\, U_t + \lambda p_{t-1}
            \right), \qquad
        A_t = \frac{\hat M_t}{\sqrt{\hat v_t} + \epsilon'}

    with Adam's bias corrections; :math:`A_t`, whose length is *grafted* onto :math:`U_t`, is Adam's step.
    With :math:`\beta_2 = 1` both statistics and :math:`v_t` are sums, as Adagrad's. A tensor of shape
    :math:`(r, d_1, d_2, \dots)` counts as a matrix of :math:`r` rows and :math:`d_1 d_2 \cdots` columns. A
    vector has rows alone and the power -1/2. Sides longer than ``block_size`` are divided into equal pieces,
    and each block of the matrix has statistics of its own.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; that of the grafted method, such as Adam's, fits.
        betas: decay rates :math:`\beta_1` in [0, 1), :math:`\beta_2` in [0, 1].
        eps: :math:`\epsilon > 0`, in squared gradient units.
        weight_decay: :math:`\lambda \ge 0`.
        block_size: longest side of a block, at least 1.
        precondition_frequency: steps from one computation of the roots, by eigenvalues, to the next.
        start_preconditioning_step: before this step :math:`U_t` is :math:`A_t`; negative: at the first
            multiple of ``precondition_frequency``.
        grafting: ``"adam"``; ``"sgd"``: :math:`A_t = \hat M_t`; ``"none"``: :math:`U_t` is as long as it is,
            and :math:`\hat M_t` before there are roots.
        grafting_eps: :math:`\epsilon' \ge 0`, in gradient units.
        inverse_exponent_override: a number :math:`q > 0` puts :math:`-1/q` in place of all powers.
        decoupled_weight_decay: decay as AdamW does; otherwise :math:`\lambda p_{t-1}` is added to
            :math:`G_t`.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``exp_avg`` and, with Adam's length, ``exp_avg_sq`` of the parameter's
    shape and dtype; ``gram_rows``, ``root_rows`` and of matrices ``gram_columns``, ``root_columns``, a square
    for each block, in float32 at least.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: a complex parameter or a sparse gradient, at the step.

    Example:
        >>> import torch, fallline
        >>> w = torch.nn.Parameter(torch.zeros(2, 3))
        >>> optimizer = fallline.Shampoo([w], lr=1.0, precondition_frequency=1, grafting="none")
        >>> w.grad = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1e-2, 0.0]])
        >>> optimizer.step()
        >>> [round(x, 2) for x in (w[0, 0].item(), w[1, 1].item())]  # the first step is orthogonal
        [-1.0, -1.0]

    Source: Gupta, Koren and Singer 2018, https://arxiv.org/abs/1802.09568; Anil et al. 2021,
    https://arxiv.org/abs/2002.09018 (grafting, blocks, averages); Shi et al. 2023,
    https://arxiv.org/abs/2309.06497, algorithm 2 (bias corrections, momentum before the roots).
    Differs from Shi et al.'s ``distributed_shampoo``: lengths are grafted onto tensors, as by Anil et al.,
    not onto blocks; blocks are of equal size; negative eigenvalues, which only rounding makes, count as 0;
    Adam's length is the default. Differs from Gupta et al.'s for tensors of more than two dimensions, which
    have statistics of each dimension there. Equal shapes are decomposed together.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        _BETAS,
        replace(epsilon(1e-12), meaning="added to eigenvalues", unit="squared gradient units", open_low=True),
        weight_decay(0.0),
        Hyperparameter("block_size", BLOCK_SIZE, "longest side of a block", "", "elements", low=1),
        Hyperparameter(
            "precondition_frequency", 10, "steps from one computation of the roots to the next", "f", "steps",
            low=1,
        ),
        Hyperparameter(
            "start_preconditioning_step", -1, "first step with roots; negative: the first computation", "",
            "steps", low=-1,
        ),
        replace(epsilon(1e-8), name="grafting_eps", symbol="ε'"),
        Hyperparameter("inverse_exponent_override", 0, "in place of 2k in the power -1/(2k)", "q", "", low=0),
        replace(DECOUPLED, default=True),
        MAXIMIZE,
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        block_size: int = BLOCK_SIZE,
        precondition_frequency: int = 10,
        start_preconditioning_step: int = -1,
        grafting: str = ADAM,
        grafting_eps: float = 1e-8,
        inverse_exponent_override: float = 0,
        decoupled_weight_decay: bool = True,
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
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, block_size=block_size,
                precondition_frequency=precondition_frequency,
                start_preconditioning_step=start_preconditioning_step, grafting=grafting,
                grafting_eps=grafting_eps, inverse_exponent_override=inverse_exponent_override,
                decoupled_weight_decay=decoupled_weight_decay, maximize=maximize, foreach=foreach,
                capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse a grafting that there is not."""
        super().check_together(group)
        if group["grafting"] not in GRAFTINGS:
            raise ValueError(f"Invalid grafting: {group['grafting']!r}; use one of {', '.join(GRAFTINGS)}")

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, the preconditioning, decoupled decay, the learning rate."""
        rule = preconditioning(group["block_size"], group["grafting"])
        if group["decoupled_weight_decay"]:
            return with_decoupled_decay(group, rule)
        return *coupled_decay(group), rule, scale_by_learning_rate


register(
    Entry("shampoo", Shampoo, space(Shampoo, "lr", "weight_decay", "beta1", "beta2"), "Adam, preconditioned")
)
