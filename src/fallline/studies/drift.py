"""Who copes when the data change? Optimizers and lengths of memory on a stream of phases."""

from dataclasses import replace

from fallline.report.finding import Finding
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring import effective_rates
from fallline.studies.measuring.effective_rates import courses
from fallline.studies.measuring.memory import memory_figure
from fallline.studies.measuring.past import past_costs, phases_of, quickened, without_past
from fallline.studies.reading import leader
from fallline.studies.study import Study
from fallline.studies.summary import found, table

OPTIMIZERS = ("sgd", "momentum", "adagrad", "rmsprop", "adam")
QUICK_OPTIMIZERS = ("momentum", "adagrad", "adam")
#: Decay rates of the averages of squared gradients, and of gradients.
BETA2, MOMENTUM = (0.9, 0.99, 0.999, 0.9999), (0.0, 0.9, 0.99)


def answer(lab: Lab) -> Finding:
    """Compare optimizers on the stream and on its last phase alone, and lengths of memory on the stream."""
    lab = quickened(lab) if lab.quick else lab
    here = replace(lab, workers=0) if lab.quick else lab  # starting workers would take longer
    optimizers = QUICK_OPTIMIZERS if lab.quick else OPTIMIZERS
    stream = lab.compare("optimizers", optimizers, share=0.4)
    alone = without_past(lab.task)
    afresh = None if alone is None else here.compare("afresh", optimizers, task=alone, share=0.1)
    levels = {"beta2": BETA2[:: 2 if lab.quick else 1]}, {"momentum": MOMENTUM[: 2 if lab.quick else 3]}
    beta2 = here.compare("beta2", ["adam"], scientific=levels[0], share=0.3)
    momentum = here.compare("momentum", ["sgd"], scientific=levels[1], share=0.2)
    costs = None if afresh is None else past_costs(afresh, stream)
    rates = effective_rates.figure(courses(stream, lab.task), phases_of(lab.task))
    memories = memory_figure({"Adam's β₂": beta2, "SGD's momentum": momentum})
    return found(
        STUDY,
        stream,
        lab.task,
        answer=f"On {lab.task.name} {leader(stream)}{f'; {costs.dearest}' if costs else ''}.",
        sentences=[
            *([costs.sentence] if costs else []),
            f"Of Adam's β₂ {leader(beta2)}.",
            f"Of momentum in SGD {leader(momentum)}.",
        ],
        tables=[
            *([costs.table] if costs else []),
            replace(table(beta2), title="Adam's memory of squared gradients"),
            replace(table(momentum), title="SGD's memory of gradients"),
        ],
        figures=[rates, memories, *([costs.figure] if costs else [])],
    )


STUDY = Study(
    "drift",
    "Which optimizers and memories cope when the data change?",
    answer,
    task="drift(phases=3, passes=4)",
    quick=Effort(3, 2, 1),
)
