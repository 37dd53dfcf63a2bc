"""NorMuon: Muon whose neurons all move equally far on average."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Shape, Slot
from fallline.core.registry import Entry, register
from fallline.core.space import USUAL
from fallline.core.transform import Transform, transform
from fallline.optimizers.moments import row_mean_square, toward
from fallline.optimizers.muon import (
    Muon,
    aspect,
    matrices,
    newton_schulz,
    orthogonalize,
    orthogonalize_matching_adamw,
)
from fallline.optimizers.settings import learning_rate, space, weight_decay

#: Added to roots and lengths, as by the authors; the rows of orthogonal matrices are about 1 long.
TINY = 1e-10


def _rows(shape: Shape) -> Shape:
    return (shape[0] if shape else 1, 1)


def length(x: Tensor) -> Tensor:
    """Return the Frobenius norms of a stack of matrices, shaped to multiply it."""
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)


def even_rows(x: Tensor, mean: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    """Return matrices with each row divided by its usual size, and the average squares of that size."""
    mean = toward(mean, row_mean_square(x), 1 - beta2)
    return x / (mean.sqrt() + TINY), mean


@transform(whole="products", slots=(Slot("second_momentum_buffer", shape=_rows),))
def orthogonalize_evenly(g, second_momentum_buffer, *, ns_a, ns_b, ns_c, eps, ns_steps, beta2):
    """Make the matrix orthogonal, scaled as Muon's, and its rows evenly long at the same length in all."""
    x = newton_schulz(matrices(g), ns_a, ns_b, ns_c, eps, ns_steps)
    y, second_momentum_buffer = even_rows(x, second_momentum_buffer, beta2)
    return (y * (aspect(x) * length(x) / (length(y) + TINY))).reshape(g.shape), second_momentum_buffer


@transform(whole="products", slots=(Slot("second_momentum_buffer", shape=_rows),))
def orthogonalize_evenly_matching_adamw(g, second_momentum_buffer, *, ns_a, ns_b, ns_c, eps, ns_steps, beta2):
    """Make the matrix orthogonal and its rows evenly long, with AdamW's root mean square of about 0.2."""
    x = newton_schulz(matrices(g), ns_a, ns_b, ns_c, eps, ns_steps)
    y, second_momentum_buffer = even_rows(x, second_momentum_buffer, beta2)
    wanted = 0.2 * (x.shape[-2] * x.shape[-1]) ** 0.5
    return (y * (wanted / (length(y) + TINY))).reshape(g.shape), second_momentum_buffer


#: What takes the place of Muon's transforms.
EVEN = {
    orthogonalize: orthogonalize_evenly,
    orthogonalize_matching_adamw: orthogonalize_evenly_matching_adamw,
}


class NorMuon(Muon):
    r"""NorMuon: Muon that also divides each neuron's update by its usual size.

    .. math::
        O_t &= \text{Newton-Schulz}(\tilde B_t) \text{ as in Muon}, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) \operatorname{mean}_c O_t^2 \\
        \hat O_t &= O_t / (\sqrt{v_t} + 10^{-10}), \qquad
        p_t = p_{t-1} - \eta \left( s\,
        \frac{\lVert O_t \rVert_F}{\lVert \hat O_t \rVert_F}\, \hat O_t + \lambda p_{t-1} \right)

    with one :math:`v_t` per row, an output neuron, since orthogonal matrices that have more rows than columns
    have rows of different lengths. For which parameters, see `Muon`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`, in units of spectral norm per update.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        momentum: :math:`\mu` in [0, 1].
        beta2: decay rate :math:`\beta_2` of the average square of each row, in [0, 1).
        nesterov, ns_coefficients, eps, ns_steps: as in `Muon`.
        adjust_lr_fn: the scale: ``"original"``, or None, :math:`s = \sqrt{\max(1, r/c)}` for :math:`r` rows
            and :math:`c` columns; ``"match_rms_adamw"``
            :math:`s = 0.2 \sqrt{rc} / \lVert O_t \rVert_F`, with which the learning rate of AdamW fits.

    State: ``momentum_buffer`` of each parameter's shape and dtype, ``second_momentum_buffer`` of shape
    (rows, 1), in float32 for narrower parameters.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: a complex parameter or a sparse gradient, at the step.

    Example:
        >>> import torch, fallline
        >>> w = torch.nn.Parameter(torch.zeros(3, 1))
        >>> optimizer = fallline.NorMuon([w], lr=0.1)
        >>> w.grad = torch.tensor([[3.0], [-2.0], [0.1]])
        >>> optimizer.step()
        >>> ["%.2f" % x for x in w.flatten().tolist()]  # Muon's rows are as uneven as the gradient's
        ['-0.07', '0.07', '-0.07']

    Source: Li et al. 2025, https://arxiv.org/abs/2510.05491. ``"match_rms_adamw"`` is their algorithm 1 but
    for Nesterov's momentum, ``"original"`` their published code, with whose defaults we agree.
    Differs from modded-nanogpt's, which keeps averages of columns where there are more of them than rows,
    makes matrices orthogonal by other polynomials (Polar Express), and decays only where steps agree with it.
    """

    hyperparameters = (
        replace(learning_rate(2e-2, 1e-4, 1e0), complaint="Learning rate should be >= 0 but is"),
        replace(weight_decay(0.0), complaint="weight decay should be >= 0 but is"),
        *Muon.hyperparameters[2:],
        Hyperparameter(
            "beta2", 0.95, "decay rate of the average square of each row", "β₂", "per step", low=0, high=1,
            open_high=True, search=USUAL["beta2"],
        ),
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-2,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        beta2: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        **extra: Unpack[Extra],
    ):
        Optimizer.__init__(
            self,
            params,
            dict(
                lr=lr, weight_decay=weight_decay, momentum=momentum, beta2=beta2, nesterov=nesterov,
                ns_coefficients=ns_coefficients, eps=eps, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Muon's chain with rows made even."""
        return tuple(EVEN.get(t, t) for t in super().rules(group))


register(
    Entry("normuon", NorMuon, space(NorMuon, "lr", "weight_decay", "momentum", "beta2"), "Muon, rows even")
)
