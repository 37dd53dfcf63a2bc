"""What does the learning rate do? Exactly on a quadratic, and by a sweep over decades on the task."""

from math import inf

from fallline.compare.judgement.wording import number, setting
from fallline.report.finding import Finding
from fallline.studies import rates, two_over_l
from fallline.studies.lab import Lab
from fallline.studies.rates import GOOD, Response, rate_sweep, responses, untrained_loss
from fallline.studies.reading import estimate, loss_axis
from fallline.studies.study import Study
from fallline.studies.summary import facts, scale
from fallline.studies.sweeps import shortened
from fallline.studies.two_over_l import CLASSES, KAPPA, Descent, descend

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
        _answer(task.name, found),
        _sentences(descents, found, untrained),
        [rates.table(found), two_over_l.table(descents)],
        [*rates.figures(found, loss_axis(comparison)), two_over_l.figure(descents)],
        [
            "The other settings of the optimizers stay at their defaults.",
            "The validation loss is the lowest along a training, as early stopping would keep it.",
            "A good learning rate depends on the length of the training, the batch size and the schedule.",
        ],
        {**facts(comparison.plan), "Protocol": _protocol(found)},
    )


def _answer(name: str, found: dict[str, Response]) -> str:
    widths = "; ".join(f"{arm} {estimate(each.width)}" for arm, each in found.items())
    return (
        f"On {name} the loss is at most {1 + GOOD:g} times its lowest over these decades of learning rates: "
        f"{widths}; on a quadratic, gradient descent diverges above exactly 2/L."
    )


def _sentences(descents: list[Descent], found: dict[str, Response], untrained: float) -> list[str]:
    error = max(abs(each.measured - each.theory) for each in descents)
    edges = "; ".join(f"{arm}: {_edge(each)}" for arm, each in found.items())
    return [
        f"The lowest rate at which half of the trainings or more diverge, that is end with a loss above "
        f"{number(untrained)}, the untrained model's: {edges}.",
        f"On a quadratic with L = 1 and κ = {KAPPA}, gradient descent with rate η multiplies its slowest "
        f"direction by max |1 - ηλ| in each step; what was measured agrees to {max(error, 1e-15):.0e}.",
    ]


def _edge(response: Response) -> str:
    if response.edge == inf:
        return f"none up to {setting(response.rates[-1])}"
    return f"{setting(response.edge)}, which is {number(response.edge / response.best)} times the best rate"


def _protocol(found: dict[str, Response]) -> str:
    counts = ", ".join(f"{arm} at {len(each.rates)} rates" for arm, each in found.items())
    return f"{counts}; the same seeds at each rate; intervals over seeds"


STUDY = Study("learning-rate", "What does the learning rate do: too small, good, too large?", answer)
