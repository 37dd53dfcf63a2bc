"""Optimizers around any optimizer; each owns its state."""

from fallline.wrappers.accumulate import Accumulate
from fallline.wrappers.averaging import EMA, SWA, Polyak, averaged, follow_parameters
from fallline.wrappers.gradient_release import GradientRelease
from fallline.wrappers.lookahead import Lookahead
from fallline.wrappers.offload import OffloadState
from fallline.wrappers.schedule_free import ScheduleFree
from fallline.wrappers.sharpness import SAM

__all__ = [
    "EMA", "SAM", "SWA", "Accumulate", "GradientRelease", "Lookahead", "OffloadState", "Polyak",
    "ScheduleFree", "averaged", "follow_parameters",
]  # fmt: skip
