"""A task: what is trained, on what, and how the result is judged, made from plain PyTorch pieces."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import DataLoader

from fallline.core.space import Dimension
from fallline.tasks.batches import steps_per_epoch
from fallline.tasks.data import (
    Batch,
    Data,
    check_data,
    first_sample,
    inputs_and_targets,
    is_stream,
    sample_count,
    subset,
)
from fallline.tasks.errors import TaskError
from fallline.tasks.evaluation import evaluated, loss_of
from fallline.tasks.folds import parts
from fallline.tasks.forward import answer, doubled, precisely
from fallline.tasks.loading import as_tensors, loading
from fallline.tasks.losses import Metric, WeightedSum, accuracy, as_loss, as_metrics, inferred
from fallline.tasks.reference import Reference
from fallline.tasks.settings import (
    PRECISIONS,
    SCHEDULES,
    TRAINING,
    check_model,
    check_search,
    check_training,
    model_arguments,
)
from fallline.tasks.target import LOSS, Target, as_target

__all__ = ["PRECISIONS", "SCHEDULES", "Data", "Target", "Task", "TaskError", "accuracy", "sample_count"]

#: How long a training is, and how large its batches are, if nothing says.
EPOCHS, BATCH_SIZE = 20, 32


@dataclass(frozen=True, eq=False)
class Task:
    """A model, its data, and how a training goes and is judged: what is equal for all that is compared.

    Arguments:
        model: makes a new model, with new initial weights; called once for each training, after the seed is
            set. Its arguments are settings that can be searched.
        train: tensors ``(inputs, targets)``, which is fast, where inputs may be a tuple or dict of tensors;
            one tensor to be reconstructed; a Dataset; a DataLoader, whose batch size, collation, processes
            and special sampler count; an IterableDataset. A batch may be ``(inputs, targets)``, a dict that
            is passed as keywords, with the target ``"labels"``, or one tensor.
        valid: the data by which settings are chosen, likewise.
        test: the data by which the chosen ones are judged; None judges by ``valid``.
        name: what the reports call it; by default the function's it is loaded from, or the model's.
        loss: ``(outputs, targets)`` to a scalar tensor, the mean over the batch; or several by name, each
            with or without a weight: ``{"mse": mse, "sparsity": (0.1, l1)}``. By default
            cross-entropy for integer targets, mean squared error for floating ones, or the model's own.
        metrics: a function of ``(outputs, targets)`` of a whole data set, or several by name; by default
            accuracy for one class per sample, else none. Parts of the loss are metrics, too.
        target: the validation loss, or a text such as ``"accuracy >= 0.97"``, whose first crossing counts as
            "steps to target"; None for no target.
        batch_size: samples per step; by default the loader's, or 32.
        epochs: how often a training sees the training data, may be a fraction; by default 20, without
            ``max_steps``.
        max_steps: at most so many steps.
        cv: the number of folds, at least 3, of a nested cross-validation; ``train`` then has all the data.
        search: ranges and choices for arguments of the model and settings of the training, tuned anew for
            each optimizer: ``{"dropout": Range(0.1, 0.5, "linear"), "batch_size": Choice((32, 128))}``.
        schedule: of the learning rate over the steps, one of `SCHEDULES`.
        warmup: share of the steps, 0 to below 1, over which the learning rate rises to its value.
        clip: the largest norm of all gradients together; None for no limit.
        patience: so many evaluations without a lower validation loss end a training; None for never.
        precision: ``"float32"``, ``"bfloat16"`` (torch's autocast) or ``"float64"``.
        training_step: ``(model, batch)`` to the loss; takes the place of model and loss in a training, and in
            an evaluation unless ``loss`` is given.
        evaluation: ``(model, batches)`` to ``(loss, metrics by name)``; takes the place of loss and metrics
            in an evaluation. ``metrics`` then holds their names.
        summary: one sentence about the task.
        reference: what another method reaches on the same data, or the best that is possible.

    Raises:
        TaskError: a piece that is missing, of the wrong kind or out of its range.

    Example:
        >>> import torch
        >>> x, y = torch.randn(100, 3), torch.randint(0, 2, (100,))
        >>> task = Task(lambda: nn.Linear(3, 2), (x[:80], y[:80]), (x[80:], y[80:]), target="accuracy >= 0.9")
        >>> task.metric_name, task.target.text, task.total_steps
        ('accuracy', 'accuracy >= 0.9', 60)
    """

    model: Callable[..., nn.Module]
    train: Any
    valid: Any = None
    _: KW_ONLY
    test: Any = None
    name: str = ""
    loss: Any = None
    metrics: Any = None
    target: Any = None
    batch_size: Any = None
    epochs: float | None = None
    max_steps: int | None = None
    cv: int | None = None
    search: Mapping[str, Dimension] = field(default_factory=dict)
    schedule: str = "constant"
    warmup: float = 0.0
    clip: float | None = None
    patience: int | None = None
    precision: str = "float32"
    training_step: Callable[[nn.Module, Batch], Tensor] | None = None
    evaluation: Callable[[nn.Module, Iterable[Batch]], tuple[Any, dict[str, Any]]] | None = None
    summary: str = ""
    reference: Reference | None = None

    #: The name by which it was loaded if it comes with fallline, whatever it is called; empty if it does not,
    #: or was changed since: a copy has another origin.
    origin: ClassVar[str] = ""

    def __post_init__(self):
        check_model(self.model)
        self._settle("name", self.name or default_name(self.model))
        if self.batch_size is None:
            self._settle("batch_size", self._loader_batch_size())
        self._check_parts()
        for part in self.parts:
            self._settle(part, as_tensors(getattr(self, part)))
            check_data(part, getattr(self, part))
        if self.epochs is None and self.max_steps is None:
            self._settle("epochs", EPOCHS)
        check_training(self)
        check_search(self.search, self.model)
        self._check_loader()
        self._settle_judgement()

    def _settle(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _loader_batch_size(self) -> int:
        if not isinstance(self.train, DataLoader):
            return BATCH_SIZE
        return self.train.batch_size or self._sampled_batch_size() or BATCH_SIZE

    def _sampled_batch_size(self) -> int | None:
        """Return the mean size of the batches that a batch sampler of the loader's own decides on."""
        if not isinstance(self.train, DataLoader) or (sampler := loading(self.train).batch_sampler) is None:
            return None
        return -(-(sample_count(self.train) or 0) // len(sampler))

    def _check_parts(self) -> None:
        if self.cv is None and self.valid is None:
            raise TaskError("valid is missing; give the validation data, or cv=5 to divide train into folds")
        if self.cv is None:
            return
        if self.valid is not None or self.test is not None:
            raise TaskError("cv divides train into folds; leave valid and test out")
        if not isinstance(self.cv, int) or self.cv < 3:
            raise TaskError(f"cv must be at least 3: to train on, to choose by, to judge by; got {self.cv!r}")
        if is_stream(self.train) or isinstance(self.train, DataLoader):
            raise TaskError("cv cannot divide a loader or a stream; give train as tensors or as a Dataset")
        if (sample_count(self.train) or 0) < self.cv:
            raise TaskError(f"cv={self.cv} needs as many samples; train has {sample_count(self.train)}")

    def _check_loader(self) -> None:
        sampled = self._sampled_batch_size()
        if sampled and (self.batch_size != sampled or "batch_size" in self.search):
            raise TaskError("train's batch_sampler decides on the batches; leave one of them out")
        if steps_per_epoch(self.train, self.batch_size) == 0:
            raise TaskError("train has no whole batch, and drop_last leaves out the rest; lower batch_size")
        if is_stream(self.train) and self.max_steps is None:
            raise TaskError("train is an IterableDataset, whose length is unknown; give max_steps")
        if is_stream(self.train) and self.epochs is not None:
            raise TaskError("train is an IterableDataset, which has no epochs; give max_steps alone")

    def _settle_judgement(self) -> None:
        for name in ("training_step", "evaluation"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TaskError(f"{name} must be a function of the model and its data, got {value!r}")
        if self.loss is not None or self.training_step is None:
            self._settle("loss", as_loss(self.loss or inferred))
        if self.evaluation is not None:
            self._settle("metrics", tuple(self.metrics or ()))
        else:
            metrics = self._usual_metrics() if self.metrics is None else as_metrics(self.metrics)
            self._settle("metrics", metrics)
        self._settle("target", as_target(self.target))
        if self.target is not None and self.target.name not in (LOSS, *self.metric_names):
            raise TaskError(
                f"target {self.target.text!r} names no metric; there are {[LOSS, *self.metric_names]}"
            )
        if self.reference is not None and self.reference.name not in (LOSS, *self.metric_names):
            raise TaskError(
                f"reference {self.reference.text!r} names no metric; there are {[LOSS, *self.metric_names]}"
            )

    def _usual_metrics(self) -> dict[str, Metric]:
        """Return the accuracy where each sample has one class: a language model's outputs may not fit."""
        if self.training_step is not None:
            return {}
        part = "train" if self.valid is None else "valid"
        try:
            targets = inputs_and_targets(first_sample(getattr(self, part)))[1]
        except Exception as error:
            raise TaskError(f"{part} cannot be read: {type(error).__name__}: {error}") from error
        return {"accuracy": accuracy} if is_class(targets) else {}

    @property
    def parts(self) -> list[str]:
        """The names of the data it has: train, valid, test."""
        return [part for part in ("train", "valid", "test") if getattr(self, part) is not None]

    @property
    def metric_names(self) -> list[str]:
        """The names of all that is measured besides the loss."""
        losses = self.loss.parts if isinstance(self.loss, WeightedSum) and self.evaluation is None else ()
        return [*self.metrics, *(name for name in losses if name not in self.metrics)]

    @property
    def metric_name(self) -> str:
        """The first metric's name, which tables show; empty without one."""
        return next(iter(self.metric_names), "")

    @property
    def steps_per_epoch(self) -> int:
        """How many steps an epoch has; of a stream, the whole training counts as one."""
        return steps_per_epoch(self.train, self.batch_size) or self.max_steps or 1

    @property
    def total_epochs(self) -> float:
        """How many epochs a training has, whichever of ``epochs`` and ``max_steps`` ends it."""
        limits = [self.epochs, self.max_steps and self.max_steps / self.steps_per_epoch]
        return min(limit for limit in limits if limit is not None)

    @property
    def total_steps(self) -> int:
        """How many steps a training has, at least one."""
        return max(1, round(self.total_epochs * self.steps_per_epoch))

    def given(self, settings: Mapping[str, Any]) -> tuple["Task", dict[str, Any]]:
        """Return the task with its own of the ``settings``, and those that are left for the optimizer.

        Example:
            >>> from fallline.tasks import load
            >>> task, rest = load("digits").given({"lr": 0.1, "batch_size": 64, "clip": 1.0})
            >>> task.batch_size, task.clip, rest
            (64, 1.0, {'lr': 0.1})
        """
        known = model_arguments(self.model)
        arguments = {name: value for name, value in settings.items() if name in known}
        training = {name: value for name, value in settings.items() if name in TRAINING}
        rest = {name: value for name, value in settings.items() if name not in {*known, *TRAINING}}
        if arguments:
            training["model"] = partial(self.model, **arguments)
        return replace(self, **training) if training else self, rest

    def fold(self, study: int) -> "Task":
        """Return the task of one study: with ``cv``, judged by fold ``study``, chosen by the next one.

        Without ``cv`` it is the task itself.
        """
        return self if self.cv is None else _fold(self, study % self.cv)

    def new_model(self) -> nn.Module:
        """Return a new model in the task's precision.

        Raises:
            TaskError: what ``model`` made is no module.
        """
        model = self.model()
        if not isinstance(model, nn.Module):
            raise TaskError(f"model returned {type(model).__name__}; return a torch.nn.Module")
        return model.double() if self.precision == "float64" else model

    def loss_on(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of a training step on ``batch``, ready for ``backward``."""
        if self.precision == "float64":
            batch = doubled(batch)
        with precisely(self.precision, model):
            if self.training_step is not None:
                return self.training_step(model, batch)
            return loss_of(self, answer(model, batch))

    def evaluated(
        self, model: nn.Module, data: Data, limit: int | None = None
    ) -> tuple[float, dict[str, float]]:
        """Return the mean loss and the metrics of ``model`` on the first ``limit`` samples of ``data``.

        The loss is the mean over the samples: each batch counts by its size. The model is in evaluation mode,
        and what is drawn at random leaves the training's random numbers alone.
        """
        return evaluated(self, model, data, limit)


def default_name(model: Callable[..., Any]) -> str:
    """Return what a task without a name is called.

    >>> default_name(nn.Linear)
    'Linear'
    """
    maker = model.func if isinstance(model, partial) else model
    name = getattr(maker, "__name__", type(maker).__name__).removeprefix("make_")
    return "task" if name == "<lambda>" else name


def is_class(targets: Any) -> bool:
    """Say whether ``targets`` of a batch are one class for each sample."""
    return isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point()


@lru_cache(maxsize=4)
def _fold(task: Task, study: int) -> Task:
    train, valid, test = (subset(task.train, part) for part in parts(task.train, task.cv or 0, study))
    return replace(task, train=train, valid=valid, test=test, cv=None)
