"""Penalties on the size of parameters: weight decay, and proximal operators (`fallline.prox`)."""

from fallline.penalties import prox as prox
from fallline.penalties.decay import decoupled_decay, independent_decay, l2

__all__ = ["decoupled_decay", "independent_decay", "l2", "prox"]
