"""What arrives of the gradient in each layer of a new model: does it vanish, explode, or pass?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fallline.compare.judgement.wording import listing, number
from fallline.compare.records import Comparison
from fallline.compare.statistics.pairs import Interval, mean_interval
from fallline.report.finding import Figure, Finding
from fallline.studies.drawing import Axis, lines
from fallline.studies.measuring.levels import line
from fallline.studies.reading import leader
from fallline.studies.summary import table
from fallline.tasks.batches import Batches
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task

#: New models that a norm is averaged over.
MODELS = 5


def gradient_norms(task: Task, settings: Mapping[str, Any], seed: int) -> list[float]:
    """Return the norm of the loss's gradient for each weight of two dimensions or more, first to last.

    It is that of a new model on its first batch, ‖∂L/∂W_l‖ (Frobenius).

    Arguments:
        task: has model, data and loss.
        settings: of the model, such as its activation.
        seed: of the initial weights and the batch.
    """
    given, _ = task.given(settings)
    with seeded(seed):
        model = given.new_model()
        batch = next(iter(Batches(given.train, given.batch_size, seed)))
        given.loss_on(model, batch).backward()
    gradients = (weight.grad for weight in model.parameters() if weight.dim() > 1)
    return [float(gradient.norm()) for gradient in gradients if gradient is not None]


def norms_by_layer(task: Task, settings: Mapping[str, Any], seed: int) -> list[Interval]:
    """Return `gradient_norms` as geometric means over some new models, with their intervals."""
    drawn = [gradient_norms(task, settings, seed + i) for i in range(MODELS)]
    return [_mean(layer) for layer in zip(*drawn, strict=True)]


def _mean(values: Sequence[float]) -> Interval:
    return mean_interval(values, scale="log") if min(values) > 0 else Interval(min(values))


def figure(norms: Mapping[str, Sequence[Interval]], what: str) -> Figure:
    """Return a figure of the gradient's norm over the layers for each level; zeros are left out."""
    drawn = {
        name: line(range(1, len(layers) + 1), relative(layers))
        for name, layers in norms.items()
        if reach(layers)
    }
    absent = [name for name in norms if name not in drawn]
    left_out = f" Left out, as nothing arrives: {listing(absent)}." if absent else ""
    about = (
        "Norm of the gradient of each layer's weights over the last layer's, before any training, for "
        f"each {what}: geometric mean of {MODELS} models, with 95 % interval. To the left is the way back."
        f"{left_out}"
    )
    y = Axis("norm, relative to the last layer's", log=True)
    return Figure("What arrives of the gradient in each layer", about, lines(drawn, Axis("layer"), y))


def relative(layers: Sequence[Interval]) -> list[Interval]:
    """Return the norms over the mean of the last layer's."""
    last = layers[-1].mean
    ends = [each.ends or (each.mean, each.mean) for each in layers]
    return [
        Interval(each.mean / last, low / last, high / last)
        for each, (low, high) in zip(layers, ends, strict=True)
    ]


def reach(layers: Sequence[Interval]) -> float:
    """Return the norm in the first layer over that in the last; 0 if nothing arrives, or there are none."""
    return layers[0].mean / layers[-1].mean if layers and layers[-1].mean else 0.0


def arriving(norms: Mapping[str, Sequence[Interval]], name: str) -> str:
    """Return how much of the gradient arrives in the first layer at each level, in one sentence."""
    said = ", ".join(f"{number(reach(each))} with {level}" for level, each in norms.items())
    return f"In new models of {name} the first layer's gradient over the last one's is {said}."


def beside(finding: Finding, deep: Comparison, *said: str) -> Finding:
    """Return ``finding`` with what a comparison in a deep network says, and more sentences on it."""
    leading = f"In {deep.plan.task}, 30 hidden layers of 16 units, {leader(deep)}."
    titled = replace(table(deep), title=f"{deep.plan.task}, {deep.plan.epochs:g} epochs")
    return replace(finding, sentences=[*finding.sentences, leading, *said], tables=[*finding.tables, titled])
