"""Measures of trained models: trainings are made again, those that were recorded to the same bits."""

from collections.abc import Callable, Mapping

from torch import nn

from fallline.claims.chosen import Specs
from fallline.compare.records import Comparison, Spec
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
    comparison: Comparison, task: Task, specs: Specs, looks: Mapping[str, Look]
) -> Mapping[str, Mapping[str, Cells]]:
    """Return for each of ``looks`` and each arm of ``specs`` what it sees at the end of each training.

    A training is a function of its spec alone, so the weights of one that was recorded are those that the
    comparison judged, at the end instead of at the lowest validation loss.
    """
    seen: dict[str, dict[str, dict[tuple[int, int], float]]] = {
        look: {arm: {} for arm in specs} for look in looks
    }
    for arm, each in specs.items():
        for spec in each:
            for look, value in _looked(comparison, task, spec, looks).items():
                seen[look][arm][spec.study, spec.seed] = value
    return seen


def _looked(comparison: Comparison, task: Task, spec: Spec, looks: Mapping[str, Look]) -> dict[str, float]:
    with made_again(comparison, task, spec) as training:
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
