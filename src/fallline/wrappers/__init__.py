"""Optimizers around any optimizer; each owns its state."""

from fallline.wrappers.averaging import EMA, SWA, Polyak
from fallline.wrappers.lookahead import Lookahead

__all__ = ["EMA", "SWA", "Lookahead", "Polyak"]
