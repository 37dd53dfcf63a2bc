"""A task from a LightningModule and its data; Lightning itself is not needed here."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from inspect import Signature, signature
from typing import Any

import torch
from torch import Tensor, nn

from fallline.tasks.batches import in_order
from fallline.tasks.data import Batch, leaves
from fallline.tasks.errors import TaskError
from fallline.tasks.seeding import seeded
from fallline.tasks.settings import check_model
from fallline.tasks.task import Task, default_name

#: What modules call the validation loss, unless ``monitor`` says.
LOSSES = ("val_loss", "valid_loss", "validation_loss", "val/loss", "valid/loss", "validation/loss", "loss")
#: How `self.log` may gather the batches of an evaluation.
REDUCTIONS = {"min": torch.min, "max": torch.max, "sum": torch.sum}


def from_lightning(
    make_module: Callable[..., Any], data: Any, *, monitor: str | None = None, **task: Any
) -> Task:
    """Return the task of training a LightningModule, with its own training and validation steps.

    What the validation step logs by ``self.log`` are the metrics, averaged as Lightning does, and the objects
    of torchmetrics computed at the end. ``configure_optimizers`` is ignored, since optimizers are what is
    compared; so are the Trainer's callbacks and hooks, but for the start and end of a validation epoch.
    Test data goes through the validation step, and ``batch_idx`` is 0 in training.

    Args:
        make_module: makes a new module, with new initial weights; its arguments can be searched.
        data: a LightningDataModule, or the loaders ``(train, valid)`` or ``(train, valid, test)``.
        monitor: what the validation loss is logged as; by default one of the usual names, such as
            ``"val_loss"``, or else what the validation step returns.
        **task: what else `Task` takes, such as ``epochs`` and ``target``.

    Raises:
        TaskError: a module that steps its optimizers itself, that has no validation loss, or that raises on
            the first validation batch, which is tried at once to learn what is logged.
    """
    check_model(make_module)
    train, valid, test = _loaders(data)
    evaluation = Validation(monitor)
    maker = Maker(make_module)
    names = _logged(maker, evaluation, valid)
    steps = {"training_step": training_step, "evaluation": evaluation, "metrics": names}
    return Task(maker, train, valid, test=test, **steps, **task)


@dataclass(frozen=True)
class Maker:
    """Makes modules whose ``self.log`` needs no Trainer; has the arguments and name of the user's maker."""

    make_module: Callable[..., Any]

    def __call__(self, **settings: Any) -> nn.Module:
        module = self.make_module(**settings)
        if not getattr(module, "automatic_optimization", False):
            kind = type(module).__name__
            raise TaskError(
                f"{kind} is no LightningModule with automatic optimization; one that steps its own "
                "optimizers cannot be compared: give a plain module, with training_step= to Task"
            )
        module.log = _unheard
        return module

    @property
    def __signature__(self) -> Signature:
        return signature(self.make_module)

    @property
    def __name__(self) -> str:
        return default_name(self.make_module)


def training_step(module: Any, batch: Batch) -> Tensor:
    """Return the loss of the module's own training step."""
    output = _called(module.training_step, batch, 0)
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if loss is None:
        raise TaskError(f"training_step of {type(module).__name__} returned no loss; return it")
    return loss


@dataclass(frozen=True)
class Validation:
    """Runs the module's own validation step over batches, and returns the loss with what was logged."""

    monitor: str | None = None

    def __call__(self, module: Any, batches: Iterable[Batch]) -> tuple[float, dict[str, float]]:
        module.log = log = Log()
        try:
            module.on_validation_epoch_start()
            for index, batch in enumerate(batches):
                log.size = len(next(leaf for leaf in leaves(batch) if isinstance(leaf, Tensor)))
                output = _called(module.validation_step, batch, index)
                loss = output.get("loss") if isinstance(output, Mapping) else output
                if loss is not None:
                    log(RETURNED, loss)
            module.on_validation_epoch_end()
        finally:
            module.log = _unheard
        return self._judged(log.values(), type(module).__name__)

    def _judged(self, values: dict[str, float], kind: str) -> tuple[float, dict[str, float]]:
        wanted = (*LOSSES, RETURNED) if self.monitor is None else (self.monitor,)
        name = next((name for name in wanted if name in values), None)
        if name is None:
            logged = ", ".join(name for name in values if name != RETURNED) or "nothing"
            raise TaskError(
                f"{kind} logs no validation loss, but {logged}; log it as 'val_loss', return it from "
                "validation_step, or name it by monitor="
            )
        return values[name], {key: value for key, value in values.items() if key not in (name, RETURNED)}


#: Under which a loss is kept that the validation step returns.
RETURNED = ""


@dataclass
class Log:
    """Takes the place of ``self.log``: what was logged, with how many samples it stands for."""

    size: int = 1
    seen: dict[str, list[tuple[Tensor, int]]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    reductions: dict[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        name: str,
        value: Any,
        *_: Any,
        reduce_fx: Any = "mean",
        batch_size: int | None = None,
        **__: Any,
    ) -> None:
        if hasattr(value, "compute") and hasattr(value, "reset"):  # a metric of torchmetrics
            self.metrics[name] = value
            return
        point = torch.as_tensor(value).detach().double(), batch_size or self.size
        self.seen.setdefault(name, []).append(point)
        self.reductions[name] = REDUCTIONS.get(getattr(reduce_fx, "__name__", reduce_fx))

    def values(self) -> dict[str, float]:
        """Return what came out over all batches, by name."""
        results = {name: self._reduced(name) for name in self.seen}
        for name, metric in self.metrics.items():
            results[name] = float(metric.compute())
            metric.reset()
        return results

    def _reduced(self, name: str) -> float:
        values, sizes = zip(*self.seen[name], strict=True)
        reduction = self.reductions[name]
        if reduction is not None:
            return float(reduction(torch.stack(values)))
        return float(sum(value * size for value, size in self.seen[name]) / sum(sizes))


def _unheard(*_: Any, **__: Any) -> None:
    """What a training step logs is for loggers that are not there."""


def _called(step: Callable[..., Any], batch: Batch, index: int) -> Any:
    return step(batch, index) if len(signature(step).parameters) > 1 else step(batch)


def _logged(maker: Maker, evaluation: Validation, valid: Any) -> list[str]:
    """Return the names that the validation step logs, found on one batch."""
    batch = next(in_order(valid, 1))
    with seeded(0), torch.no_grad():
        try:
            module = maker().eval()
            return list(evaluation(module, [batch])[1])
        except TaskError:
            raise
        except Exception as error:
            raise TaskError(
                f"the first validation batch fails: {type(error).__name__}: {error}; correct the module "
                f"{default_name(maker)}, which must work without a Trainer"
            ) from error


def _loaders(data: Any) -> tuple[Any, Any, Any]:
    """Return the loaders for training, validation and, if there is any, test data."""
    if isinstance(data, (tuple, list)):
        if len(data) not in (2, 3):
            raise TaskError(f"data has {len(data)} loaders; give (train, valid) or (train, valid, test)")
        return data[0], data[1], data[2] if len(data) == 3 else None
    data.prepare_data()
    data.setup("fit")
    loaders = [_one(data.train_dataloader(), "train"), _one(data.val_dataloader(), "val")]
    if _overridden(data, "test_dataloader"):
        data.setup("test")
        return *loaders, _one(data.test_dataloader(), "test")
    return *loaders, None


def _one(loader: Any, part: str) -> Any:
    if isinstance(loader, (list, tuple)) and len(loader) == 1:
        return loader[0]
    if isinstance(loader, (list, tuple, dict)) or loader is None:
        raise TaskError(f"{part}_dataloader must return one loader; choose one, or concatenate the datasets")
    return loader


def _overridden(data: Any, name: str) -> bool:
    return not getattr(type(data), name).__module__.startswith(("lightning.", "pytorch_lightning."))
