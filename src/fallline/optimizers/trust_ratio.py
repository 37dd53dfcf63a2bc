"""The trust ratio: steps as long as the weights of each tensor are."""

from fallline.core.parts import per_tensor, summed
from fallline.core.scalar import sqrt, where
from fallline.core.transform import transform


@summed(over="tensor")
def update_square_sum(g):
    """The squared norm of the update of one tensor."""
    return g * g


@summed(over="tensor")
def weight_square_sum(p):
    """The squared norm of one tensor."""
    return p * p


@per_tensor()
def trust(*, update_square_sum, weight_square_sum):
    """The norm of the weights over that of the update; 1 where either is 0."""
    size = where(update_square_sum > 0, sqrt(update_square_sum), 1.0)
    share = where(weight_square_sum > 0, sqrt(weight_square_sum) / size, 1.0)
    return dict(ratio=where(update_square_sum > 0, share, 1.0))


def _ratio(*, ratio):
    return ratio


@transform(sums=(update_square_sum, weight_square_sum), per_tensor=trust, gain=_ratio)
def scale_by_trust_ratio(g, *, ratio):
    r"""Scale the update of each tensor to the length of its weights: goes ahead of the learning rate.

    .. math:: g \leftarrow g\, \frac{\lVert p \rVert}{\lVert g \rVert}

    where either norm is 0 the update stays as it is.

    Source: You, Gitman and Ginsburg 2017, https://arxiv.org/abs/1708.03888; in this form You et al. 2020,
    https://arxiv.org/abs/1904.00962.
    """
    return ratio * g
