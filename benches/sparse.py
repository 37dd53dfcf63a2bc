"""A step on sparse gradients, as embeddings make them, ours against torch's."""

from collections.abc import Callable
from itertools import cycle
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import fallline
from benches.timing import ratio, rounds

#: Rows and width of the table, and how many words a step reads.
TABLES = {"1,000,000 x 64, 4,096 words": (1_000_000, 64, 4096), "10,000 x 32, 256 words": (10_000, 32, 256)}
#: How words are drawn: each as often as any other, or few of them nearly always, as in text.
DRAWS = {"uniform": 1, "as in text": 6}
NAMES = "SGD", "Adagrad", "SparseAdam"


def main() -> None:
    """Print microseconds of a step and ratios, for one thread and for all."""
    every = torch.get_num_threads()
    for threads in dict.fromkeys((1, every)):
        torch.set_num_threads(threads)
        print(f"\nSparse step: torch / fallline, {threads} thread{'s' if threads > 1 else ''}")
        for table, shape in TABLES.items():
            for draw, power in DRAWS.items():
                _report(f"{table}, {draw}", _gradients(*shape, power))
    torch.set_num_threads(every)


def _report(label: str, gradients: list[Tensor]) -> None:
    print(label)
    for name in NAMES:
        libraries = {"ours": getattr(fallline, name), "torch": getattr(torch.optim, name)}
        seconds = rounds({key: _step(make, gradients) for key, make in libraries.items()})
        ours, theirs = (median(seconds[key]) * 1e6 for key in libraries)
        gained = ratio(seconds["torch"], seconds["ours"])
        print(f"  {name:11s} {ours:9.1f} us, torch {theirs:9.1f} us, ratio {gained:.2f}")
    alone = rounds({"ours": _step(fallline.SparseAdamW, gradients)})
    print(f"  SparseAdamW {median(alone['ours']) * 1e6:9.1f} us, of which torch has none")


def _step(make: Callable[..., Any], gradients: list[Tensor]) -> Callable[[], None]:
    """Return a step with the next of the gradients, on a table of its own."""
    table = nn.Parameter(torch.zeros(gradients[0].shape))
    optimizer, following = make([table], lr=1e-3), cycle(gradients)

    def step() -> None:
        table.grad = next(following)
        optimizer.step()

    return step


def _gradients(rows: int, width: int, words: int, power: int, count: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        drawn = (torch.rand(words, generator=generator) ** power * rows).long()
        values = torch.randn(words, width, generator=generator)
        made.append(torch.sparse_coo_tensor(drawn[None], values, (rows, width), check_invariants=True))
    return made
