"""The rows of a report's table, computed from the records of a comparison."""

from dataclasses import dataclass, replace
from math import exp, inf

import numpy as np

from fallline.compare.cautions import ENOUGH_TRIALS, best_tuning
from fallline.compare.records import Comparison, Trial
from fallline.compare.sensitivity import GoodRange, expected_best, good_range
from fallline.compare.standings import Place, Standing, epochs_to_target, steps_to_target
from fallline.compare.statistics import Interval, Scale, mean_interval
from fallline.compare.verdict import Verdict


@dataclass(frozen=True)
class Row:
    """One optimizer in a report; None stands for what is not known (yet).

    ``loss`` and ``metric`` are over final seeds, ``ratio`` is the loss over the best one's. ``steps`` and
    ``epochs`` are medians to the target, infinite if fewer than half of the ``finals`` runs ``reached`` it.
    ``tuning`` counts tuning trials, ``diverged`` and ``failed`` those that were lost of them and the finals.
    """

    arm: str
    rank: int | None
    standing: Standing
    loss: Interval | None
    ratio: float | None
    metric: Interval | None
    steps: float | None
    epochs: float | None
    reached: int
    finals: int
    diverged: int
    failed: int
    tuning: int
    step_microseconds: float | None
    state_bytes: int | None
    settings: dict[str, float]
    good: GoodRange | None


def rows(comparison: Comparison, verdict: Verdict) -> list[Row]:
    """Return one row for each optimizer, in the order of the verdict."""
    ranks = {o: i for i, o in enumerate((p.arm for p in verdict.places if _ranked(p)), start=1)}
    return [_row(comparison, place, ranks.get(place.arm), verdict) for place in verdict.places]


def _ranked(place: Place) -> bool:
    return place.standing not in ("unsteady", "none")


def _row(comparison: Comparison, place: Place, rank: int | None, verdict: Verdict) -> Row:
    name, finals = place.arm, comparison.finals(place.arm)
    every = [*comparison.tuning(name), *finals]
    return Row(
        arm=name,
        rank=rank,
        standing=place.standing,
        loss=place.loss,
        ratio=_ratio(place, verdict),
        metric=metric_interval(finals, comparison.plan.metric_name),
        steps=steps_to_target(finals) if comparison.plan.target is not None else None,
        epochs=epochs_to_target(finals) if comparison.plan.target is not None else None,
        reached=sum(t.steps_to_target is not None for t in finals),
        finals=len(finals),
        diverged=sum(t.status == "diverged" for t in every),
        failed=sum(t.status == "failed" for t in every),
        tuning=len(comparison.tuning(name)),
        step_microseconds=comparison.step_microseconds.get(name),
        state_bytes=max((t.state_bytes for t in every if t.status == "ok"), default=None),
        settings=tuned(comparison, name),
        good=good_rates(comparison, name),
    )


def _ratio(place: Place, verdict: Verdict) -> float | None:
    best = verdict.places[0].loss
    if place.loss is None or best is None or verdict.scale != "log" or not _ranked(place):
        return None
    return place.loss.mean / best.mean


def metric_interval(finals: list[Trial], name: str) -> Interval | None:
    """Return the mean metric of the final runs with its interval, which ends where an accuracy must end."""
    values = [t.metric for t in finals if t.metric is not None]
    if not values:
        return None
    interval = mean_interval(values)
    if interval.ends is None or "accuracy" not in name.lower() or min(values) < 0 or max(values) > 1:
        return interval
    return replace(interval, low=max(0.0, interval.ends[0]), high=min(1.0, interval.ends[1]))


def tuned(comparison: Comparison, optimizer: str) -> dict[str, float]:
    """Return the settings of the final runs, or of the best tuning trial before there are any."""
    finals, best = comparison.finals(optimizer), best_tuning(comparison, optimizer)
    return finals[0].spec.settings if finals else best.spec.settings if best else {}


def tuning_losses(comparison: Comparison, optimizer: str) -> tuple[list[float], list[float]]:
    """Return the learning rates tried and their losses, infinite where the training diverged."""
    tried = [t for t in comparison.tuning(optimizer) if t.status != "failed"]
    tried = [t for t in tried if "lr" in t.spec.settings]
    tried.sort(key=lambda t: t.spec.settings["lr"])
    return [t.spec.settings["lr"] for t in tried], [
        inf if t.valid_loss is None else t.valid_loss for t in tried
    ]


def good_rates(comparison: Comparison, optimizer: str) -> GoodRange | None:
    """Return the learning rates whose tuning result was within 10 % of the best, None if few were tried."""
    rates, losses = tuning_losses(comparison, optimizer)
    return good_range(rates, losses) if len(rates) >= ENOUGH_TRIALS else None


def best_of(comparison: Comparison, optimizer: str, scale: Scale) -> list[float]:
    """Return the expected lowest tuning loss after 1, 2, ... trials, a geometric mean on a log scale."""
    losses = np.asarray(tuning_losses(comparison, optimizer)[1])
    if scale == "log":
        return [exp(expected_best(np.log(losses).tolist(), n)) for n in range(1, len(losses) + 1)]
    return [expected_best(losses.tolist(), n) for n in range(1, len(losses) + 1)]
