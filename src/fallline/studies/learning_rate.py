"""What does the learning rate do? Exactly on a quadratic, and by a sweep over decades on the task."""

from fallline.report.finding import Finding
from fallline.studies.lab import Lab
from fallline.studies.measuring import rates, two_over_l
from fallline.studies.measuring.rates import rate_sweep, responses, untrained_loss
from fallline.studies.measuring.sweeps import shortened
from fallline.studies.measuring.two_over_l import CLASSES, descend
from fallline.studies.reading import loss_axis
from fallline.studies.study import Study
from fallline.studies.summary import facts, scale

OPTIMIZERS = ("sgd", "momentum", "adam")


def answer(lab: Lab) -> Finding:
    """Descend a quadratic at five rates, and train the task at many."""
    descents = [descend(rate, kind) for rate, kind in CLASSES.items()]
    task = shortened(lab.task, 0.5) if lab.quick else lab.task
    comparison = rate_sweep(lab, task, OPTIMIZERS, *((1.6, 2) if lab.quick else (3, 4)))
    untrained = untrained_loss(task, lab.seed)
    found = responses(comparison, untrained)
    return Finding(
        STUDY.name,
        STUDY.question,
        scale(task),
        rates.told(task.name, found),
        [rates.edges(found, untrained), two_over_l.agreement(descents)],
        [rates.table(found), two_over_l.table(descents)],
        [*rates.figures(found, loss_axis(comparison)), two_over_l.figure(descents)],
        [
            "The other settings of the optimizers stay at their defaults.",
            "The validation loss is the lowest along a training, as early stopping would keep it.",
            rates.BEST_OF_MANY,
            "A good learning rate depends on the length of the training, the batch size and the schedule.",
        ],
        {**facts(comparison.plan), "Protocol": rates.protocol(found)},
    )


STUDY = Study("learning-rate", "What does the learning rate do: too small, good, too large?", answer)
