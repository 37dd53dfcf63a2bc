"""The answer to a comparison in plain sentences: who is best, who ties, who is beaten and by how much."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import exp, inf
from statistics import mean

from fallline.compare.judgement.cautions import Caution, cautions, searched
from fallline.compare.judgement.standings import (
    LEVEL,
    WORTHWHILE,
    Judged,
    Place,
    Unit,
    epochs_to_target,
    judged,
    rank,
    steps_to_target,
)
from fallline.compare.judgement.winner import Recommendation, recommend
from fallline.compare.judgement.wording import (
    duration,
    ends,
    excess,
    last_line,
    listing,
    number,
    plural,
    size,
)
from fallline.compare.records import Comparison, Trial
from fallline.compare.search.adaptation import moves
from fallline.compare.statistics.pairs import Interval, Scale
from fallline.compare.statistics.survival import MedianTime


@dataclass(frozen=True)
class Verdict:
    """What a comparison says: ``places`` from best to worst, sentences with evidence, reasons to doubt.

    ``unit`` says over what losses repeat: studies, or the seeds of the only one; ``overlap`` is that of the
    studies' training data. ``recommendation`` is None as long as nothing is ranked.
    """

    places: list[Place]
    scale: Scale
    unit: Unit
    overlap: float
    headline: str
    sentences: list[str]
    cautions: list[Caution]
    caveats: list[str]
    recommendation: Recommendation | None = None

    @property
    def best_set(self) -> list[str]:
        """The optimizers that may be the best: the lowest loss and all that it does not beat."""
        return [p.arm for p in self.places if p.standing in ("best", "tie", "open")]


@lru_cache(maxsize=1)
def judge(comparison: Comparison) -> Verdict:
    """Return the verdict on ``comparison``, complete or not; the last one is remembered.

    Every two arms are compared by their losses on fresh seeds: with several studies by the means of each
    study (`compare_studies`), otherwise by the seeds they share (`compare_pairs`). An arm is "beaten" when
    another is better at 5 % after Holm's correction. Positive losses are compared by their logarithm, so
    that differences are proportions.
    """
    of = judged(comparison)
    pairs = of.pairs()
    places = rank(comparison, of, pairs)
    return Verdict(
        places,
        of.scale,
        of.unit,
        of.overlap,
        _headline(places, comparison, of.unit),
        [s for s in _sentences(places, comparison, of) if s],
        cautions(comparison, pairs),
        [*_caveats(of, len(pairs), comparison), *comparison.plan.caveats],
        recommend(comparison, places),
    )


def _headline(places: list[Place], comparison: Comparison, unit: Unit) -> str:
    if not places or places[0].standing != "best":
        return f"No verdict yet on {comparison.plan.task}: no optimizer has a final result."
    best, rivals = places[0], [p.arm for p in places if p.standing in ("tie", "open")]
    judged_by = comparison.plan.judged_by
    low = f"{best.arm} has the lowest {judged_by}, {_interval(best.loss)}"
    ranked = [p for p in places if p.loss is not None and p.standing != "unsteady"]
    if len(ranked) == 1:
        return f"{low}; no other optimizer has a final result to compare with."
    if best.loss is not None and best.loss.ends is None:
        return f"{low}, but one seed settles nothing: run at least 3."
    if not rivals:
        return f"{best.arm} wins: its {judged_by}, {_interval(best.loss)}, beats all others."
    return f"No single winner: {low}, but {listing(rivals, 5)} cannot be told apart from it."


def _interval(loss: Interval | None) -> str:
    if loss is None:
        return "unknown"
    if loss.ends is None:
        return number(loss.mean)
    return f"{number(loss.mean)} (95 % interval {' to '.join(ends(*loss.ends))})"


def _sentences(places: list[Place], comparison: Comparison, of: Judged) -> list[str]:
    return [
        _ties([p for p in places if p.standing == "tie"], of),
        _open([p for p in places if p.more_seeds or p.more_studies], comparison, of),
        _beaten([p for p in places if p.standing == "beaten"], places[0], of.scale),
        _target(comparison),
        _cheapest(places, comparison),
        _absent([p for p in places if p.standing in ("unsteady", "none")], comparison),
    ]


def _by(place: Place, scale: Scale) -> str:
    assert place.against is not None
    if scale == "log":
        return excess(exp(place.against.difference))
    return f"{number(place.against.difference)} higher"


def _ties(places: list[Place], of: Judged) -> str:
    named = [f"{p.arm} ({_by(p, of.scale)})" for p in places]
    needed = plural(WORTHWHILE[of.unit], f"more {of.unit}")
    why = f"{needed} would hardly tell them apart"
    return f"Ties with the best ({why}): {listing(named)}." if named else ""


def _open(places: list[Place], comparison: Comparison, of: Judged) -> str:
    named = [f"{p.arm} ({_by(p, of.scale)}, about {_more(p, comparison, of.unit)})" for p in places]
    units = "studies" if of.unit == "study" else "seeds"
    return f"Not settled, with the {units} that would: {listing(named)}." if named else ""


def _more(place: Place, comparison: Comparison, unit: Unit) -> str:
    count = place.more_studies or place.more_seeds or 0
    return f"{plural(count, f'more {unit}')}, some {duration(count * repeat_seconds(comparison, unit))}"


def repeat_seconds(comparison: Comparison, unit: Unit) -> float:
    """Return how long one more study, or one more seed, of all arms takes, as the recorded trials did."""
    plan = comparison.plan
    whole: dict[str, list[float]] = defaultdict(list)
    for trial in comparison.trials:
        if trial.status == "ok":
            whole[trial.spec.arm].append(trial.seconds)
    trainings = {
        arm: plan.trials * plan.instances_of(arm) + plan.seeds if unit == "study" else 1 for arm in whole
    }
    return sum(trainings[arm] * mean(seconds) for arm, seconds in whole.items()) / max(1, plan.workers)


def _beaten(places: list[Place], best: Place, scale: Scale) -> str:
    named = [f"{p.arm} ({_by(p, scale)}{_than(p, best)}, p {_p(p)})" for p in places]
    return f"Beaten, loss against the best: {listing(named)}." if named else ""


def _than(place: Place, best: Place) -> str:
    """Name who beats ``place`` if that is not the best."""
    winner = place.against.first if place.against else best.arm
    return "" if winner == best.arm else f" against {winner}"


def _p(place: Place) -> str:
    adjusted = place.against.adjusted if place.against else 1.0
    return f"= {adjusted:.2g}" if adjusted >= 1e-4 else "< 0.0001"


def _target(comparison: Comparison) -> str:
    plan = comparison.plan
    steps, epochs = _first(comparison, steps_to_target), _first(comparison, epochs_to_target)
    if plan.target is None or steps is None or epochs is None:
        return ""
    times = {arm: steps_to_target(comparison.finals(arm)) for arm in plan.arms}
    missed = [arm for arm, median in times.items() if median and median.time == inf]
    tail = f"; {listing(missed)} missed it" if missed else ""
    return f"First to {plan.target_name}: {_arrivals(epochs, steps)}{tail}."


def _arrivals(epochs: tuple[str, float], steps: tuple[str, float]) -> str:
    if epochs[0] == steps[0]:
        return f"{epochs[0]} after {epochs[1]:.3g} epochs or {steps[1]:.0f} steps (median)"
    return f"{epochs[0]} after {epochs[1]:.3g} epochs, in steps {steps[0]} after {steps[1]:.0f} (medians)"


def _first(
    comparison: Comparison, median: Callable[[list[Trial]], MedianTime | None]
) -> tuple[str, float] | None:
    times = {arm: median(comparison.finals(arm)) for arm in comparison.plan.arms}
    reached = {arm: t.time for arm, t in times.items() if t and t.time < inf}
    if not reached:
        return None
    earliest = min(reached.values())
    return listing([o for o, t in reached.items() if t == earliest], 4), earliest


def _cheapest(places: list[Place], comparison: Comparison) -> str:
    """Say whose step and state are smallest; levels of one optimizer differ by noise."""
    rivals = [p.arm for p in places if p.standing in ("best", "tie", "open")]
    if len({comparison.plan.arms[arm].optimizer for arm in rivals}) < 2:
        return ""
    costs = {o: comparison.step_microseconds[o] for o in rivals if o in comparison.step_microseconds}
    if len(costs) < 2:
        return ""
    fast = min(costs, key=lambda o: costs[o])
    state = {o: max(t.state_bytes for t in comparison.finals(o)) for o in rivals}
    small = min(state, key=lambda o: (state[o], o != fast))
    cheap = f"{fast} has the cheapest step ({number(costs[fast])} µs)"
    if len(set(state.values())) == 1:
        return f"Of those that may be best, {cheap}; their states are equally large ({size(state[small])})."
    owner = "" if small == fast else f"{small} "
    return f"Of those that may be best, {cheap} and {owner}the smallest state ({size(state[small])})."


def _absent(places: list[Place], comparison: Comparison) -> str:
    reasons: dict[str, list[str]] = {}
    for place in places:
        reasons.setdefault(_reason(comparison, place.arm), []).append(place.arm)
    named = [f"{listing(names)} ({reason})" for reason, names in reasons.items()]
    return f"Not ranked: {listing(named)}." if named else ""


def _reason(comparison: Comparison, optimizer: str) -> str:
    finals, tuning = comparison.finals(optimizer), comparison.tuning(optimizer)
    for stage, trials in (("final", finals), ("tuning", tuning)):
        for status in ("diverged", "failed"):
            lost = [t for t in trials if t.status == status]
            if lost and (stage == "final" or len(lost) == len(trials)):
                why = f": {last_line(lost[0].error)}" if status == "failed" else ""
                return f"{len(lost)} of {len(trials)} {stage} runs {status}{why}"
    return "no final run yet"


def _caveats(of: Judged, pairs: int, comparison: Comparison) -> list[str]:
    means = (
        "geometric means, Student's t on log loss" if of.scale == "log" else "arithmetic means, Student's t"
    )
    looks = comparison.plan.looks
    level = f" at {LEVEL / looks:.1%}, one of {looks} looks".replace("%", " %") if looks > 1 else ""
    holm = f"Holm's correction covers {_all(pairs)}{level}: the chance of any false “beaten” is about 5 %."
    return [
        _luck(of, comparison),
        f"Losses are {means}, over final runs on fresh seeds; tuning runs are not counted.",
        *([holm] if pairs else []),
        f"Tuned with {tuned_with(comparison)}; what was not searched stayed at its fixed value.",
        *_untuned(comparison),
        *_moved(comparison),
        *_pruned(comparison),
    ]


def _untuned(comparison: Comparison) -> list[str]:
    """Tell which arms stand with settings that nobody tuned beside those that were."""
    tuned = searched(comparison)
    fixed = [arm for arm in comparison.plan.arms if arm not in tuned]
    return [f"Nothing was searched for {listing(fixed)}: compared as given."] if tuned and fixed else []


def _luck(of: Judged, comparison: Comparison) -> str:
    """Say what the intervals cover."""
    if of.unit == "study":
        studies = len({study for cells in of.cells.values() for study, _ in cells})
        folds = comparison.plan.folds
        overlap = (
            f" Each of {folds} folds was held out in turn; the variance is multiplied by "
            f"{1 + studies * of.overlap:.3g}, because training sets overlap (Nadeau and Bengio 2003)."
        )
        covered = "cover both the luck of tuning and that of the seed: each study tuned everything anew"
        return f"Intervals and tests over {studies} studies {covered}.{overlap if folds else ''}"
    return (
        "Intervals and tests cover the luck of the seed (initialisation, order of batches), not the luck of "
        "tuning: with other tuning trials the settings and the result would differ. Where both were "
        "measured, on digits, the whole spread was about four times that of the seeds alone."
    )


def _moved(comparison: Comparison) -> list[str]:
    """Tell which learning rates were searched elsewhere than planned, and why."""
    reasons: dict[str, dict[str, None]] = {}
    for move in moves(comparison):
        reasons.setdefault(move.why, {})[move.arm] = None
    told = "; ".join(f"{listing(list(arms))} ({why})" for why, arms in reasons.items())
    return [f"The range of the learning rate moved during the search: {told}."] if told else []


def _pruned(comparison: Comparison) -> list[str]:
    tuning = [t for arm in comparison.plan.arms for t in comparison.tuning(arm)]
    stopped = sum(t.status == "pruned" for t in tuning)
    one_seed = comparison.plan.instances == 1
    good = "start slowly and end well" if one_seed else "do better on further seeds"
    lost = f"settings that {good} may be among them"
    return [f"The pruner stopped {stopped} of {len(tuning)} tuning trials early; {lost}."] if stopped else []


def _all(pairs: int) -> str:
    return "the one pair" if pairs == 1 else f"all {pairs} pairs"


def tuned_with(comparison: Comparison) -> str:
    """Return how many tuning trials each arm had, such as '8 trials each'."""
    plan = comparison.plan
    counts = [len(comparison.tuning(arm)) for arm in searched(comparison)]
    if not counts:
        return "nothing to search"
    done, planned = min(counts), plan.trials * plan.studies
    if done < planned:
        return f"{plural(done, 'trial')} each of {planned} planned"
    seeds = f", each on {plan.instances} seeds" if plan.instances > 1 else ""
    return f"{plural(plan.trials, 'trial')} each" + (" in every study" if plan.studies > 1 else "") + seeds
