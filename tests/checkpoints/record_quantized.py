"""Record state dicts of bitsandbytes and torchao into data/; run where both are installed."""

from copy import deepcopy
from functools import partial
from importlib import import_module
from importlib.metadata import version

import torch
from quantized import STEPS, noise, write

#: Optimizers of bitsandbytes, with settings; below ``min_8bit_size`` elements they keep 32 bits.
BITSANDBYTES = {
    "AdamW8bit": {"lr": 0.01, "weight_decay": 0.1, "min_8bit_size": 100},
    "Adam8bit": {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.9), "min_8bit_size": 100},
    "Adam32bit": {"lr": 0.01, "eps": 1e-3},
    "SGD8bit": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "min_8bit_size": 100},
    "SGD32bit": {"lr": 0.1, "momentum": 0.5, "nesterov": True},
    "Lion8bit": {"lr": 0.01, "weight_decay": 0.1, "min_8bit_size": 100},
    "RMSprop8bit": {"lr": 0.01, "weight_decay": 0.1, "min_8bit_size": 100},
    "RMSprop32bit": {"lr": 0.01, "alpha": 0.9, "momentum": 0.9, "eps": 1e-3},
    "Adagrad8bit": {"lr": 0.1, "weight_decay": 0.1, "min_8bit_size": 100},
    "LAMB": {"lr": 0.01},
    "LARS": {"lr": 0.01, "momentum": 0.9},
    "AdEMAMix": {"lr": 0.01},
}

#: Optimizers of torchao, with settings.
TORCHAO = {
    "AdamW8bit": {"lr": 0.01, "weight_decay": 0.1},
    "Adam4bit": {"lr": 0.01, "weight_decay": 0.1},
    "AdamWFp8": {"lr": 0.01},
}


def trained(make, shapes):
    """Return the optimizer after ``STEPS`` steps, and its parameters with the gradients of the next."""
    params = [torch.nn.Parameter(noise(shape, seed)) for seed, shape in enumerate(shapes)]
    optimizer = make(params)
    for step in range(STEPS + 1):
        for i, p in enumerate(params):
            p.grad = noise(p.shape, 100 * (step + 1) + i)
        if step < STEPS:
            optimizer.step()
    return optimizer, params


def recorded(make, shapes, plain):
    """Return the state dict, what ``plain`` makes of its state, and parameters before and after a step."""
    optimizer, params = trained(make, shapes)
    saved = plain(optimizer)
    before = [p.detach().clone() for p in params]
    grads = [p.grad.clone() for p in params]
    optimizer.step()
    return {**saved, "params": before, "grads": grads, "next": [p.detach().clone() for p in params]}


def of_bitsandbytes(optimizer):
    """Return the state dict, and its 8-bit state by bitsandbytes' own dequantization."""
    from bitsandbytes.functional import dequantize_blockwise

    saved, floats = deepcopy(optimizer.state_dict()), {}
    for key, entry in saved["state"].items():
        held = entry["__bnb_optimizer_quant_state__"]
        for i in [i for i in "12" if f"absmax{i}" in held]:
            codes, absmax, code = (held[name + i] for name in ("state", "absmax", "qmap"))
            floats[f"{key} {i}"] = dequantize_blockwise(codes, absmax=absmax, code=code, blocksize=256)
    return {"saved": saved, "floats": floats}


def of_torchao(optimizer):
    """Return the state dict, quantized tensors as their parts, and each 7th element as torchao decodes it."""
    state, floats = optimizer.state_dict(), {}
    entries = {key: dict(entry) for key, entry in state["state"].items()}
    for key, entry in entries.items():
        for name, value in entry.items():
            if hasattr(value, "codes"):
                floats[f"{key} {name}"] = value.dequantize().flatten()[::7]
                parts = {part: getattr(value, part).clone() for part in value.tensor_attrs}
                entry[name] = {"quantized": parts, "shape": list(value.shape)}
            else:
                entry[name] = value.clone()
    return {"saved": {**state, "state": entries}, "floats": floats}


def record(package, optimizers, shapes, plain):
    """Write the trainings of all ``optimizers`` of ``package`` to one file."""
    module = import_module(f"{package}.optim")
    tree = {}
    for name, settings in optimizers.items():
        tree[name] = recorded(partial(getattr(module, name), **settings), shapes, plain)
    write(package, tree, f"{package} {version(package)}")


if __name__ == "__main__":
    record("bitsandbytes", BITSANDBYTES, [(3, 100), (5,)], of_bitsandbytes)
    record("torchao", TORCHAO, [(64, 64), (5,)], of_torchao)
