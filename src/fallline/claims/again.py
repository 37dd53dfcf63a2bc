"""Measures of trained models: final trials are trained again, to the same bits, and looked into."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from fallline.claims.extraction import short
from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.cells import Cells
from fallline.compare.trials.training import Training
from fallline.studies.measuring.again import made_again
from fallline.studies.measuring.sharpness import sharpness
from fallline.tasks.batches import in_order
from fallline.tasks.task import Task

#: Takes a training at its end, its parameters being what it is judged by.
Look = Callable[[Training], float]
#: Training samples that a curvature is measured on.
SAMPLES = 512


def measured_again(
    comparison: Comparison, task: Task, arms: Sequence[str], looks: Mapping[str, Look]
) -> Mapping[str, Mapping[str, Cells]]:
    """Return for each of ``looks`` and ``arms`` what it sees at the end of each final training.

    Trainings that went wrong are left out.
    """
    names = {short(arm): arm for arm in comparison.plan.arms}
    seen: dict[str, dict[str, dict[tuple[int, int], float]]] = {
        look: {arm: {} for arm in arms} for look in looks
    }
    for arm in arms:
        for trial in comparison.finals(names[arm]):
            if trial.status == "ok":
                for look, value in _looked(comparison, task, trial, looks).items():
                    seen[look][arm][trial.spec.study, trial.spec.seed] = value
    return seen


def _looked(comparison: Comparison, task: Task, trial: Trial, looks: Mapping[str, Look]) -> dict[str, float]:
    with made_again(comparison, task, trial) as training:
        return {name: look(training) for name, look in looks.items()}


def loss_on_test(training: Training) -> float:
    """Return the loss on the test data."""
    return training.task.evaluated(training.model, training.task.test)[0]


def zeros(training: Training) -> float:
    """Return the share of the weights that are exactly zero, biases left out."""
    weights = [p for p in training.parameters if p.dim() > 1]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def different_units(training: Training) -> float:
    """Return how many units of the first layer differ from each other in their weights."""
    first = next(part for part in training.model.modules() if isinstance(part, nn.Linear))
    return len(first.weight.detach().unique(dim=0))


def curvature(training: Training) -> float:
    """Return the sharpness of the training loss on the first 512 training samples."""
    batch = next(iter(in_order(training.task.train, SAMPLES, SAMPLES)))
    return sharpness(training.task, training.model, batch)
