"""The report in a terminal: the verdict, two tables that fit 80 columns, and the reasons to doubt."""

from math import inf
from typing import TYPE_CHECKING

from fallline.compare.judgement.verdict import Verdict, judge
from fallline.compare.judgement.wording import ends, number, setting, size
from fallline.compare.records import Comparison
from fallline.compare.statistics.pairs import Interval
from fallline.compare.statistics.survival import MedianTime
from fallline.report.summary import Row, heading, rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

#: Tables and paragraphs are no wider than this, on wider terminals too.
WIDTH = 80
_STYLES = {"best": "bold green", "tie": "green", "open": "cyan", "unsteady": "red", "none": "dim"}


def print_report(comparison: Comparison, console: "Console") -> None:
    """Print what ``comparison`` found on ``console``, complete or not.

    Example:
        >>> print_report(comparison, rich.console.Console())
    """
    verdict = judge(comparison)
    table = rows(comparison, verdict)
    parts = [results_table(table, comparison), costs_table(table, comparison)] if comparison.trials else []
    for part in (*parts, _doubts(verdict), _answer(verdict)):
        console.print(part, width=min(WIDTH, console.width))


def results_table(table: list[Row], comparison: Comparison) -> "Table":
    """Return the ranking: losses and metrics with their intervals, and the way to the target."""
    plan, share = comparison.plan, is_share(comparison.plan.metric_name, table)
    metric = [f"{plan.metric_name}{' %' if share else ''}", "95 %"] if plan.metric_name else []
    aim = ["steps*"] if plan.target is not None else []
    loss = plan.judged_by.replace("validation ", "")
    grid = _grid(" #", heading(comparison), loss, "95 %", *metric, *aim)
    grid.add_column("vs best", justify="left", no_wrap=True)
    for row in table:
        cells = [str(row.rank or "–"), row.arm, *_interval(row.loss)]
        cells += _interval(row.metric, share) if metric else []
        cells += [target_text(row, row.steps)] if aim else []
        grid.add_row(*map(_text, cells), _standing(row))
    if aim:
        grid.caption = _text(f"* median to the target ({plan.target_name}), or how many arrived")
    return grid


def costs_table(table: list[Row], comparison: Comparison) -> "Table":
    """Return what each optimizer costs and how it was tuned."""
    aim = ["epochs*"] if comparison.plan.target is not None else []
    grid = _grid(heading(comparison), *aim, "µs/step", "state", "good lr", "runs", "lost")
    grid.add_column("tuned settings", overflow="fold")
    for row in table:
        epochs = [target_text(row, row.epochs)] if aim else []
        step = "" if row.step_microseconds is None else number(row.step_microseconds)
        state = "" if row.state_bytes is None else size(row.state_bytes)
        good = "–" if row.response is None else f"{row.response.good.decades:.1f}"
        tuned = ", ".join(f"{name} {setting(value)}" for name, value in row.settings.items())
        runs, lost = f"{row.tuning}+{row.finals}", str(row.diverged + row.failed)
        grid.add_row(*map(_text, (row.arm, *epochs, step, state, good, runs, lost, tuned)))
    grid.caption = _text(
        "good lr: decades within 10 % of the best (– when hardly tuned); "
        "runs: tuning + fresh seeds; lost: diverged or failed"
    )
    return grid


def is_share(metric: str, table: list[Row]) -> bool:
    """Return whether the metric is an accuracy from 0 to 1, which reads best in per cent; an error is not."""
    means = [row.metric.mean for row in table if row.metric is not None]
    return "accuracy" in metric.lower() and bool(means) and all(0 <= mean <= 1 for mean in means)


def standing_text(row: Row) -> str:
    """Return how a row stands against the best in a word or two."""
    if row.standing in ("best", "tie"):
        return row.standing
    if row.standing in ("unsteady", "none"):
        return "diverged" if row.standing == "unsteady" else "no result"
    more = "" if row.ratio is None else ratio_text(row.ratio)
    return f"open {more}".rstrip() if row.standing == "open" else more or "beaten"


def places_text(row: Row) -> str:
    """Return the places that an arm may have: '1', '2–5'."""
    if row.places is None:
        return ""
    best, worst = row.places.best, row.places.worst
    return f"{best}" if best == worst else f"{best}–{worst}"


def ratio_text(ratio: float) -> str:
    """Return a ratio of losses briefly: '+12 %', '×3.2'."""
    return f"×{number(ratio)}" if ratio >= 2 else f"+{ratio - 1:.0%}".replace("%", " %")


def _standing(row: Row) -> "Text":
    return _text(standing_text(row), _STYLES.get(row.standing, ""))


def target_text(row: Row, median: MedianTime | None) -> str:
    """Return a median time to the target, or how many of the runs reached it when most did not."""
    if median is None:
        return ""
    return f"{row.reached} of {row.finals}" if median.time == inf else time_text(median.time)


def time_text(time: float) -> str:
    """Return a number of steps or epochs briefly."""
    return "∞" if time == inf else f"{time:.0f}" if time >= 100 else f"{time:.3g}"


def _interval(interval: Interval | None, share: bool = False) -> list[str]:
    if interval is None:
        return ["", ""]
    return [
        percentage(interval.mean) if share else number(interval.mean),
        "" if interval.ends is None else span(*interval.ends, share),
    ]


def span(low: float, high: float, share: bool = False, to: str = "–") -> str:
    """Return an interval: '0.0912–0.0931', with ``share`` in per cent; negative numbers have 'to' between."""
    both = (percentage(low), percentage(high)) if share else ends(low, high)
    return (" to " if low < 0 else to).join(both)


def percentage(x: float) -> str:
    """Return a share in per cent, without the sign."""
    return f"{100 * x:.1f}"


def _grid(*names: str) -> "Table":
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 0), collapse_padding=True, caption_justify="left")
    for name in names:
        grid.add_column(name, justify="left" if name in ("optimizer", "arm") else "right", overflow="fold")
    return grid


def _text(text: str, style: str = "") -> "Text":
    from rich.text import Text

    return Text(text, style)


def _warning(text: str) -> "Text":
    return _text("Warning: ", "bold yellow").append(text, "not bold default")


def _answer(verdict: Verdict) -> "Text":
    chosen = verdict.recommendation
    advice = (
        [_text(chosen.reason, "bold"), *([_text(f"    {chosen.code}", "green")] if chosen.code else [])]
        if chosen
        else []
    )
    return _text("\n").join(
        [_text(verdict.headline, "bold"), *map(_text, verdict.sentences), *advice, _text("")]
    )


def _doubts(verdict: Verdict) -> "Text":
    notes = [_text(f"Note: {caveat}", "dim") for caveat in verdict.caveats]
    warnings = [_warning(caution.text) for caution in verdict.cautions]
    return _text("\n").join([_text(""), *notes, *warnings, _text("")])
