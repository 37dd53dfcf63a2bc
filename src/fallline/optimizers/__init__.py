"""Every optimizer, one file each: the formula, its state, its settings, and torch's signature."""

from fallline.optimizers.adadelta import Adadelta
from fallline.optimizers.adagrad import Adagrad
from fallline.optimizers.adam import Adam
from fallline.optimizers.adamax import Adamax
from fallline.optimizers.adamw import AdamW
from fallline.optimizers.nadam import NAdam
from fallline.optimizers.proximal_sgd import ProximalSGD
from fallline.optimizers.radam import RAdam
from fallline.optimizers.rmsprop import RMSprop
from fallline.optimizers.sgd import SGD

__all__ = [
    "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "ProximalSGD", "RAdam", "RMSprop",
]  # fmt: skip
