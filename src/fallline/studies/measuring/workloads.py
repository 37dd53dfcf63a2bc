"""What is divided between processes: a task, the same with larger batches, and a wide network."""

from dataclasses import replace

import torch
from torch import nn

from fallline.studies.measuring.data_parallel import Workload, workload
from fallline.tasks.task import Task, sample_count

#: How much larger the batches of the task are made, so that a step has more to compute.
LARGER = 16


def workloads(task: Task, quick: bool) -> list[Workload]:
    """Return the task, the task with larger batches unless ``quick``, and a wide network."""
    large = min(LARGER * task.batch_size, sample_count(task.train) or 0)
    sizes = dict.fromkeys([task.batch_size] if quick else [task.batch_size, large])
    tasks = [*(replace(task, batch_size=size) for size in sizes), wide_task()]
    return [workload(f"{each.name}, batch {each.batch_size}", each) for each in tasks]


def wide_task() -> Task:
    """Return a network of 1.1 million parameters on random data: a step computes much, in large batches."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2048, 64, generator=generator)
    targets = torch.randint(10, (2048,), generator=generator)
    return Task(wide_network, (inputs, targets), (inputs, targets), name="wide net", batch_size=512)


def wide_network() -> nn.Module:
    """Return an MLP 64-1024-1024-10."""
    widths = nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    return nn.Sequential(*widths)
