"""A training that a comparison has made is made again, to the same bits, to look into its model."""

from collections.abc import Iterator
from contextlib import contextmanager

from fallline.compare.records import Comparison, Spec
from fallline.compare.trials.training import Training, as_judged
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread


@contextmanager
def made_again(
    comparison: Comparison, task: Task, spec: Spec, steps: int | None = None
) -> Iterator[Training]:
    """Let a block see the training of ``spec`` at its end, its parameters being what it is judged by.

    A training is a function of its spec alone, so the weights of one that was recorded are those that
    ``comparison`` judged, at the end instead of at the lowest validation loss.

    Arguments:
        comparison: has the spec's arm.
        task: what is trained.
        spec: the settings and the seed.
        steps: of a recorded training, which patience may have ended; None for the whole length.
    """
    with one_thread(), seeded(spec.seed):
        training = Training(task, comparison.plan.arms[spec.arm], spec, comparison.plan.share)
        training.advance(training.evaluate_at[-1] if steps is None else steps)
        with as_judged(training.optimizer):
            yield training
