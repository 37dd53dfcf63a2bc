"""Gradient centralisation: the gradient of each unit without its mean."""

from fallline.core.transform import transform


@transform(whole=True, gain=1.0)
def centralize(g):
    r"""Subtract from the gradient of each output's weights its mean: a step leaves their sum as it is.

    .. math:: g_i \leftarrow g_i - \tfrac{1}{n} \mathbf 1 \mathbf 1^\top g_i

    where :math:`g_i` is slice :math:`i` of dimension 0, with :math:`n` elements. Tensors with less than two
    dimensions stay as they are. Goes first: in front of weight decay, behind clipping by value.

    Source: Yong et al. 2020, https://arxiv.org/abs/2004.01461.
    """
    return g - g.mean(tuple(range(2, g.dim())), keepdim=True) if g.dim() > 2 else g
