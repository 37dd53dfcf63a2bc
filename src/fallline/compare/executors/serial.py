"""Trainings one by one in this process, where a debugger can follow; the results are those of the workers."""

import time
from collections.abc import Callable, Iterator
from functools import partial

from fallline.compare.executors.worker import Job
from fallline.compare.records import Spec, Trial
from fallline.compare.search.pruning import Judge
from fallline.compare.trials.trial import run_trial
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread


class Serial:
    """Run trainings in this process; the same use as `Pool`.

    The deadline is looked at between trainings: a training that has begun is finished.
    """

    def __init__(self, task: Task, job: Job, judge: Judge | None = None):
        self.task, self.job, self.judge = task, job, judge

    def __enter__(self) -> "Serial":
        return self

    def __exit__(self, *_) -> None:
        """Nothing to clean up."""

    def run(self, next_spec: Callable[[], Spec | None], deadline: float | None) -> Iterator[Trial]:
        """Yield each trial as it finishes, until ``next_spec`` has no more or the deadline has come."""
        while (spec := next_spec()) is not None and (deadline is None or time.monotonic() < deadline):
            yield self._trained(spec)

    def _trained(self, spec: Spec) -> Trial:
        job, arm = self.job, self.job.arms[spec.arm]
        report = partial(self.judge, spec) if self.judge and spec.stage == "tune" else None
        with one_thread():
            return run_trial(self.task, arm, spec, job.share, report=report, **job.saving)
