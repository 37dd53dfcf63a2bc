"""The memory that one training needs, measured on a single step of it, and how much is free."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fallline.compare.trials.training import Training
from fallline.compare.trials.trial import state_bytes
from fallline.core.optimizer import Optimizer
from fallline.tasks.data import leaves, sample_count
from fallline.tasks.evaluation import BATCH
from fallline.tasks.task import Task

#: What a worker process takes before it has a model: resident memory (VmRSS) on Linux after it has imported
#: torch (219 MiB) and fallline (5), and made the first step of an optimizer, which loads LLVM (54).
PROCESS_BYTES = 278 << 20
#: What optimizers that are not ours take more: no LLVM, but torch's compiler (80), loaded to make them.
FOREIGN_BYTES = 26 << 20

#: What a container may take, what it takes, and which of its statistics is files that make room for others,
#: in the two versions of control groups.
CONTROL_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)

Storages = dict[int, int]


def free_memory(root: Path = Path("/")) -> float:
    """Return the bytes that new processes may take, of the machine's memory and of their container's.

    Infinite where the system does not say; ``root`` is where ``proc`` and ``sys`` are.
    """
    free = inf
    with suppress(OSError):
        free = 1024 * _statistics(root / "proc/meminfo")["MemAvailable:"]
    for limit, used, reclaimed in CONTROL_GROUPS:
        with suppress(OSError, ValueError):  # a limit may be the word "max"
            group = root / "sys/fs/cgroup" / limit
            taken = int((root / "sys/fs/cgroup" / used).read_text())
            taken -= _statistics(group.with_name("memory.stat"))[reclaimed]
            free = min(free, int(group.read_text()) - taken)
    return free


def _statistics(file: Path) -> dict[str, int]:
    """Return the numbers by the words in front of them."""
    lines = (line.split() for line in file.read_text().splitlines())
    return {name: int(number) for name, number, *_ in lines}


def needed_bytes(training: Training, task: Task) -> int:
    """Return the bytes that ``training`` of ``task`` takes at its peak, without its optimizer's state.

    On a CPU: the process, the data, the parameters, and what is larger: the gradients, the tensors saved for
    the backward pass and what its widest layer has in work, or the widest layer of an evaluation. On a GPU:
    what is allocated there.
    """
    data = [(each.train, each.valid, each.test) for each in (task, training.task)]
    kept = storages([data, training.model.state_dict()])
    device = next((parameter.device for parameter in training.parameters), torch.device("cpu"))
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) + _allocated_in_passes(training, device)
    return PROCESS_BYTES + sum(kept.values()) + _taken_in_passes(training, kept)


def optimizer_bytes(optimizer: Any) -> int:
    """Return the bytes that an optimizer takes besides those of its step."""
    return state_bytes(optimizer) + (0 if isinstance(optimizer, Optimizer) else FOREIGN_BYTES)


def _taken_in_passes(training: Training, kept: Storages) -> int:
    batch = next(training.batches)
    with _saved_for_backward() as saved, _widest_layer(training.model) as widest:
        training.task.loss_on(training.model, batch).backward()
    passing = saved | storages([batch, [parameter.grad for parameter in training.parameters]])
    in_step = sum(size for at, size in passing.items() if at not in kept)
    layer = max(widest, default=0)
    return max(in_step + layer, layer * BATCH // (sample_count(batch) or 1))


def _allocated_in_passes(training: Training, device: torch.device) -> int:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    training.task.loss_on(training.model, next(training.batches)).backward()
    training.task.evaluated(training.model, training.task.valid)
    return torch.cuda.max_memory_allocated(device) - before


def storages(tree: Any) -> Storages:
    """Return the address and the bytes of each piece of memory in a tree of tensors, arrays and datasets."""
    found: Storages = {}
    _collect(tree, found, set())
    return found


def _collect(tree: Any, found: Storages, seen: set[int]) -> None:
    if isinstance(tree, Tensor):
        for part in [tree._indices(), tree._values()] if tree.is_sparse else [tree]:
            memory = part.untyped_storage()
            found[memory.data_ptr()] = memory.nbytes()
    elif isinstance(tree, np.ndarray):
        found[tree.ctypes.data] = tree.nbytes
    elif id(tree) not in seen:
        seen.add(id(tree))
        for branch in _branches(tree):
            _collect(branch, found, seen)


def _branches(tree: Any) -> Iterator[Any]:
    """Yield what a container holds; of numbers and text, which a dataset may have many of, nothing."""
    if isinstance(tree, (Dataset, DataLoader)):
        yield from vars(tree).values()
    elif isinstance(tree, Mapping):
        yield from tree.values()
    elif isinstance(tree, (list, tuple)):
        yield from (branch for branch in tree if not isinstance(branch, (int, float, str)))


@contextmanager
def _saved_for_backward() -> Iterator[Storages]:
    """Collect the memory that the graph of the block keeps."""
    found: Storages = {}

    def note(tensor: Tensor) -> Tensor:
        found.update(storages(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield found


@contextmanager
def _widest_layer(model: nn.Module) -> Iterator[list[int]]:
    """Collect the bytes of inputs and outputs of each module without modules of its own."""
    found: list[int] = []

    def note(_: nn.Module, inputs: Any, outputs: Any) -> None:
        found.append(sum(each.nbytes for each in leaves([inputs, outputs]) if isinstance(each, Tensor)))

    innermost = [module for module in model.modules() if not any(module.children())]
    handles = [module.register_forward_hook(note) for module in innermost]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
