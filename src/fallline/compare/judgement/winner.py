"""Which of the arms that may be the best to use, with which settings, and the line of Python for it."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

import fallline
from fallline.compare.judgement.standings import Place, loss_scale, on_scale, steps_to_target
from fallline.compare.judgement.wording import listing, number, rounded, setting, size
from fallline.compare.records import Arm, Comparison
from fallline.compare.statistics.sensitivity import response
from fallline.core.registry import entries

#: Settings of the training itself, whatever the optimizer.
TRAINING = ("batch_size", "schedule", "warmup", "clip", "patience", "precision", "epochs", "max_steps")
#: A lead of less than this share, of so many decades, or of so many bytes decides nothing.
LEAD, DECADES, BYTES = 0.1, 0.25, 10_000_000


@dataclass(frozen=True)
class Recommendation:
    """What to use: ``arm`` with ``settings``, the ``reason`` in a sentence, and ``code`` that makes it.

    ``settings`` are those tuned in the study whose final runs have the lowest mean loss; that loss was chosen
    by looking, so it is no estimate. ``code`` leaves out what belongs to the training or the model, and is
    empty when nothing is known of how the optimizer is made.
    """

    arm: str
    settings: dict[str, Any]
    reason: str
    code: str


@dataclass(frozen=True)
class _Ground:
    """A reason to prefer: less of ``costs`` is better; a lead of ``share`` or ``margin`` decides nothing."""

    name: str
    costs: Mapping[str, float]
    told: Callable[[float], str]
    share: float = 0.0
    margin: float = 0.0

    def ahead(self, among: Sequence[str]) -> list[str]:
        """Return those of ``among`` that nobody has a lead on; all when the cost is infinite for all."""
        least = min(self.costs[arm] for arm in among)
        return [arm for arm in among if self.costs[arm] <= least + self.share * abs(least) + self.margin]


def recommend(comparison: Comparison, places: Sequence[Place]) -> Recommendation | None:
    """Return what to use of the ``places`` that may be the best; None without any.

    Time to the target decides, then a loss near the lowest, then the width of the good learning rates, then
    the memory of the state, then the loss itself; each only among those that the ground before it left.
    """
    rivals = [p.arm for p in places if p.standing in ("best", "tie", "open")]
    if not rivals:
        return None
    grounds = _grounds(comparison, places, rivals)
    arm, why = _decide(rivals, grounds)
    settings = best_settings(comparison, arm)
    of = comparison.plan.arms[arm]
    used = ", ".join(
        f"{name} {setting(value)}"
        for name, value in {**_batch(of), **settings}.items()
        if f"{name}={setting(value)}" not in arm.split(", ")
    )
    reason = f"Use {arm}{f' with {used}' if used else ''}: {why}."
    rest = f"{_given_up(arm, rivals, grounds)}{_source(comparison, arm)}"
    return Recommendation(arm, settings, reason + rest, code(of, settings))


def _batch(arm: Arm) -> dict[str, Any]:
    """Return what is fixed, with the batch size if the optimizer has one of its own."""
    entry = entries().get(arm.optimizer)
    own = {"batch_size": entry.batch_size} if entry and entry.batch_size else {}
    return {**own, **arm.fixed}


def _source(comparison: Comparison, arm: str) -> str:
    studies = len({t.spec.study for t in comparison.finals(arm) if t.loss is not None})
    chosen = f"The settings are those of its best study of {studies}, whose own result is no estimate"
    return f" {chosen}: chosen by looking, it is too good." if studies > 1 else ""


def best_settings(comparison: Comparison, arm: str) -> dict[str, Any]:
    """Return the settings of the study whose final runs of ``arm`` have the lowest mean loss."""
    scale, studies = loss_scale(comparison), {}
    for trial in comparison.finals(arm):
        if trial.loss is not None:
            studies.setdefault(trial.spec.study, []).append(trial)
    means = {s: np.mean([on_scale(scale, t.loss) for t in trials]) for s, trials in studies.items()}
    return studies[min(means, key=lambda s: means[s])][0].spec.settings if means else {}


def _grounds(comparison: Comparison, places: Sequence[Place], rivals: list[str]) -> list[_Ground]:
    decades = {arm: -_decades(comparison, arm) for arm in rivals}
    state = {arm: max(t.state_bytes for t in comparison.finals(arm)) for arm in rivals}
    losses = {p.arm: p.loss.mean if p.loss else inf for p in places}
    wide, lowest = "the widest range of good learning rates", f"the lowest {comparison.plan.judged_by}"
    return [
        _time(comparison, rivals),
        _Ground(lowest, losses, number, share=LEAD),
        _Ground(wide, decades, lambda cost: f"{-cost:.1f} decades", margin=DECADES),
        _Ground("the smallest state", state, lambda cost: size(int(cost)), share=LEAD, margin=BYTES),
        _Ground(lowest, losses, number),
    ]


def _time(comparison: Comparison, rivals: list[str]) -> _Ground:
    """Compare by the time that the steps to the target take, or by steps when a step's cost is not known."""
    found = {arm: steps_to_target(comparison.finals(arm)) for arm in rivals}
    steps = {arm: median.time if median else inf for arm, median in found.items()}
    cost = {arm: _step_seconds(comparison, arm) for arm in rivals}
    if None in cost.values():
        return _Ground("the fewest steps to the target", steps, lambda count: f"{count:.4g}", share=LEAD)
    times = {arm: steps[arm] * (cost[arm] or 0.0) for arm in rivals}
    return _Ground("the least time to the target", times, lambda time: f"{number(time)} s", share=LEAD)


def _step_seconds(comparison: Comparison, arm: str) -> float | None:
    """Return what a step takes with its passes, measured in turns on an idle core, without evaluations."""
    step, passes = comparison.step_microseconds.get(arm), comparison.pass_microseconds.get(arm)
    return None if step is None or passes is None else (step + passes) / 1e6


def _decades(comparison: Comparison, arm: str) -> float:
    found = response(comparison, arm, loss_scale(comparison))
    return 0.0 if found is None else found.good.decades


def _decide(rivals: list[str], grounds: list[_Ground]) -> tuple[str, str]:
    """Return the arm that is left after as few grounds as possible, and why."""
    if len(rivals) == 1:
        return rivals[0], f"it alone may have {grounds[-1].name}"
    left, path = rivals, [f"of the {len(rivals)} that may be the best"]
    for ground in grounds:
        ahead = ground.ahead(left)
        if len(ahead) == 1:
            path = path[:-1] if path[-1].endswith(ground.name) else path
            return ahead[0], f"{_of(path)} it has {ground.name} ({ground.told(ground.costs[ahead[0]])})"
        if len(ahead) < len(left):
            path.append(f"{len(ahead)} come near {ground.name}")
        left = ahead
    return left[0], f"{_of(path)} nothing sets it apart"


def _of(path: list[str]) -> str:
    """Return who was left when the last ground decided."""
    return path[0] if len(path) == 1 else f"{', '.join(path)}, and of these"


def _given_up(arm: str, rivals: list[str], grounds: list[_Ground]) -> str:
    """Name the grounds on which another of the ``rivals`` is ahead."""
    lost = {ground.name: ground for ground in grounds if arm not in ground.ahead(rivals)}
    named = []
    for ground in lost.values():
        first = min(rivals, key=lambda rival, costs=ground.costs: costs[rival])
        named.append(f"{ground.name} ({first}, {ground.told(ground.costs[first])})")
    return f" Given up: {listing(named)}." if named else ""


def code(arm: Arm, settings: Mapping[str, Any]) -> str:
    """Return the line of Python that makes the optimizer of ``arm`` with its tuned ``settings``.

    What is not the optimizer's, but the training's or the model's, follows as a comment.

    >>> code(Arm("adamw"), {"lr": 0.0031622, "beta1": 0.9, "batch_size": 64})
    'fallline.AdamW(model.parameters(), lr=0.00316, betas=(0.9, 0.999))  # batch_size 64'
    """
    every = {**arm.fixed, **settings}
    taken = _taken_by(arm.optimizer)
    own = {name: x for name, x in every.items() if name not in TRAINING and (name in taken or "**" in taken)}
    rest = [f"{name} {setting(x)}" for name, x in every.items() if name not in own]
    call = _made(arm.optimizer, own)
    return f"{call}  # {', '.join(rest)}" if call and rest else call


def _taken_by(optimizer: str) -> set[str]:
    """Return the settings that an optimizer takes; another package's is known if it was imported before.

    It is not imported for this: reading a result must not run anybody's code.
    """
    if entry := entries().get(optimizer):
        return (_taken(entry.make) - {"**"}) | set(entry.space) | set(entry.fixed)
    module, _, name = optimizer.replace(":", ".").rpartition(".")
    target = getattr(sys.modules.get(module), name, None)
    return _taken(target) if callable(target) else {"**"}


def _made(optimizer: str, settings: dict[str, Any]) -> str:
    """Return the call; nothing for an optimizer in a file, which has no name that can be imported."""
    entry = entries().get(optimizer)
    if entry is None:
        path = optimizer.replace(":", ".")
        can_be_named = "." in path and ".py" not in path and all(map(str.isidentifier, path.split(".")))
        return _call(path, settings) if can_be_named else ""
    given, made = {**entry.fixed, **settings}, getattr(entry.make, "__name__", "")
    if getattr(fallline, made, None) is entry.make:
        return _call(f"fallline.{made}", given)
    return _call(f"fallline.core.registry.find({optimizer!r}).build", given, nest=False)


def _taken(make: Callable[..., Any]) -> set[str]:
    """Return the flat settings that an optimizer takes, with "**" among them if it takes any."""
    parameters = inspect.signature(make).parameters
    names = {"**" if each.kind is each.VAR_KEYWORD else name for name, each in parameters.items()}
    return names | ({"beta1", "beta2"} if "betas" in names else set())


def _call(function: str, settings: dict[str, Any], nest: bool = True) -> str:
    beta1, beta2 = settings.get("beta1"), settings.get("beta2")
    plain = {name: x for name, x in settings.items() if not nest or name not in ("beta1", "beta2")}
    if nest and (beta1, beta2) != (None, None):
        plain["betas"] = (
            rounded(0.9 if beta1 is None else beta1),
            rounded(0.999 if beta2 is None else beta2),
        )
    arguments = [f"{name}={rounded(x)!r}" for name, x in plain.items()]
    return f"{function}({', '.join(['model.parameters()', *arguments])})"
