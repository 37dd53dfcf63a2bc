"""What the effects say of a claim: supported, refuted, depends on something, or not settled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fallline.claims.claim import Claim, Contrast
from fallline.claims.effect import Effect
from fallline.compare.statistics.pairs import holm

Says = Literal["for", "against", "open"]
#: Of each one-sided test: an interval at 95 % leaves as much on either side.
LEVEL = 0.025


@dataclass(frozen=True)
class Evidence:
    """What one contrast says of its claim: ``why`` in words."""

    effect: Effect
    says: Says
    why: str


@dataclass(frozen=True)
class Judgement:
    """A claim with its ``outcome`` and the evidence of each of its contrasts, or the ``reason`` for none."""

    claim: Claim
    outcome: str
    evidence: list[Evidence]
    reason: str = ""


def judge(claim: Claim, effects: Sequence[Effect]) -> Judgement:
    """Return the outcome of ``claim`` by the effects of its contrasts, in their order.

    A contrast speaks *for* a claim when a difference d > 0 in the claimed direction is shown, and *against*
    it when d < m is shown, m being the smallest difference that matters: the claimed advantage is then too
    small to matter, none, or the opposite. Where both are shown, it is too small. A contrast that is denied
    says that d < m: it speaks for its claim when that is shown, and against it when d > m is. Each is a
    one-sided t-test at 2.5 %, and Holm's correction runs over all contrasts of the claim: the chance of any
    that falsely speaks for it is at most 2.5 %, and so is that of any that falsely speaks against it.

    The claim is *supported* when all contrasts speak for it, *refuted* when all speak against it, it
    *depends* when some speak for and some against, and is *not settled* otherwise.

    Source: Holm 1979; Schuirmann 1987 for showing that a difference is small.

    Example:
        >>> from fallline.claims.claim import Contrast
        >>> contrast = Contrast("optimizers", "adam", "sgd", "steps to target", margin=1.1)
        >>> effect = Effect(contrast, 0.7, 0.1, df=8, n=5, values=(100, 200), task="digits", scale="")
        >>> judge(Claim("faster", "Adam is faster.", (contrast,)), [effect]).outcome
        'supported'
    """
    backed = _shown([effect.p_for for effect in effects])
    refuted = _shown([effect.p_against for effect in effects])
    evidence = [_evidence(*each) for each in zip(effects, backed, refuted, strict=True)]
    return Judgement(claim, _outcome(evidence), evidence)


def _shown(p_values: Sequence[float]) -> list[bool]:
    return [p < LEVEL for p in holm(p_values)]


def _evidence(effect: Effect, backed: bool, refuted: bool) -> Evidence:
    if effect.contrast.denied:
        if backed:
            return Evidence(effect, "for", "no more than what matters")
        if refuted:
            return Evidence(effect, "against", "more than what matters")
    elif refuted:
        return Evidence(effect, "against", "too small to matter" if backed else _smaller(effect))
    elif backed:
        return Evidence(effect, "for", "shown")
    return Evidence(effect, "open", "not enough evidence")


def _smaller(effect: Effect) -> str:
    """Return by how much an effect misses what matters, by its own interval."""
    return "the opposite" if effect.p_below(0.0) < LEVEL else "no more than what matters"


def _outcome(evidence: Sequence[Evidence]) -> str:
    said = {each.says for each in evidence}
    if said == {"for"}:
        return "supported"
    if said == {"against"}:
        return "refuted"
    if {"for", "against"} <= said:
        return f"depends on {_what_decides(evidence)}"
    return "not settled"


def _what_decides(evidence: Sequence[Evidence]) -> str:
    """Return by what those that speak for the claim differ from those that speak against it."""
    decided = [each for each in evidence if each.says != "open"]
    differences = {
        "the task": [each.effect.task for each in decided],
        "what is measured": [each.effect.contrast.measure for each in decided],
        "the optimizer": [_optimizer(each.effect.contrast) for each in decided],
        "what it is compared with": [each.effect.contrast.more for each in decided],
    }
    for name, values in differences.items():
        if len(set(zip(values, (each.says for each in decided), strict=True))) == len(set(values)) > 1:
            return name
    return "what is compared"


def _optimizer(contrast: Contrast) -> str:
    """Return the optimizer that both arms have, or nothing."""
    less, more = (arm.partition(",")[0] for arm in (contrast.less, contrast.more))
    return less if less == more else ""
