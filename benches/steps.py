"""One optimizer step, ours against the best that torch does without compiling: loop, foreach or fused."""

import math

import torch
from torch import nn

import fallline
from benches.shapes import LARGE, SHAPES, Shape
from benches.timing import medians

#: The nine drop-ins with the settings they are timed at.
DROP_INS = {
    "SGD": {"momentum": 0.9},
    "Adagrad": {},
    "RMSprop": {},
    "Adadelta": {},
    "Adam": {},
    "AdamW": {},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
}
FUSED = {"SGD", "Adagrad", "Adam", "AdamW"}


def main() -> None:
    """Print a table of ratios for one thread and one for all."""
    every = torch.get_num_threads()
    for threads in dict.fromkeys((1, every)):
        torch.set_num_threads(threads)
        print(f"\nStep: best of torch / fallline, {threads} thread{'s' if threads > 1 else ''}")
        _report({shape: {name: _step(name, SHAPES[shape]) for name in DROP_INS} for shape in SHAPES})
    torch.set_num_threads(every)


def _step(name: str, shapes: list[Shape]) -> dict[str, float]:
    """Return seconds per step: ours, and torch's variants, on the same parameters and gradients."""
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    settings = {**DROP_INS[name], "lr": 1e-6}
    theirs = getattr(torch.optim, name)
    entries = {"ours": getattr(fallline, name)(params, **settings).step}
    entries["loop"] = theirs(params, foreach=False, **settings).step
    entries["foreach"] = theirs(params, foreach=True, **settings).step
    if name in FUSED:
        entries["fused"] = theirs(params, fused=True, **settings).step
    return medians(entries)


def _report(seconds: dict[str, dict[str, dict[str, float]]]) -> None:
    print(f"{'':15s}" + "".join(f"{name:>9s}" for name in DROP_INS))
    ratios = []
    for shape, row in seconds.items():
        best = [min(v for k, v in row[name].items() if k != "ours") / row[name]["ours"] for name in DROP_INS]
        ratios += best
        print(f"{shape:15s}" + "".join(f"{ratio:9.2f}" for ratio in best))
    print(
        f"geometric mean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}, lowest {min(ratios):.2f}"
    )
    for shape in (*LARGE, "1000 x 256"):
        fused = {n: seconds[shape][n]["fused"] / seconds[shape][n]["ours"] for n in DROP_INS if n in FUSED}
        print(f"fused / ours, {shape}: " + ", ".join(f"{n} {ratio:.2f}" for n, ratio in fused.items()))
    micro = seconds["MLP, 6 tensors"]["AdamW"]
    print("AdamW on the MLP: " + ", ".join(f"{k} {v * 1e6:.1f} us" for k, v in micro.items()))
