"""A step and an evaluation before anything is planned: what nobody could train is refused at once."""

from collections.abc import Mapping

from fallline.compare.errors import ComparisonError
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.training import Training
from fallline.core.python_file import last_line
from fallline.core.space import dimension, middle
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread


def rehearse(task: Task, arms: Mapping[str, Arm]) -> None:
    """Raise unless one of ``arms`` can make a step on ``task`` and be evaluated.

    Raises:
        ComparisonError: the model, the loss, a metric, the data or every optimizer raises.

    Example:
        >>> rehearse(load("digits"), {"sgd": Arm("sgd")})
    """
    problem = None
    with one_thread():
        for arm in arms.values():
            if (problem := _problem(task, arm)) is None:
                return
    if problem is not None:
        by = next(iter(arms)) if len(arms) == 1 else "any optimizer"
        raise ComparisonError(
            f"task {task.name!r} cannot be trained with {by}: {last_line(problem)}; mend it first"
        )


def _problem(task: Task, arm: Arm) -> Exception | None:
    """Return what one training of ``arm`` raises in its first step and an evaluation."""
    settings = middle({name: dimension(each) for name, each in arm.space.items()})
    try:
        with seeded(0):
            training = Training(task, arm, Spec("", "tune", 0, 0, settings))
            training.advance(1)
            training.task.evaluated(training.model, training.task.valid)
    except Exception as error:
        return error
    return None
