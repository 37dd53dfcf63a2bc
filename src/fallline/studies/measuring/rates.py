"""A sweep over the learning rate: what each rate leads to, how wide the good range is, and where it ends."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import inf, isfinite, log10
from operator import attrgetter
from statistics import mean
from typing import Any

from fallline.compare.judgement.standings import loss_scale, on_scale
from fallline.compare.judgement.wording import number, setting
from fallline.compare.planning import Prepared
from fallline.compare.protocol.seeds import training_seed
from fallline.compare.records import Comparison, Spec, Trial
from fallline.compare.statistics.pairs import Interval, Scale, mean_interval
from fallline.compare.statistics.sensitivity import loss_reached
from fallline.core.registry import find
from fallline.core.space import Range
from fallline.report.finding import Figure, Table
from fallline.report.terminal import span
from fallline.studies.drawing import Axis, Line, lines
from fallline.studies.lab import Lab
from fallline.studies.measuring.sweeps import sweep
from fallline.studies.reading import estimate
from fallline.studies.study import StudyError
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task

#: How far beyond an optimizer's published range a sweep goes on either side, in powers of ten.
BEYOND = 0.5
#: A loss is good if it is at most this share above the lowest.
GOOD = 0.5
RATE = Axis("learning rate", log=True)
BEST_OF_MANY = "The loss at the best rate is the lowest of many, and so a little too low by chance."


@dataclass(frozen=True)
class Response:
    """What one optimizer does over its learning rate.

    Args:
        rates: ascending.
        losses: the mean over seeds at each rate, with its interval; None where a training diverged.
        diverged: the share of trainings at each rate that ended worse than the untrained model.
        width: decades of good rates, with the interval over seeds.
        best: the rate with the lowest mean.
        edge: the lowest rate from which half of all trainings or more diverge; infinite if none was tried.
    """

    rates: list[float]
    losses: list[Interval | None]
    diverged: list[float]
    width: Interval
    best: float
    edge: float


def rate_sweep(lab: Lab, task: Task, optimizers: Iterable[str], per_decade: float, seeds: int) -> Comparison:
    """Return trainings at evenly spaced rates over each optimizer's published range and a little more."""
    names = list(optimizers)
    choose = partial(_specs, per_decade=per_decade, seeds=seeds)
    return sweep(lab, "rates", names, choose, task=task, repeat=attrgetter("seed"))


def _specs(prepared: Prepared, per_decade: float, seeds: int) -> list[Spec]:
    """Return a training at every rate for each seed, a whole seed before the next."""
    return [
        Spec(arm, "tune", index, training_seed(prepared.plan.seed, "tune", repeat), {"lr": rate})
        for repeat in range(seeds)
        for arm in prepared.plan.arms
        for index, rate in enumerate(grid(arm, per_decade))
    ]


def grid(optimizer: str, per_decade: float) -> list[float]:
    """Return the rates to try, evenly spaced on a logarithmic scale.

    >>> [round(rate, 3) for rate in grid("sgd", 1)]
    [0.0, 0.003, 0.032, 0.316, 3.162, 31.62]
    """
    published = find(optimizer).space["lr"]
    assert isinstance(published, Range)
    low, high = log10(published.low) - BEYOND, log10(published.high) + BEYOND
    count = round((high - low) * per_decade)
    return [float(f"{10 ** (low + (high - low) * i / count):.4g}") for i in range(count + 1)]


def responses(comparison: Comparison, untrained: float) -> dict[str, Response]:
    """Return the response of each optimizer; ``untrained`` is the loss before the first step."""
    scale = loss_scale(comparison)
    return {arm: _response(comparison.tuning(arm), untrained, scale) for arm in comparison.plan.arms}


def untrained_loss(task: Task, seed: int) -> float:
    """Return the validation loss of a model that was not trained.

    Raises:
        StudyError: it is infinite or not a number.
    """
    with seeded(seed):
        loss = task.evaluated(task.new_model(), task.fold(0).valid)[0]
    if not isfinite(loss):
        raise StudyError(
            f"task {task.name!r}: the loss of an untrained model is {loss}; check its loss and data"
        )
    return loss


def has_diverged(trial: Trial, untrained: float) -> bool:
    """Say whether a training became NaN or infinite, or ended with a loss above the untrained model's."""
    return trial.status != "ok" or trial.curve.valid_loss[-1] > untrained


def _response(trials: list[Trial], untrained: float, scale: Scale) -> Response:
    at: dict[float, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.spec.settings["lr"]):
        at.setdefault(trial.spec.settings["lr"], []).append(trial)
    shares = [mean(has_diverged(trial, untrained) for trial in group) for group in at.values()]
    losses = [
        None if share else mean_interval([loss_reached(t) for t in group], scale=scale)
        for share, group in zip(shares, at.values(), strict=True)
    ]
    rates = list(at)
    best = min(zip(losses, rates, strict=True), key=lambda pair: inf if pair[0] is None else pair[0].mean)[1]
    bad = [rate for rate, share in zip(rates, shares, strict=True) if rate > best and share >= 0.5]
    return Response(rates, losses, shares, _width(trials, untrained, scale), best, min(bad, default=inf))


def _width(trials: list[Trial], untrained: float, scale: Scale) -> Interval:
    """Return the width of the good range of each seed, averaged."""
    by_seed: dict[int, dict[float, float]] = {}
    for trial in trials:
        loss = inf if has_diverged(trial, untrained) else loss_reached(trial)
        by_seed.setdefault(trial.spec.seed, {})[trial.spec.settings["lr"]] = loss
    found = mean_interval([good_decades(at, scale) for at in by_seed.values()])
    return found if found.ends is None else replace(found, low=max(0.0, found.ends[0]))


def good_decades(losses: Mapping[float, float], scale: Scale) -> float:
    """Return how many powers of ten around the best rate are good, by straight lines between the rates.

    Arguments:
        losses: by learning rate; infinite where the training diverged, which no line reaches into.
        scale: of the losses between two rates, "log" or "linear".

    Example:
        >>> round(good_decades({0.01: 4.0, 0.1: 1.0, 1.0: 4.0, 10.0: inf}, "linear"), 3)
        0.333
    """
    tried = sorted(losses)
    best = min(tried, key=lambda rate: losses[rate])
    if losses[best] == inf:
        return 0.0
    highest = limit(losses[best])
    above = [rate for rate in tried if rate >= best]
    below = [rate for rate in reversed(tried) if rate <= best]
    return sum(_stretch([(log10(r), losses[r]) for r in side], highest, scale) for side in (above, below))


def limit(lowest: float) -> float:
    """Return the highest loss that is good, given the lowest: none is if that is infinite.

    >>> limit(2.0), limit(-2.0)
    (3.0, -1.0)
    """
    return lowest + GOOD * abs(lowest) if lowest < inf else -inf


def _stretch(points: list[tuple[float, float]], highest: float, scale: Scale) -> float:
    """Return how far one may go from the first of the points until the loss is above ``highest``."""
    for (here, low), (there, high) in pairwise(points):
        if high > highest:
            start, end, stop = (on_scale(scale, loss) for loss in (low, high, highest))
            share = (stop - start) / (end - start)
            return abs(here + share * (there - here) - points[0][0])
    return abs(points[-1][0] - points[0][0])


def told(task: str, found: Mapping[str, Response]) -> str:
    """Return how wide the good range of each optimizer is, as one sentence."""
    widths = "; ".join(f"{arm} {estimate(each.width)}" for arm, each in found.items())
    return (
        f"On {task} the loss is at most {1 + GOOD:g} times its lowest over these decades of learning rates: "
        f"{widths}; on a quadratic, gradient descent diverges above exactly 2/L."
    )


def edges(found: Mapping[str, Response], untrained: float) -> str:
    """Return from where each optimizer diverges, as a sentence."""
    named = "; ".join(f"{arm}: {_edge(each)}" for arm, each in found.items())
    return (
        f"The lowest rate at which half of the trainings or more diverge, that is end with a loss above "
        f"{number(untrained)}, the untrained model's: {named}."
    )


def _edge(response: Response) -> str:
    if response.edge == inf:
        return f"none up to {setting(response.rates[-1])}"
    return f"{setting(response.edge)}, which is {number(response.edge / response.best)} times the best rate"


def protocol(found: Mapping[str, Response]) -> str:
    """Return how it was measured."""
    counts = ", ".join(f"{arm} at {len(each.rates)} rates" for arm, each in found.items())
    return f"{counts}; the same seeds at each rate; intervals over seeds"


def table(found: Mapping[str, Response]) -> Table:
    """Return each optimizer's best rate, its loss, the width of the good range and where it ends."""
    columns = ["optimizer", "best rate", "loss", "95 %", "decades*", "95 %", "diverges from"]
    note = f"* the width of the range in which the loss is at most {1 + GOOD:g} times the lowest"
    return Table(columns, [_row(arm, each) for arm, each in found.items()], note=note)


def _row(arm: str, response: Response) -> list[Any]:
    lowest = response.losses[response.rates.index(response.best)]
    loss = [None, None] if lowest is None else _with_ends(lowest)
    edge = None if response.edge == inf else setting(response.edge)
    return [arm, setting(response.best), *loss, *_with_ends(response.width), edge]


def _with_ends(interval: Interval) -> list[str | None]:
    return [number(interval.mean), None if interval.ends is None else span(*interval.ends)]


def figures(found: Mapping[str, Response], loss: Axis) -> list[Figure]:
    """Return the loss over the learning rate, and the share that diverged."""
    drawn = {arm: _loss_line(each) for arm, each in found.items()}
    lost = {arm: Line(each.rates, each.diverged) for arm, each in found.items()}
    return [
        Figure(
            "Loss over the learning rate",
            "Mean over seeds with 95 % interval; rates at which a training diverged are left out.",
            lines(drawn, RATE, loss),
        ),
        Figure(
            "Share of trainings that diverged",
            "Diverged: ended with a loss above that of the untrained model, or not a number.",
            lines(lost, RATE, Axis("share")),
        ),
    ]


def _loss_line(response: Response) -> Line:
    kept = [(rate, each) for rate, each in zip(response.rates, response.losses, strict=True) if each]
    ends = [each.ends or (each.mean, each.mean) for _, each in kept]
    return Line(
        [rate for rate, _ in kept], [each.mean for _, each in kept], *map(list, zip(*ends, strict=True))
    )
