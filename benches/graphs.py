"""Whole steps on a GPU: as a replayed CUDA graph, and by the clock of the host, Python included."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

import fallline

STEPS, ROUNDS, LR = 100, 10, 1e-6

Steps = dict[str, Callable[[], object]]


def in_a_graph(params: list[nn.Parameter]) -> Steps:
    """Return replays of AdamW's step and of torch's fused one."""
    ours = fallline.AdamW(params, lr=LR, fused=True, capturable=True)
    theirs = torch.optim.AdamW(params, lr=LR, fused=True, capturable=True)
    return {"ours": _captured(ours.step), "theirs": _captured(theirs.step)}


def by_the_clock(params: list[nn.Parameter]) -> dict[str, list[float]]:
    """Return seconds per step of AdamW and of torch's fused one, from the first call to the last kernel."""
    ours = fallline.AdamW(params, lr=LR, fused=True)
    theirs = torch.optim.AdamW(params, lr=LR, fused=True)
    return _clocked({"ours": ours.step, "theirs": theirs.step})


def _captured(step: Callable[[], object]) -> Callable[[], object]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay() -> object:
        assert step is not None  # the graph works in the optimizer's memory, which must stay
        return graph.replay()

    return replay


def _clocked(steps: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS + 1):
        for name, step in steps.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - start) / STEPS)
    return {name: own[1:] for name, own in seconds.items()}
