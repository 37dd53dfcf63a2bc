"""Which trainings are made again: those of the comparison, or those that another aim would have chosen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from fallline.claims.extraction import short
from fallline.compare.records import Comparison, Spec, Trial

#: Takes a tuning trial and returns what the best has least of.
Aim = Callable[[Trial], Any]
#: The trainings of each arm, by its short name.
Specs = Mapping[str, Sequence[Spec]]


def recorded(comparison: Comparison, arms: Sequence[str]) -> Specs:
    """Return the final trainings of ``arms`` that went well, as the comparison made them."""
    return {
        arm: [trial.spec for trial in comparison.finals(name) if trial.status == "ok"]
        for arm, name in _names(comparison, arms).items()
    }


def aimed(comparison: Comparison, arms: Sequence[str], aim: Aim) -> Specs:
    """Return final trainings of ``arms`` at the settings of which tuning had the least of ``aim``.

    A comparison tunes for the lowest validation loss along a training. Who claims another thing is to be
    judged at what was tuned for that: on the same fresh seeds, each study with a choice of its own.
    """
    return {
        arm: [spec for study in range(comparison.plan.studies) for spec in _of(comparison, name, study, aim)]
        for arm, name in _names(comparison, arms).items()
    }


def last_loss(trial: Trial) -> float:
    """Return the validation loss at the end of a training, infinite if it went wrong."""
    return trial.curve.valid_loss[-1] if trial.status == "ok" else inf


def _names(comparison: Comparison, arms: Sequence[str]) -> dict[str, str]:
    names = {short(arm): arm for arm in comparison.plan.arms}
    return {arm: names[arm] for arm in arms}


def _of(comparison: Comparison, name: str, study: int, aim: Aim) -> list[Spec]:
    finals = comparison.finals(name, study)
    if not finals:
        return []
    best = min(comparison.tuning(name, study), key=aim).spec
    return [replace(final.spec, index=best.index, settings=best.settings) for final in finals]
