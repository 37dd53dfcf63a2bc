"""A second implementation of every optimizer, in plain NumPy, written from the papers and not from
fallline's rules.
"""

from optimizers.second.adabelief import AdaBelief
from optimizers.second.adabound import AdaBound
from optimizers.second.adadelta import Adadelta
from optimizers.second.adafactor import Adafactor
from optimizers.second.adagrad import Adagrad
from optimizers.second.adam import Adam, AdamW
from optimizers.second.adam_mini import AdamMini
from optimizers.second.adamax import Adamax
from optimizers.second.adan import Adan
from optimizers.second.ademamix import AdEMAMix
from optimizers.second.adopt import ADOPT
from optimizers.second.asgd import ASGD
from optimizers.second.came import CAME
from optimizers.second.dadapt_adam import DAdaptAdam
from optimizers.second.dog import DoG
from optimizers.second.ftrl import FTRL
from optimizers.second.lamb import LAMB
from optimizers.second.lars import LARS
from optimizers.second.lion import Lion
from optimizers.second.mars import MARS
from optimizers.second.muon import Muon, NorMuon
from optimizers.second.nadam import NAdam
from optimizers.second.nadamw import NAdamW
from optimizers.second.novograd import NovoGrad
from optimizers.second.prodigy import Prodigy
from optimizers.second.psgd_kron import PSGDKron
from optimizers.second.radam import RAdam
from optimizers.second.rmsprop import RMSprop
from optimizers.second.rprop import Rprop
from optimizers.second.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from optimizers.second.sgd import SGD
from optimizers.second.shampoo import Shampoo
from optimizers.second.signsgd import SignSGD, Signum
from optimizers.second.soap import SOAP
from optimizers.second.sophia import SophiaG
from optimizers.second.sparse_adam import SparseAdam
from optimizers.second.sparse_adamw import SparseAdamW
from optimizers.second.stable_adamw import StableAdamW
from optimizers.second.yogi import Yogi

__all__ = [
    "ADOPT", "ASGD", "CAME", "FTRL", "LAMB", "LARS", "MARS", "SGD", "SOAP", "AdEMAMix", "AdaBelief",
    "AdaBound", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamMini", "AdamW", "Adamax", "Adan",
    "DAdaptAdam", "DoG", "Lion", "Muon", "NAdam", "NAdamW", "NorMuon", "NovoGrad", "PSGDKron", "Prodigy",
    "RAdam", "RMSprop", "Rprop", "ScheduleFreeAdamW", "ScheduleFreeSGD", "Shampoo", "SignSGD", "Signum",
    "SophiaG", "SparseAdam", "SparseAdamW", "StableAdamW", "Yogi",
]  # fmt: skip
