"""Every optimizer, one file each: the formula, its state, its settings, and torch's signature.

Read them in this order: each is a step from the one before. Entries are listed in it, too.
"""

# ruff: noqa: I001
from fallline.optimizers.sgd import SGD
from fallline.optimizers.adagrad import Adagrad
from fallline.optimizers.rmsprop import RMSprop
from fallline.optimizers.adadelta import Adadelta
from fallline.optimizers.adam import Adam
from fallline.optimizers.adamw import AdamW
from fallline.optimizers.adamax import Adamax
from fallline.optimizers.nadam import NAdam
from fallline.optimizers.radam import RAdam
from fallline.optimizers.proximal_sgd import ProximalSGD

__all__ = [
    "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "ProximalSGD", "RAdam", "RMSprop",
]  # fmt: skip
