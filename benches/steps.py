"""One optimizer step, ours against the best that torch does without compiling: loop, foreach or fused."""

import math
from statistics import median

import torch
from torch import nn

import fallline
from benches.shapes import LARGE, SHAPES, Shape
from benches.timing import ratio, rounds

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


def _step(name: str, shapes: list[Shape]) -> dict[str, list[float]]:
    """Return seconds per step, round by round: ours and torch's variants on the same parameters."""
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
    return rounds(entries)


def _best(seconds: dict[str, list[float]]) -> float:
    """Return the ratio of torch's fastest variant to ours."""
    fastest = min((k for k in seconds if k != "ours"), key=lambda k: median(seconds[k]))
    return ratio(seconds[fastest], seconds["ours"])


def _report(seconds: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    print(f"{'':15s}" + "".join(f"{name:>9s}" for name in DROP_INS))
    ratios = {shape: [_best(row[name]) for name in DROP_INS] for shape, row in seconds.items()}
    for shape, row in ratios.items():
        print(f"{shape:15s}" + "".join(f"{value:9.2f}" for value in row))
    every = [value for row in ratios.values() for value in row]
    print(f"geometric mean {math.exp(sum(map(math.log, every)) / len(every)):.2f}, lowest {min(every):.2f}")
    for shape in (*LARGE, "1000 x 256"):
        fused = {n: ratio(row["fused"], row["ours"]) for n, row in seconds[shape].items() if n in FUSED}
        print(f"fused / ours, {shape}: " + ", ".join(f"{n} {value:.2f}" for n, value in fused.items()))
    micro = seconds["MLP, 6 tensors"]["AdamW"]
    print("AdamW on the MLP: " + ", ".join(f"{k} {median(v) * 1e6:.1f} us" for k, v in micro.items()))
