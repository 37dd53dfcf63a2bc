"""What is done to gradients ahead of an optimizer's rules: for ``before=``, or the head of a chain."""

from fallline.gradients.clipping import clip_by_global_norm, clip_by_norm, clip_by_value

__all__ = ["clip_by_global_norm", "clip_by_norm", "clip_by_value"]
