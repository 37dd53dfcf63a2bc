"""Record what published packages do on two small problems, as JSON files that the tests read. Run by hand.

In a virtual environment of its own, from the folder ``tests``, one package or all::

    pip install torch==2.13.0 numpy optax pytorch_optimizer schedulefree prodigyopt dadaptation \
        lion-pytorch adabelief-pytorch tabulate colorama adabound sophia-opt dog-optimizer came-pytorch \
        adam_mini muon-optimizer kron-torch torch-optimi torch-optimizer
    TORCHDYNAMO_DISABLE=1 python -m optimizers.record_goldens [PACKAGE ...]

Everything runs in float64. Where a package computes in bfloat16 whatever its parameters are (Muon), the cast
is turned off while it is recorded, so that the formula is compared and not its rounding. Random
directions are those of ``probes``.
"""

import importlib
import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import torch

from optimizers.golden_recipes import PACKAGES, PROBLEMS_OF, SHAPES_OF
from optimizers.second.problem import SHAPES, sampled, start, walk
from optimizers.second.psgd_kron import probes

GOLDENS = Path(__file__).parent / "goldens"

#: How an optimizer that does not take a plain list of parameters gets them.
PARAMETERS = {
    "adam_mini.Adam_mini": lambda params: list(zip(("mlp.weight", "gain"), params, strict=True)),
    "pytorch_optimizer.Muon": lambda params: [{"params": params, "use_muon": True}],
    "pytorch_optimizer.NorMuon": lambda params: [{"params": params, "use_muon": True}],
}

#: What else makes an optimizer compute in float64.
IN_FLOAT64 = {"kron_torch.Kron": {"precond_dtype": torch.float64}}


def find(path: str):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def with_torch(theirs: str, settings: dict, problem: str, shapes) -> list[np.ndarray]:
    params = [torch.nn.Parameter(torch.tensor(p)) for p in start(shapes)]
    optimizer = find(theirs)(PARAMETERS.get(theirs, list)(params), **settings, **IN_FLOAT64.get(theirs, {}))
    probe = probes()
    torch.randn_like = lambda g: torch.tensor(probe(g.numpy(), 0))
    if hasattr(optimizer, "train"):
        optimizer.train()
    estimates = sampled(shapes)

    def give(grads):
        for p, g in zip(params, grads, strict=True):
            p.grad = rows(g) if problem == "sparse" else torch.tensor(g)

    def step(t, grads):
        if hasattr(optimizer, "update_hessian") and estimates(t) is not None:
            give(estimates(t))
            optimizer.update_hessian()
        give(grads)
        optimizer.step()
        return [p.detach().numpy().copy() for p in params]

    return walk(problem, shapes, step)


def rows(g: np.ndarray) -> torch.Tensor:
    """Return the rows of ``g`` that are not zero as a sparse tensor."""
    there = np.flatnonzero(np.any(g.reshape(len(g), -1) != 0, axis=1))
    return torch.sparse_coo_tensor(torch.tensor(there[None]), torch.tensor(g[there]), g.shape)


def with_optax(theirs: str, settings: dict, problem: str, shapes) -> list[np.ndarray]:
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    rule = find(theirs)(**settings)
    params = [jax.numpy.asarray(p) for p in start(shapes)]
    state = rule.init(params)

    def step(t, grads):
        nonlocal params, state
        updates, state = rule.update([jax.numpy.asarray(g) for g in grads], state, params)
        params = optax.apply_updates(params, updates)
        return [np.array(p) for p in params]

    return walk(problem, shapes, step)


def record(package: str) -> dict:
    run = with_optax if package == "optax" else with_torch
    cases = []
    for recipe in PACKAGES[package]:
        shapes = recipe.shapes or SHAPES_OF.get(recipe.optimizer, SHAPES)
        problems = PROBLEMS_OF.get(recipe.optimizer, ("fixed", "quadratic"))
        courses = {problem: run(recipe.theirs, recipe.settings, problem, shapes) for problem in problems}
        cases.append(
            {
                "optimizer": recipe.optimizer,
                "recorded": recipe.theirs,
                "settings": recipe.settings,
                "ours": recipe.ours,
                "shapes": shapes,
                "courses": {p: [[float(f"{x:.13g}") for x in row] for row in c] for p, c in courses.items()},
            }
        )
    return {"package": package, "version": importlib.metadata.version(package), "cases": cases}


def stay_in_float64(package: str) -> None:
    torch.Tensor.bfloat16 = lambda self: self.clone()
    if package == "kron-torch":
        torch.Tensor.float = lambda self: self
    if package == "pytorch_optimizer":
        newton_schulz = find("pytorch_optimizer.optimizer.utils.matrix.zero_power_via_newton_schulz_5")
        newton_schulz.__defaults__ = (*newton_schulz.__defaults__[:-1], torch.float64)


def main(packages: list[str]) -> None:
    GOLDENS.mkdir(exist_ok=True)
    for package in packages or PACKAGES:
        stay_in_float64(package)
        recording = record(package)
        path = GOLDENS / f"{package}-{recording['version'].partition('+')[0]}.json"
        lines = ",\n".join(json.dumps(case) for case in recording.pop("cases"))
        path.write_text(f'{json.dumps(recording)[:-1]}, "cases": [\n{lines}\n]}}\n')
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1:])
