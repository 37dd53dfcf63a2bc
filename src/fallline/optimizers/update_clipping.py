"""Update clipping: no tensor's update is larger than it should be on average."""

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.parts import summed
from fallline.core.scalar import maximum, sqrt
from fallline.core.space import Range
from fallline.core.transform import transform

MAX_RMS = Hyperparameter(
    "max_rms", 1.0, "largest root mean square that passes unchanged", "d", "", low=0, open_low=True,
    search=Range(1e-1, 1e1, "log"),
)  # fmt: skip


@summed(over="tensor")
def clipped_square_sum(g):
    """The squared norm of the update of one tensor."""
    return g * g


@summed(over="tensor")
def clipped_elements():
    """The number of its elements."""
    return 1.0


def _share(*, max_rms, clipped_square_sum, clipped_elements):
    return 1 / maximum(1.0, sqrt(clipped_square_sum / clipped_elements) / max_rms)


@transform(sums=(clipped_square_sum, clipped_elements), gain=_share, hyperparameters=(MAX_RMS,))
def clip_update_by_rms(g, *, max_rms=1.0, clipped_square_sum, clipped_elements):
    r"""Shorten the update of each tensor to the root mean square :math:`d` if it is larger.

    .. math:: g \leftarrow \frac{g}{\max(1, \operatorname{RMS}(g) / d)}

    ``max_rms`` is :math:`d > 0`, in units of the update. Goes behind an adaptive scaling, whose updates are
    about 1 in size, and ahead of the learning rate.

    Source: Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, section 6.
    """
    return g / maximum(1.0, sqrt(clipped_square_sum / clipped_elements) / max_rms)
