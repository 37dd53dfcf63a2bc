"""A step of every optimizer, beside the time that its bytes need and beside its public implementations."""

import json
import math
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

import fallline
from benches.peers import LR, MISSING, PEERS, steps
from benches.shapes import LARGE, SHAPES, Shape
from benches.timing import ratio, rounds
from fallline.core.dispatch import Dispatch

#: Rounds of a shape: the slowest peers need a second for a step of the largest.
ROUNDS = 5
#: Steps from one decomposition to the next, by default in all of those that decompose: a turn has them all.
PERIOD = 10
#: What the page of optimizers shows: on the largest shape, or on matrices.
SPEEDS = Path(__file__).parents[1] / "docs" / "speeds.json"
#: What decomposes whole matrices is timed on smaller ones: on the large shapes its peers need minutes.
MATRICES = {"Muon", "SOAP", "Shampoo", "PSGDKron", "NorMuon"}


def main() -> None:
    """Print a table for each shape: ours, its share of the bytes-moved floor, and peers' time over ours."""
    shapes = {name: SHAPES[name] for name in (*LARGE, "1000 x 256")}
    names = [name for name in PEERS if name not in MATRICES]
    tables = {shape: _table(shape, each, names) for shape, each in shapes.items()}
    tables["64 x 128x128"] = _table("64 x 128x128", [(128, 128)] * 64, sorted(MATRICES))
    ratios = [best["ratio"] for table in tables.values() for best in table.values()]
    mean = math.exp(sum(map(math.log, ratios)) / max(len(ratios), 1))
    print(
        f"\nbest peer / fallline: geometric mean {mean:.2f} of {len(ratios)}, "
        f"lowest {min(ratios, default=0):.2f}"
    )
    if MISSING:
        print(f"not installed, so not measured: {', '.join(sorted(MISSING))}")
    else:
        told = tables[LARGE[0]] | tables["64 x 128x128"]
        SPEEDS.write_text(json.dumps(told, indent=1) + "\n")


def _table(shape: str, shapes: list[Shape], names: list[str]) -> dict[str, dict[str, Any]]:
    """Print the rows of one shape; return for each optimizer its fastest peer, and its time over ours."""
    print(f"\n{shape}, {torch.get_num_threads()} threads")
    print("| optimizer | ms | of the floor | peers / fallline |\n|---|---|---|---|")
    best = {}
    for name in names:
        if hasattr(fallline, name):
            seconds, floor = _measured(name, shapes)
            ours, stream = seconds.pop("ours"), seconds.pop("stream")
            rivals = sorted((ratio(each, ours), peer) for peer, each in seconds.items())
            if rivals:
                best[name] = {"peer": rivals[0][1], "ratio": round(rivals[0][0], 2)}
            share = f"{floor * ratio(stream, ours):.2f}" if floor else ""
            told = ", ".join(f"{peer} {value:.2f}" for value, peer in rivals)
            print(f"| {name} | {median(ours) * 1e3:.3f} | {share} | {told} |", flush=True)
    return best


def _measured(name: str, shapes: list[Shape]) -> tuple[dict[str, list[float]], float]:
    """Return seconds per step of ours, a stream and the peers; and our bytes over the stream's."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    ours = getattr(fallline, name)(params, lr=LR)
    count = sum(p.numel() for p in params)
    x, y = torch.zeros(count), torch.zeros(count)
    entries = {"stream": lambda: x.add_(y), "ours": ours.step, **steps(name, params)}
    least = PERIOD if name in MATRICES else 1
    return rounds(entries, ROUNDS, least), bytes_moved(ours) / (3 * 4 * count)


def bytes_moved(optimizer: fallline.Optimizer) -> float:
    """Return the bytes that a step moves by `fallline.explain`'s count; 0 where it is not one number."""
    moved = 0.0
    for backend, batch in Dispatch.of_all(optimizer):
        elements = sum(p.numel() for p in batch.params)
        traffic = [backend.traffic(batch, one) for one in batch.plan.passes]
        if None in traffic:
            return 0.0
        moved += sum(sum(each) for each in traffic if each) * elements
    return moved
