"""Cautious masking: only those elements step whose update agrees with the present gradient."""

from fallline.core.parts import summed
from fallline.core.scalar import maximum, where
from fallline.core.transform import transform


@summed(over="tensor")
def agreeing_elements(g, grad):
    """The number of elements of one tensor whose update goes downhill."""
    return where(g * grad > 0, 1.0, 0.0)


@summed(over="tensor")
def masked_elements():
    """The number of its elements."""
    return 1.0


@transform(sums=(agreeing_elements, masked_elements))
def mask_cautiously(g, grad, *, agreeing_elements, masked_elements):
    r"""Leave out the elements whose update would go against the present gradient, and lengthen the others.

    .. math::
        m_i = [u_i\, g_i > 0], \qquad u \leftarrow \frac{u \odot m}{\max(\operatorname{mean}(m),\, 10^{-3})}

    where :math:`u` is the update so far and :math:`g` the gradient. Goes behind any momentum and ahead of the
    decay: ``chain(scale_by_adam(), mask_cautiously, add_decayed_weights(0.01), ...)``.

    Source: Liang et al. 2024, https://arxiv.org/abs/2411.16085. Agrees with the authors' code (the mean and
    its least value 1e-3), where the paper's algorithm 1 has d / (sum + 1).
    """
    return where(g * grad > 0, g, 0.0) / maximum(agreeing_elements / masked_elements, 1e-3)
