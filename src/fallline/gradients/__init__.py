"""What is done to gradients ahead of an optimizer's rules: for ``before=``, or the head of a chain.

Example:
    >>> import torch, fallline
    >>> p = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = fallline.SGD([p], lr=1.0, before=[fallline.gradients.clip_by_global_norm(1.0)])
    >>> p.grad = torch.tensor([30.0, 40.0])
    >>> optimizer.step()
    >>> [round(x, 4) for x in p.tolist()], p.grad.tolist()
    ([-0.6, -0.8], [30.0, 40.0])
"""

from fallline.gradients.centralization import centralize
from fallline.gradients.clipping import (
    clip_adaptively,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_quantile,
    clip_by_value,
)
from fallline.gradients.noise import add_noise

__all__ = [
    "add_noise", "centralize", "clip_adaptively", "clip_by_global_norm", "clip_by_norm", "clip_by_quantile",
    "clip_by_value",
]  # fmt: skip
