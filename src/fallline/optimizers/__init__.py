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
from fallline.optimizers.lion import Lion
from fallline.optimizers.signum import SignSGD, Signum
from fallline.optimizers.adabelief import AdaBelief
from fallline.optimizers.yogi import Yogi
from fallline.optimizers.adopt import ADOPT
from fallline.optimizers.adan import Adan
from fallline.optimizers.ademamix import AdEMAMix
from fallline.optimizers.nadamw import NAdamW
from fallline.optimizers.adabound import AdaBound
from fallline.optimizers.asgd import ASGD
from fallline.optimizers.rprop import Rprop
from fallline.optimizers.mars import MARS
from fallline.optimizers.stable_adamw import StableAdamW
from fallline.optimizers.ftrl import FTRL
from fallline.optimizers.sophia import SophiaG
from fallline.optimizers.lars import LARS
from fallline.optimizers.lamb import LAMB
from fallline.optimizers.novograd import NovoGrad
from fallline.optimizers.muon import Muon
from fallline.optimizers.normuon import NorMuon
from fallline.optimizers.adafactor import Adafactor
from fallline.optimizers.came import CAME
from fallline.optimizers.adam_mini import AdamMini
from fallline.optimizers.prodigy import Prodigy
from fallline.optimizers.dadapt_adam import DAdaptAdam
from fallline.optimizers.dog import DoG
from fallline.optimizers.muon_adamw import MuonAdamW
from fallline.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from fallline.optimizers.soap import SOAP
from fallline.optimizers.shampoo import Shampoo
from fallline.optimizers.psgd_kron import PSGDKron
from fallline.optimizers.sparse_adam import SparseAdam
from fallline.optimizers.sparse_adamw import SparseAdamW

__all__ = [
    "ADOPT", "ASGD", "CAME", "FTRL", "LAMB", "LARS", "MARS", "SGD", "SOAP", "AdEMAMix", "AdaBelief",
    "AdaBound", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamMini", "AdamW", "Adamax", "Adan",
    "DAdaptAdam", "DoG", "Lion", "Muon", "MuonAdamW", "NAdam", "NAdamW", "NorMuon", "NovoGrad", "PSGDKron",
    "Prodigy", "ProximalSGD", "RAdam", "RMSprop", "Rprop", "ScheduleFreeAdamW", "ScheduleFreeSGD", "Shampoo",
    "SignSGD", "Signum", "SophiaG", "SparseAdam", "SparseAdamW", "StableAdamW", "Yogi",
]  # fmt: skip
