"""Weight decay: coupled (L2) before an adaptive scaling, decoupled after it."""

from fallline.core.transform import transform


@transform()
def add_decayed_weights(g, p, *, weight_decay):
    """Add ``weight_decay`` times the parameter to the update.

    Before an adaptive scaling this is the gradient of (λ/2)‖p‖², L2 regularisation; after it, decoupled
    weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101).
    """
    return g + weight_decay * p
