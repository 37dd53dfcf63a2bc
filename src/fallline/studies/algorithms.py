"""Which gradient-descent algorithm? At equal samples and at equal steps, with what a step costs."""

from dataclasses import replace

from fallline.compare.judgement.verdict import judge
from fallline.compare.judgement.wording import number
from fallline.report.finding import Finding
from fallline.studies.lab import Lab
from fallline.studies.measuring.step_costs import costs, figures
from fallline.studies.reading import leader
from fallline.studies.study import Study, StudyError
from fallline.studies.summary import found, table
from fallline.tasks.task import sample_count

ALGORITHMS = ("gd", "online-sgd", "sgd", "momentum", "nesterov", "adam")
#: The most steps of a training that sees one sample at a time.
MOST_STEPS, MOST_QUICK_STEPS = 14_400, 2_900


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


STUDY = Study("algorithms", "Which gradient-descent algorithm is best, by samples, steps and time?", answer)
