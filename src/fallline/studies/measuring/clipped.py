"""Trainings over the learning rate at several norms to which the gradient is clipped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import inf
from operator import attrgetter
from statistics import median

from torch.nn.utils import get_total_norm

from fallline.compare.judgement.standings import LEVEL, loss_scale
from fallline.compare.judgement.wording import number, plural
from fallline.compare.planning import Prepared
from fallline.compare.protocol.seeds import training_seed
from fallline.compare.records import Arm, Comparison, Spec, Trial
from fallline.compare.statistics.pairs import Interval, Scale, mean_interval
from fallline.compare.statistics.sensitivity import loss_reached
from fallline.compare.trials.rehearsal import rehearse
from fallline.compare.trials.training import Training
from fallline.core.registry import find
from fallline.core.space import middle
from fallline.report.finding import Figure, Table
from fallline.studies.drawing import lines
from fallline.studies.lab import Lab
from fallline.studies.measuring.levels import line
from fallline.studies.measuring.rates import (
    GOOD,
    RATE,
    good_decades,
    grid,
    has_diverged,
    limit,
    untrained_loss,
)
from fallline.studies.measuring.sweeps import sweep
from fallline.studies.reading import estimate, loss_axis
from fallline.studies.study import StudyError
from fallline.tasks.data import Batch
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

#: What is clipped, over how many steps its norm is measured at most, and how many lower rates are tried.
OPTIMIZER, STEPS, LOWER = "sgd", 300, 6


def clip_norms(task: Task, factors: Sequence[float], seed: int) -> list[float]:
    """Return the norms that are the ``factors`` times the median norm of the gradient.

    It is that of the first steps of a training without clipping, at the middle of the range of learning
    rates, or as many powers of ten below as it takes not to diverge.

    Raises:
        ComparisonError: the task cannot be trained.
        StudyError: every learning rate diverges.
    """
    rehearse(task, {OPTIMIZER: Arm(OPTIMIZER)})
    untrained, rate = untrained_loss(task, seed), middle(find(OPTIMIZER).space)["lr"]
    for power in range(LOWER):
        norms, loss = _trained(task, rate / 10**power, seed)
        if loss <= untrained:
            return [float(f"{factor * median(norms):.3g}") for factor in factors]
    raise StudyError(
        f"task {task.name!r}: no training gets below the loss of an untrained model; check the loss"
    )


def _trained(task: Task, rate: float, seed: int) -> tuple[list[float], float]:
    """Return the gradient's norm in each of a training's first steps, and the validation loss then."""
    settings = {"lr": rate, "clip": None}
    with one_thread(), seeded(seed):
        training = Training(task, Arm(OPTIMIZER), Spec(OPTIMIZER, "tune", 0, seed, settings))
        norms = [
            _step(training, batch) for batch in islice(training.batches, min(STEPS, training.evaluate_at[-1]))
        ]
        return norms, training.task.evaluated(training.model, training.task.valid)[0]


def _step(training: Training, batch: Batch) -> float:
    """Make a step and return the norm of its gradient."""
    training.task.loss_on(training.model, batch).backward()
    norm = get_total_norm([p.grad for p in training.parameters if p.grad is not None])
    training.optimizer.step()
    training.optimizer.zero_grad()
    return float(norm)


def clip_sweep(
    lab: Lab,
    label: str,
    task: Task,
    norms: Sequence[float | None],
    per_decade: float,
    seeds: int,
    share: float,
) -> Comparison:
    """Return trainings at evenly spaced learning rates, at each norm; None is for no clipping."""
    choose = partial(_specs, norms=norms, per_decade=per_decade, seeds=seeds)
    return sweep(lab, label, [OPTIMIZER], choose, task=task, share=share, repeat=attrgetter("seed"))


def _specs(prepared: Prepared, norms: Sequence[float | None], per_decade: float, seeds: int) -> list[Spec]:
    """Return a training at every rate and norm for each seed, a whole seed before the next."""
    points = [{"lr": rate, "clip": norm} for norm in norms for rate in grid(OPTIMIZER, per_decade)]
    return [
        Spec(OPTIMIZER, "tune", index, training_seed(prepared.plan.seed, "tune", repeat), settings)
        for repeat in range(seeds)
        for index, settings in enumerate(points)
    ]


@dataclass(frozen=True)
class Clipped:
    """What one norm leads to over the learning rate.

    Args:
        losses: by seed and learning rate; infinite where a training diverged.
        scale: of the losses.
    """

    losses: Mapping[int, Mapping[float, float]]
    scale: Scale

    @property
    def widths(self) -> dict[int, float]:
        """The decades of good learning rates of each seed."""
        return {seed: good_decades(at, self.scale) for seed, at in self.losses.items()}

    @property
    def width(self) -> Interval:
        """Their mean over seeds."""
        found = mean_interval(list(self.widths.values()))
        return found if found.ends is None else replace(found, low=max(0.0, found.ends[0]))

    @property
    def reaches_the_end(self) -> bool:
        """Whether the highest rate that was tried is still good with some seed: the range may go on."""
        return any(at[max(at)] <= limit(min(at.values())) for at in self.losses.values())

    @property
    def lowest(self) -> Interval:
        """The lowest loss over the rates, over seeds."""
        finite = [low for at in self.losses.values() if (low := min(at.values())) < inf]
        return mean_interval(finite, scale=self.scale) if finite else Interval(inf)

    @property
    def means(self) -> dict[float, Interval]:
        """The loss at each rate at which no training diverged."""
        rates = next(iter(self.losses.values()))
        at = {rate: [each[rate] for each in self.losses.values()] for rate in rates}
        return {
            rate: mean_interval(found, scale=self.scale) for rate, found in at.items() if max(found) < inf
        }


def by_norm(comparison: Comparison, untrained: float) -> dict[float | None, Clipped]:
    """Return what each norm led to; above the loss ``untrained`` is divergence."""
    scale = loss_scale(comparison)
    grouped: dict[float | None, dict[int, dict[float, float]]] = {}
    for trial in comparison.tuning(OPTIMIZER):
        at = grouped.setdefault(trial.spec.settings["clip"], {}).setdefault(trial.spec.seed, {})
        at[trial.spec.settings["lr"]] = _loss(trial, untrained)
    return {norm: Clipped(losses, scale) for norm, losses in grouped.items()}


def _loss(trial: Trial, untrained: float) -> float:
    return inf if has_diverged(trial, untrained) else loss_reached(trial)


def widening(found: Mapping[float | None, Clipped], norm: float) -> Interval:
    """Return by how many decades clipping to ``norm`` widens the range of good rates, over seeds.

    The interval holds for all norms together, by Bonferroni's correction, as the widest is looked for.
    """
    without, clipped = found[None].widths, found[norm].widths
    wider = [clipped[seed] - without[seed] for seed in clipped.keys() & without.keys()]
    return mean_interval(wider, 1 - LEVEL / (len(found) - 1))


def said(found: Mapping[float | None, Clipped]) -> str:
    """Return what the norm with the widest range does, as part of a sentence."""
    norm = max((each for each in found if each is not None), key=lambda each: widening(found, each).mean)
    wider, without = widening(found, norm), found[None].width
    low, high = wider.ends or (wider.mean, wider.mean)
    shown = "" if low > 0 or high < 0 else ": no difference could be shown"
    change = f"{wider.mean:+.2f} (95 % interval for all norms {low:+.2f} to {high:+.2f}{shown})".replace(
        "-", "−"
    )
    ended = ", at least, as it reaches the highest rate that was tried" if found[norm].reaches_the_end else ""
    return (
        f"clipping to a norm of {number(norm)} changes the range of good learning rates from "
        f"{number(without.mean)} decades by {change}{ended}"
    )


def table(name: str, found: Mapping[float | None, Clipped]) -> Table:
    """Return for each norm how wide the range of good rates is, and the lowest loss."""
    rows = [
        ["none" if norm is None else number(norm), estimate(each.width), estimate(each.lowest)]
        for norm, each in found.items()
    ]
    seeds = plural(len(found[None].losses), "seed")
    note = f"decades with a loss of at most {1 + GOOD:g} times the lowest; means over {seeds}"
    return Table(["clipped to", "good decades", "lowest loss"], rows, name, note)


def figure(name: str, comparison: Comparison, found: Mapping[float | None, Clipped]) -> Figure:
    """Return the loss over the learning rate for each norm."""
    drawn = {
        "no clipping" if norm is None else f"norm {number(norm)}": line(
            list(each.means), list(each.means.values())
        )
        for norm, each in found.items()
    }
    about = "Mean over seeds with 95 % interval; rates at which a training diverged are left out."
    return Figure(f"Loss over the learning rate on {name}", about, lines(drawn, RATE, loss_axis(comparison)))
