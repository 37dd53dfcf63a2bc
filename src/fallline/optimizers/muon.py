"""Muon: momentum whose matrices are made orthogonal before the step."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor

from fallline.backends.products import gram, quadratic
from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.registry import Entry, register
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import with_decoupled_decay
from fallline.optimizers.settings import epsilon, learning_rate, momentum, space, weight_decay
from fallline.optimizers.signum import average

_COEFFICIENTS = Hyperparameter(
    "ns_coefficients", (3.4445, -4.7750, 2.0315), "coefficients of the Newton-Schulz polynomial",
    parts=tuple(
        Hyperparameter(f"ns_{letter}", value, f"coefficient of the power {power}", letter)
        for letter, value, power in (("a", 3.4445, 1), ("b", -4.7750, 3), ("c", 2.0315, 5))
    ),
)  # fmt: skip


def matrices(x: Tensor) -> Tensor:
    """Return a stack of tensors as one of matrices: rows by the first dimension, columns by the others."""
    return x.flatten(2) if x.dim() > 2 else x.reshape(len(x), -1, 1)


def newton_schulz(x: Tensor, a: float, b: float, c: float, eps: float, steps: int) -> Tensor:
    """Return a stack of matrices with singular values near 1; those in float32 are multiplied in bfloat16."""
    wide = x.shape[-2] <= x.shape[-1]
    y = (x if wide else x.mT).to(torch.bfloat16 if x.dtype == torch.float32 else x.dtype).contiguous()
    y = y / torch.linalg.vector_norm(y, dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(int(steps)):
        y = torch.baddbmm(y, quadratic(gram(y), b, c), y, beta=a)
    return (y if wide else y.mT).to(x.dtype)


def scaled(y: Tensor, by: float) -> Tensor:
    """Return ``y``, which nobody else has, times a number."""
    return y if by == 1 else y.mul_(by)


def aspect(x: Tensor) -> float:
    """Return the root of rows over columns of matrices, at least 1."""
    return max(1.0, x.shape[-2] / max(x.shape[-1], 1)) ** 0.5


@transform(whole="products")
def orthogonalize(g, *, ns_a, ns_b, ns_c, eps, ns_steps):
    """Make the matrix orthogonal, and scale it by the root of rows over columns if there are more rows."""
    x = matrices(g)
    return scaled(newton_schulz(x, ns_a, ns_b, ns_c, eps, ns_steps), aspect(x)).reshape(g.shape)


@transform(whole="products")
def orthogonalize_matching_adamw(g, *, ns_a, ns_b, ns_c, eps, ns_steps):
    """Make the matrix orthogonal, and scale it to the root mean square of AdamW's updates, about 0.2."""
    x = matrices(g)
    y = newton_schulz(x, ns_a, ns_b, ns_c, eps, ns_steps)
    return scaled(y, 0.2 * max(x.shape[-2:]) ** 0.5).reshape(g.shape)


@transform(slots=("momentum_buffer",))
def average_nesterov(g, momentum_buffer, *, momentum):
    """Replace the update by where its running average will have led one step ahead."""
    momentum_buffer = momentum * momentum_buffer + (1 - momentum) * g
    return momentum * momentum_buffer + (1 - momentum) * g, momentum_buffer


#: How the orthogonal matrix is scaled, by the names that torch gives.
SCALINGS = {
    None: orthogonalize,
    "original": orthogonalize,
    "match_rms_adamw": orthogonalize_matching_adamw,
}


class Muon(Optimizer):
    r"""Muon: the average gradient of a matrix, with all its singular values brought near 1.

    .. math::
        B_t &= \mu B_{t-1} + (1 - \mu)\, G_t, \qquad
        \tilde B_t = \mu B_t + (1 - \mu)\, G_t \ \text{(Nesterov) or}\ B_t \\
        X_0 &= \tilde B_t / \lVert \tilde B_t \rVert_F, \qquad
        X_{k+1} = a X_k + b\,(X_k X_k^\top) X_k + c\,(X_k X_k^\top)^2 X_k \\
        p_t &= p_{t-1} - \eta\, (s\, X_K + \lambda p_{t-1})

    for hidden layers' matrices; embeddings, heads, norms and biases are for AdamW (see `fallline.MuonAdamW`).
    A tensor of shape :math:`(r, d_1, d_2, \dots)` counts as a matrix of :math:`r` rows and
    :math:`c = d_1 d_2 \cdots` columns, a convolution's outputs by its inputs (of a transposed one, inputs by
    outputs, as torch keeps it); a vector as one column.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`, in units of spectral norm per update.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        momentum: :math:`\mu` in [0, 1].
        nesterov: look one step ahead.
        ns_coefficients: :math:`(a, b, c)`.
        eps: smallest norm :math:`\lVert \tilde B_t \rVert_F` to divide by, in gradient units.
        ns_steps: the number :math:`K` of iterations, from 0 to 99.
        adjust_lr_fn: the scale: ``"original"``, or None, :math:`s = \sqrt{\max(1, r/c)}`;
            ``"match_rms_adamw"`` :math:`s = 0.2 \sqrt{\max(r, c)}`, with which the learning rate and decay of
            AdamW fit.

    State: ``momentum_buffer`` of each parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: a complex parameter or a sparse gradient, at the step.

    Example:
        >>> import torch, fallline
        >>> w = torch.nn.Parameter(torch.zeros(2, 3))
        >>> optimizer = fallline.Muon([w], lr=0.1)
        >>> w.grad = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1e-3, 0.0]])
        >>> optimizer.step()
        >>> 0.06 < w.norm() < 0.13  # of both directions alike, the second would be 3000 times smaller in SGD
        tensor(True)

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the second scale: Liu et al. 2025,
    https://arxiv.org/abs/2502.16982.
    Differs from torch's: any number of dimensions, empty tensors too; a momentum buffer in bfloat16 without
    ``nesterov`` keeps its length (torch divides it by its norm in place); the iteration, in bfloat16 as
    there, is made in float64 for float64 parameters; equal shapes are multiplied together.
    """

    hyperparameters = (
        replace(learning_rate(1e-3, 1e-4, 1e0), complaint="Learning rate should be >= 0 but is"),
        replace(weight_decay(0.1), complaint="weight decay should be >= 0 but is"),
        replace(momentum(0.95), high=1, complaint="momentum should be >= 0 but is"),
        Hyperparameter("nesterov", True, "look one step ahead"),
        _COEFFICIENTS,
        epsilon(1e-7),
        Hyperparameter("ns_steps", 5, "iterations of Newton and Schulz", "K", low=0, high=99),
    )
    added_later = {}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov,
                ns_coefficients=ns_coefficients, eps=eps, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn,
            ),
            **extra,
        )  # fmt: skip

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse a scale that there is not."""
        super().check_together(group)
        if group["adjust_lr_fn"] not in SCALINGS:
            raise ValueError(
                f"Adjust learning rate function {group['adjust_lr_fn']} is not supported; "
                f"use None, 'original' or 'match_rms_adamw'"
            )

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The average, made orthogonal and scaled; then the decay and the learning rate."""
        velocity = average_nesterov if group["nesterov"] else average
        return velocity, *with_decoupled_decay(group, SCALINGS[group["adjust_lr_fn"]])


register(Entry("muon", Muon, space(Muon, "lr", "weight_decay", "momentum"), "orthogonal momentum"))
