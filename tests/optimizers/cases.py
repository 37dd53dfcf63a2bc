"""Settings that between them reach every branch of every optimizer's rules."""

import torch

import fallline
from fallline.core.optimizer import Optimizer
from optimizers.beyond import ELEMENTWISE

CASES = [
    (fallline.SGD, {"lr": 0.1}),
    (fallline.SGD, {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    (fallline.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    (fallline.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (fallline.Adagrad, {"lr": 0.1}),
    (fallline.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.1}),
    (fallline.RMSprop, {}),
    (fallline.RMSprop, {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    (fallline.Adadelta, {"weight_decay": 0.1}),
    (fallline.Adam, {"betas": (0.8, 0.95)}),
    (fallline.Adam, {"amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    (fallline.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    (fallline.AdamW, {"amsgrad": True}),
    (fallline.Adamax, {"weight_decay": 0.1}),
    (fallline.NAdam, {"weight_decay": 0.1}),
    (fallline.NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    (fallline.RAdam, {"betas": (0.9, 0.9)}),
    (fallline.RAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    (fallline.ProximalSGD, {"lr": 0.1, "prox": fallline.prox.L1(0.5)}),
    (fallline.ASGD, {"lr": 0.1, "lambd": 0.1, "t0": 3.0, "weight_decay": 0.1}),
    (fallline.Rprop, {"lr": 0.1, "etas": (0.7, 1.5), "step_sizes": (0.05, 0.3)}),
    *ELEMENTWISE,
]
IDS = [f"{cls.__name__}-{settings}" for cls, settings in CASES]


def on_backend(optimizer: Optimizer, backend: str) -> Optimizer:
    """Return ``optimizer`` after setting the flags that choose ``backend`` (``"cpu"`` or ``"eager"``)."""
    for group in optimizer.param_groups:
        group["foreach"] = False if backend == "eager" else None
        group["fused"] = False if backend == "eager" else None
    return optimizer


def run(cls, settings, start, grads, backend):
    """Return the parameter after each step, and the optimizer."""
    p = torch.nn.Parameter(start.clone())
    optimizer = on_backend(cls([p], **settings), backend)
    course = []
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        course.append(p.detach().clone())
    return torch.stack(course), optimizer
