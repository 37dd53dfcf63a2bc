"""Penalties on the size of parameters: weight decay, and proximal operators (`fallline.prox`)."""

from fallline.penalties import prox as prox
from fallline.penalties.decay import decoupled_decay, independent_decay, l2
from fallline.penalties.groups import Sparsity, no_decay_on_norms_and_biases, sparsity

__all__ = [
    "Sparsity", "decoupled_decay", "independent_decay", "l2", "no_decay_on_norms_and_biases", "prox",
    "sparsity",
]  # fmt: skip
