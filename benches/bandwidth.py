"""How near each optimizer's step comes to moving its bytes at the machine's streaming rate."""

from statistics import median

import torch
from torch import nn

import fallline
from benches.shapes import LARGE, SHAPES
from benches.steps import DROP_INS
from benches.timing import ratio, rounds


def main() -> None:
    """Print, for the large shapes, the share of the bytes-moved floor that each optimizer reaches."""
    for shape in LARGE:
        print(f"\nBandwidth on {shape}: time to move the bytes at the streaming rate / time of the step")
        shares, rate, reading = _shares(shape)
        print(f"streaming rate (in-place add, two reads and one write): {rate / 1e9:.1f} GB/s")
        print(f"of reading alone (dot product), as sums are taken: {reading / 1e9:.1f} GB/s")
        print(", ".join(f"{name} {share:.2f}" for name, share in shares.items()))


def _shares(shape: str) -> tuple[dict[str, float], float, float]:
    params = [nn.Parameter(torch.randn(s)) for s in SHAPES[shape]]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizers = {name: getattr(fallline, name)(params, lr=1e-6, **s) for name, s in DROP_INS.items()}
    count = sum(p.numel() for p in params)
    x, y = torch.zeros(count), torch.zeros(count)
    entries = {name: optimizer.step for name, optimizer in optimizers.items()}
    seconds = rounds({"stream": lambda: x.add_(y), "reading": lambda: torch.dot(x, y), **entries})
    streamed = 3 * 4 * count
    moved = {name: _bytes_moved(optimizer) / streamed for name, optimizer in optimizers.items()}
    shares = {name: moved[name] * ratio(seconds["stream"], seconds[name]) for name in optimizers}
    return shares, streamed / median(seconds["stream"]), 2 * 4 * count / median(seconds["reading"])


def _bytes_moved(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of a step: the gradient read, parameter and state read and written."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = [x for p in params for x in optimizer.state[p].values() if x.dim() > 0]
    return sum(3 * p.numel() * p.element_size() for p in params) + sum(
        2 * x.numel() * x.element_size() for x in state
    )
