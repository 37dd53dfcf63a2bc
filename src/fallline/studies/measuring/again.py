"""A training that a comparison has made is made again, to the same bits, to look into its model."""

from collections.abc import Iterator
from contextlib import contextmanager

from fallline.compare.records import Comparison, Trial
from fallline.compare.trials.training import Training, as_judged
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread


@contextmanager
def made_again(comparison: Comparison, task: Task, trial: Trial) -> Iterator[Training]:
    """Let a block see the training of ``trial`` at its end, its parameters being what it is judged by.

    A training is a function of its spec alone, so the weights are those that ``comparison`` judged, at the
    end instead of at the lowest validation loss.
    """
    with one_thread(), seeded(trial.spec.seed):
        training = Training(task, comparison.plan.arms[trial.spec.arm], trial.spec, comparison.plan.share)
        training.advance(trial.steps)
        with as_judged(training.optimizer):
            yield training
