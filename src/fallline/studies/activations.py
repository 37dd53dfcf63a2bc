"""Which activation function? Each one with its own learning rate, on the same network."""

from fallline.report.finding import Finding
from fallline.studies.lab import Lab
from fallline.studies.study import Study
from fallline.studies.summary import found
from fallline.studies.varied import ACTIVATIONS, with_activations


def answer(lab: Lab) -> Finding:
    """Compare the activation functions, AdamW's learning rate tuned anew for each."""
    levels = list(ACTIVATIONS)[:4] if lab.quick else list(ACTIVATIONS)
    comparison = lab.compare(
        "adamw", ["adamw"], task=with_activations(lab.task), scientific={"activation": levels}
    )
    return found(STUDY, comparison, lab.task)


STUDY = Study("activations", "Which activation function trains best?", answer)
