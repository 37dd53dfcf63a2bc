"""The learning-rate range test over many seeds, beside the learning rate that whole trainings prefer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fallline.compare.errors import ComparisonError
from fallline.compare.protocol.seeds import training_seed
from fallline.compare.records import Arm, Comparison, Spec
from fallline.compare.statistics.rate_response import GoodRange, rate_response
from fallline.compare.trials.training import Training
from fallline.core.registry import Entry, find
from fallline.core.space import Range
from fallline.tasks.load import load
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

#: The share of the last average in the next, as in fast.ai's test.
SMOOTHING = 0.98
#: A smoothed loss above this many times the lowest so far ends the test, as in fast.ai's.
DIVERGED = 4.0
#: The share of the steps at the start that is not looked at for the steepest descent, as in fast.ai's plot.
SKIPPED = 0.1
#: How far below and above the optimizer's own range the test goes: a decade.
BEYOND = 10.0


@dataclass(frozen=True)
class Probe:
    """The range test on one seed: the smoothed training loss after the step at each rate, until it diverged.

    ``steepest`` is the rate at which the loss fell fastest, ``diverged`` the one at which it passed 4 times
    the lowest; None if it never fell, or never diverged.
    """

    seed: int
    losses: list[float]
    steepest: float | None
    diverged: float | None


@dataclass(frozen=True)
class Spread:
    """The quartiles of a rate over the ``seeds`` that had it."""

    low: float
    median: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Tuned:
    """What a sweep found in so many ``trials``: the rate of the lowest expected loss, and the good range.

    With fewer than 5 trials it is the rate of the best, and no range.
    """

    rate: float
    good: GoodRange | None
    trials: int


@dataclass(frozen=True)
class LrRange:
    """The range test of ``optimizer`` at ``rates``, and what a sweep found, if there was one."""

    optimizer: str
    task: str
    rates: list[float]
    probes: list[Probe]
    steepest: Spread | None
    diverged: Spread | None
    tuned: Tuned | None

    @property
    def suggestion(self) -> float | None:
        """The median rate of the steepest descent, as in fast.ai's test."""
        return None if self.steepest is None else self.steepest.median

    @property
    def agrees(self) -> bool | None:
        """Whether the suggestion lies among the sweep's good rates; None if either is missing."""
        if self.suggestion is None or self.tuned is None or self.tuned.good is None:
            return None
        return self.tuned.good.low <= self.suggestion <= self.tuned.good.high

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        return {**asdict(self), "suggestion": self.suggestion, "agrees": self.agrees}


def lr_range(
    task: Task,
    optimizer: str,
    seeds: int = 8,
    steps: int = 100,
    *,
    seed: int = 0,
    tuned: Tuned | None = None,
) -> LrRange:
    r"""Return at which learning rates the loss falls fastest and where it diverges, over many seeds.

    On each seed a new model makes :math:`n` steps, the learning rate growing as
    :math:`\eta_i = \eta_\mathrm{low} (\eta_\mathrm{high} / \eta_\mathrm{low})^{i / (n - 1)}`, from a decade
    below the optimizer's own range to a decade above it. The loss after a step, that of the next batch, is
    averaged as :math:`a_i = 0.98 a_{i-1} + 0.02 \ell_i` and divided by :math:`1 - 0.98^i`. A test ends when
    this smoothed loss is above 4 times its lowest, or not finite.

    Args:
        task: what to train; its own schedule and warm-up are left out.
        optimizer: a name in `fallline list`, or of a class elsewhere; settings at their defaults.
        seeds: how many tests, at least 1.
        steps: of each test, at least 10.
        seed: where the seeds are derived from.
        tuned: what a sweep of whole trainings found, to hold the test against.

    Raises:
        ComparisonError: too few seeds or steps, an optimizer without a range for its learning rate, or a
            model that raises.

    Example:
        >>> found = lr_range(load("digits"), "sgd", seeds=2, steps=50)
        >>> found.suggestion < found.diverged.median
        True

    Source: Smith 2017, https://arxiv.org/abs/1506.01186; smoothing and stopping as in Howard and Gugger 2020,
    https://arxiv.org/abs/2002.04688. Differs from both: the quartiles over many seeds say how far the answer
    of one can be trusted.
    """
    _check(seeds=(seeds, 1), steps=(steps, 10))
    entry = find(optimizer)
    rates = _rates(entry, steps)
    with one_thread():
        numbers = [training_seed(seed, "tune", i) for i in range(seeds)]
        probes = [_probe(task, entry, rates, each) for each in numbers]
    return LrRange(
        optimizer=optimizer,
        task=task.name,
        rates=rates,
        probes=probes,
        steepest=_spread([probe.steepest for probe in probes]),
        diverged=_spread([probe.diverged for probe in probes]),
        tuned=tuned,
    )


def recorded_or_swept(task: str, optimizer: str, run: Path | None, trials: int) -> Tuned | None:
    """Return what the comparison in ``run`` says, else one of ``trials`` trainings that is kept nowhere.

    Raises:
        ComparisonError: no comparison in ``run``, another task's, or one that has not tuned ``optimizer``.
    """
    from fallline.compare.resuming import described
    from fallline.compare.run import compare, read

    _check(sweep=(trials, 0))
    find(optimizer)
    if run is not None:
        comparison = read(run)
        for what, (now, then) in described(load(task), comparison.plan).items():
            if now != then:
                raise ComparisonError(f"in {run} the {what} is {then}, not {now}; choose another --run")
        return tuned_in(comparison, optimizer)
    if trials == 0:
        return None
    with TemporaryDirectory(prefix="fallline-") as folder:
        out = Path(folder) / "sweep"
        comparison = compare(task, [optimizer], trials=trials, seeds=1, studies=1, out=out, quiet=True)
        return tuned_in(comparison, optimizer)


def tuned_in(comparison: Comparison, optimizer: str) -> Tuned:
    """Return which learning rates the tuning trials of ``optimizer`` prefer.

    Raises:
        ComparisonError: the comparison has no such arm, or none of its tuning trials ended well.
    """
    arms = [name for name, arm in comparison.plan.arms.items() if arm.optimizer == optimizer]
    if not arms:
        known = ", ".join(sorted({arm.optimizer for arm in comparison.plan.arms.values()}))
        raise ComparisonError(f"the comparison has no {optimizer}; it has {known}")
    trials = [t for arm in arms for t in comparison.tuning(arm) if "lr" in t.spec.settings]
    judged = [t for t in trials if t.status in ("ok", "diverged")]
    rates = [t.spec.settings["lr"] for t in judged]
    losses = [inf if t.valid_loss is None else t.valid_loss for t in judged]
    if not any(map(isfinite, losses)):
        raise ComparisonError(f"no tuning trial of {optimizer} ended well; nothing to hold the test against")
    response = rate_response(rates, losses, scale="log" if min(losses) > 0 else "linear")
    if response is None:
        return Tuned(rates[int(np.argmin(losses))], None, len(judged))
    return Tuned(response.rates[int(np.argmin(response.losses))], response.good, len(judged))


def _check(**numbers: tuple[int, int]) -> None:
    for name, (value, least) in numbers.items():
        if value < least:
            raise ComparisonError(f"{name} must be at least {least}, got {value}")


def _rates(entry: Entry, steps: int) -> list[float]:
    searched = entry.space.get("lr")
    if not isinstance(searched, Range) or searched.low <= 0:
        raise ComparisonError(
            f"{entry.name} has no range for its learning rate; choose an optimizer whose `lr` is searched"
        )
    return np.geomspace(searched.low / BEYOND, searched.high * BEYOND, steps).tolist()


def _probe(task: Task, entry: Entry, rates: list[float], seed: int) -> Probe:
    averages, ended, lowest = [], False, inf
    try:
        for average in smoothed(_losses(task, entry, rates, seed)):
            ended = _diverged(average, lowest, averages[0] if averages else average)
            averages.append(average)
            lowest = min(lowest, average)
            if ended:
                break
    except Exception as error:
        raise ComparisonError(
            f"{entry.name} on {task.name!r} raised {type(error).__name__}: {error}"
        ) from error
    after = averages[1 : len(averages) - ended]  # the first is of the model before any step
    return Probe(seed, after, _steepest(rates, after), rates[len(averages) - 2] if ended else None)


def _losses(task: Task, entry: Entry, rates: list[float], seed: int) -> Iterator[float]:
    """Yield the loss before the first step and after each."""
    with seeded(seed):
        constant = replace(task, schedule="constant", warmup=0.0)
        spec = Spec(entry.name, "tune", 0, seed, {"lr": rates[0]})
        training = Training(constant, Arm(entry.name, dict(entry.fixed)), spec)
        make = training.stepping.after(0, training.parameters)
        for rate in rates:
            loss = training.task.loss_on(training.model, next(training.batches))
            yield loss.item()
            loss.backward()
            _step(training, make, rate)
        yield training.task.loss_on(training.model, next(training.batches)).item()


def _step(training: Training, make: Callable[[], object], rate: float) -> None:
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    make()
    for parameter in training.parameters:
        parameter.grad = None


def smoothed(losses: Iterable[float], share: float = SMOOTHING) -> Iterator[float]:
    """Yield the exponential averages of ``losses``, corrected for their start at 0.

    >>> list(smoothed([1.0, 1.0, 8.0], share=0.5))
    [1.0, 1.0, 5.0]
    """
    average = 0.0
    for count, loss in enumerate(losses, 1):
        average = share * average + (1 - share) * loss
        yield average / (1 - share**count)


def _diverged(loss: float, lowest: float, first: float) -> bool:
    """Say whether a smoothed loss is not finite, or too far above the lowest before it."""
    limit = DIVERGED * lowest if lowest > 0 else lowest + (DIVERGED - 1) * abs(first - lowest)
    return not isfinite(loss) or loss > limit


def _steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate at which the smoothed losses, over the logarithm of the rate, fall fastest.

    The first averages are of few batches, so that their differences are noise: they do not count.
    """
    skipped = round(SKIPPED * len(rates))
    if len(losses) < skipped + 2:
        return None
    slopes = np.gradient(np.asarray(losses))[skipped:]
    return rates[skipped + int(slopes.argmin())] if slopes.min() < 0 else None


def _spread(rates: Sequence[float | None]) -> Spread | None:
    known = [rate for rate in rates if rate is not None]
    if not known:
        return None
    low, median, high = 10 ** np.quantile(np.log10(known), [0.25, 0.5, 0.75])
    return Spread(float(low), float(median), float(high), len(known))
