"""Trainings on several processes at once: each takes its share of every batch, gradients are averaged."""

import json
import os
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

from fallline.compare.judgement.wording import last_line
from fallline.compare.planning import portable
from fallline.compare.storage.files import write_whole
from fallline.core.registry import find
from fallline.studies.study import StudyError
from fallline.tasks.batches import Batches
from fallline.tasks.data import Batch, each, leaves
from fallline.tasks.load import load
from fallline.tasks.seeding import derived, seeded
from fallline.tasks.task import Task

#: Steps before anything is timed: compilation, allocation of state, and DDP's second bucketing.
WARM_UP = 6
#: AdamW's learning rate, usual and small enough for any model to train.
RATE = 1e-3
#: The optimizer that all teams train with.
OPTIMIZER = "adamw"


@dataclass(frozen=True)
class Workload:
    """What is divided between processes: a task, pickled or by name, under a ``name`` for tables."""

    name: str
    task: bytes | str

    def load(self) -> Task:
        """Return the task."""
        return load(self.task) if isinstance(self.task, str) else pickle.loads(self.task)


def workload(name: str, task: Task) -> Workload:
    """Return ``task`` in the form in which processes are given it."""
    return Workload(name, portable(task, task))


@dataclass(frozen=True)
class Size:
    """How much is measured of each workload.

    Args:
        counts: numbers of processes, ascending, the first is 1.
        rounds: how often each number is timed, in turns.
        seconds: about how long one timing takes.
        steps: of the trainings whose losses are compared.
        seed: of initial weights, batches, and whatever the model draws.
    """

    counts: tuple[int, ...]
    rounds: int
    seconds: float
    steps: int
    seed: int


@dataclass(frozen=True)
class Measured:
    """What was measured of one workload, by the number of processes as text, as JSON has it.

    ``seconds`` of a step in each round; ``losses`` and ``exact_losses`` at each step of a training in the
    task's own precision and in float64.
    """

    name: str
    batch_size: int
    steps_per_epoch: int
    parameters: int
    seconds: dict[str, list[float]]
    losses: dict[str, list[float]]
    exact_losses: dict[str, list[float]]


def measured(workloads: Sequence[Workload], size: Size, folder: Path) -> list[Measured]:
    """Measure ``workloads`` on processes of their own, or read from ``folder`` what was measured before.

    Raises:
        StudyError: torch has no `torch.distributed` here, or a training fails.
    """
    file = folder / "processes.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _start(workloads, size, folder, file)
    return [Measured(**each) for each in json.loads(file.read_text())]


def _start(workloads: Sequence[Workload], size: Size, folder: Path, file: Path) -> None:
    if not dist.is_available():
        raise StudyError("this torch is built without torch.distributed; install one that has it")
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    arguments = (workloads, size, meeting, file)
    try:
        start_processes(_work, arguments, size.counts[-1], daemon=True, start_method="spawn")
    except ProcessRaisedException as error:
        raise StudyError(f"not trained on {size.counts[-1]} processes: {last_line(str(error))}") from error
    finally:
        meeting.unlink(missing_ok=True)


def gpus() -> int:
    """Return how many processes can have a GPU of their own; 0 where data-parallel training needs CPUs."""
    count = torch.cuda.device_count()
    return count if count > 1 and dist.is_available() and dist.is_nccl_available() else 0


def _work(rank: int, workloads: Sequence[Workload], size: Size, meeting: Path, file: Path) -> None:
    """Be one of the processes: measure with the others, and write down what the first one saw."""
    torch.set_num_threads(1)
    os.dup2(2, 1)  # what a task prints is no part of the output
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting.absolute()}", rank=rank, world_size=size.counts[-1]
    )
    crew = _Crew(rank, size)
    found = [crew.measured(workload) for workload in workloads]
    if rank == 0:
        write_whole(file, json.dumps([asdict(each) for each in found]))
    dist.barrier()  # gloo may still hold tensors otherwise when Python ends
    dist.destroy_process_group()


class _Crew:
    """This process among the others, and the groups it trains in."""

    def __init__(self, rank: int, size: Size):
        self.rank, self.size = rank, size
        backend = "nccl" if gpus() else "gloo"
        self.device = torch.device("cuda", rank) if gpus() else torch.device("cpu")
        self.groups: dict[int, Any] = {
            count: dist.new_group(range(count), backend=backend) for count in size.counts
        }

    def measured(self, workload: Workload) -> Measured:
        task = workload.load()
        exact = replace(task, precision="float64")
        return Measured(
            workload.name,
            task.batch_size,
            task.steps_per_epoch,
            sum(parameter.numel() for parameter in task.new_model().parameters()),
            self._seconds(task),
            self._in_each(lambda count: self._losses(self._team(task, count))),
            self._in_each(lambda count: self._losses(self._team(exact, count))),
        )

    def _team(self, task: Task, count: int) -> "Team":
        return Team(task, self.groups[count], self.rank, count, self.size.seed, self.device)

    def _in_each(self, call: Callable[[int], Any]) -> dict[str, Any]:
        """Return what ``call`` gives for each number of processes this one belongs to; the others wait."""
        results = {}
        for count in self.size.counts:
            dist.barrier()
            if self.rank < count:
                results[str(count)] = call(count)
        return results

    def _seconds(self, task: Task) -> dict[str, list[float]]:
        """Return the seconds of a step in each of the rounds, which go over all numbers of processes."""
        teams = self._in_each(lambda count: self._team(task, count))
        steps = self._in_each(lambda count: self._timed_steps(teams[str(count)]))
        rounds = [
            self._in_each(lambda count: teams[str(count)].timed(steps[str(count)]))
            for _ in range(self.size.rounds)
        ]
        return {count: [each[count] for each in rounds] for count in teams}

    def _timed_steps(self, team: "Team") -> int:
        """Return how many steps take the seconds that a timing should, as the first process finds."""
        team.timed(WARM_UP)
        count = torch.tensor(self.size.seconds / team.timed(WARM_UP), device=self.device)
        dist.broadcast(count, 0, group=team.group)
        return max(3, round(count.item()))

    def _losses(self, team: "Team") -> list[float]:
        return [team.step() for _ in range(self.size.steps)]


class Team:
    """This process's part in one training by the first ``count`` processes.

    Args:
        task: what to train; every process has all of its data.
        group: the processes.
        rank: this one's place, from 0 to ``count`` - 1.
        count: how many they are; one alone trains without DDP.
        seed: of the initial weights and the batches; what a model draws is different in each process.
        device: where the model is.
    """

    def __init__(
        self, task: Task, group: dist.ProcessGroup | None, rank: int, count: int, seed: int,
        device: torch.device,
    ):  # fmt: skip
        self.group, self.rank, self.count, self.device = group, rank, count, device
        with seeded(seed):
            model = task.new_model().to(device)
        torch.manual_seed(derived(seed, rank))
        self.optimizer = find(OPTIMIZER).build(list(model.parameters()), lr=RATE)
        self.loss_on = _Loss(task, model)
        if count > 1:
            from torch.nn.parallel import DistributedDataParallel

            self.loss_on = DistributedDataParallel(self.loss_on, process_group=group)
        self.batches = Batches(task.train, task.batch_size, seed)

    def step(self) -> float:
        """Make a step on the next batch and return its loss over all processes."""
        loss = self._step()
        if self.count > 1:
            dist.all_reduce(loss, group=self.group)
        return loss.item() / self.count

    def timed(self, steps: int) -> float:
        """Return the seconds that each of ``steps`` takes, from when all begin until all are done."""
        self._wait()
        started = time.perf_counter()
        for _ in range(steps):
            self._step()
        self._wait()
        return (time.perf_counter() - started) / steps

    def _step(self) -> Tensor:
        """Make a step; return this process's part of the loss, whose mean over processes is the batch's."""
        batch = next(batch for batch in self.batches if _samples(batch) >= self.count)
        mine = each(lambda leaf: leaf.tensor_split(self.count)[self.rank].to(self.device), batch)
        # DDP averages over processes, and shares may differ by a sample.
        loss = self.loss_on(mine) * (_samples(mine) * self.count / _samples(batch))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        dist.barrier(group=self.group)


class _Loss(nn.Module):
    """A task's loss as a module: what DDP wraps must be called in every step, and tasks may call parts."""

    def __init__(self, task: Task, model: nn.Module):
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch) -> Tensor:
        return self.task.loss_on(self.model, batch)


def _samples(batch: Batch) -> int:
    return len(next(leaves(batch)))
