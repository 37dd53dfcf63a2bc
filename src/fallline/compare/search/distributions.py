"""A search space in Optuna's terms, and Optuna without its messages."""

import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fallline.core.space import Choice, Dimension, Range, Space, holds

if TYPE_CHECKING:  # Optuna takes 0.3 s to import
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

#: How far outside of a range rounding may put a value, as a share of the range.
ROUNDING = 1e-9
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from telling of each study, and of features that it calls experimental.

    The user's settings return. One thread at a time, as loggers and filters of warnings are everybody's.
    """
    from optuna.exceptions import ExperimentalWarning

    logger = logging.getLogger("optuna")
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def label(name: str, dimension: Dimension) -> str:
    """Return what the parameter is called: ``"1 - beta1"`` where 1 - beta1 is what is spread evenly.

    >>> label("beta1", Range(0.5, 0.99, "one_minus_log"))
    '1 - beta1'
    """
    return f"1 - {name}" if _is_complement(dimension) else name


def distribution(dimension: Dimension) -> "BaseDistribution":
    """Return Optuna's distribution for a range or a choice.

    >>> distribution(Range(0.5, 0.75, "one_minus_log"))
    FloatDistribution(high=0.5, log=True, low=0.25, step=None)
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.options)
    log = dimension.scale != "linear"
    low, high = sorted(_value(dimension, end) for end in (dimension.low, dimension.high))
    if dimension.integer:
        return IntDistribution(max(round(low), int(log)), round(high), log=log)
    return FloatDistribution(low, high, log=log)


def inside(space: Space, settings: Mapping[str, Any]) -> bool:
    """Say whether ``settings`` are a point of ``space``, as those of a space since changed need not be."""
    wanted = {name for name, each in space.items() if holds(each.when, settings)}
    return wanted == settings.keys() & space.keys() and all(_has(space[n], settings[n]) for n in wanted)


def parameters(
    space: Space, settings: Mapping[str, Any]
) -> "tuple[dict[str, Any], dict[str, BaseDistribution]]":
    """Return settings as Optuna's parameters and their distributions, wider where a value lies outside."""
    values, distributions = {}, {}
    for name, dimension in space.items():
        if name in settings:
            key, each = label(name, dimension), distribution(_reaching(dimension, settings[name]))
            values[key] = _clipped(each, _value(dimension, settings[name]))
            distributions[key] = each
    return values, distributions


def suggested(trial: "Trial", space: Space) -> dict[str, Any]:
    """Return the settings that Optuna suggests for ``trial``, asked one by one, as conditions need."""
    settings: dict[str, Any] = {}
    for name, each in space.items():
        if holds(each.when, settings):
            settings[name] = _setting(each, _suggest(trial, label(name, each), distribution(each)))
    return settings


def _suggest(trial: "Trial", name: str, each: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(each, CategoricalDistribution):
        return trial.suggest_categorical(name, each.choices)
    suggest = trial.suggest_int if isinstance(each, IntDistribution) else trial.suggest_float
    return suggest(name, each.low, each.high, log=each.log)


def _is_complement(dimension: Dimension) -> bool:
    return isinstance(dimension, Range) and dimension.scale == "one_minus_log"


def _value(dimension: Dimension, setting: Any) -> Any:
    return 1 - setting if _is_complement(dimension) else setting


def _setting(dimension: Dimension, value: Any) -> Any:
    if isinstance(dimension, Range) and dimension.scale == "one_minus_log":
        return min(max(1 - value, dimension.low), dimension.high)
    return value


def _has(dimension: Dimension, setting: Any) -> bool:
    if isinstance(dimension, Choice):
        return setting in dimension.options
    return -ROUNDING <= dimension.fraction(setting) <= 1 + ROUNDING


def _reaching(dimension: Dimension, setting: Any) -> Dimension:
    if isinstance(dimension, Choice) or _has(dimension, setting):
        return dimension
    return replace(dimension, low=min(dimension.low, setting), high=max(dimension.high, setting))


def _clipped(each: Any, value: Any) -> Any:
    return min(max(value, each.low), each.high) if hasattr(each, "low") else value
