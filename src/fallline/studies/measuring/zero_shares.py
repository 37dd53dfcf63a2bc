"""How many weights penalties made zero, in words, in a table and over their strength."""

from collections.abc import Sequence

from fallline.compare.judgement.verdict import judge
from fallline.compare.judgement.wording import number
from fallline.compare.records import Comparison, Trial
from fallline.report.finding import Figure, Table
from fallline.report.terminal import span
from fallline.studies.drawing import Axis, Line, lines
from fallline.studies.measuring.levels import mean_over
from fallline.studies.measuring.penalized import NEAR_ZEROS, NEARLY, ZEROS
from fallline.studies.reading import loss_axis
from fallline.studies.summary import level
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task


def told(comparison: Comparison, task: Task, penalties: Sequence[str]) -> str:
    """Return how many weights each of the ``penalties`` made exactly zero, as part of a sentence."""
    with seeded(0):
        count = sum(p.numel() for p in task.new_model().parameters() if p.dim() > 1)
    parts = []
    for penalty in penalties:
        runs = finished(comparison, f"penalty={penalty}")
        exact = sum(round(run.metrics[ZEROS] * count) for run in runs)
        parts.append(f"{penalty} made {exact:,} of {len(runs) * count:,} weights exactly zero")
    return " and ".join(parts)


def finished(comparison: Comparison, arm: str) -> list[Trial]:
    """Return the final runs of ``arm`` that have a result."""
    return [run for run in comparison.finals(arm) if run.status == "ok"]


def table(comparison: Comparison, title: str = "Zeros among the weights") -> Table:
    """Return the loss and the shares of zeros of each penalty, the lowest loss first."""
    body = []
    for place in judge(comparison).places:
        runs = finished(comparison, place.arm)
        if place.loss is None or not runs:
            continue
        ends = None if place.loss.ends is None else span(*place.loss.ends)
        shares = [
            mean_over(runs, lambda run, name=name: run.metrics[name], "linear")
            for name in (ZEROS, NEAR_ZEROS)
        ]
        strengths = sorted({f"{run.spec.settings['strength']:.1g}" for run in runs}, key=float)
        name = level(place.arm, comparison.plan)
        used = None if name == "none" else ", ".join(strengths)
        body.append(
            [name, number(place.loss.mean), ends, *(f"{share.mean:.1%}"[:-1] for share in shares), used]
        )
    note = (
        f"zero: exactly; nearly: at most {NEARLY:g} of the tensor's largest. Strength as tuned in each "
        "study; of decoupled decay in hundredths of its usual unit."
    )
    return Table(["penalty", "loss", "95 %", "zero %", "nearly %", "strength"], body, title, note)


def figure(strengths: Comparison) -> Figure:
    """Return the loss over the share of zeros, from the weakest penalty to the strongest."""
    shown = {
        "l1-proximal, exact zeros": ("l1-proximal", ZEROS),
        "l1-subgradient, exact zeros": ("l1-subgradient", ZEROS),
        "l1-subgradient, nearly zero": ("l1-subgradient", NEAR_ZEROS),
    }
    drawn = {name: _line(strengths, penalty, metric) for name, (penalty, metric) in shown.items()}
    return Figure(
        "Loss over sparsity as the strength grows",
        "Each point is one strength, from the weakest to the strongest, its learning rate tuned anew.",
        lines(drawn, Axis("share of the weights"), loss_axis(strengths)),
    )


def _line(strengths: Comparison, penalty: str, metric: str) -> Line:
    arms = [name for name, arm in strengths.plan.arms.items() if arm.fixed["penalty"] == penalty]
    arms.sort(key=lambda name: strengths.plan.arms[name].fixed["strength"])
    runs = [(finished(strengths, arm)) for arm in arms]
    scale = "log" if strengths.has_positive_losses else "linear"
    points = [
        (
            mean_over(each, lambda run: run.metrics[metric], "linear"),
            mean_over(each, lambda run: run.loss or 0.0, scale),
        )
        for each in runs
        if each
    ]
    return Line([share.mean for share, _ in points], [loss.mean for _, loss in points])
