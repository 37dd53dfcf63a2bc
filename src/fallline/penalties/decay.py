r"""Weight decay: three kinds, for any optimizer.

==========================  ==========  =================================================================
transform                   goes into   each step
==========================  ==========  =================================================================
``l2(λ)``                   ``before``  :math:`g \leftarrow g + \lambda p`: the gradient of (λ/2)‖p‖², which
                                        the rules see: momentum sums it up, adaptive scaling divides it
``decoupled_decay(λ)``      ``after``   :math:`p` shrinks by the share :math:`\eta\lambda`, as in AdamW
``independent_decay(λ)``    ``after``   :math:`p` shrinks by the share :math:`\lambda`, whatever ``lr`` is
==========================  ==========  =================================================================

Each has a setting of its own name, so that it goes beside an optimizer's own ``weight_decay``, and all are
fused into the step. They change the update, and so stand before operators on the parameter, such as those of
`prox`. In a `chain`, what goes into ``after`` follows ``scale_by_learning_rate``.
"""

from collections.abc import Mapping
from typing import Any

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.space import Range
from fallline.core.transform import Transform, transform

L2 = Hyperparameter(
    "l2", 0.0, "strength of the penalty on squares", "λ", "gradient units per parameter unit", low=0,
    search=Range(1e-5, 1e-1, "log"),
)  # fmt: skip
DECOUPLED_DECAY = Hyperparameter(
    "decoupled_decay", 0.0, "share of a parameter that is lost per step and unit of learning rate", "λ",
    "per unit of learning rate", low=0, search=Range(1e-4, 1.0, "log"),
)  # fmt: skip
INDEPENDENT_DECAY = Hyperparameter(
    "independent_decay", 0.0, "share of a parameter that is lost in each step", "λ", "per step", low=0,
    high=1, search=Range(1e-7, 1e-2, "log"),
)  # fmt: skip


@transform(gain=1.0)
def add_decayed_weights(g, p, *, weight_decay):
    """Add ``weight_decay`` times the parameter to the update.

    Before an adaptive scaling this is the gradient of (λ/2)‖p‖², L2 regularisation; after it, decoupled
    weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101).
    """
    return g + weight_decay * p


@transform(gain=1.0, hyperparameters=(L2,))
def add_l2(g, p, *, l2):
    r"""Add the gradient of :math:`\lambda \lVert p \rVert^2 / 2` to the gradient; goes into ``before``.

    ``l2`` is :math:`\lambda \ge 0`, in gradient units per parameter unit. Equals ``weight_decay`` of SGD and
    Adam.
    """
    return g + l2 * p


@transform(gain=1.0, hyperparameters=(DECOUPLED_DECAY,))
def add_decoupled_decay(g, p, *, decoupled_decay, lr):
    r"""Shrink the parameter by the share :math:`\eta\lambda`; goes into ``after``.

    ``decoupled_decay`` is :math:`\lambda \ge 0`, per unit of the optimizer's ``lr`` :math:`\eta`. Equals
    ``weight_decay`` of AdamW. Source: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101.
    """
    return g + lr * decoupled_decay * p


@transform(gain=1.0, hyperparameters=(INDEPENDENT_DECAY,))
def add_independent_decay(g, p, *, independent_decay):
    r"""Shrink the parameter by the share :math:`\lambda`; goes into ``after``.

    ``independent_decay`` is :math:`\lambda` in [0, 1], per step; it does not follow ``lr``: tuning one leaves
    the other alone. To let it end with the training, give it a schedule; with that of ``lr`` it is the form
    of Loshchilov and Hutter's paper. Source: their equation 7; Wortsman et al. 2023,
    https://arxiv.org/abs/2309.14322.
    """
    return g + independent_decay * p


l2, decoupled_decay, independent_decay = add_l2, add_decoupled_decay, add_independent_decay


def coupled_decay(group: Mapping[str, Any]) -> tuple[Transform, ...]:
    """Return the decay to begin a chain with, if the group's ``weight_decay`` is not 0."""
    return (add_decayed_weights,) if group["weight_decay"] else ()
