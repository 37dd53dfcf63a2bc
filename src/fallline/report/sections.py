"""The sections of the page that are text and tables; everything a user may have written is escaped."""

import re
from collections.abc import Sequence
from html import escape
from math import inf
from typing import Any

from fallline.compare.judgement.verdict import Verdict
from fallline.compare.judgement.wording import last_line, number, plural, setting, size
from fallline.compare.records import Comparison, Plan
from fallline.compare.statistics.pairs import Interval, Scale
from fallline.compare.statistics.sensitivity import best_of
from fallline.compare.statistics.survival import MedianTime
from fallline.report.summary import Row, heading
from fallline.report.terminal import (
    is_share,
    percentage,
    places_text,
    span,
    standing_text,
    target_text,
    time_text,
)

#: Columns of words.
NAMED = ("optimizer", "arm", "tuned settings", "searched", "fixed")


def prose(text: str) -> str:
    """Return ``text`` escaped, with signs and units kept on the line of their number."""
    return re.sub(r"(?<=\d) (?=%|B\b|kB|MB|GB|µs|decades)", "\u00a0", escape(text))


def section(title: str, about: str, content: str) -> str:
    """Return a section of the page: a heading, a line on how to read it, and ``content`` as HTML."""
    return f'<section><h2>{escape(title)}</h2><p class="about">{prose(about)}</p>{content}</section>'


def verdict_section(comparison: Comparison, verdict: Verdict) -> str:
    """Return the head of the page: the answer, the evidence, the warnings."""
    plan = comparison.plan
    findings = "".join(f"<li>{prose(sentence)}</li>" for sentence in verdict.sentences)
    warnings = "".join(f"<li>{prose(caution.text)}</li>" for caution in verdict.cautions)
    box = f'<section class="warnings"><h2>Warnings</h2><ul>{warnings}</ul></section>' if warnings else ""
    what = "optimizers" if heading(comparison) == "optimizer" else "arms"
    return (
        f'<header><p class="task">{len(plan.arms)} {what}, {design(comparison)}, '
        f"{_epochs(plan.epochs)} a training</p>"
        f"<h1>Optimizers on {escape(plan.task)}</h1>"
        f'<p class="lead">{prose(verdict.headline)}</p></header>'
        f'<ul class="findings">{findings}</ul>{_recommended(verdict)}{box}'
    )


def _epochs(count: float) -> str:
    return f"{count:.3g} epoch{'' if count == 1 else 's'}"


def design(comparison: Comparison) -> str:
    """Return what each arm was given: '8 trials and 3 fresh seeds in each of 3 studies'."""
    plan = comparison.plan
    studies = f" in each of {plan.studies} studies" if plan.studies > 1 else ""
    return f"{plural(plan.trials, 'trial')} and {plural(plan.seeds, 'fresh seed')}{studies}"


def _recommended(verdict: Verdict) -> str:
    chosen = verdict.recommendation
    if chosen is None:
        return ""
    line = f"<pre>{escape(chosen.code)}</pre>" if chosen.code else ""
    return f'<section class="advice"><h2>Recommendation</h2><p>{prose(chosen.reason)}</p>{line}</section>'


def results(table: list[Row], comparison: Comparison) -> str:
    """Return the table of all results."""
    metric = comparison.plan.metric_name
    share = is_share(metric, table)
    heads = ["#", heading(comparison), "verdict", comparison.plan.judged_by, "P(best)"]
    heads += [f"{metric}{' %' if share else ''}"] if metric else []
    aim = comparison.plan.target is not None
    heads += [*(["epochs", "steps"] if aim else []), "µs/step", "state", "tuned settings"]
    body = "".join(_result(row, share, bool(metric), aim) for row in table)
    about = (
        "Small: 95 % interval; below the place, those that are possible, all at once with 95 % confidence. "
        "P(best): how often the mean is the lowest in a bootstrap."
    )
    if aim:
        about += " Epochs and steps: median to the target with its interval, or how many runs reached it."
    return section("All results", about, grid(heads, body))


def grid(heads: list[str], body: str, named: Sequence[str] = NAMED) -> str:
    """Return a table of HTML that scrolls where it is too wide; ``named`` heads stand on the left."""
    cells = "".join(f'<th scope="col"{_named(head in named)}>{escape(head)}</th>' for head in heads)
    rows = f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll" tabindex="0"><table>{rows}</table></div>'


def _named(is_name: bool) -> str:
    return ' class="name"' if is_name else ""


def _result(row: Row, share: bool, metric: bool, aim: bool) -> str:
    cells = [
        f"<td>{row.rank or '–'}<br><small>{places_text(row)}</small></td>",
        cell(row.arm, "name"),
        f'<td><span class="mark {row.standing}">{escape(standing_text(row))}</span></td>',
        _interval(row.loss),
        cell("" if row.p_best is None else f"{row.p_best:.2f}"),
        *([_interval(row.metric, share)] if metric else []),
        *([_time(row, row.epochs), _time(row, row.steps)] if aim else []),
        cell("" if row.step_microseconds is None else number(row.step_microseconds)),
        cell("" if row.state_bytes is None else size(row.state_bytes)),
        cell(", ".join(f"{name} {setting(value)}" for name, value in row.settings.items()), "settings"),
    ]
    return f'<tr class="{row.standing}">{"".join(cells)}</tr>'


def cell(text: str, kind: str = "") -> str:
    """Return a cell of a table."""
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _interval(interval: Interval | None, share: bool = False) -> str:
    if interval is None:
        return "<td></td>"
    mean = percentage(interval.mean) if share else number(interval.mean)
    around = "" if interval.ends is None else span(*interval.ends, share, " to ")
    return f"<td>{mean}<br><small>{around}</small></td>"


def _time(row: Row, median: MedianTime | None) -> str:
    if median is None or median.time == inf:
        return f"<td>{target_text(row, median)}</td>"
    ends = f"{time_text(median.low)} to {time_text(median.high)}"
    return f"<td>{target_text(row, median)}<br><small>{ends}</small></td>"


def need_for_tuning(comparison: Comparison, table: list[Row], verdict: Verdict) -> str:
    """Return the table of good learning rates and of the loss to expect from few trials."""
    most = max((len(comparison.tuning(row.arm)) for row in table), default=0)
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= most]
    heads = [heading(comparison), "good learning rates", "decades"]
    heads += [f"best of {n}" for n in counts]
    body = "".join(_need(comparison, row, counts, verdict.scale) for row in table)
    return (
        "<h3>How much tuning each needs</h3>"
        '<p class="about">Validation loss to expect from the best of so many random trials, out of those '
        "that were run; ∞ where all of them might diverge.</p>" + grid(heads, body)
    )


def _need(comparison: Comparison, row: Row, counts: list[int], scale: Scale) -> str:
    known = best_of(comparison, row.arm, counts, scale)
    good = row.response and row.response.good
    cells = [cell(row.arm, "name"), cell(f"{setting(good.low)} to {setting(good.high)}" if good else "")]
    cells.append(cell(f"{good.decades:.1f}" if good else ""))
    cells += [cell("" if x is None else "∞" if x == inf else number(x)) for x in known]
    return f"<tr>{''.join(cells)}</tr>"


def errors(comparison: Comparison, table: list[Row]) -> str:
    """Return what diverged or failed, with the first error of each optimizer in full."""
    items = [_error(comparison, row) for row in table if row.diverged or row.failed]
    return f"<section><h2>What went wrong</h2>{''.join(items)}</section>" if items else ""


def _error(comparison: Comparison, row: Row) -> str:
    counts = [f"{n} {what}" for n, what in ((row.diverged, "diverged"), (row.failed, "failed")) if n]
    trials = [*comparison.tuning(row.arm), *comparison.finals(row.arm)]
    first = min((t for t in trials if t.status in ("diverged", "failed")), key=lambda t: t.status != "failed")
    lost = f"{' and '.join(counts)} of {row.tuning + row.finals} runs"
    head = f"{row.arm}: {lost}; {last_line(first.error)}"
    settings = ", ".join(f"{name} {setting(value)}" for name, value in first.spec.settings.items())
    where = f"{first.spec.stage} run {first.spec.index}, seed {first.spec.seed}, {settings}"
    full = f"{where}\n\n{first.error or ''}".strip()
    return f"<details><summary>{escape(head)}</summary><pre>{escape(full)}</pre></details>"


def protocol(comparison: Comparison, verdict: Verdict) -> str:
    """Return how the comparison was made, and the limits of what it says."""
    caveats = "".join(f"<li>{prose(caveat)}</li>" for caveat in verdict.caveats)
    pairs = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in _facts(comparison))
    return (
        f"<section><h2>How to read this</h2><ul>{caveats}</ul></section>"
        f"<section><h2>Protocol</h2><dl>{pairs}</dl>{_spaces(comparison)}</section>"
    )


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    plan = comparison.plan
    budget = "none" if plan.budget_seconds is None else f"{plan.budget_seconds:g} s of wall clock"
    return [
        ("Task", plan.task),
        ("Target", plan.target_name or "none"),
        ("Judged by", f"{plan.judged_by} on fresh seeds"),
        ("Budget", f"{design(comparison)}, {_epochs(plan.epochs)} a training; limit: {budget}"),
        *([("Folds", f"{plan.folds}; each study tests on another one")] if plan.folds else []),
        *([("Looks", f"at most {plan.looks}, each at {5 / plan.looks:.2g} %")] if plan.looks > 1 else []),
        ("Search", _search(plan)),
        ("Trainings", f"{len(comparison.trials)} finished, on {plan.workers} workers"),
        ("Started", plan.started),
        ("Machine", plan.machine),
        ("Versions", ", ".join(f"{name} {version}" for name, version in plan.versions.items())),
    ]


def _search(plan: Plan) -> str:
    seeds = f"; each configuration is trained on {plan.instances} seeds" if plan.instances > 1 else ""
    return f"{plan.sampler} sampler, {plan.pruner if plan.pruner != 'none' else 'no'} pruner{seeds}"


def _spaces(comparison: Comparison) -> str:
    plan = comparison.plan
    body = "".join(
        f"<tr>{cell(o, 'name')}{cell(_searched(arm.space), 'settings')}"
        f"{cell(_fixed(arm.fixed), 'settings')}</tr>"
        for o, arm in plan.arms.items()
    )
    table = grid([heading(comparison), "searched", "fixed"], body)
    return f"<details><summary>Search spaces</summary>{table}</details>"


def _searched(space: dict[str, dict[str, Any]]) -> str:
    return "; ".join(f"{name} {_dimension(data)}" for name, data in space.items())


def _dimension(data: dict[str, Any]) -> str:
    if "options" in data:
        return " or ".join(map(setting, data["options"]))
    scale = {"log": "log", "one_minus_log": "log of 1 - x", "linear": "even"}[data["scale"]]
    return f"{setting(data['low'])} to {setting(data['high'])} ({scale})"


def _fixed(fixed: dict[str, Any]) -> str:
    return ", ".join(f"{name} {setting(value)}" for name, value in fixed.items())
