"""A model on a whole data set: the mean loss over the samples, and the metrics of all outputs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fallline.tasks.batches import in_order
from fallline.tasks.data import Batch, Data, each, leaves
from fallline.tasks.errors import TaskError
from fallline.tasks.forward import Answer, answer, doubled, precisely
from fallline.tasks.losses import WeightedSum, inferred
from fallline.tasks.seeding import torch_seeded

if TYPE_CHECKING:
    from fallline.tasks.task import Task

#: The mean loss, and the metrics by name.
Result = tuple[float, dict[str, float]]
#: The smallest batch worth an evaluation's forward pass.
BATCH = 1024
#: What an evaluation draws from torch, such as the noise of a diffusion model, is the same each time.
SEED = 0


@torch.no_grad()
def evaluated(
    task: "Task", model: nn.Module, data: Data, limit: int | None
) -> tuple[float, dict[str, float]]:
    """Return loss and metrics of the first ``limit`` samples, with the model in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        with torch_seeded(SEED), precisely(task.precision, model):
            batches = in_order(data, max(BATCH, task.batch_size), limit)
            if task.precision == "float64":
                batches = map(doubled, batches)
            if task.evaluation is not None:
                return _numbers(*task.evaluation(model, batches))
            return _measured(task, model, batches)
    finally:
        model.train(was_training)


def _numbers(loss: Any, metrics: dict[str, Any]) -> Result:
    return float(loss), {name: float(value) for name, value in metrics.items()}


def _measured(task: "Task", model: nn.Module, batches: Iterable[Batch]) -> Result:
    sums: dict[str, float] = {}
    answers: list[Answer] = []
    samples = 0
    for batch in batches:
        size = len(next(leaves(batch)))
        losses, said = _on_batch(task, model, batch)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value) * size
        samples += size
        if task.metrics and said is not None:
            answers.append(Answer(said.outputs, said.targets))
    if not samples:
        raise TaskError("there is no data to evaluate on; an IterableDataset must yield samples each time")
    means = {name: value / samples for name, value in sums.items()}
    return means.pop(""), {**_metrics(task, answers), **means}


def _on_batch(task: "Task", model: nn.Module, batch: Batch) -> tuple[dict[str, Any], Answer | None]:
    """Return the batch's loss, nameless, with its named parts, and what the model said where that matters."""
    if task.loss is None and task.training_step is not None:
        return {"": task.training_step(model, batch)}, answer(model, batch) if task.metrics else None
    said = answer(model, batch)
    if isinstance(task.loss, WeightedSum):
        parts = task.loss.each(said.outputs, said.targets)
        return {"": task.loss.total(parts), **parts}, said
    return {"": loss_of(task, said)}, said


def loss_of(task: "Task", said: Answer) -> Tensor:
    """Return the loss of what a model said; its own unless the task has one."""
    if task.loss is inferred and said.loss is not None:
        return said.loss
    return task.loss(said.outputs, said.targets)


def _metrics(task: "Task", answers: list[Answer]) -> dict[str, float]:
    if not answers:
        return {}
    outputs = _joined([each(_plain, said.outputs) for said in answers])
    targets = _joined([said.targets for said in answers])
    return {name: float(metric(outputs, targets)) for name, metric in task.metrics.items()}


def _plain(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype == torch.bfloat16 else leaf


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else each(lambda *tensors: torch.cat(tensors), *parts)
