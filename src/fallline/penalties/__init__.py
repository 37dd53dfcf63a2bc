"""Penalties on the size of parameters: weight decay, and proximal operators (`fallline.prox`)."""

from fallline.penalties import prox as prox
