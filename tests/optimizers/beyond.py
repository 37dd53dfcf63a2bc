"""Settings that reach every branch of the optimizers beyond torch's."""

import fallline

ELEMENTWISE = [
    (fallline.Lion, {"lr": 0.01}),
    (fallline.Lion, {"lr": 0.01, "betas": (0.5, 0.8), "weight_decay": 0.1, "maximize": True}),
    (fallline.SignSGD, {"lr": 0.01}),
    (fallline.SignSGD, {"lr": 0.01, "weight_decay": 0.1}),
    (fallline.Signum, {"lr": 0.01}),
    (fallline.Signum, {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.1}),
    (fallline.AdaBelief, {"betas": (0.8, 0.95)}),
    (fallline.AdaBelief, {"weight_decay": 0.1, "eps": 1e-8}),
    (fallline.Yogi, {"betas": (0.8, 0.95)}),
    (fallline.Yogi, {"weight_decay": 0.1, "initial_accumulator": 0.1, "maximize": True}),
    (fallline.ADOPT, {"betas": (0.8, 0.95)}),
    (fallline.ADOPT, {"weight_decay": 0.1}),
    (fallline.ADOPT, {"weight_decay": 0.1, "decouple": True}),
    (fallline.Adan, {}),
    (fallline.Adan, {"weight_decay": 0.1, "betas": (0.8, 0.7, 0.9)}),
    (fallline.Adan, {"weight_decay": 0.1, "no_prox": True, "maximize": True}),
    (fallline.AdEMAMix, {}),
    (fallline.AdEMAMix, {"weight_decay": 0.1, "beta3_warmup": 30, "alpha_warmup": 20, "alpha": 5.0}),
    (fallline.NAdamW, {"betas": (0.8, 0.95)}),
    (fallline.NAdamW, {"weight_decay": 0.0, "maximize": True}),
    (fallline.AdaBound, {}),
    (fallline.AdaBound, {"weight_decay": 0.1, "gamma": 0.1, "final_lr": 0.01, "base_lr": 0.01}),
    (fallline.SophiaG, {"lr": 0.01, "weight_decay": 0.0}),
    (fallline.SophiaG, {"betas": (0.5, 0.9), "maximize": True}),
    (fallline.ScheduleFreeSGD, {"lr": 0.1}),
    (fallline.ScheduleFreeSGD, {"lr": 0.1, "momentum": 0.7, "weight_decay": 0.1, "maximize": True}),
    (fallline.ScheduleFreeAdamW, {"betas": (0.8, 0.95), "warmup_steps": 5, "r": 1.0}),
    (fallline.ScheduleFreeAdamW, {"weight_decay": 0.1, "warmup_steps": 5, "weight_lr_power": 1.0}),
]

#: FTRL computes the parameter anew from sums in each step, and rounds it as a whole.
ABSOLUTE = [
    (fallline.FTRL, {}),
    (fallline.FTRL, {"lr": 0.5, "beta": 0.1, "lambda_1": 0.5, "lambda_2": 0.1}),
]

#: Optimizers that take sums over each tensor.
SUMMED = [
    (fallline.MARS, {}),
    (fallline.MARS, {"weight_decay": 0.1, "gamma": 0.5, "betas": (0.8, 0.95)}),
    (fallline.StableAdamW, {}),
    (fallline.StableAdamW, {"betas": (0.8, 0.9), "weight_decay": 0.0, "maximize": True}),
    (fallline.LAMB, {}),
    (fallline.LAMB, {"weight_decay": 0.0}),
    (fallline.LARS, {"trust_coefficient": 0.1, "lr": 0.1}),
    (fallline.LARS, {"momentum": 0.0, "weight_decay": 0.1, "trust_coefficient": 0.01}),
    (fallline.NovoGrad, {}),
    (fallline.NovoGrad, {"weight_decay": 0.1, "betas": (0.8, 0.0)}),
]

#: Optimizers that find their learning rate from sums over the model or a group.
FREE = [
    (fallline.Prodigy, {}),
    (fallline.Prodigy, {"d0": 1e-3, "weight_decay": 0.1, "d_coef": 2.0, "use_bias_correction": True}),
    (fallline.Prodigy, {"d0": 1e-3, "safeguard_warmup": True, "lr": 0.5, "growth_rate": 1.5}),
    (fallline.DAdaptAdam, {}),
    (fallline.DAdaptAdam, {"d0": 1e-3, "weight_decay": 0.1, "use_bias_correction": True, "growth_rate": 1.5}),
    (fallline.DoG, {}),
    (fallline.DoG, {"reps_rel": 1e-3, "weight_decay": 0.1, "maximize": True}),
]

#: Optimizers with rules on whole tensors.
WHOLE = [
    (fallline.Muon, {}),
    (fallline.Muon, {"lr": 0.1, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"}),
    (fallline.NorMuon, {}),
    (fallline.NorMuon, {"lr": 0.1, "beta2": 0.8, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.1}),
]

#: Optimizers with sums over rows, columns or channels.
LINES = [
    (fallline.Adafactor, {}),
    (fallline.Adafactor, {"lr": 0.1, "eps": (1e-3, 0.1), "d": 1.5, "weight_decay": 0.1, "maximize": True}),
    (fallline.CAME, {}),
    (fallline.CAME, {"lr": 0.01, "betas": (0.8, 0.9, 0.95), "clip_threshold": 0.5, "weight_decay": 0.1}),
    (fallline.AdamMini, {}),
    (fallline.AdamMini, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "maximize": True}),
]
