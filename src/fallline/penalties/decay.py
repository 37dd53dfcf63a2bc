"""Weight decay: coupled (L2) before an adaptive scaling, decoupled after it."""

from collections.abc import Mapping
from typing import Any

from fallline.core.transform import Transform, transform


@transform()
def add_decayed_weights(g, p, *, weight_decay):
    """Add ``weight_decay`` times the parameter to the update.

    Before an adaptive scaling this is the gradient of (λ/2)‖p‖², L2 regularisation; after it, decoupled
    weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101).
    """
    return g + weight_decay * p


def coupled_decay(group: Mapping[str, Any]) -> tuple[Transform, ...]:
    """Return the decay to begin a chain with, if the group's ``weight_decay`` is not 0."""
    return (add_decayed_weights,) if group["weight_decay"] else ()
