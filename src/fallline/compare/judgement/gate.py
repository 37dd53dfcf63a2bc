"""A gate for continuous integration: is a candidate as good as the baseline, up to a margin?"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from typing import Any, Literal

import numpy as np

from fallline.compare.errors import ComparisonError
from fallline.compare.judgement.standings import loss_scale
from fallline.compare.judgement.wording import plural
from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.equivalence import (
    MarginTest,
    equivalence,
    non_inferiority,
    seeds_for_non_inferiority,
)
from fallline.core.errors import UnknownNameError, suggestion

Outcome = Literal["non-inferior", "inferior", "undecided"]

#: The chance of passing a candidate that is worse by just the margin, and that of settling with more seeds.
LEVEL, POWER = 0.05, 0.8
#: With fewer shared seeds, or studies, nothing is known of the scatter, or next to nothing.
FEWEST = 3


@dataclass(frozen=True)
class Evidence:
    """What the shared final runs say of the candidate's loss over the baseline's, as a ratio.

    ``low`` and ``high`` are the ends of its 90 % interval: each is passed by chance in 5 % of cases. ``p``
    belongs to "worse by less than the margin", ``p_equivalent`` to "different by less than the margin".
    """

    ratio: float
    low: float
    high: float
    p: float
    p_equivalent: float


@dataclass(frozen=True)
class Gate:
    """The answer: ``outcome``, the ``evidence`` if there is any, and a paragraph of ``text``.

    ``margin`` is a share of the baseline's loss, ``seeds`` counts the final seeds that both share, of all
    ``studies``. ``more`` says how many more seeds, or studies if there are several, would settle an undecided
    outcome, None if over 1000.
    """

    baseline: str
    candidate: str
    margin: float
    outcome: Outcome
    seeds: int
    studies: int
    more: int | None
    evidence: Evidence | None
    text: str

    @property
    def passed(self) -> bool:
        """Whether the candidate is non-inferior."""
        return self.outcome == "non-inferior"

    def to_json(self) -> dict[str, Any]:
        """Return the answer as a JSON object."""
        return {"passed": self.passed, **asdict(self)}


@dataclass(frozen=True)
class Asked:
    """What is asked: two arms and a margin, over the final ``seeds`` of the ``studies`` that both share."""

    baseline: str
    candidate: str
    margin: float
    seeds: int
    studies: int

    @property
    def unit(self) -> str:
        """What is repeated: "study" when there are several, otherwise "seed"."""
        return "study" if self.studies > 1 else "seed"

    @property
    def repeats(self) -> int:
        """How many there are of it."""
        return self.studies if self.studies > 1 else self.seeds

    def answer(self, outcome: Outcome) -> str:
        """Return the answer in short."""
        return _ANSWER[outcome].format(**asdict(self))

    def answered(self, outcome: Outcome, more: int | None, evidence: Evidence | None, text: str) -> Gate:
        """Return the whole answer."""
        return Gate(**asdict(self), outcome=outcome, more=more, evidence=evidence, text=text)


def gate(comparison: Comparison, baseline: str, candidate: str, margin: float = 0.01) -> Gate:
    """Return whether the candidate's loss is shown to be less than ``margin`` above the baseline's.

    On each final seed that both share, d = log(candidate's loss) - log(baseline's loss); with several studies
    each gives its mean d. The candidate is
    non-inferior when a one-sided paired t-test at 5 % rejects mean d ≥ log(1 + margin), inferior when the
    opposite one rejects mean d ≤ log(1 + margin) or when it diverged where the baseline did not, and
    undecided otherwise. With the same test on the other side (TOST) it may also be equivalent. With one study
    the test covers the luck of the seed, not that of tuning. With folds its variance is that of
    `fallline.compare.statistics.pairs.compare_pairs`.

    Args:
        comparison: with final runs of both, finished or not.
        baseline: the optimizer that is good enough.
        candidate: the optimizer that may replace it.
        margin: how much higher the loss may be, as a share: 0.01 is 1 %.

    Raises:
        UnknownNameError: a name that is not in the comparison.
        ComparisonError: both names are the same, the margin is out of range, or a loss is not positive.

    Example:
        >>> gate(read("my_results"), "adamw", "mine", margin=0.01).passed

    Source: Schuirmann, A Comparison of the Two One-Sided Tests Procedure and the Power Approach, 1987.
    """
    _check(comparison, baseline, candidate, margin)
    good = {_cell(t): t.loss for t in comparison.finals(baseline) if t.loss is not None}
    shared = [t for t in comparison.finals(candidate) if _cell(t) in good]
    found = {_cell(t): log(t.loss / good[_cell(t)]) for t in shared if t.loss is not None}
    studies = len({study for study, _ in found})
    asked = Asked(baseline, candidate, margin, len(found), studies)
    if len(found) < len(shared):
        return _lost(asked, shared)
    if len(found) < 2:
        return _too_few(asked)
    return _tested(asked, differences(found, comparison.plan.folds), comparison.plan.judged_by)


def _cell(trial: Trial) -> tuple[int, int]:
    return trial.spec.study, trial.spec.seed


def differences(found: Mapping[tuple[int, int], float], folds: int | None = None) -> list[float]:
    """Return the log ratios to test: those of the seeds, or with several studies the mean of each.

    With ``folds`` they are spread by √(1 + n/(folds - 1)) around their mean, which makes the variance of the
    mean of n studies what it is when their training data overlap (Nadeau and Bengio 2003).

    >>> differences({(0, 1): 0.1, (0, 3): 0.3, (1, 5): 0.4})
    [0.2, 0.4]
    """
    studies: dict[int, list[float]] = {}
    for (study, _), gap in found.items():
        studies.setdefault(study, []).append(gap)
    if len(studies) < 2:
        return list(found.values())
    means = np.array([np.mean(gaps) for gaps in studies.values()])
    widened = np.sqrt(1 + len(means) / (folds - 1)) if folds else 1.0
    return (means.mean() + widened * (means - means.mean())).tolist()


def _lost(asked: Asked, shared: list[Trial]) -> Gate:
    """Answer for a candidate that ended without a loss where the baseline's run has one."""
    status = "diverged" if any(t.status == "diverged" for t in shared) else "failed"
    outcome: Outcome = "inferior" if status == "diverged" else "undecided"
    runs = f"{sum(t.status == status for t in shared)} of its {plural(len(shared), 'final run')} {status}"
    text = f"{asked.answer(outcome)}: {runs} on seeds where {asked.baseline} has a result."
    return asked.answered(outcome, None, None, text)


def _too_few(asked: Asked) -> Gate:
    more = FEWEST - asked.seeds
    shared = (
        f"they share {plural(asked.seeds, 'final seed')} with a result, which says nothing of the scatter"
    )
    needed = f"At least {plural(more, 'more seed')} {'is' if more == 1 else 'are'} needed"
    return asked.answered("undecided", more, None, f"{asked.answer('undecided')}: {shared}. {needed}.")


def _check(comparison: Comparison, baseline: str, candidate: str, margin: float) -> None:
    names = comparison.plan.arms
    for role, name in (("baseline", baseline), ("candidate", candidate)):
        if name not in names:
            raise UnknownNameError(f"no {role} {name!r} in this comparison{suggestion(name, names)}")
    if baseline == candidate:
        raise ComparisonError(f"baseline and candidate are both {baseline!r}; name two optimizers")
    if not 0 < margin <= 1:
        raise ComparisonError(f"margin must be above 0 and at most 1 (100 %), got {margin}")
    if loss_scale(comparison) != "log":
        raise ComparisonError("a margin in per cent needs positive losses, and a loss here is not")


def decide(differences: Sequence[float], limit: float) -> tuple[Outcome, MarginTest]:
    """Return what paired ``differences`` say of "below ``limit``", and the test; each error has chance 5 %.

    >>> decide([0.002, -0.001, 0.001, 0.0], limit=0.01)[0]
    'non-inferior'
    """
    test = non_inferiority(differences, limit, LEVEL)
    if test.holds:
        return "non-inferior", test
    low = test.interval.low
    return "inferior" if low is not None and low >= limit else "undecided", test


def _tested(asked: Asked, gaps: list[float], judged_by: str) -> Gate:
    limit = log(1 + asked.margin)
    outcome, test = decide(gaps, limit)
    ratio, low, high = (exp(x or 0.0) for x in (test.interval.mean, test.interval.low, test.interval.high))
    evidence = Evidence(ratio, low, high, test.p, equivalence(gaps, limit, LEVEL).p)
    more = _more(gaps, limit) if outcome == "undecided" else 0
    return asked.answered(outcome, more, evidence, _text(asked, outcome, evidence, more, judged_by))


def _more(differences: list[float], limit: float) -> int | None:
    """Return how many more would show on which side of the limit the difference is, if it is as seen."""
    gap = abs(limit - float(np.mean(differences)))
    spread = float(np.std(differences, ddof=1))
    total = seeds_for_non_inferiority(spread, gap, power=POWER, level=LEVEL) if gap > 0 else None
    return None if total is None else max(1, total - len(differences))


_ANSWER: dict[Outcome, str] = {
    "non-inferior": "Passed: {candidate} is non-inferior to {baseline}",
    "inferior": "Not passed: {candidate} is inferior to {baseline}",
    "undecided": "Not passed: it cannot be told whether {candidate} is non-inferior to {baseline}",
}
_CAVEAT = {
    "seed": "The test covers the luck of the seed, not that of tuning.",
    "study": "The test covers the luck of tuning and of the seed: each study tuned both anew.",
}


def _text(asked: Asked, outcome: Outcome, found: Evidence, more: int | None, judged_by: str) -> str:
    margin = _percent(asked.margin)
    span = f"90 % interval {_change(found.low)} to {_change(found.high)}"
    runs = plural(asked.seeds, "shared final seed")
    over = f"{runs} of {asked.studies} studies" if asked.unit == "study" else runs
    seen = f"over {over} its {judged_by} is {_change(found.ratio)}"
    against, p = ("less than", 1 - found.p) if outcome == "inferior" else ("at least", found.p)
    test = f"“worse by {against} {margin}” has p = {p:.2g} (one-sided paired t-test on log losses)"
    sentences = [f"{asked.answer(outcome)}: {seen} ({span}), and {test}."]
    if found.p_equivalent < LEVEL:
        sentences.append(f"Both are equivalent within {margin} (TOST, p = {found.p_equivalent:.2g}).")
    if outcome == "undecided":
        sentences.append(_settling(asked, more))
    return " ".join([*sentences, _CAVEAT[asked.unit]])


def _settling(asked: Asked, more: int | None) -> str:
    if more is None:
        units = plural(1000, asked.unit)
        return f"The difference is so near the margin that even {units} would not settle it."
    settled = f"would settle it with chance {_percent(POWER)}, if difference and scatter are as seen"
    total = plural(asked.repeats + more, asked.unit)
    return f"About {plural(more, f'more {asked.unit}')} {settled}: compare anew with {total}."


def _change(ratio: float) -> str:
    """Return a ratio of losses as a change in per cent: '1.2 % higher'."""
    return f"{_percent(abs(ratio - 1))} {'higher' if ratio >= 1 else 'lower'}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def read_margin(text: str) -> float:
    """Return the share that ``"1%"`` or ``"0.01"`` means.

    Raises:
        ComparisonError: neither; a bare number must be below 1, because 1 may be meant as 1 %.

    >>> read_margin("1 %")
    0.01
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if match is None or not 0 < share <= 1 or (share == 1 and not match[2]):
        raise ComparisonError(f"cannot read the margin {text!r}; write it as 1% or 0.01")
    return share
