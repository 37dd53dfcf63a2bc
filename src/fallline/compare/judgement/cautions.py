"""What should make a reader doubt a comparison: each check looks at the records and warns or stays silent."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from fallline.compare.judgement.wording import listing, setting
from fallline.compare.records import Comparison, Trial
from fallline.compare.search.adaptation import base_space, spaces
from fallline.compare.statistics.pairs import Pair
from fallline.compare.statistics.sensitivity import tuning_losses
from fallline.core.space import Range

#: Fewer tuning trials than this say nothing about settings, edges or divergences.
ENOUGH_TRIALS = 4
#: This near an end of its range, as a fraction of it, a tuned value counts as on the edge.
EDGE = 0.05
#: A larger share of diverged tuning trials means that the budget went into a bad range.
MANY_DIVERGED = 0.4
#: A relative change of the loss that is worth a warning.
CHANGE = 0.02
#: Exact inclusions: the first optimizer with the setting in the middle is the last. Adam without its first
#: moment is not RMSprop, whose second moment has no bias correction.
INCLUSIONS = (
    ("momentum", "momentum 0", "sgd"),
    ("nesterov", "momentum 0", "sgd"),
    ("proximal-sgd", "strength 0", "sgd"),
    ("adamw", "weight decay 0", "adam"),
    ("lookahead", "alpha 1", "adam"),
)
#: Up to this many times the best learning rate the loss should not break down.
NEAR = 3.0


@dataclass(frozen=True)
class Caution:
    """A reason to doubt: its ``kind``, the ``arms`` it concerns, and a sentence with the remedy."""

    kind: str
    arms: list[str]
    text: str


def cautions(comparison: Comparison, pairs: list[Pair]) -> list[Caution]:
    """Return every reason to doubt ``comparison``; ``pairs`` are the comparisons of final losses."""
    checks: list[Callable[[Comparison], Caution | None]] = [
        unequal_tuning, hardly_tuned, at_edge, many_diverged, unstable, failed, still_improving, overfitting,
        target_missed,
    ]  # fmt: skip
    found = [check(comparison) for check in checks]
    return [c for c in (*found, inclusion_violated(comparison, pairs)) if c is not None]


def best_tuning(comparison: Comparison, arm: str, study: int | None = None) -> Trial | None:
    """Return the tuning trial of ``arm``, in one study or all, with the lowest validation loss."""
    done = [t for t in comparison.tuning(arm, study) if t.valid_loss is not None]
    return min(done, key=lambda t: t.valid_loss or 0.0, default=None)


def searched(comparison: Comparison) -> list[str]:
    """Return the arms with something to tune; the others have a single tuning trial in a study."""
    return [name for name, arm in comparison.plan.arms.items() if arm.space]


def unequal_tuning(comparison: Comparison) -> Caution | None:
    """Warn when some optimizers got fewer tuning trials than others."""
    counts = {o: len(comparison.tuning(o)) for o in searched(comparison)}
    most = max(counts.values(), default=0)
    short = {o: n for o, n in counts.items() if n < most}
    named = listing([f"{o} ({n} of {most} trials)" for o, n in short.items()])
    return _caution("unequal tuning", list(short), f"Tuned less than others: {named}. Resume to finish.")


def hardly_tuned(comparison: Comparison) -> Caution | None:
    """Warn when a ranked optimizer was tuned with so few whole trials that chance chose its settings."""
    ranked = [arm for arm in searched(comparison) if comparison.finals(arm)]
    short = [arm for arm in ranked if 0 < _whole_trials(comparison, arm) < ENOUGH_TRIALS]
    who = "All" if len(short) == len(comparison.plan.arms) else listing(short)
    whole = " that ran to the end" if comparison.plan.pruner != "none" else ""
    few = f"fewer than {ENOUGH_TRIALS} trials{whole}: chance chose the settings, and so the order"
    return _caution("few trials", short, f"{who} had {few}. Give more trials or time, or fewer optimizers.")


def _whole_trials(comparison: Comparison, arm: str) -> int:
    """Return how many trials the best-tuned study of ``arm`` has, without those that were pruned."""
    tuning = [t for t in comparison.tuning(arm) if t.status != "pruned"]
    return max(Counter(t.spec.study for t in tuning).values(), default=0)


def at_edge(comparison: Comparison) -> Caution | None:
    """Warn when the best value is at the end of its range, or no trial lies beyond the best learning rate."""
    found = {arm: text for arm in comparison.plan.arms if (text := _edges(comparison, arm))}
    named = listing([f"{o} ({text})" for o, text in found.items()])
    return _caution("edge", list(found), f"Tuned to the edge of what was tried: {named}. Widen the range.")


def _edges(comparison: Comparison, arm: str) -> str:
    """Return the first edge of ``arm``, and in how many of the studies it is at one."""
    studies = sorted({t.spec.study for t in comparison.tuning(arm)})
    found = [text for study in studies if (text := _edge(comparison, arm, study))]
    if not found or len(studies) == 1:
        return found[0] if found else ""
    return f"{found[0]}, in {len(found)} of {len(studies)} studies"


def _edge(comparison: Comparison, arm: str, study: int) -> str:
    best = best_tuning(comparison, arm, study)
    tried = [t for t in comparison.tuning(arm, study) if t.status != "failed"]
    if best is None or len(tried) < ENOUGH_TRIALS:
        return ""
    for name, bounds in _searched(comparison, arm, study).items():
        others = [t.spec.settings[name] for t in tried if name in t.spec.settings]
        value = best.spec.settings.get(name)
        if value is None:
            continue
        fraction = bounds.fraction(value)
        if fraction < EDGE or (name == "lr" and value == min(others)):
            return f"{name} {setting(value)}, low end"
        if fraction > 1 - EDGE or (name == "lr" and value == max(others)):
            return f"{name} {setting(value)}, high end"
    return ""


def _searched(comparison: Comparison, arm: str, study: int) -> dict[str, Range]:
    """Return the ranges that one study searched, those that moved from their lowest to their highest end."""
    of, trials = comparison.plan.arms[arm], comparison.plan.trials
    found: dict[str, Range] = {}
    for _, space, _ in spaces(base_space(of), comparison.tuning(arm, study), trials):
        for name, bounds in space.items():
            if isinstance(bounds, Range):
                before = found.get(name, bounds)
                low, high = min(before.low, bounds.low), max(before.high, bounds.high)
                found[name] = replace(bounds, low=low, high=high)
    return found


def many_diverged(comparison: Comparison) -> Caution | None:
    """Warn when much of the tuning budget, or a final run of a tuned optimizer, diverged."""
    found = {o: text for o in comparison.plan.arms if (text := _diverged(comparison, o))}
    named = listing([f"{o} ({text})" for o, text in found.items()])
    text = f"Many divergences: {named}. Lower the upper end of the learning rate, or warm it up."
    return _caution("diverged", list(found), text)


def _diverged(comparison: Comparison, arm: str) -> str:
    finals, tuning = comparison.finals(arm), comparison.tuning(arm)
    if lost := _count(finals, "diverged"):
        return f"{lost} of {len(finals)} final runs"
    lost = _count(tuning, "diverged")
    many = len(tuning) >= ENOUGH_TRIALS and lost > MANY_DIVERGED * len(tuning)
    return f"{lost} of {len(tuning)} tuning trials" if many else ""


def _count(trials: list[Trial], status: str) -> int:
    return sum(t.status == status for t in trials)


def unstable(comparison: Comparison) -> Caution | None:
    """Warn when training breaks down just above the best learning rate, though lower ones are good."""
    names = [arm for arm in comparison.plan.arms if _breaks_down(comparison, arm)]
    where = f"Training breaks down within {NEAR:g} times the best learning rate: {listing(names)}"
    return _caution(
        "unstable", names, f"{where}. Warm the learning rate up, or clip gradients (clip_by_quantile)."
    )


def _breaks_down(comparison: Comparison, arm: str) -> bool:
    rates, losses = tuning_losses(comparison, arm)
    best = min(losses, default=inf)
    if len(rates) < ENOUGH_TRIALS or not 0 < best < inf:
        return False
    peak = rates[losses.index(best)]
    above = [x for rate, x in zip(rates, losses, strict=True) if peak < rate <= NEAR * peak]
    below = [x for rate, x in zip(rates, losses, strict=True) if peak / 10 <= rate < peak]
    return bool(above and below) and min(above) > 2 * best and max(below) < 1.25 * best


def failed(comparison: Comparison) -> Caution | None:
    """Warn of trials that raised an error."""
    of = {o: [*comparison.tuning(o), *comparison.finals(o)] for o in comparison.plan.arms}
    lost = {o: f"{o} ({n} of {len(ts)} trials)" for o, ts in of.items() if (n := _count(ts, "failed"))}
    text = f"Errors: {listing(list(lost.values()))}. Missing trials count as less tuning, not as bad results."
    return _caution("failed", list(lost), text)


def still_improving(comparison: Comparison) -> Caution | None:
    """Warn when the last tenth of the final runs still lowered the best loss."""
    names = [o for o in comparison.plan.arms if _median_of_finals(comparison, o, _late_gain) > CHANGE]
    text = f"Still improving at the end: {listing(names)}. More epochs may change the order."
    return _caution("improving", names, text)


def overfitting(comparison: Comparison) -> Caution | None:
    """Warn when the validation loss rose again after its lowest point, which is what is ranked."""
    names = [o for o in comparison.plan.arms if _median_of_finals(comparison, o, _rise) > 5 * CHANGE]
    why = "overfitting, or too high a learning rate; the lowest point is ranked"
    text = f"Validation loss rose again after its lowest point: {listing(names)} ({why})."
    return _caution("overfitting", names, text)


def _late_gain(losses: list[float]) -> float:
    before = losses[: max(1, len(losses) - max(1, len(losses) // 10))]
    return (min(before) - min(losses)) / abs(min(before) or 1.0)


def _rise(losses: list[float]) -> float:
    return (losses[-1] - min(losses)) / abs(min(losses) or 1.0)


def _median_of_finals(comparison: Comparison, arm: str, of: Callable[[list[float]], float]) -> float:
    curves = [t.curve.valid_loss for t in comparison.finals(arm) if t.status == "ok"]
    values = sorted(of(losses) for losses in curves if len(losses) > 1)
    return values[len(values) // 2] if values else -inf


def target_missed(comparison: Comparison) -> Caution | None:
    """Warn when no final run reached the target, so that it separates nothing."""
    finals = [t for o in comparison.plan.arms for t in comparison.finals(o) if t.status == "ok"]
    useless = bool(finals) and comparison.plan.target is not None
    if not useless or any(t.steps_to_target is not None for t in finals):
        return None
    return Caution("target", [], "No final run reached the target: choose an easier one or train longer.")


def inclusion_violated(comparison: Comparison, pairs: list[Pair]) -> Caution | None:
    """Warn when an optimizer loses to one that it contains: then its tuning, not its rule, is to blame."""
    names = {arm: of.optimizer for arm, of in comparison.plan.arms.items()}
    both = [each for pair in pairs for each in (pair, pair.reversed())]
    found = [(p, at) for p in both if p.difference > CHANGE and p.p < 0.05 and (at := _inclusion(p, names))]
    text = listing([f"{p.second} loses to {p.first}, which it is with {at}" for p, at in found])
    text = f"{text}: it is badly tuned, so give it more trials or a better range."
    return _caution("inclusion", [p.second for p, _ in found], text)


def _inclusion(pair: Pair, optimizers: dict[str, str]) -> str:
    """Return with which setting the second of ``pair`` is the first, at equal levels of anything else."""
    small, large = optimizers[pair.first], optimizers[pair.second]
    if pair.first.removeprefix(small) != pair.second.removeprefix(large):
        return ""
    return next((at for container, at, inner in INCLUSIONS if (container, inner) == (large, small)), "")


def _caution(kind: str, arms: list[str], text: str) -> Caution | None:
    return Caution(kind, arms, text) if arms else None
