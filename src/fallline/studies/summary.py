"""A finding from a comparison: its verdict, one table, the ranking and the curves."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fallline.compare.judgement.verdict import Verdict, judge
from fallline.compare.judgement.wording import number, plural, setting
from fallline.compare.records import Comparison, Plan
from fallline.report import figures
from fallline.report.finding import Figure, Finding, Table
from fallline.report.summary import Row, rows
from fallline.report.terminal import is_share, percentage, span, standing_text, target_text
from fallline.studies.study import Study
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task, sample_count


def found(
    study: Study, comparison: Comparison, task: Task, called: Callable[[str], str] | None = None, **more: Any
) -> Finding:
    """Return what ``comparison`` says as the answer to ``study``.

    Arguments:
        study: whose question is answered.
        comparison: its verdict is the answer, unless ``answer`` is given.
        task: what it was measured on.
        called: what a reader calls an arm; as `spoken` unless given.
        more: fields of `Finding` in place of the usual ones; ``sentences`` and ``tables`` come after them,
            ``figures`` before.
    """
    shown = renamed(comparison, called)
    verdict = judge(shown)
    usual = {
        "answer": verdict.headline,
        "caveats": [*(caution.text for caution in verdict.cautions), *comparison.plan.caveats],
        "facts": {**facts(comparison.plan), "Statistics": " ".join(_statistics(comparison, verdict))},
        "scale": scale(task),
    }
    added = {
        "sentences": [*verdict.sentences, *more.pop("sentences", [])],
        "tables": [_table(shown, _heading(comparison.plan)), *more.pop("tables", [])],
        "figures": [*more.pop("figures", []), *pictures(shown)],
    }
    return Finding(study.name, study.question, **{**usual, **added, **more})


def renamed(comparison: Comparison, called: Callable[[str], str] | None = None) -> Comparison:
    """Return ``comparison`` with every arm under what a reader calls it, as `spoken` unless given."""
    plan = comparison.plan
    names = {arm: called(arm) if called else spoken(arm, plan) for arm in plan.arms}
    return replace(
        comparison,
        plan=replace(plan, arms={names[arm]: each for arm, each in plan.arms.items()}),
        trials=[replace(t, spec=replace(t.spec, arm=names[t.spec.arm])) for t in comparison.trials],
        step_microseconds={names[arm]: us for arm, us in comparison.step_microseconds.items()},
        pass_microseconds={names[arm]: us for arm, us in comparison.pass_microseconds.items()},
    )


def _statistics(comparison: Comparison, verdict: Verdict) -> list[str]:
    """Return what the verdict says of its own method, which is equal for all studies."""
    return [text for text in verdict.caveats if text not in comparison.plan.caveats]


def scale(task: Task) -> str:
    """Return on what a finding was made: the task, the size of its model, and how long a training is."""
    with seeded(0):
        count = sum(parameter.numel() for parameter in task.new_model().parameters())
    samples = sample_count(task.train)
    data = "a stream" if samples is None else f"{samples:,} training samples"
    return f"{task.name}: {plural(count, 'parameter')}, {data}, {plural(task.total_steps, 'step')} a training"


def facts(plan: Plan) -> dict[str, str]:
    """Return how a comparison was made."""
    return {
        "Protocol": f"{plural(plan.trials, 'trial')} of tuning for each arm and "
        f"{plural(plan.seeds, 'fresh seed')} for the best, in each of {plural(plan.studies, 'study')}; "
        f"{plan.sampler} sampler",
        "Searched": "; ".join(dict.fromkeys(_searched(arm.space) for arm in plan.arms.values())) or "nothing",
        "Machine": plan.machine,
        "Versions": ", ".join(f"{name} {version}" for name, version in plan.versions.items()),
        "Date": plan.started[:10],
    }


def _searched(space: dict[str, dict[str, Any]]) -> str:
    ends = {name: each.get("options") or [each["low"], each["high"]] for name, each in space.items()}
    return ", ".join(f"{name} {' to '.join(map(setting, values))}" for name, values in ends.items())


def table(comparison: Comparison) -> Table:
    """Return the arms from best to worst, with their loss, metric and way to the target.

    What an optimizer's part of a step costs is told of different optimizers: of levels of one it is noise.
    """
    return _table(renamed(comparison), _heading(comparison.plan))


def _table(shown: Comparison, heading: str) -> Table:
    ranked, plan = rows(shown, judge(shown)), shown.plan
    share, timed = is_share(plan.metric_name, ranked), len({arm.optimizer for arm in plan.arms.values()}) > 1
    metric = [f"{plan.metric_name}{' %' if share else ''}"] if plan.metric_name else []
    aim, cost = ["steps*"] if plan.target is not None else [], ["µs/step"] if timed else []
    loss = plan.judged_by.replace("validation ", "")
    return Table(
        [heading, loss, "95 %", *metric, *aim, *cost, "verdict", "tuned"],
        [[row.arm.removeprefix(f"{_words(heading)} "), *_row(row, plan, share, timed)] for row in ranked],
        note=f"* median to the target ({plan.target_name}), or how many arrived" if aim else "",
    )


def _row(row: Row, plan: Plan, share: bool, timed: bool) -> list[Any]:
    loss = (
        [None, None]
        if row.loss is None
        else [number(row.loss.mean), span(*row.loss.ends) if row.loss.ends else None]
    )
    metric = [] if not plan.metric_name else [None if row.metric is None else _metric(row.metric.mean, share)]
    aim = [] if plan.target is None else [target_text(row, row.steps)]
    cost = [None if row.step_microseconds is None else number(row.step_microseconds)] if timed else []
    settings = ", ".join(f"{name} {setting(value)}" for name, value in row.settings.items())
    return [*loss, *metric, *aim, *cost, standing_text(row), settings]


def _metric(value: float, share: bool) -> str:
    return percentage(value) if share else number(value)


def _heading(plan: Plan) -> str:
    """Return what a column of arms is called: the setting that all are levels of, or what they are."""
    names = {name.partition("=")[0] for name in plan.arms}
    if len(names) == 1 and all("=" in name for name in plan.arms):
        return names.pop()
    return "optimizer" if all(name == arm.optimizer for name, arm in plan.arms.items()) else "arm"


def level(arm: str, plan: Plan) -> str:
    """Return an arm's name as its level alone where all arms are levels of one setting.

    ``"activation=relu"`` becomes ``"relu"``.
    """
    return arm.partition("=")[2] if _heading(plan) == arm.partition("=")[0] and "," not in arm else arm


def spoken(arm: str, plan: Plan) -> str:
    """Return an arm's name as in a sentence: its `level`, after the setting where that is a number.

    ``"activation=relu"`` becomes ``"relu"``, ``"batch_size=32"`` becomes ``"batch size 32"``.
    """
    alone = level(arm, plan)
    is_word = alone == arm or not _is_number(alone)
    return alone if is_word else f"{_words(_heading(plan))} {alone}"


def _words(setting: str) -> str:
    return setting.replace("_", " ")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def pictures(comparison: Comparison) -> list[Figure]:
    """Return the ranking and the learning curves; nothing before there is a final result."""
    verdict = judge(comparison)
    ranked = rows(comparison, verdict)
    if not any(row.loss is not None for row in ranked):
        return []
    return [_ranking(comparison, ranked, verdict), _curves(comparison, ranked, verdict)]


def _ranking(comparison: Comparison, ranked: Sequence[Row], verdict: Verdict) -> Figure:
    about = (
        "Mean with 95 % interval, and every fresh seed as a thin bar. Blue may be the best; grey is beaten."
    )
    drawn = figures.ranking(comparison, list(ranked), verdict)
    return Figure(f"Ranking by {comparison.plan.judged_by}", about, drawn)


def _curves(comparison: Comparison, ranked: Sequence[Row], verdict: Verdict) -> Figure:
    about = (
        "Validation loss over epochs: the median over seeds, with the range from the lowest to the highest."
    )
    return Figure("Learning curves", about, figures.curves(comparison, list(ranked), verdict))
