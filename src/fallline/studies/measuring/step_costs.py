"""What a step of each algorithm costs, and its loss by steps and by the time that they take."""

from typing import Any

from fallline.compare.judgement.verdict import judge
from fallline.compare.judgement.wording import number, size
from fallline.compare.records import Comparison
from fallline.compare.trials.training import step_batch
from fallline.core.registry import find
from fallline.report.finding import Figure, Table
from fallline.report.summary import rows
from fallline.report.terminal import target_text
from fallline.studies.drawing import Axis, lines
from fallline.studies.reading import loss_axis, loss_lines, pass_and_step
from fallline.tasks.task import Task, sample_count

ABOUT = "Median over the final runs."


def costs(comparison: Comparison, task: Task) -> Table:
    """Return what each algorithm needs: samples and time of a step and of an epoch, and memory."""
    body: list[list[Any]] = []
    for row in rows(comparison, judge(comparison)):
        batch, seconds = step_batch(task, find(row.arm)), pass_and_step(comparison, row.arm)
        epoch = seconds * -(-(sample_count(task.train) or 0) // batch)
        arrival = "" if row.steps is None else target_text(row, row.steps)
        state = "" if row.state_bytes is None else size(row.state_bytes)
        body.append([row.arm, batch, number(1e6 * seconds), number(epoch), state, arrival])
    columns = ["algorithm", "samples/step", "µs in all", "s/epoch", "state", "steps*"]
    note = "µs in all: forward, backward and update of a step. * median to the target, or how many arrived."
    return Table(columns, body, "Costs", note)


def figures(equal_samples: Comparison, equal_steps: Comparison) -> list[Figure]:
    """Return the loss by steps, and by the time that the steps take."""
    loss = loss_axis(equal_samples)
    by_step = loss_lines(equal_steps, lambda arm, trial: trial.curve.step)
    by_time = loss_lines(
        equal_samples, lambda arm, trial: [s * pass_and_step(equal_samples, arm) for s in trial.curve.step]
    )
    return [
        Figure("Loss by steps", ABOUT, lines(by_step, Axis("steps", log=True), loss, markers=False)),
        Figure(
            "Loss by time",
            ABOUT,
            lines(by_time, Axis("seconds of steps on one core", log=True), loss, markers=False),
        ),
    ]
