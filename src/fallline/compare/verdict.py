"""The answer to a comparison in plain sentences: who is best, who ties, who is beaten and by how much."""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf

from fallline.compare.cautions import Caution, cautions
from fallline.compare.records import Comparison, Trial
from fallline.compare.standings import (
    Place,
    epochs_to_target,
    final_pairs,
    loss_scale,
    rank,
    steps_to_target,
)
from fallline.compare.statistics import Interval, Scale
from fallline.compare.wording import excess, last_line, listing, number, plural, size


@dataclass(frozen=True)
class Verdict:
    """What a comparison says: ``places`` from best to worst, sentences with evidence, reasons to doubt."""

    places: list[Place]
    scale: Scale
    headline: str
    sentences: list[str]
    cautions: list[Caution]
    caveats: list[str]

    @property
    def best_set(self) -> list[str]:
        """The optimizers that may be the best: the lowest loss and all that it does not beat."""
        return [p.arm for p in self.places if p.standing in ("best", "tie", "open")]


def judge(comparison: Comparison) -> Verdict:
    """Return the verdict on ``comparison``, complete or not.

    The optimizer with the lowest mean loss over fresh seeds is compared with every other on shared seeds;
    another is "beaten" when `compare_pairs` finds it worse at 5 % after Holm's correction. Positive losses
    are compared by their logarithm, so that differences are proportions.
    """
    scale, pairs = loss_scale(comparison), final_pairs(comparison)
    places = rank(comparison, pairs)
    return Verdict(
        places,
        scale,
        _headline(places, comparison),
        [s for s in _sentences(places, comparison, scale) if s],
        cautions(comparison, pairs),
        [*_caveats(scale, len(pairs), comparison), *comparison.plan.caveats],
    )


def _headline(places: list[Place], comparison: Comparison) -> str:
    if not places or places[0].standing != "best":
        return f"No verdict yet on {comparison.plan.task}: no optimizer has a final result."
    best, rivals = places[0], [p.arm for p in places if p.standing in ("tie", "open")]
    low = f"{best.arm} has the lowest validation loss, {_interval(best.loss)}"
    ranked = [p for p in places if p.loss is not None and p.standing != "unsteady"]
    if len(ranked) == 1:
        return f"{low}; no other optimizer has a final result to compare with."
    if best.loss is not None and best.loss.ends is None:
        return f"{low}, but one seed settles nothing: run at least 3."
    if not rivals:
        return f"{best.arm} wins: its validation loss, {_interval(best.loss)}, beats all others."
    return f"No single winner: {low}, but {listing(rivals, 5)} cannot be told apart from it."


def _interval(loss: Interval | None) -> str:
    if loss is None:
        return "unknown"
    if loss.ends is None:
        return number(loss.mean)
    return f"{number(loss.mean)} (95 % interval {number(loss.ends[0])} to {number(loss.ends[1])})"


def _sentences(places: list[Place], comparison: Comparison, scale: Scale) -> list[str]:
    return [
        _ties([p for p in places if p.standing == "tie"], scale),
        _open([p for p in places if p.standing == "open" and p.more_seeds], scale),
        _beaten([p for p in places if p.standing == "beaten"], scale),
        _target(comparison),
        _cheapest(places, comparison),
        _absent([p for p in places if p.standing in ("unsteady", "none")], comparison),
    ]


def _by(place: Place, scale: Scale) -> str:
    assert place.against is not None
    if scale == "log":
        return excess(exp(place.against.difference))
    return f"{number(place.against.difference)} higher"


def _ties(places: list[Place], scale: Scale) -> str:
    named = [f"{p.arm} ({_by(p, scale)})" for p in places]
    return f"Ties with the best: {listing(named)}." if named else ""


def _open(places: list[Place], scale: Scale) -> str:
    named = [f"{p.arm} ({_by(p, scale)}, about {plural(p.more_seeds or 0, 'more seed')})" for p in places]
    return f"Not settled, with the seeds that would: {listing(named)}." if named else ""


def _beaten(places: list[Place], scale: Scale) -> str:
    named = [f"{p.arm} ({_by(p, scale)}, p {_p(p)})" for p in places]
    return f"Beaten, loss against the best: {listing(named)}." if named else ""


def _p(place: Place) -> str:
    adjusted = place.against.adjusted if place.against else 1.0
    return f"= {adjusted:.1g}" if adjusted >= 1e-4 else "< 0.0001"


def _target(comparison: Comparison) -> str:
    plan = comparison.plan
    steps, epochs = _first(comparison, steps_to_target), _first(comparison, epochs_to_target)
    if plan.target is None or steps is None or epochs is None:
        return ""
    missed = [o for o in plan.arms if steps_to_target(comparison.finals(o)) == inf]
    tail = f"; {listing(missed)} missed it" if missed else ""
    return f"First to {plan.target_name}: {_arrivals(epochs, steps)}{tail}."


def _arrivals(epochs: tuple[str, float], steps: tuple[str, float]) -> str:
    if epochs[0] == steps[0]:
        return f"{epochs[0]} after {epochs[1]:.3g} epochs or {steps[1]:.0f} steps (median)"
    return f"{epochs[0]} after {epochs[1]:.3g} epochs, in steps {steps[0]} after {steps[1]:.0f} (medians)"


def _first(comparison: Comparison, time: Callable[[list[Trial]], float | None]) -> tuple[str, float] | None:
    times = {o: time(comparison.finals(o)) for o in comparison.plan.arms}
    reached = {o: t for o, t in times.items() if t is not None and t < inf}
    if not reached:
        return None
    earliest = min(reached.values())
    return listing([o for o, t in reached.items() if t == earliest], 4), earliest


def _cheapest(places: list[Place], comparison: Comparison) -> str:
    rivals = [p.arm for p in places if p.standing in ("best", "tie", "open")]
    costs = {o: comparison.step_microseconds[o] for o in rivals if o in comparison.step_microseconds}
    if len(costs) < 2:
        return ""
    fast = min(costs, key=lambda o: costs[o])
    state = {o: max(t.state_bytes for t in comparison.finals(o)) for o in rivals}
    small = min(state, key=lambda o: (state[o], o != fast))
    cheap = f"{fast} has the cheapest step ({number(costs[fast])} µs)"
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


def _caveats(scale: Scale, pairs: int, comparison: Comparison) -> list[str]:
    mean = "geometric means, Student's t on log loss" if scale == "log" else "arithmetic means, Student's t"
    holm = f"Holm's correction covers {_all(pairs)}: the chance of any false “beaten” is about 5 %."
    return [
        "Intervals and tests cover the luck of the seed (initialisation, order of batches), not the luck of "
        "tuning: with other tuning trials the settings and the result would differ. Where both were "
        "measured, on digits, the whole spread was about four times that of the seeds alone.",
        f"Losses are {mean}, over final runs on fresh seeds; tuning runs are not counted.",
        *([holm] if pairs else []),
        f"Tuned with {tuned_with(comparison)}; what was not searched stayed at its fixed value.",
    ]


def _all(pairs: int) -> str:
    return "the one pair" if pairs == 1 else f"all {pairs} pairs"


def tuned_with(comparison: Comparison) -> str:
    """Return how many tuning trials each optimizer had, such as '8 trials each'."""
    counts = [len(comparison.tuning(o)) for o in comparison.plan.arms]
    done, planned = min(counts, default=0), comparison.plan.trials
    return f"{plural(done, 'trial')} each" + (f" of {planned} planned" if done < planned else "")
