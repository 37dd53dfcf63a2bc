"""What divisions of the same data say, in words, in tables and in figures."""

from collections.abc import Sequence

from fallline.compare.statistics.pairs import Interval
from fallline.report.finding import Figure, Table
from fallline.studies.drawing import bars
from fallline.studies.measuring.coverage import Coverage
from fallline.studies.measuring.resplits import FOLDS, Splits, gain, same_best, same_order, spread
from fallline.studies.reading import percent, times

CAVEATS = [
    "The shuffles divide one and the same data: other data of the same kind would differ more.",
    "Each optimizer was tuned once, on the task's own division: tuning anew for each shuffle adds spread.",
    "The loss is that at the end of the training, since nothing is left to stop early by.",
    "Coverage is that of ridge regressions, which have a closed form, on small sets drawn from the data.",
]
ONE, ALL = "one hold-out", f"{FOLDS} folds"


def told(task: str, splits: Splits, covered: Sequence[Coverage]) -> str:
    """Return how far estimates scatter and agree, and how often naive intervals are right, as a sentence."""
    one, every = percent(spread(splits.losses)), percent(spread(splits.folded))
    alone, folded = (percent(same_order(each)) for each in (splits.losses, splits.folded))
    return (
        f"On {task} the loss of one hold-out varies by {one} from division to division, the mean of {FOLDS} "
        f"folds by {every}; two hold-outs put two optimizers in the same order in {alone} of cases, two "
        f"cross-validations in {folded}; a naive 95 % interval over {covered[0].scheme} holds the truth in "
        f"{percent(covered[0].naive)}."
    )


def sentences(splits: Splits, covered: Sequence[Coverage]) -> list[str]:
    """Return how much folds gain beside what independent ones would, and how often intervals are right."""
    return [
        f"One hold-out varies as much as {times(gain(splits))} the mean of {FOLDS} folds; "
        f"of {FOLDS} independent ones it would be {FOLDS**0.5:.3g} times.",
        *(
            f"With {each.scheme} the naive 95 % interval of a difference holds the truth in "
            f"{percent(each.naive)}, Nadeau and Bengio's, {each.wider:.3g} times as wide, in "
            f"{percent(each.corrected)}."
            for each in covered
        ),
    ]


def table(splits: Splits) -> Table:
    """Return spread and agreement of single hold-outs and of cross-validations."""
    measures = {
        "spread of the loss %": spread,
        "same best optimizer %": same_best,
        "same order of two %": same_order,
    }
    body = [
        [name, *_cells(measure(splits.losses)), *_cells(measure(splits.folded))]
        for name, measure in measures.items()
    ]
    note = (
        "Spread: standard deviation over divisions, as a share of the mean. Same: of two estimates from "
        "different shuffles. Intervals by drawing shuffles again; none where all of them agree."
    )
    return Table(["", ONE, "95 %", ALL, "95 %"], body, note=note)


def _cells(share: Interval) -> list[str]:
    ends = [f"{100 * end:.1f}" for end in share.ends or ()]
    return [f"{100 * share.mean:.1f}", "–".join(ends)]


def coverage_table(covered: Sequence[Coverage]) -> Table:
    """Return how often naive and corrected intervals held the truth."""
    body = [
        [each.scheme, *_cells(each.naive), *_cells(each.corrected), f"{each.wider:.2f}"] for each in covered
    ]
    return Table(
        ["divided by", "naive %", "95 %", "corrected %", "95 %", "wider"],
        body,
        "How often a 95 % interval holds the truth",
        "Corrected: after Nadeau and Bengio 2003. It should be 95 %.",
    )


def figures(splits: Splits, covered: Sequence[Coverage]) -> list[Figure]:
    """Return the spread, the agreement and the coverage as bars."""
    both = {ONE: splits.losses, ALL: splits.folded}
    agreed = {f"{name}: same best": same_best(losses) for name, losses in both.items()}
    agreed |= {f"{name}: same order of two": same_order(losses) for name, losses in both.items()}
    held = {f"{each.scheme}, {kind}": interval for each in covered for kind, interval in _kinds(each)}
    return [
        _figure(
            "How far estimates scatter",
            "standard deviation over the mean",
            {k: spread(v) for k, v in both.items()},
        ),
        _figure("How often two estimates agree", "share of cases", agreed),
        _figure("How often a 95 % interval holds the truth", "share of data sets", held),
    ]


def _kinds(each: Coverage) -> list[tuple[str, Interval]]:
    return [("naive", each.naive), ("corrected", each.corrected)]


def _figure(title: str, axis: str, values: dict[str, Interval]) -> Figure:
    ends = {name: each.ends for name, each in values.items() if each.ends}
    drawn = bars({name: each.mean for name, each in values.items()}, axis, ends)
    return Figure(title, "With 95 % interval.", drawn)
