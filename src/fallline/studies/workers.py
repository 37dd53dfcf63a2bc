"""Is training on several processes faster? DDP beside one process, in turns, with the losses of each."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import torch
from torch import nn

from fallline.compare.judgement.wording import ends, number, plural
from fallline.compare.statistics.pairs import Interval
from fallline.report.finding import Finding
from fallline.studies.data_parallel import Size, Workload, gpus, measured, workload
from fallline.studies.lab import Lab
from fallline.studies.speedup import Speedup, figures, is_rounding, speedups, table
from fallline.studies.study import Study, StudyError
from fallline.studies.summary import scale
from fallline.studies.timing import cores, stamp
from fallline.tasks.task import Task, sample_count

#: How much larger the batches of the task are made, so that a step has more to compute.
LARGER = 16


def answer(lab: Lab) -> Finding:
    """Train the task, the task with larger batches, and a wide network on 1, 2 and 4 processes."""
    counts = tuple(count for count in ((1, 2) if lab.quick else (1, 2, 4)) if count <= (gpus() or 4))
    _refuse(lab.task, counts[-1])
    size = Size(counts, *((6, 0.1, 10) if lab.quick else (9, 0.3, 50)), lab.seed)
    curves = measured(_workloads(lab.task, lab.quick), size, lab.folder)
    found = [each for one in curves for each in speedups(one)]
    return Finding(
        STUDY.name,
        STUDY.question,
        scale(lab.task),
        _answer(found),
        [*_shared(counts), _same(found)],
        [table(found)],
        figures(found, curves),
        CAVEATS,
        {"Protocol": f"{plural(size.rounds, 'round')} in turns, fallline's AdamW, one thread each, "
         f"gradients averaged by DistributedDataParallel over {'NCCL' if gpus() else 'gloo'}", **stamp()},
    )  # fmt: skip


def _refuse(task: Task, processes: int) -> None:
    if sample_count(task.train) is None:
        raise StudyError("a stream has no epoch to time; name a task whose training data have a length")
    if task.batch_size < processes:
        raise StudyError(f"batches of {task.batch_size} cannot be divided by {processes}; raise batch_size")


def _workloads(task: Task, quick: bool) -> list[Workload]:
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


def _answer(found: Sequence[Speedup]) -> str:
    said = [
        f"{each.workload} is {_verdict(each.gain)}, {number(each.gain.mean)} times as fast{_ends(each.gain)}"
        for each in found
        if each.processes == 2
    ]
    return f"With two processes instead of one {'; '.join(said)}."


def _verdict(gain: Interval) -> str:
    low, high = gain.ends or (0.0, inf)
    return "faster" if low > 1 else "slower" if high < 1 else "not shown to differ"


def _ends(gain: Interval) -> str:
    return f" (95 % interval {' to '.join(ends(*gain.ends))})" if gain.ends else ""


def _shared(counts: Sequence[int]) -> list[str]:
    if gpus() or counts[-1] <= cores():
        return []
    return [f"This machine has {plural(cores(), 'core')}: {counts[-1]} processes share them."]


def _same(found: Sequence[Speedup]) -> str:
    largest = max(max(each.differences) for each in found)
    exact = max(max(each.exact) for each in found)
    numbers = f"the losses of several processes differ from those of one by at most {largest:.1g}, relatively"
    if is_rounding(found):
        return f"The same training but for rounding: {numbers}, and by {exact:.1g} in float64."
    return (
        f"Not the same training: {numbers}, and by {exact:.1g} in float64, which is more than rounding. "
        "Layers such as BatchNorm see only their process's share of a batch, and Dropout draws apart in each."
    )


CAVEATS = [
    "Each process has all of the data in memory; reading data from files would be divided, too.",
    "Processes on one machine share its memory bandwidth and caches; across machines the network decides.",
    "The last batch of an epoch is smaller; with fewer samples than processes it is left out.",
]

STUDY = Study("workers", "Is training on several processes faster?", answer)
