"""Two settings for each optimizer, beside its defaults, under which it is held against its second
implementation, and what fallline has chosen where sources disagree.
"""

from typing import Any

import numpy as np
import torch


def single(x: float) -> float:
    """Round to float32."""
    return float(np.float32(x))


def probe(g: np.ndarray, t: int) -> np.ndarray:
    """Return the random direction of a fit as `fallline.PSGDKron` draws it: vectors are columns there."""
    generator = torch.Generator().manual_seed(t)
    return torch.randn(g.size, generator=generator, dtype=torch.float64).numpy().reshape(g.shape)


#: Settings of the second implementation that fallline has not: its docstrings say with whom it agrees.
CHOSEN: dict[str, dict[str, Any]] = {
    "AdamMini": {"blocks": ("row", "tensor")},  # what parameters without names are divided into
    "AdEMAMix": {"offset": 1e-8},  # the authors' code; the paper has no offset
    "FTRL": {"from_start": True},  # the paper begins at weights of zero
    "MARS": {"optimize_1d": True},  # the authors leave vectors to AdamW
    "DAdaptAdam": {"scalar": single},  # numbers that belong to no element are kept in float32
    "DoG": {"scalar": single},
    "NovoGrad": {"scalar": single},
    "Prodigy": {"scalar": single},
    "PSGDKron": {"probe": probe},
}

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1},
    ],
    "Adagrad": [
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1},
        {"initial_accumulator_value": 0.1, "eps": 1e-3},
    ],
    "RMSprop": [
        {"momentum": 0.9, "centered": True, "weight_decay": 0.1},
        {"lr": 0.1, "alpha": 0.8, "eps": 1e-3},
    ],
    "Adadelta": [{"lr": 0.5, "rho": 0.5, "weight_decay": 0.1}, {"eps": 1e-3}],
    "Adam": [{"lr": 0.1, "betas": (0.8, 0.95), "amsgrad": True}, {"eps": 1e-3, "weight_decay": 0.1}],
    "AdamW": [{"lr": 0.1, "betas": (0.8, 0.95), "amsgrad": True}, {"eps": 1e-3, "weight_decay": 0.1}],
    "Adamax": [{"lr": 0.1, "betas": (0.8, 0.95)}, {"eps": 1e-3, "weight_decay": 0.1}],
    "NAdam": [
        {"lr": 0.1, "betas": (0.8, 0.95), "momentum_decay": 0.1, "weight_decay": 0.1},
        {"eps": 1e-3, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "RAdam": [
        {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1},
        {"eps": 1e-3, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "Lion": [{"lr": 0.1, "betas": (0.5, 0.8)}, {"weight_decay": 0.1}],
    "SignSGD": [{"lr": 0.1}, {"weight_decay": 0.1}],
    "Signum": [{"lr": 0.1, "momentum": 0.5}, {"weight_decay": 0.1}],
    "AdaBelief": [{"lr": 0.1, "betas": (0.8, 0.95)}, {"eps": 1e-3, "weight_decay": 0.1}],
    "Yogi": [
        {"lr": 0.1, "betas": (0.8, 0.95), "initial_accumulator": 0.1},
        {"eps": 1e-2, "weight_decay": 0.1},
    ],
    "ADOPT": [
        {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1},
        {"eps": 1e-2, "weight_decay": 0.1, "decouple": True},
    ],
    "Adan": [
        {"lr": 0.1, "betas": (0.9, 0.8, 0.95), "weight_decay": 0.1},
        {"weight_decay": 0.1, "no_prox": True},
    ],
    "AdEMAMix": [
        {"lr": 0.1, "betas": (0.8, 0.95, 0.99), "weight_decay": 0.1},
        {"alpha": 5.0, "beta3_warmup": 8, "alpha_warmup": 5},
    ],
    "NAdamW": [{"lr": 0.1, "betas": (0.8, 0.95)}, {"eps": 1e-3, "weight_decay": 0.1}],
    "MARS": [{"lr": 0.1, "betas": (0.8, 0.95), "gamma": 0.1}, {"eps": 1e-3, "weight_decay": 0.1}],
    "AdaBound": [{"lr": 0.1, "betas": (0.8, 0.95), "final_lr": 0.01}, {"gamma": 0.2, "weight_decay": 0.1}],
    "StableAdamW": [{"lr": 0.1, "betas": (0.8, 0.95)}, {"eps": 1e-3, "weight_decay": 0.1}],
    "FTRL": [{"lr": 0.5, "beta": 0.0}, {"lambda_1": 0.1, "lambda_2": 0.01}],
    "SophiaG": [{"lr": 0.1, "betas": (0.8, 0.9), "rho": 0.01}, {"bs": 100, "weight_decay": 0.0}],
    "LARS": [{"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1}, {"trust_coefficient": 0.02}],
    "LAMB": [{"lr": 0.1, "betas": (0.8, 0.95)}, {"eps": 1e-3, "weight_decay": 0.1}],
    "NovoGrad": [{"lr": 0.1, "betas": (0.8, 0.5)}, {"eps": 1e-3, "weight_decay": 0.1}],
    "ASGD": [{"lr": 0.1, "lambd": 0.01, "t0": 3.0}, {"alpha": 0.5, "weight_decay": 0.1}],
    "Rprop": [{"lr": 0.1, "step_sizes": (0.05, 0.2)}, {"etas": (0.3, 1.5)}],
    "Adafactor": [
        {"lr": 0.3, "beta2_decay": -0.5, "eps": (1e-4, 1e-2)},
        {"d": 2.0, "weight_decay": 0.1},
    ],
    "SparseAdam": [{"lr": 0.1, "betas": (0.8, 0.95)}, {"eps": 1e-3}],
    "SparseAdamW": [{"lr": 0.1, "betas": (0.8, 0.95)}, {"eps": 1e-3, "weight_decay": 0.1}],
    "Muon": [
        {"lr": 0.1, "momentum": 0.5, "nesterov": False},
        {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 3},
    ],
    "NorMuon": [{"lr": 0.1, "momentum": 0.5}, {"beta2": 0.8, "weight_decay": 0.1}],
    "Prodigy": [
        {"d0": 1e-3, "use_bias_correction": True, "weight_decay": 0.1},
        {"d0": 1e-3, "betas": (0.8, 0.95), "safeguard_warmup": True, "growth_rate": 1.5},
    ],
    "DAdaptAdam": [
        {"d0": 1e-3, "use_bias_correction": True, "weight_decay": 0.1},
        {"d0": 1e-3, "betas": (0.8, 0.95), "growth_rate": 1.1},
    ],
    "DoG": [{"reps_rel": 1e-2, "weight_decay": 0.1}, {"lr": 0.5, "eps": 1e-3}],
    "ScheduleFreeSGD": [
        {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1},
        {"lr": 0.1, "warmup_steps": 5, "r": 1.0},
    ],
    "ScheduleFreeAdamW": [
        {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1},
        {"lr": 0.1, "warmup_steps": 5, "weight_lr_power": 1.0},
    ],
    "CAME": [{"lr": 0.1, "betas": (0.8, 0.9, 0.95)}, {"clip_threshold": 0.5, "weight_decay": 0.1}],
    "AdamMini": [{"lr": 0.1, "betas": (0.8, 0.95)}, {"eps": 1e-3, "weight_decay": 0.1}],
    "Shampoo": [
        {"lr": 0.01, "eps": 1e-3, "precondition_frequency": 3, "block_size": 2, "grafting": "sgd"},
        {"betas": (0.0, 1.0), "eps": 1e-6, "weight_decay": 0.1, "precondition_frequency": 1}
        | {"grafting": "none", "decoupled_weight_decay": False},
        {"eps": 1e-3, "weight_decay": 0.1, "start_preconditioning_step": 5, "precondition_frequency": 3}
        | {"inverse_exponent_override": 3, "block_size": 3},
        {"betas": (0.9, 1.0), "eps": 1e-3, "precondition_frequency": 3},
    ],
    "PSGDKron": [
        {"lr": 0.01, "b1": 0.5, "preconditioner_update_probability": 0.3},
        {"precond_lr": 0.3, "weight_decay": 0.1, "precond_init_scale": 2.0},
    ],
    "SOAP": [
        {"precondition_frequency": 3, "eps": 1e-3},
        {"betas": (0.9, 0.95), "shampoo_beta": 0.8, "weight_decay": 0.1, "eps": 1e-3},
    ],
}
