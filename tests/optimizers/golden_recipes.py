"""What is recorded from each package: which optimizer of ours is which of theirs, and with which settings."""

from dataclasses import dataclass, field
from typing import Any

from optimizers.second.problem import MATRICES

#: Their names for settings that we call otherwise.
NAMES = {
    "learning_rate": "lr", "estim_lr0": "d0", "matrix_eps": "eps", "epsilon": "eps",
    "preconditioning_compute_steps": "precondition_frequency",
}  # fmt: skip

#: Shampoo as Gupta et al. have it: sums from the first step on, and nothing around them.
SUMS = {
    "betas": (0.0, 1.0), "eps": 1e-6, "precondition_frequency": 1, "grafting": "none",
    "decoupled_weight_decay": False,
}  # fmt: skip

#: Their settings that we have not: what they choose is among our ``extra`` settings, or is what we always do.
FOREIGN = {
    "b2", "debias", "decay", "eps_in_sqrt", "eps_root", "foreach", "graft_type", "kahan_sum",
    "max_grad_norm", "min_dim_size_to_factor", "rectify", "shape_interpretation", "t_alpha_beta3", "use_svd",
    "verbose", "weight_decouple",
}  # fmt: skip


@dataclass
class Recipe:
    """One recording: ``extra`` are settings of ours that theirs do not translate to, ``shapes`` those of its
    parameters if not the usual ones.
    """

    optimizer: str
    theirs: str
    settings: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def ours(self) -> dict[str, Any]:
        settings = {name: value for name, value in self.settings.items() if name not in FOREIGN}
        return {NAMES.get(name, name): value for name, value in settings.items()} | self.extra


#: The recipes of each package, by its name on the index.
PACKAGES: dict[str, list[Recipe]] = {
    "torch": [
        Recipe("SGD", "torch.optim.SGD", {"lr": 0.1}),
        Recipe(
            "SGD", "torch.optim.SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}
        ),
        Recipe("SGD", "torch.optim.SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        Recipe("Adagrad", "torch.optim.Adagrad", {}),
        Recipe(
            "Adagrad",
            "torch.optim.Adagrad",
            {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.1},
        ),
        Recipe("RMSprop", "torch.optim.RMSprop", {}),
        Recipe("RMSprop", "torch.optim.RMSprop", {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
        Recipe("Adadelta", "torch.optim.Adadelta", {"weight_decay": 0.1}),
        Recipe("Adam", "torch.optim.Adam", {}),
        Recipe("Adam", "torch.optim.Adam", {"amsgrad": True, "weight_decay": 0.1, "betas": (0.8, 0.95)}),
        Recipe("AdamW", "torch.optim.AdamW", {"lr": 0.01, "weight_decay": 0.1}),
        Recipe("Adamax", "torch.optim.Adamax", {"weight_decay": 0.1}),
        Recipe("NAdam", "torch.optim.NAdam", {"weight_decay": 0.1}),
        Recipe("NAdam", "torch.optim.NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
        Recipe("RAdam", "torch.optim.RAdam", {"weight_decay": 0.1}),
        Recipe(
            "RAdam",
            "torch.optim.RAdam",
            {"betas": (0.9, 0.9), "weight_decay": 0.1, "decoupled_weight_decay": True},
        ),
        Recipe("ASGD", "torch.optim.ASGD", {}),
        Recipe("ASGD", "torch.optim.ASGD", {"lr": 0.1, "lambd": 0.01, "t0": 3.0, "weight_decay": 0.1}),
        Recipe("Rprop", "torch.optim.Rprop", {}),
        Recipe("Rprop", "torch.optim.Rprop", {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (0.05, 0.2)}),
        Recipe("Adafactor", "torch.optim.Adafactor", {}),
        Recipe(
            "Adafactor",
            "torch.optim.Adafactor",
            {"lr": 0.3, "beta2_decay": -0.5, "d": 1.2, "eps": (0.0001, 0.01), "weight_decay": 0.1},
        ),
        Recipe("SparseAdam", "torch.optim.SparseAdam", {}),
        Recipe("SparseAdam", "torch.optim.SparseAdam", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.0001}),
        # every row is there in every step: then it is AdamW
        Recipe("SparseAdamW", "torch.optim.AdamW", {"lr": 0.01, "weight_decay": 0.1}),
        Recipe("Muon", "torch.optim.Muon", {}),
        Recipe(
            "Muon",
            "torch.optim.Muon",
            {
                "lr": 0.1,
                "nesterov": False,
                "ns_steps": 3,
                "adjust_lr_fn": "match_rms_adamw",
                "weight_decay": 0.0,
            },
        ),
    ],
    "optax": [
        Recipe("SGD", "optax.sgd", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
        Recipe(
            "Adagrad",
            "optax.adagrad",
            {"learning_rate": 0.1},
            {"initial_accumulator_value": 0.1, "eps": 1e-07},
        ),
        Recipe(
            "RMSprop",
            "optax.rmsprop",
            {"learning_rate": 0.1, "decay": 0.9, "eps_in_sqrt": False, "momentum": 0.9},
            {"alpha": 0.9},
        ),
        Recipe("Adadelta", "optax.adadelta", {"learning_rate": 1.0}),
        Recipe("Adam", "optax.adam", {"learning_rate": 0.01}),
        Recipe("Adam", "optax.amsgrad", {"learning_rate": 0.01}, {"amsgrad": True}),
        Recipe("AdamW", "optax.adamw", {"learning_rate": 0.01, "weight_decay": 0.1}),
        Recipe("Adamax", "optax.adamax", {"learning_rate": 0.01}),
        Recipe("NAdam", "optax.nadam", {"learning_rate": 0.01}),
        Recipe(
            "NAdamW", "optax.nadamw", {"learning_rate": 0.01, "weight_decay": 0.1}, {"corrected_ahead": True}
        ),
        Recipe(
            "NAdamW", "optax.nadam", {"learning_rate": 0.01}, {"corrected_ahead": True, "weight_decay": 0.0}
        ),
        Recipe("RAdam", "optax.radam", {"learning_rate": 0.01, "b2": 0.9}, {"betas": (0.9, 0.9)}),
        Recipe("Lion", "optax.lion", {"learning_rate": 0.01, "weight_decay": 0.1}),
        Recipe("SignSGD", "optax.sign_sgd", {"learning_rate": 0.01}),
        Recipe("Signum", "optax.signum", {"learning_rate": 0.01}),
        Recipe("AdaBelief", "optax.adabelief", {"learning_rate": 0.01}),
        Recipe("Yogi", "optax.yogi", {"learning_rate": 0.01}, {"initial_average": 1e-6}),
        Recipe("ADOPT", "optax.contrib.adopt", {"learning_rate": 0.01}),
        Recipe("Adan", "optax.adan", {"learning_rate": 0.01, "eps_root": 0.0}),
        Recipe("Adan", "optax.adan", {"learning_rate": 0.01, "eps_root": 0.0, "weight_decay": 0.1}),
        Recipe(
            "AdEMAMix", "optax.contrib.ademamix", {"learning_rate": 0.01, "weight_decay": 0.1}, {"alpha": 5.0}
        ),
        Recipe("LARS", "optax.lars", {"learning_rate": 0.1, "weight_decay": 0.01}),
        Recipe("LAMB", "optax.lamb", {"learning_rate": 0.01, "weight_decay": 0.1}),
        Recipe(
            "NovoGrad",
            "optax.novograd",
            {"learning_rate": 0.01, "weight_decay": 0.1},
            {"betas": (0.9, 0.25), "eps": 1e-06},
        ),
        Recipe("Rprop", "optax.rprop", {"learning_rate": 0.01}),
        Recipe("Adafactor", "optax.adafactor", {"learning_rate": 0.01, "min_dim_size_to_factor": 1}),
        Recipe("Muon", "optax.contrib.muon", {"learning_rate": 0.01}, {"weight_decay": 0.0}),
        Recipe("Prodigy", "optax.contrib.prodigy", {"estim_lr0": 0.001}, {"use_bias_correction": True}),
        Recipe(
            "DAdaptAdam",
            "optax.contrib.dadapt_adamw",
            {"estim_lr0": 0.001},
            {"decouple": True, "use_bias_correction": True},
        ),
        Recipe("DoG", "optax.contrib.dog", {}),
        Recipe("ScheduleFreeSGD", "optax.contrib.schedule_free_sgd", {"learning_rate": 0.1}),
        Recipe("ScheduleFreeAdamW", "optax.contrib.schedule_free_adamw", {"learning_rate": 0.01}),
    ],
    "pytorch_optimizer": [
        Recipe("Lion", "pytorch_optimizer.Lion", {"lr": 0.01, "weight_decay": 0.1}),
        Recipe("Signum", "pytorch_optimizer.SignSGD", {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.1}),
        Recipe("Signum", "pytorch_optimizer.SignSGD", {"lr": 0.01}),
        Recipe("AdaBelief", "pytorch_optimizer.AdaBelief", {"lr": 0.01, "weight_decay": 0.1}),
        Recipe("Yogi", "pytorch_optimizer.Yogi", {}, {"initial_average": 1e-6}),
        Recipe("ADOPT", "pytorch_optimizer.ADOPT", {"lr": 0.01}),
        Recipe(
            "ADOPT",
            "pytorch_optimizer.ADOPT",
            {"lr": 0.01, "weight_decay": 0.1, "weight_decouple": True},
            {"decouple": True},
        ),
        Recipe("Adan", "pytorch_optimizer.Adan", {"lr": 0.01, "weight_decay": 0.1}),
        Recipe(
            "Adan",
            "pytorch_optimizer.Adan",
            {"lr": 0.01, "weight_decay": 0.1, "weight_decouple": True},
            {"no_prox": True},
        ),
        Recipe("AdEMAMix", "pytorch_optimizer.AdEMAMix", {"lr": 0.01, "alpha": 2.0}),
        Recipe(
            "AdEMAMix",
            "pytorch_optimizer.AdEMAMix",
            {"lr": 0.01, "t_alpha_beta3": 8, "weight_decay": 0.1, "weight_decouple": True},
            {"alpha": 5.0, "beta3_warmup": 8, "alpha_warmup": 8},
        ),
        Recipe("MARS", "pytorch_optimizer.MARS", {"weight_decay": 0.1}),
        Recipe(
            "MARS", "pytorch_optimizer.MARS", {"lr": 0.01, "optimize_1d": True, "gamma": 0.1, "eps": 1e-20}
        ),
        Recipe("AdaBound", "pytorch_optimizer.AdaBound", {}),
        Recipe("AdaBound", "pytorch_optimizer.AdaBound", {"lr": 0.01, "gamma": 0.2}),
        Recipe(
            "StableAdamW",
            "pytorch_optimizer.StableAdamW",
            {"lr": 0.01, "weight_decay": 0.1, "kahan_sum": False},
            {"eps": 1e-08},
        ),
        Recipe("FTRL", "pytorch_optimizer.FTRL", {"lr": 0.1}, {"beta": 0.0}),
        Recipe("FTRL", "pytorch_optimizer.FTRL", {"lr": 0.1, "beta": 1.0, "lambda_1": 0.1, "lambda_2": 0.01}),
        Recipe("LARS", "pytorch_optimizer.LARS", {"lr": 0.1, "weight_decay": 0.01}),
        Recipe("LAMB", "pytorch_optimizer.Lamb", {"lr": 0.01, "weight_decay": 0.1, "max_grad_norm": 0.0}),
        Recipe("NovoGrad", "pytorch_optimizer.NovoGrad", {"lr": 0.01}),
        Recipe(
            "NovoGrad",
            "pytorch_optimizer.NovoGrad",
            {"lr": 0.01, "weight_decay": 0.1, "grad_averaging": True},
        ),
        Recipe("Shampoo", "pytorch_optimizer.Shampoo", {}, SUMS),
        Recipe(
            "Shampoo",
            "pytorch_optimizer.Shampoo",
            {"lr": 0.01, "matrix_eps": 1e-3, "weight_decay": 0.1},
            {**SUMS, "eps": 1e-3},
        ),
        Recipe(
            "Shampoo",
            "pytorch_optimizer.ScalableShampoo",
            {"lr": 0.01, "betas": (0.0, 0.9), "matrix_eps": 1e-20, "block_size": 2, "graft_type": 1}
            | {"start_preconditioning_step": 3, "preconditioning_compute_steps": 3}
            | {"use_svd": True, "shape_interpretation": False},
            {"grafting": "sgd"},
            MATRICES,
        ),
        Recipe(
            "Shampoo",
            "pytorch_optimizer.ScalableShampoo",
            {"lr": 0.01, "betas": (0.0, 0.8), "matrix_eps": 1e-20, "inverse_exponent_override": 3}
            | {"start_preconditioning_step": 4, "preconditioning_compute_steps": 4, "graft_type": 1}
            | {"use_svd": True, "shape_interpretation": False},
            {"grafting": "sgd"},
            MATRICES,
        ),
        Recipe("Prodigy", "pytorch_optimizer.Prodigy", {"d0": 0.001}),
        Recipe("DAdaptAdam", "pytorch_optimizer.DAdaptAdam", {"d0": 0.001}),
        Recipe("ScheduleFreeSGD", "pytorch_optimizer.ScheduleFreeSGD", {"lr": 0.1, "warmup_steps": 3}),
        Recipe("ScheduleFreeAdamW", "pytorch_optimizer.ScheduleFreeAdamW", {"lr": 0.01, "weight_decay": 0.1}),
        Recipe("CAME", "pytorch_optimizer.CAME", {"lr": 0.01, "weight_decay": 0.1}),
        Recipe("SOAP", "pytorch_optimizer.SOAP", {"precondition_frequency": 3}),
        Recipe(
            "SOAP",
            "pytorch_optimizer.SOAP",
            {"lr": 0.01, "betas": (0.9, 0.95), "shampoo_beta": 0.8, "weight_decay": 0.1},
        ),
        Recipe("Muon", "pytorch_optimizer.Muon", {"lr": 0.01, "foreach": False}, {"weight_decay": 0.0}),
        Recipe("NorMuon", "pytorch_optimizer.NorMuon", {"lr": 0.01, "weight_decay": 0.1, "foreach": False}),
    ],
    "lion-pytorch": [
        Recipe("Lion", "lion_pytorch.Lion", {"lr": 0.01, "weight_decay": 0.1}),
    ],
    "adabelief-pytorch": [
        Recipe("AdaBelief", "adabelief_pytorch.AdaBelief", {"rectify": False, "weight_decay": 0.1}),
        Recipe("AdaBelief", "adabelief_pytorch.AdaBelief", {"rectify": False, "amsgrad": True}),
    ],
    "adabound": [
        Recipe("AdaBound", "adabound.AdaBound", {}),
        Recipe("AdaBound", "adabound.AdaBound", {"lr": 0.01, "gamma": 0.2, "weight_decay": 0.1}),
        Recipe("AdaBound", "adabound.AdaBound", {"lr": 0.01, "gamma": 0.2, "amsbound": True}),
    ],
    "sophia-opt": [
        Recipe("SophiaG", "sophia_opt.SophiaG", {}),
        Recipe(
            "SophiaG",
            "sophia_opt.SophiaG",
            {"lr": 0.01, "betas": (0.9, 0.8), "rho": 0.01, "weight_decay": 0.0},
        ),
    ],
    "prodigyopt": [
        Recipe("Prodigy", "prodigyopt.Prodigy", {}),
        Recipe(
            "Prodigy", "prodigyopt.Prodigy", {"d0": 0.001, "use_bias_correction": True, "weight_decay": 0.1}
        ),
        Recipe(
            "Prodigy",
            "prodigyopt.Prodigy",
            {
                "d0": 0.001,
                "decouple": False,
                "safeguard_warmup": True,
                "weight_decay": 0.1,
                "growth_rate": 1.5,
            },
        ),
    ],
    "dadaptation": [
        Recipe("DAdaptAdam", "dadaptation.DAdaptAdam", {}),
        Recipe(
            "DAdaptAdam",
            "dadaptation.DAdaptAdam",
            {"d0": 0.001, "use_bias_correction": True, "decouple": True, "weight_decay": 0.1},
        ),
        Recipe(
            "DAdaptAdam", "dadaptation.DAdaptAdam", {"d0": 0.001, "growth_rate": 1.1, "weight_decay": 0.1}
        ),
    ],
    "dog-optimizer": [
        Recipe("DoG", "dog.DoG", {}),
        Recipe("DoG", "dog.DoG", {"reps_rel": 0.01, "weight_decay": 0.1}),
        Recipe("DoG", "dog.DoG", {"init_eta": 0.01}),
    ],
    "schedulefree": [
        Recipe("ScheduleFreeSGD", "schedulefree.SGDScheduleFree", {"lr": 0.1}),
        Recipe(
            "ScheduleFreeSGD",
            "schedulefree.SGDScheduleFree",
            {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1, "warmup_steps": 5, "r": 1.0},
        ),
        Recipe("ScheduleFreeAdamW", "schedulefree.AdamWScheduleFree", {}),
        Recipe(
            "ScheduleFreeAdamW",
            "schedulefree.AdamWScheduleFree",
            {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1, "warmup_steps": 5, "weight_lr_power": 1.0},
        ),
    ],
    "came-pytorch": [
        Recipe("CAME", "came_pytorch.CAME", {"lr": 0.0002}),
        Recipe(
            "CAME",
            "came_pytorch.CAME",
            {"lr": 0.01, "betas": (0.8, 0.9, 0.95), "clip_threshold": 0.5, "weight_decay": 0.1},
        ),
    ],
    "adam_mini": [
        Recipe("AdamMini", "adam_mini.Adam_mini", {"verbose": False}, {"blocks": ("row", "tensor")}),
        Recipe(
            "AdamMini",
            "adam_mini.Adam_mini",
            {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "verbose": False},
            {"blocks": ("row", "tensor")},
        ),
    ],
    "muon-optimizer": [
        Recipe("Muon", "muon.SingleDeviceMuon", {"lr": 0.01, "weight_decay": 0.1}),
    ],
    "kron-torch": [
        Recipe("PSGDKron", "kron_torch.Kron", {"preconditioner_update_probability": 1.0}),
        Recipe(
            "PSGDKron",
            "kron_torch.Kron",
            {"lr": 0.01, "b1": 0.5, "weight_decay": 0.1, "precond_lr": 0.3, "precond_init_scale": 2.0}
            | {"preconditioner_update_probability": 1.0},
        ),
        Recipe("PSGDKron", "kron_torch.Kron", {"lr": 0.01, "preconditioner_update_probability": 0.5}),
    ],
    "torch-optimi": [
        Recipe("StableAdamW", "optimi.StableAdamW", {"lr": 0.01}),
        Recipe(
            "StableAdamW",
            "optimi.StableAdamW",
            {"lr": 0.01, "betas": (0.8, 0.95), "eps": 0.001, "weight_decay": 0.1},
        ),
        Recipe("Adan", "optimi.Adan", {"lr": 0.01, "eps": 1e-08, "weight_decay": 0.1}),
        Recipe("Lion", "optimi.Lion", {"lr": 0.01, "weight_decay": 0.1}),
        Recipe("RAdam", "optimi.RAdam", {"lr": 0.01, "betas": (0.9, 0.9), "eps": 1e-08}),
    ],
    "torch-optimizer": [
        Recipe("Yogi", "torch_optimizer.Yogi", {}, {"initial_average": 1e-6}),
        Recipe(
            "Yogi",
            "torch_optimizer.Yogi",
            {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.0001, "weight_decay": 0.1},
            {"initial_average": 1e-6},
        ),
        Recipe(
            "NovoGrad",
            "torch_optimizer.NovoGrad",
            {"lr": 0.01, "betas": (0.95, 0.98), "weight_decay": 0.1, "grad_averaging": True},
        ),
        Recipe("Shampoo", "torch_optimizer.Shampoo", {"lr": 0.01, "epsilon": 1e-6}, SUMS),
        Recipe("LAMB", "torch_optimizer.Lamb", {"lr": 0.01, "weight_decay": 0.1, "debias": True}),
        Recipe(
            "LARS",
            "torch_optimizer.LARS",
            {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "trust_coefficient": 0.01},
            {"eps": 1e-08},
        ),
    ],
}

#: Which optimizers take matrices only, and which sparse gradients.
SHAPES_OF = {"Muon": MATRICES, "NorMuon": MATRICES}
PROBLEMS_OF = {"SparseAdam": ("sparse",)}
