"""What does the batch size do? Steps, epochs and time to the target, each with its own learning rate."""

from fallline.report.finding import Finding
from fallline.studies.lab import Lab
from fallline.studies.measuring.arrivals import arrivals, facts, measured
from fallline.studies.measuring.to_target import figures, said, sentences, table
from fallline.studies.study import Study, StudyError
from fallline.studies.summary import scale
from fallline.tasks.data import sample_count
from fallline.tasks.errors import TaskError
from fallline.tasks.task import Task

#: Batch sizes over the task's own.
FACTORS, QUICK_FACTORS = (1 / 4, 1 / 2, 1, 2, 4, 8, 16), (1 / 2, 2, 8)
#: The law has two numbers, so that fewer batch sizes would always fit it.
LEAST = 3
CAVEATS = [
    "The critical batch size is that of this target; nearer to the lowest loss it is larger.",
    "Times are of one core; where many share a batch, larger ones gain more.",
]


def answer(lab: Lab) -> Finding:
    """Train at each batch size with the rate that is first at the target, and fit the law of the steps."""
    task, sizes = lab.task, batch_sizes(lab.task, QUICK_FACTORS if lab.quick else FACTORS)
    found = measured(task, arrivals(lab, task, sizes, lab.effort))
    if len(found.steps) < LEAST:
        raise StudyError(f"{len(found.steps)} batch sizes reach {task.target.text}; give an easier target")
    return Finding(
        STUDY.name, STUDY.question, scale(task), said(found), sentences(found), [table(found)],
        figures(found), CAVEATS, facts(lab),
    )  # fmt: skip


def batch_sizes(task: Task, factors: tuple[float, ...]) -> list[int]:
    """Return the batch sizes to try: the task's own times ``factors``, up to all its training data.

    Raises:
        StudyError: the task has no target, no epochs, or decides on the batches itself.
    """
    count = sample_count(task.train)
    if task.target is None:
        raise StudyError(f"task {task.name!r} has no target to count steps to; give it target=...")
    if count is None:
        raise StudyError(f"task {task.name!r} is a stream, which has no epochs; name a task with a length")
    sizes = sorted({round(task.batch_size * factor) for factor in factors} & set(range(1, count + 1)))
    if len(sizes) < LEAST:
        raise StudyError(f"{count} training samples are too few for {LEAST} batch sizes; lower batch_size")
    try:
        task.given({"batch_size": sizes[0]})
    except TaskError as error:
        raise StudyError(f"task {task.name!r}: {error}") from error
    return sizes


STUDY = Study("batch-size", "Do larger batches save steps, epochs or time, and up to which size?", answer)
