"""Does early stopping help, and with how much patience? Each patience on the same trainings' curves."""

from dataclasses import replace

from fallline.compare.judgement.standings import loss_scale
from fallline.report.finding import Finding
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring.stopping import at_the_end, figures, outcome, said, table
from fallline.studies.study import Study, StudyError
from fallline.studies.summary import found
from fallline.tasks.task import Task

#: Evaluations without a lower loss after which a training ends; trainings have 20.
PATIENCES = (1, 2, 3, 5, 8)
BIASED = (
    "A lowest validation loss was chosen by the data that it is measured on, so it is a little too low; "
    "the loss at the end is not."
)


def answer(lab: Lab) -> Finding:
    """Train one tuned optimizer on fresh seeds, and ask each curve where a patience would have ended it."""
    task = twice_as_long(lab.task)
    comparison = lab.compare("trainings", ["adamw"], task=task)
    runs, scale = [run for run in comparison.finals("adamw") if run.loss is not None], loss_scale(comparison)
    if not runs or min(len(run.curve.step) for run in runs) <= max(PATIENCES):
        raise StudyError("no training was evaluated often enough to be stopped; give the task more steps")
    made = {patience: outcome(runs, patience, scale) for patience in PATIENCES}
    end = at_the_end(runs, scale)
    finding = found(STUDY, comparison, task, answer=said(made, end, scale))
    return replace(
        finding,
        sentences=[],
        caveats=[BIASED, *finding.caveats],
        tables=[table(made, end, scale)],
        figures=[*figures(made, end, comparison), *finding.figures[1:]],
    )


def twice_as_long(task: Task) -> Task:
    """Return ``task`` with trainings of double length, so that there is something to stop."""
    longer = {
        name: value and 2 * value for name, value in (("epochs", task.epochs), ("max_steps", task.max_steps))
    }
    return replace(task, patience=None, **longer)


STUDY = Study(
    "early-stopping",
    "Does early stopping help, and how much patience does it need?",
    answer,
    "noisy-labels",
    Effort(4, 4, 3),
    Effort(4, 3, 1),
)
