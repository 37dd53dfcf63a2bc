"""The rows of a report's table, computed from the records of a comparison."""

from dataclasses import dataclass, replace
from typing import Any

from fallline.compare.judgement.cautions import best_tuning
from fallline.compare.judgement.standings import Place, Standing, epochs_to_target, steps_to_target
from fallline.compare.judgement.verdict import Verdict
from fallline.compare.judgement.winner import best_settings
from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.pairs import Interval, mean_interval
from fallline.compare.statistics.ranks import RankSet
from fallline.compare.statistics.rate_response import Response
from fallline.compare.statistics.resampling import two_level_interval
from fallline.compare.statistics.sensitivity import response
from fallline.compare.statistics.survival import MedianTime


@dataclass(frozen=True)
class Row:
    """One arm in a report; None stands for what is not known (yet).

    ``loss`` and ``metric`` are over final runs, ``ratio`` is the loss over the best one's. ``places`` are
    those that the arm may truly have, ``p_best`` is the share of bootstrap draws in which it is the best.
    ``steps`` and ``epochs`` are medians to the target, infinite if fewer than half of the ``finals`` runs
    ``reached`` it. ``tuning`` counts tuning trials, ``diverged`` and ``failed`` those that were lost of them
    and the finals. ``response`` is the tuning loss over the learning rate.
    """

    arm: str
    rank: int | None
    standing: Standing
    places: RankSet | None
    p_best: float | None
    loss: Interval | None
    ratio: float | None
    metric: Interval | None
    steps: MedianTime | None
    epochs: MedianTime | None
    reached: int
    finals: int
    diverged: int
    failed: int
    tuning: int
    step_microseconds: float | None
    state_bytes: int | None
    settings: dict[str, Any]
    response: Response | None


def rows(comparison: Comparison, verdict: Verdict) -> list[Row]:
    """Return one row for each arm, in the order of the verdict."""
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
        places=place.places,
        p_best=place.p_best,
        loss=place.loss,
        ratio=_ratio(place, verdict),
        metric=metric_interval(finals, comparison.plan.metric_name, verdict.overlap),
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
        response=response(comparison, name, verdict.scale),
    )


def _ratio(place: Place, verdict: Verdict) -> float | None:
    best = verdict.places[0].loss
    if place.loss is None or best is None or verdict.scale != "log" or not _ranked(place):
        return None
    return place.loss.mean / best.mean


def metric_interval(finals: list[Trial], name: str, overlap: float = 0.0) -> Interval | None:
    """Return the mean metric of the final runs with its interval, which ends where an accuracy must end.

    With several studies it covers both levels of luck; ``overlap`` is that of their training data.
    """
    cells = {(t.spec.study, t.spec.seed): t.metric for t in finals if t.metric is not None}
    values = list(cells.values())
    if not values:
        return None
    several = len({study for study, _ in cells}) > 1
    interval = two_level_interval(cells, overlap=overlap) if several else mean_interval(values)
    if interval.ends is None or "accuracy" not in name.lower() or min(values) < 0 or max(values) > 1:
        return interval
    return replace(interval, low=max(0.0, interval.ends[0]), high=min(1.0, interval.ends[1]))


def tuned(comparison: Comparison, arm: str) -> dict[str, Any]:
    """Return the settings of the best final runs, or of the best tuning trial before there are any."""
    best = best_tuning(comparison, arm)
    return best_settings(comparison, arm) or (best.spec.settings if best else {})


def heading(comparison: Comparison) -> str:
    """Return what a column of arms is called: "optimizer" when each arm is one with its own name."""
    plain = all(name == arm.optimizer for name, arm in comparison.plan.arms.items())
    return "optimizer" if plain else "arm"
