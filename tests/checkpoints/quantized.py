"""Trainings of other packages' optimizers that keep fewer bits: their gradients, and the files in data/.

A file of safetensors has tensors alone; the rest of a tree is JSON in its metadata, where
``{"tensor": name}`` stands for a tensor and ``{"items": [[key, value], ...]}`` for a dict.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

DATA = Path(__file__).with_name("data")

#: Steps before the state was recorded; one more was recorded after it.
STEPS = 3


def noise(shape, seed: int) -> torch.Tensor:
    """Return normal numbers whose size differs between elements by up to 10**4."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * 10 ** (-4 * torch.rand(shape, generator=generator))


def packed(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return ``tree`` as JSON, after putting its tensors into ``tensors``, equal ones once."""
    if isinstance(tree, torch.Tensor):
        return {"tensor": _name(tree.contiguous(), tensors)}
    if isinstance(tree, dict):
        return {"items": [[packed(k, tensors), packed(v, tensors)] for k, v in tree.items()]}
    return [packed(each, tensors) for each in tree] if isinstance(tree, (list, tuple)) else tree


def _name(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    for name, other in tensors.items():
        if tensor.dtype == other.dtype and tensor.shape == other.shape and torch.equal(tensor, other):
            return name
    tensors[str(len(tensors))] = tensor.clone()
    return str(len(tensors) - 1)


def unpacked(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return what was packed."""
    if isinstance(tree, dict) and "tensor" in tree:
        return tensors[tree["tensor"]].clone()
    if isinstance(tree, dict):
        return {unpacked(k, tensors): unpacked(v, tensors) for k, v in tree["items"]}
    return [unpacked(each, tensors) for each in tree] if isinstance(tree, list) else tree


def write(name: str, tree: Any, package: str) -> None:
    """Write ``tree`` to data/, with the version of the package that made it."""
    tensors: dict[str, torch.Tensor] = {}
    metadata = {"package": package, "tree": json.dumps(packed(tree, tensors))}
    DATA.mkdir(exist_ok=True)
    save_file(tensors, DATA / f"{name}.safetensors", metadata)


def read(name: str) -> Any:
    """Return what `write` wrote."""
    with safe_open(DATA / f"{name}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        return unpacked(json.loads(file.metadata()["tree"]), tensors)
