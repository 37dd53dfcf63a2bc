"""Optimizers as claims need them, beside those of `fallline list`."""

from collections.abc import Iterable

from torch import Tensor

import fallline
from fallline.core.scalar import sign
from fallline.core.transform import transform
from fallline.penalties.prox import STRENGTH

#: How another process finds the functions of this file.
HERE = "fallline.claims.entries:"


def adam_at_default(params: Iterable[Tensor]) -> fallline.Adam:
    """Adam as its article has it, learning rate 0.001."""
    return fallline.Adam(params)


def adadelta_at_default(params: Iterable[Tensor]) -> fallline.Adadelta:
    """Adadelta as its article has it: without a learning rate, which is 1."""
    return fallline.Adadelta(params)


def adam_l2(params: Iterable[Tensor], lr: float, l2: float) -> fallline.Adam:
    """Adam with the gradient of an L2 penalty."""
    return fallline.Adam(params, lr=lr, weight_decay=l2)


def adam_decoupled(params: Iterable[Tensor], lr: float, decay: float) -> fallline.AdamW:
    """Adam with decoupled weight decay."""
    return fallline.AdamW(params, lr=lr, weight_decay=decay)


def averaged_adam(params: Iterable[Tensor], lr: float) -> fallline.EMA:
    """Adam judged by an exponential moving average of its weights."""
    return fallline.EMA(fallline.Adam(params, lr=lr), decay=0.98)


def momentum_l2(params: Iterable[Tensor], lr: float, l2: float) -> fallline.SGD:
    """Momentum with the gradient of an L2 penalty."""
    return fallline.SGD(params, lr=lr, momentum=0.9, weight_decay=l2)


def l1_subgradient(params: Iterable[Tensor], lr: float, strength: float) -> fallline.SGD:
    """SGD with the subgradient of an L1 penalty."""
    return fallline.SGD(params, lr=lr, before=[add_l1(strength)])


def l1_proximal(params: Iterable[Tensor], lr: float, strength: float) -> fallline.SGD:
    """SGD with a proximal step on an L1 penalty."""
    return fallline.SGD(params, lr=lr, after=[fallline.prox.L1(strength)])


@transform(hyperparameters=(STRENGTH,))
def add_l1(g, p, *, strength):
    r"""Add a subgradient of :math:`\lambda \lVert p \rVert_1`, which is 0 where p is 0."""
    return g + strength * sign(p)
