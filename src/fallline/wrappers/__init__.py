"""Optimizers around any optimizer; each owns its state."""

from fallline.wrappers.averaging import EMA, SWA, Polyak
from fallline.wrappers.lookahead import Lookahead
from fallline.wrappers.schedule_free import ScheduleFree
from fallline.wrappers.sharpness import SAM

__all__ = ["EMA", "SAM", "SWA", "Lookahead", "Polyak", "ScheduleFree"]
