"""What the user asks for, checked before anything is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from fallline.compare.errors import ComparisonError
from fallline.core.errors import suggestion
from fallline.tasks.task import Task

SAMPLERS = ("sobol", "halton", "random", "tpe", "gp", "cmaes")
ADAPTIVE = ("tpe", "gp", "cmaes")
PRUNERS = ("none", "median", "asha", "hyperband", "wilcoxon")
EXECUTORS = ("processes", "stacked", "serial", "ray")
#: Seeds that each configuration is tuned on for Wilcoxon's pruner, unless told otherwise, and at least.
INSTANCES = 5


@dataclass(frozen=True)
class Request:
    """What the user asked for; None leaves the choice to the plan, or to the comparison that is resumed."""

    task: str | Task
    optimizers: str | Sequence[str] | None = None
    trials: int | None = None
    seeds: int | None = None
    studies: int | None = None
    budget: str | float | None = None
    workers: int | None = None
    out: str | Path | None = None
    resume: bool = False
    seed: int | None = None
    space: str | Path | Mapping[str, Any] | None = None
    scientific: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    sampler: str | None = None
    pruner: str | None = None
    until_settled: bool = False
    executor: str | None = None
    address: str | None = None
    storage: str | None = None
    instances: int | None = None
    beside_defaults: bool = False
    started: float = field(default_factory=monotonic)

    def __post_init__(self):
        for name, least in (("trials", 1), ("seeds", 1), ("studies", 1), ("workers", 0)):
            _check_count(name, getattr(self, name), least)
        for name, known in (("sampler", SAMPLERS), ("pruner", PRUNERS), ("executor", EXECUTORS)):
            _check_word(name, getattr(self, name), known)
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ComparisonError(f"seed must fit into 64 bits, got {self.seed}")
        if self.resume and self.out is None:
            raise ComparisonError("--resume needs the folder of the comparison to continue: add --out FOLDER")
        if self.storage is not None and not is_storage(self.storage):
            raise ComparisonError(
                f"cannot read the storage {self.storage!r}; write it as journal:FILE, sqlite:///FILE or the "
                "address of a database"
            )
        if self.executor == "stacked":
            _check_stacked(self.pruner, self.sampler)
        if self.instances is not None:
            _check_instances(self.instances, self.pruner, self.resume)
        if self.address is not None and self.executor != "ray":
            raise ComparisonError("--address is for --executor ray; add it")
        if self.executor in ("processes", "stacked", "ray") and self.workers == 0:
            raise ComparisonError(f"workers=0 trains in this process; leave out --executor {self.executor}")


def is_storage(name: str) -> bool:
    """Say whether ``name`` has the form of an Optuna storage: a journal's file or a database's address.

    >>> is_storage("journal:studies.log"), is_storage("sqlite:///studies.db"), is_storage("studies")
    (True, True, False)
    """
    return name.startswith("journal:") or name.endswith(".log") or "://" in name


def _check_stacked(pruner: str | None, sampler: str | None) -> None:
    if pruner not in (None, "none"):
        raise ComparisonError("stacked trainings end together; leave out --pruner, or --executor stacked")
    if sampler in ADAPTIVE:
        raise ComparisonError(
            f"sampler {sampler!r} waits for results, and a stack needs many trainings at once; "
            "leave out --sampler, or --executor stacked"
        )


def _check_instances(instances: int, pruner: str | None, resume: bool) -> None:
    if pruner != "wilcoxon" and not (resume and pruner is None):
        raise ComparisonError("--instances is for --pruner wilcoxon; add it")
    _check_count("instances", instances, 1)
    if instances < INSTANCES:
        raise ComparisonError(
            f"{instances} instances are too few: a Wilcoxon test needs 4 pairs to reach p < 0.1, and after "
            f"the last there is nothing to give up; use {INSTANCES} or more"
        )


def _check_count(name: str, value: Any, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int):
        raise ComparisonError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ComparisonError(f"{name} must be at least {least}, got {value}")


def _check_word(name: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise ComparisonError(f"unknown {name} {value!r}{suggestion(value, known)}")
