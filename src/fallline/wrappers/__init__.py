"""Optimizers around any optimizer; each owns its state."""

from fallline.wrappers.lookahead import Lookahead

__all__ = ["Lookahead"]
