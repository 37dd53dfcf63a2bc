"""What patience would have done to a training that was made to the end, read off its curve."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log

from fallline.compare.judgement.wording import number
from fallline.compare.records import Comparison, Curve, Trial
from fallline.compare.statistics.pairs import Interval, Scale
from fallline.report.finding import Figure, Table
from fallline.studies.drawing import Axis, lines
from fallline.studies.measuring.levels import difference, line, mean_over
from fallline.studies.reading import loss_axis

#: What counts as close to the lowest loss of the whole training.
CLOSE = 0.05


def stop(curve: Curve, patience: int | None) -> int:
    """Return the evaluation after which so many have passed without a lower validation loss; else the last.

    That is where a task with this ``patience`` ends a training; None is for never.

    Example:
        >>> stop(Curve(step=[1, 2, 3, 4, 5], valid_loss=[3.0, 1.0, 2.0, 4.0, 0.5]), patience=2)
        3
    """
    best = 0
    for i, loss in enumerate(curve.valid_loss):
        if loss < curve.valid_loss[best]:
            best = i
        if patience is not None and i - best >= patience:
            return i
    return len(curve.valid_loss) - 1


def kept(curve: Curve, patience: int | None) -> float:
    """Return the lowest validation loss before the stop: that of the weights that one keeps."""
    return min(curve.valid_loss[: stop(curve, patience) + 1])


@dataclass(frozen=True)
class Outcome:
    """What a patience leads to, on average over trainings.

    ``loss`` is the one kept, ``excess`` how far it lies above the lowest of the whole training on the scale
    of losses, ``share`` the share of the steps that were made.
    """

    loss: Interval
    excess: Interval
    share: Interval


def outcome(runs: Sequence[Trial], patience: int | None, scale: Scale) -> Outcome:
    """Return the `Outcome` of a patience, in evaluations; of None that of stopping nowhere."""
    return Outcome(
        mean_over(runs, lambda run: kept(run.curve, patience), scale),
        _excess(runs, lambda run: kept(run.curve, patience), scale),
        _within(
            mean_over(
                runs, lambda run: run.curve.step[stop(run.curve, patience)] / run.curve.step[-1], "linear"
            ),
            1.0,
        ),
    )


def at_the_end(runs: Sequence[Trial], scale: Scale) -> Outcome:
    """Return the `Outcome` of keeping the last weights, whatever was before."""
    return Outcome(
        mean_over(runs, lambda run: run.curve.valid_loss[-1], scale),
        _excess(runs, lambda run: run.curve.valid_loss[-1], scale),
        Interval(1.0, 1.0, 1.0),
    )


def _excess(runs: Sequence[Trial], loss: Callable[[Trial], float], scale: Scale) -> Interval:
    """Return how far a loss lies above the lowest of its training on average: never below it."""
    return _within(mean_over(runs, lambda run: gap(loss(run), min(run.curve.valid_loss), scale), "linear"))


def _within(found: Interval, highest: float = inf) -> Interval:
    """Return the interval of what lies between 0 and ``highest``, cut off there."""
    if found.ends is None:
        return found
    low, high = found.ends
    return replace(found, low=max(0.0, low), high=min(highest, high))


def gap(loss: float, lowest: float, scale: Scale) -> float:
    """Return how far ``loss`` lies above ``lowest``: on the scale "log" the logarithm of their ratio."""
    return log(loss / lowest) if scale == "log" else loss - lowest


def said(made: Mapping[int, Outcome], end: Outcome, scale: Scale) -> str:
    """Return what the least patience that comes close to the best in hindsight does."""
    patience = next((p for p, each in made.items() if each.excess.mean <= CLOSE), max(made))
    excess, share = made[patience].excess, made[patience].share.mean
    loss = f"a loss {difference(excess, scale)} than the lowest" if excess.mean else "the lowest loss"
    return (
        f"A patience of {patience} evaluations keeps {loss} of the whole training and makes "
        f"{100 * share:.0f} % of its steps; the last weights have a loss {difference(end.excess, scale)}."
    )


def table(made: Mapping[int, Outcome], end: Outcome, scale: Scale) -> Table:
    """Return what each patience leads to."""
    every = {**{str(patience): each for patience, each in made.items()}, "to the end": end}
    rows = [
        [name, number(each.loss.mean), difference(each.excess, scale), f"{100 * each.share.mean:.0f}"]
        for name, each in every.items()
    ]
    note = "patience in evaluations (a training has 20); kept: the lowest until then, at the end the last"
    return Table(["patience", "loss kept", "than the lowest of the training", "steps %"], rows, note=note)


def figures(made: Mapping[int, Outcome], end: Outcome, comparison: Comparison) -> list[Figure]:
    """Return the loss kept and the steps made over patience."""
    x, at = Axis("patience (evaluations without a lower loss)"), list(made)
    losses = {
        "kept": line(at, [each.loss for each in made.values()]),
        "at the end": line(at, [end.loss for _ in made]),
    }
    shares = {"steps": line(at, [each.share for each in made.values()])}
    about = "Means over the final runs, with 95 % intervals."
    return [
        Figure("Loss over patience", about, lines(losses, x, loss_axis(comparison))),
        Figure("Steps over patience", about, lines(shares, x, Axis("share of the steps"))),
    ]
