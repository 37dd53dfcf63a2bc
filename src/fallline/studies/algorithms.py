"""Which gradient-descent algorithm? At equal samples and at equal steps, with what a step costs."""

from dataclasses import replace
from typing import Any

from fallline.compare.judgement.verdict import judge
from fallline.compare.judgement.wording import number, size
from fallline.compare.records import Comparison
from fallline.compare.trials.training import step_batch
from fallline.core.registry import find
from fallline.report.finding import Figure, Finding, Table
from fallline.report.summary import rows
from fallline.report.terminal import target_text
from fallline.studies.drawing import Axis, lines
from fallline.studies.lab import Lab
from fallline.studies.reading import leader, loss_axis, loss_lines, pass_and_step
from fallline.studies.study import Study, StudyError
from fallline.studies.summary import found, table
from fallline.tasks.task import Task, sample_count

ALGORITHMS = ("gd", "online-sgd", "sgd", "momentum", "nesterov", "adam")
#: The most steps of a training that sees one sample at a time.
MOST_STEPS, MOST_QUICK_STEPS = 14_400, 2_900
ABOUT = "Median over the final runs."


def answer(lab: Lab) -> Finding:
    """Compare the algorithms at equal samples, then at equal steps, each with its own learning rate."""
    samples = sample_count(lab.task.train)
    if samples is None:
        raise StudyError("a stream has no whole for gradient descent to step on; name a task with a length")
    most = MOST_QUICK_STEPS if lab.quick else MOST_STEPS
    seen = replace(lab.task, epochs=min(lab.task.total_epochs, most / samples), max_steps=None)
    stepped = replace(lab.task, epochs=None, max_steps=seen.total_steps)
    equal_samples = lab.compare("equal-samples", ALGORITHMS, task=seen, share=0.7)
    equal_steps = lab.compare("equal-steps", ALGORITHMS, task=stepped, share=0.3)
    by_samples = f"After {number(seen.total_epochs)} passes over the data {leader(equal_samples)}"
    return found(
        STUDY,
        equal_samples,
        seen,
        answer=f"{by_samples}; after {stepped.total_steps} steps each, {leader(equal_steps)}.",
        sentences=[f"At equal steps: {judge(equal_steps).headline}"],
        tables=[replace(table(equal_steps), title="At equal steps"), costs(equal_samples, seen)],
        figures=figures(equal_samples, equal_steps),
    )


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


STUDY = Study("algorithms", "Which gradient-descent algorithm is best, by samples, steps and time?", answer)
