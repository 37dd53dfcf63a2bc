"""SOAP: Adam in the eigenbases of Shampoo's statistics."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any, Unpack

import torch
from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Shape, Slot
from fallline.core.registry import Entry, register
from fallline.core.scalar import where
from fallline.core.transform import Transform, transform
from fallline.optimizers.muon import matrices
from fallline.optimizers.preconditioning import (
    Sides,
    decomposed,
    eigh,
    grams,
    matrix_shape,
    moved,
    multiply,
    transposed,
)
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, space, weight_decay
from fallline.optimizers.sgd import scale_by_learning_rate

MAX_DIM = 10000


def side(axis: int, limit: int, shape: Shape) -> Shape | None:
    """Return the shape of the statistics of one side of a tensor: none of vectors and of long sides."""
    n = matrix_shape(shape)[axis]
    return (n, n) if len(shape) > 1 and n <= limit else None


def slots(limit: int) -> tuple[Slot, ...]:
    """Return the state of `scale_by_soap` for sides up to ``limit``."""
    rows, columns = (partial(side, axis, limit) for axis in (0, 1))
    return (
        Slot("exp_avg"),
        Slot("exp_avg_sq", nonnegative=True),
        Slot("gram_rows", shape=rows),
        Slot("gram_columns", shape=columns),
        Slot("basis_rows", shape=rows),
        Slot("basis_columns", shape=columns),
    )


@transform(whole="products", slots=slots(MAX_DIM))
def scale_by_soap(
    g, exp_avg, exp_avg_sq, gram_rows, gram_columns, basis_rows, basis_columns, *, beta1=0.95, beta2=0.95,
    shampoo_beta=-1, eps=1e-8, precondition_frequency=10, step, fresh,
):  # fmt: skip
    """Scale by Adam in the eigenbases of both sides' statistics; the first gradient only begins these."""
    statistics = learned(g, (gram_rows, gram_columns), beta2 if shampoo_beta < 0 else shampoo_beta)
    if fresh:
        return torch.zeros_like(g), exp_avg, exp_avg_sq, *statistics, *map(eigenbasis, statistics)
    bases: Sides = basis_rows, basis_columns
    exp_avg, exp_avg_sq = moved(exp_avg, g, beta1), moved(exp_avg_sq, rotated(g, bases).square(), beta2)
    scaled = rotated(exp_avg, bases) / (exp_avg_sq.sqrt() + eps)
    correction = (1 - beta2 ** (step - 1)) ** 0.5 / (1 - beta1 ** (step - 1))
    update = correction * rotated(scaled, transposed(bases))
    if (step - 1) % precondition_frequency == 0:
        exp_avg_sq, bases = refreshed(exp_avg_sq, statistics, bases)
    return update, exp_avg, exp_avg_sq, *statistics, *bases


def learned(g: Tensor, statistics: Sides, beta: float) -> Sides:
    """Return the statistics with this gradient, of each side that has them."""
    (rows, columns), (of_rows, of_columns) = statistics, grams(matrices(g))
    rows = None if rows is None else moved(rows, of_rows, beta)
    return rows, None if columns is None else moved(columns, of_columns, beta)


def rotated(x: Tensor, bases: Sides) -> Tensor:
    """Return a stack of tensors, taken as matrices, in other bases."""
    rows, columns = bases
    return multiply(matrices(x), (None if rows is None else rows.mT, columns)).reshape(x.shape)


def eigenbasis(statistics: Tensor | None) -> Tensor | None:
    """Return the eigenvectors, that of the largest eigenvalue first."""
    return None if statistics is None else eigh(statistics)[1].flip(-1)


def refreshed(exp_avg_sq: Tensor, statistics: Sides, bases: Sides) -> tuple[Tensor, Sides]:
    """Return bases nearer to the eigenvectors by one power step, and the second moment in their order."""
    x, new = matrices(exp_avg_sq), []
    for axis, (statistic, basis) in enumerate(zip(statistics, bases, strict=True), 1):
        if statistic is None or basis is None:
            new.append(None)
            continue
        product = statistic @ basis
        order = (basis * product).sum(-2).argsort(-1, descending=True)
        x = x.take_along_dim(order.unsqueeze(2 if axis == 1 else 1), axis)
        new.append(decomposed(torch.linalg.qr, product.take_along_dim(order.unsqueeze(1), 2))[0])
    return x.reshape(exp_avg_sq.shape), (new[0], new[1])


@transform()
def add_decay_behind_step(g, p, *, weight_decay, lr, step):
    """Add ``weight_decay`` times the parameter as this step leaves it, from the second step on."""
    return g + weight_decay * where(step > 1, p - lr * g, 0.0)


@cache
def scaling(limit: int) -> Transform:
    """Return `scale_by_soap` for sides up to ``limit``."""
    return replace(scale_by_soap, slots=slots(limit))


class SOAP(Optimizer):
    r"""SOAP: Adam in the eigenbases of the average products of a matrix's rows, and of its columns.

    .. math::
        L_t &= \beta L_{t-1} + (1 - \beta)\, G_t G_t^\top, \qquad
        R_t = \beta R_{t-1} + (1 - \beta)\, G_t^\top G_t \\
        G'_t &= Q_L^\top G_t Q_R, \qquad
        M_t = \beta_1 M_{t-1} + (1 - \beta_1)\, G_t, \qquad
        V_t = \beta_2 V_{t-1} + (1 - \beta_2)\, G_t'^2 \\
        U_t &= Q_L\, \frac{\hat M'_t}{\sqrt{\hat V_t} + \epsilon}\, Q_R^\top, \qquad
        p_t = (1 - \eta\lambda)\, (p_{t-1} - \eta\, U_t)

    where :math:`\hat M'_t, \hat V_t` are :math:`Q_L^\top M_t Q_R` and :math:`V_t` with Adam's bias
    corrections, and :math:`Q_L, Q_R` follow the eigenvectors of :math:`L, R`: every
    ``precondition_frequency`` steps by one power iteration and a QR decomposition. The first gradient begins
    the bases and moves nothing.

    A tensor of shape :math:`(r, d_1, d_2, \dots)` counts as a matrix of :math:`r` rows and
    :math:`d_1 d_2 \cdots` columns, a convolution's outputs by its inputs; vectors are Adam's, with the first
    step left out, too.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element of the rotated matrix in a step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        shampoo_beta: decay rate :math:`\beta` of the statistics, below 1; that of the squares if negative.
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, decoupled; it shrinks what the step has left.
        precondition_frequency: steps from one refinement of the bases to the next, at least 1.
        max_precond_dim: a side that is longer keeps no statistics and is not rotated.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_avg_sq`` (in the bases) of the parameter's shape and
    dtype; of matrices ``gram_rows``, ``gram_columns``, ``basis_rows``, ``basis_columns``, square, in float32
    at least.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: a complex parameter or a sparse gradient, at the step.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = fallline.SOAP(model.parameters(), lr=0.1)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(4, 3)).square().sum().backward()
        ...     optimizer.step()

    Source: Vyas et al. 2024, https://arxiv.org/abs/2409.11321, algorithm 3 as the authors' code has it: eps
    outside of the bias correction, no update from the first gradient, decay after the step.
    Differs from the authors' code: there a tensor of k dimensions has k bases, or with ``merge_dims`` as
    many as are left when neighbouring dimensions are multiplied while they stay within ``max_precond_dim``;
    a convolution's outputs are then mixed with its inputs where they fit. There is no ``precondition_1d``,
    ``normalize_grads`` or ``correct_bias``, which are off, off and on there. QR is in float64 for float64
    parameters. Equal shapes are multiplied together.
    """

    hyperparameters = (
        learning_rate(3e-3, 1e-4, 1e-1),
        betas(0.95, 0.95),
        Hyperparameter(
            "shampoo_beta", -1, "decay rate of the statistics; that of the squares if negative", "β",
            "per step", low=-1, high=1, open_high=True,
        ),
        epsilon(1e-8),
        weight_decay(1e-2),
        Hyperparameter(
            "precondition_frequency", 10, "steps from one refinement of the bases to the next", "f", "steps",
            low=1,
        ),
        Hyperparameter("max_precond_dim", MAX_DIM, "longest side that is rotated", "", "elements", low=0),
        MAXIMIZE,
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float = -1,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precond_dim: int = MAX_DIM,
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
                lr=lr, betas=betas, shampoo_beta=shampoo_beta, eps=eps, weight_decay=weight_decay,
                precondition_frequency=precondition_frequency, max_precond_dim=max_precond_dim,
                maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The scaling, the decay, the learning rate."""
        decay = (add_decay_behind_step,) if group["weight_decay"] else ()
        return scaling(group["max_precond_dim"]), *decay, scale_by_learning_rate


register(Entry("soap", SOAP, space(SOAP, "lr", "weight_decay", "beta1", "beta2"), "Adam in Shampoo's bases"))
