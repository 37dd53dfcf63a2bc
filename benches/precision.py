"""One step of AdamW with state in each format, on the largest shape: bytes not moved are time saved."""

import torch
from torch import nn

import fallline
from benches.shapes import SHAPES
from benches.timing import ratio, rounds
from fallline import Precision
from fallline.core.explain import bytes_moved

SHAPE = "2 x 4096x4096"
STATES = ("fp32", "bf16", "8bit", "4bit")
PARAMS = (None, "stochastic", "kahan", "master")


def main() -> None:
    """Print ratios for one thread and for all."""
    every = torch.get_num_threads()
    for threads in dict.fromkeys((1, every)):
        torch.set_num_threads(threads)
        print(f"\nPrecision: AdamW on {SHAPE}, {threads} thread{'s' if threads > 1 else ''}")
        _report("float32 parameters", torch.float32, [Precision(state) for state in STATES])
        _report("bfloat16 parameters", torch.bfloat16, [Precision("fp32", params) for params in PARAMS])
    torch.set_num_threads(every)


def _report(title: str, dtype: torch.dtype, precisions: list[Precision]) -> None:
    """Print the speed of each precision beside that of the first, and the bytes that its step moves."""
    params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES[SHAPE]]
    for p in params:
        p.grad = torch.randn_like(p)
    elements = sum(p.numel() for p in params)
    optimizers = {each: fallline.AdamW(params, lr=1e-6, precision=each) for each in precisions}
    seconds = rounds({str(each): optimizer.step for each, optimizer in optimizers.items()})
    first = seconds[str(precisions[0])]
    for each, optimizer in optimizers.items():
        speed, moved = ratio(first, seconds[str(each)]), bytes_moved(optimizer) / elements
        print(f"{title}, state {each.state}, params {each.params}: {speed:.2f} x, {moved:.2f} bytes/element")
