"""Clipping: keeping gradients from being too long."""

from fallline.core.hyperparameter import Hyperparameter, Range
from fallline.core.scalar import maximum, minimum, sqrt
from fallline.core.transform import summed, transform

MAX_NORM = Hyperparameter(
    "max_norm", 1.0, "longest gradient that passes unchanged", "c", "gradient units", low=0, open_low=True,
    search=Range(1e-2, 1e2, "log"),
)  # fmt: skip
MAX_VALUE = Hyperparameter(
    "max_value", 1.0, "largest element that passes unchanged", "c", "gradient units", low=0, open_low=True,
    search=Range(1e-4, 1e1, "log"),
)  # fmt: skip


@summed(over="model")
def global_square_sum(g):
    """The squared norm of the gradient of the whole model."""
    return g * g


@summed(over="tensor")
def square_sum(g):
    """The squared norm of the gradient of one tensor."""
    return g * g


def _share(*, max_norm, global_square_sum):
    return minimum(1.0, max_norm / (sqrt(global_square_sum) + 1e-6))


def _share_of_tensor(*, max_norm, square_sum):
    return minimum(1.0, max_norm / (sqrt(square_sum) + 1e-6))


@transform(sums=(global_square_sum,), gain=_share, hyperparameters=(MAX_NORM,))
def clip_by_global_norm(g, *, max_norm=1.0, global_square_sum):
    r"""Shorten the gradient of the whole model to the norm :math:`c` if it is longer.

    .. math:: g \leftarrow g \min\left(1, \frac{c}{\lVert g \rVert + 10^{-6}}\right)

    ``max_norm`` is :math:`c > 0`, in gradient units. Differs from ``torch.nn.utils.clip_grad_norm_`` in
    that ``p.grad`` stays as it is, the norm is summed in float64, and clipping is part of the step's pass.

    Source: Pascanu et al. 2013, https://arxiv.org/abs/1211.5063.
    """
    return g * minimum(1.0, max_norm / (sqrt(global_square_sum) + 1e-6))


@transform(sums=(square_sum,), gain=_share_of_tensor, hyperparameters=(MAX_NORM,))
def clip_by_norm(g, *, max_norm=1.0, square_sum):
    r"""Shorten the gradient of each tensor to the norm :math:`c` (``max_norm`` > 0) if it is longer."""
    return g * minimum(1.0, max_norm / (sqrt(square_sum) + 1e-6))


@transform(hyperparameters=(MAX_VALUE,))
def clip_by_value(g, *, max_value=1.0):
    r"""Limit each element of the gradient to :math:`[-c, c]`, where :math:`c` is ``max_value`` > 0.

    Differs from ``torch.nn.utils.clip_grad_value_`` in that ``p.grad`` stays as it is.
    """
    return maximum(minimum(g, max_value), -max_value)
