"""Where a study measures: a task, a folder, an effort, and comparisons that go on where they stopped."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fallline.compare.errors import ComparisonError
from fallline.compare.judgement.wording import last_line
from fallline.compare.planning import prepare
from fallline.compare.protocol.schedule import Schedule
from fallline.compare.records import Comparison, Trial
from fallline.compare.request import Request
from fallline.compare.run import run
from fallline.tasks.task import Task

#: Passes trials on while they come in; is given their schedule and how many there will be.
Watch = Callable[[Iterator[Trial], Schedule, int], Iterator[Trial]]


def unwatched(trials: Iterator[Trial], schedule: Schedule, total: int) -> Iterator[Trial]:
    """Pass the trials on."""
    return trials


@dataclass(frozen=True)
class Effort:
    """How much a comparison costs: tuning ``trials`` and fresh ``seeds`` of each arm, in each study."""

    trials: int
    seeds: int
    studies: int


#: What a study costs unless it says otherwise, and for a first impression.
USUAL, QUICK = Effort(6, 2, 3), Effort(4, 3, 1)


@dataclass(frozen=True)
class Lab:
    """Where a study measures.

    Args:
        task: what it measures on.
        folder: takes the comparisons, each in a folder of its own.
        effort: of each comparison, unless the study says otherwise.
        quick: whether the user wants a first impression: fewer levels, shorter trainings.
        seed: where all random numbers of the study are derived from.
        workers: processes; None for one on each core.
        budget: seconds of wall clock for all comparisons together, in place of the effort; None for none.
        watch: shows how far a comparison is.
    """

    task: Task
    folder: Path
    effort: Effort
    quick: bool = False
    seed: int = 0
    workers: int | None = None
    budget: float | None = None
    watch: Watch = unwatched

    def compare(
        self,
        label: str,
        optimizers: str | Sequence[str],
        *,
        task: Task | None = None,
        scientific: Mapping[str, Sequence[Any]] | None = None,
        space: Mapping[str, Any] | None = None,
        effort: Effort | None = None,
        sampler: str | None = None,
        share: float = 1.0,
    ) -> Comparison:
        """Return a comparison in the folder ``label``; what it has done already is not run again.

        Arguments:
            label: names the comparison within the study.
            optimizers, scientific, space, sampler: as of `fallline.compare`; what is not fixed is tuned anew
                for each level.
            task: the lab's own unless given.
            effort: the lab's own unless given; a budget takes its place.
            share: of the budget, where a study makes several comparisons.

        Raises:
            KeyboardInterrupt: Ctrl-C ended it; what is done stays in the folder.
            ComparisonError: no training has a result.
            FalllineError: as `fallline.compare`.
        """
        size = effort or self.effort
        request = Request(
            task=task or self.task,
            optimizers=optimizers,
            out=self.place(label),
            resume=True,
            seed=self.seed,
            workers=self.workers,
            space=space,
            scientific=scientific or {},
            sampler=sampler,
            budget=self.budget and self.budget * share,
            trials=None if self.budget else size.trials,
            seeds=None if self.budget else size.seeds,
            studies=None if self.budget else size.studies,
        )
        prepared = prepare(request)
        comparison = run(prepared, lambda trials, schedule: self.watch(trials, schedule, prepared.trainings))
        if comparison.interrupted:
            raise KeyboardInterrupt
        if not any(trial.status == "ok" for trial in comparison.trials):
            why = last_line(next((t.error for t in comparison.trials if t.error), None))
            name = prepared.plan.task
            raise ComparisonError(f"no training on {name} has a result ({why}); check its loss and data")
        return comparison

    def place(self, label: str) -> Path:
        """Return the folder of what is called ``label``, which may be the name of a task of the user's."""
        return self.folder / re.sub(r"[^\w.-]+", "-", label)

    def on(self, task: Task) -> "Lab":
        """Return the same lab with another task."""
        return replace(self, task=task)
