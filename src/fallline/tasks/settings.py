"""One flat dict of settings, and whose each is: the training's, the model's, or else the optimizer's."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from math import isfinite
from typing import Any

from torch import nn

from fallline.core.errors import suggestion
from fallline.core.space import Choice, Range
from fallline.tasks.errors import TaskError

#: Schedules that need no more than the number of steps; `fallline.schedules` has them.
SCHEDULES = ("constant", "linear", "cosine", "polynomial", "exponential", "step", "inverse_sqrt", "one_cycle")
PRECISIONS = ("float32", "bfloat16", "float64")
#: Settings of the training: fields of the task that a trial may change.
TRAINING = ("batch_size", "epochs", "max_steps", "schedule", "warmup", "clip", "patience", "precision")
#: Names that a setting of an optimizer has; an argument of the model that has one, too, keeps its default.
OPTIMIZER = frozenset(
    {
        "lr", "weight_decay", "momentum", "dampening", "nesterov", "betas", "beta1", "beta2", "beta3", "eps",
        "alpha", "lambd", "centered", "amsgrad", "rho", "lr_decay", "initial_accumulator_value",
        "momentum_decay", "decoupled_weight_decay", "maximize", "strength", "b1", "beta2_decay", "precond_lr",
    }
)  # fmt: skip


def model_arguments(model: Callable[..., Any]) -> set[str]:
    """Return the names of the arguments of a model's maker that a setting may give."""
    try:
        parameters = signature(model).parameters.values()
    except (TypeError, ValueError):  # a maker written in C has no signature
        return set()
    named = {
        p.name for p in parameters if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    }
    return named - OPTIMIZER


def check_model(model: Any) -> None:
    """Raise unless ``model`` can be called for a new model."""
    if isinstance(model, nn.Module):
        kind = type(model).__name__
        raise TaskError(
            f"model is one {kind}, but each training needs new initial weights; give a function that makes "
            f"it, such as `lambda: {kind}(...)`, or to fine-tune `lambda: copy.deepcopy(pretrained)`"
        )
    if not callable(model):
        raise TaskError(f"model must be a function or class that makes a new module, got {model!r}")
    _check_arguments(model)


def _check_arguments(model: Callable[..., Any]) -> None:
    both = sorted(model_arguments(model) & set(TRAINING))
    if both:
        raise TaskError(
            f"{both[0]!r} is an argument of the model and a setting of the training; rename the model's"
        )


def check_search(search: Mapping[str, Any], model: Callable[..., nn.Module]) -> None:
    """Raise unless each searched name is known, with a range or a choice."""
    known = {*TRAINING, *model_arguments(model)}
    for name, dimension in search.items():
        if name not in known:
            raise TaskError(
                f"search has {name!r}{suggestion(name, known)}, which is neither an argument of the model "
                "nor a setting of the training; an optimizer's own settings have their own space"
            )
        if not isinstance(dimension, (Range, Choice)):
            raise TaskError(f"search of {name!r} must be a Range or a Choice, got {dimension!r}")


def check_training(task: Any) -> None:
    """Raise unless every setting of the training is in its range."""
    for name in ("batch_size", "max_steps", "patience"):
        _check_whole(name, getattr(task, name), optional=name != "batch_size")
    for name in ("epochs", "clip"):
        value = getattr(task, name)
        if value is not None and not (_is_number(value) and value > 0):
            raise TaskError(f"{name} must be positive, or None for none; got {value!r}")
    if not (_is_number(task.warmup) and 0 <= task.warmup < 1):
        raise TaskError(f"warmup is a share of the steps, at least 0 and below 1; got {task.warmup!r}")
    for name, options in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
        value = getattr(task, name)
        if value not in options:
            raise TaskError(f"unknown {name} {value!r}{suggestion(str(value), options)}")


def _check_whole(name: str, value: Any, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TaskError(f"{name} must be positive, a whole number; got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
