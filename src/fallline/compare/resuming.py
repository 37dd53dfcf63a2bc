"""Going on with a comparison: only with the same one, which may have more seeds and studies than before."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from fallline.compare.errors import ComparisonError
from fallline.compare.protocol.settling import LOOKS
from fallline.compare.records import Arm, Plan
from fallline.compare.request import Request
from fallline.compare.storage import fingerprint
from fallline.tasks.task import Task


def refuse_another(request: Request, stored: Plan, task: Task, arms: Mapping[str, Arm]) -> None:
    """Raise unless the folder's comparison is the one asked for; what was not asked for is taken from it.

    Raises:
        ComparisonError: the task, its data, the arms, their spaces, the seed or the way of tuning is another,
            or fewer seeds or studies are asked for than there were.
    """
    for what, (now, then) in _asked(request, stored, task, arms).items():
        if now != then:
            raise ComparisonError(
                f"{request.out} holds a different comparison: its {what} {_are(what)} {_short(then)}, "
                f"not {_short(now)}; choose another --out"
            )
    for what in ("seeds", "studies"):
        wanted, planned = getattr(request, what), getattr(stored, what)
        if wanted is not None and wanted < planned and stored.budget_seconds is None:
            raise ComparisonError(
                f"{request.out} holds a comparison with {planned} {what}; "
                f"ask for as many or more, not {wanted}, or choose another --out"
            )
    if request.studies and stored.folds and request.studies != stored.folds:
        raise ComparisonError(f"the task has {stored.folds} folds, each a study; leave out --studies")


def resumed(request: Request, stored: Plan, workers: int, seconds: float | None) -> Plan:
    """Return the stored plan as it goes on: with more seeds or studies if asked for, and the new budget."""
    return replace(
        stored,
        caveats=[*stored.caveats, *_other_versions(stored)],
        seeds=max(stored.seeds, request.seeds or 0),
        studies=max(stored.studies, request.studies or 0),
        looks=max(stored.looks, LOOKS if request.until_settled else 1),
        workers=workers,
        budget_seconds=seconds,
    )


def _other_versions(stored: Plan) -> list[str]:
    """Say that trainings before and after were made by different versions, whose rounding may differ."""
    now = {name: version(name) for name in stored.versions if name != "python"}
    changed = [
        f"{name} {stored.versions[name]} before, {now[name]} now"
        for name in now
        if now[name] != stored.versions[name]
    ]
    note = f"continued with other versions: {', '.join(changed)}"
    return [note] if changed and note not in stored.caveats else []


def _asked(request: Request, stored: Plan, task: Task, arms: Mapping[str, Arm]) -> dict[str, tuple[Any, Any]]:
    """Return what is asked for now and what was asked for then, where both must be the same."""
    return {
        **described(task, stored),
        "optimizers": (list(arms), list(stored.arms)),
        "search spaces": (_searched(arms, stored.arms), _searched(stored.arms, stored.arms)),
        "fixed settings": (_fixed(arms), _fixed(stored.arms)),
        "seed": (stored.seed if request.seed is None else request.seed, stored.seed),
        "sampler": (request.sampler or stored.sampler, stored.sampler),
        "pruner": (request.pruner or stored.pruner, stored.pruner),
        "instances": (request.instances or stored.instances, stored.instances),
        "way of training": (_way(stacks(request, stored)), _way(stored.stacked)),
        "trials": (_wanted_trials(request.trials, stored), stored.trials),
    }


def described(task: Task, stored: Plan) -> dict[str, tuple[str, str]]:
    """Return what ``task`` is and what that of a plan was, which are one task if all of it is the same."""
    then = task.origin if stored.origin is None else stored.origin
    return {
        "task": (task.name, stored.task),
        "task's origin": (_origin(task.origin), _origin(then)),
        "task's model or settings": (fingerprint.of_task(task), stored.fingerprint),
        "task's data": (fingerprint.of_data(task), stored.data_fingerprint),
    }


def _origin(built_in: str) -> str:
    return "fallline" if built_in else "your own"


def _searched(arms: Mapping[str, Arm], stored: Mapping[str, Arm]) -> dict[str, Any]:
    """Return the spaces of ``arms``, without what a small number of trials left out of the stored ones."""
    kept = {name: stored[name].space.keys() for name in arms if name in stored}
    return {n: {k: v for k, v in arms[n].space.items() if k in kept[n]} for n in kept}


def _fixed(arms: Mapping[str, Arm]) -> dict[str, Any]:
    return {name: arm.fixed for name, arm in arms.items()}


def stacks(request: Request, stored: Plan | None) -> bool:
    """Say whether trainings are made in stacks, as asked for or else as they were before, by workers."""
    if request.executor is None:
        return stored is not None and stored.stacked and request.workers != 0
    return request.executor == "stacked"


def _way(stacked: bool) -> str:
    return "stacked" if stacked else "single"


def _wanted_trials(wanted: int | None, stored: Plan) -> int:
    """Return the number asked for; under a budget it was an upper bound."""
    if wanted is None or (stored.budget_seconds is not None and wanted >= stored.trials):
        return stored.trials
    return wanted


def _are(what: str) -> str:
    return "are" if what.endswith("s") else "is"


def _short(value: object) -> str:
    text = ", ".join(value) if isinstance(value, (list, dict)) else str(value)
    return text if len(text) < 60 else text[:57] + "..."
