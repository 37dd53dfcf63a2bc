"""The report as one HTML file that needs no network: style, script and Plotly are all inside it."""

import json
from html import escape
from importlib.resources import files

from fallline.compare.judgement.verdict import Verdict, judge
from fallline.compare.records import Comparison
from fallline.report import figures
from fallline.report.sections import errors, need_for_tuning, protocol, results, section, verdict_section
from fallline.report.sensitivity import bowls
from fallline.report.summary import Row, rows
from fallline.report.target import arrivals, to_target

#: Forbids every request, so that a report stays private and works the same anywhere.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def page(comparison: Comparison) -> str:
    """Return what ``comparison`` found, complete or not, as a whole page of HTML.

    Example:
        >>> Path("report.html").write_text(page(comparison), encoding="utf-8")
    """
    verdict = judge(comparison)
    table = rows(comparison, verdict)
    return document(f"Optimizers on {comparison.plan.task}", "\n".join(_body(comparison, table, verdict)))


def document(title: str, body: str) -> str:
    """Return a whole page of HTML around ``body``, with style, script and Plotly inside."""
    from plotly.offline import get_plotlyjs

    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{get_plotlyjs()}</script>\n<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return files("fallline.report").joinpath("page", name).read_text(encoding="utf-8")


def _body(comparison: Comparison, table: list[Row], verdict: Verdict) -> list[str]:
    finals = any(row.loss is not None for row in table)
    return [
        verdict_section(comparison, verdict),
        *(_final_figures(comparison, table, verdict) if finals else []),
        results(table, comparison) if comparison.trials else "",
        _tuning(comparison, table, verdict),
        errors(comparison, table),
        protocol(comparison, verdict),
    ]


def _final_figures(comparison: Comparison, table: list[Row], verdict: Verdict) -> list[str]:
    judged_by = comparison.plan.judged_by
    of_studies = " in the colour of its study" if comparison.plan.studies > 1 else ""
    ranking = section(
        "Ranking",
        f"The {judged_by} of each tuned optimizer on fresh seeds: mean with 95 % interval, and every seed "
        f"as a thin bar{of_studies}. Blue may be the best; grey is beaten or cannot be ranked.",
        _figure("ranking", figures.ranking(comparison, table, verdict), f"Ranking by {judged_by}"),
    )
    curves = section(
        "Learning curves",
        "Validation loss: the median over seeds, with the range from the lowest to the highest for the first "
        "six. Click a name to hide it, double-click to see it alone.",
        _toggle("curves") + _figure("curves", figures.curves(comparison, table, verdict), "Learning curves"),
    )
    return [ranking, curves, _target_section(comparison, table) if comparison.plan.target is not None else ""]


def _target_section(comparison: Comparison, table: list[Row]) -> str:
    return section(
        "Time to target",
        f"When each run first reached {comparison.plan.target_name}: a dot for each seed, a bar at the "
        "median. A run that never got there counts as taking forever. Below, the share of runs that have "
        "reached the target by then (Kaplan-Meier).",
        _toggle("target")
        + _figure("target", to_target(comparison, table), "Time to target")
        + _toggle("arrivals")
        + _figure("arrivals", arrivals(comparison, table), "Share of runs that have reached the target"),
    )


def _tuning(comparison: Comparison, table: list[Row], verdict: Verdict) -> str:
    small = bowls(comparison, table, verdict)
    if not small:
        return ""
    panels = [_panel(f"bowl{i}", name, figure, table) for i, (name, figure) in enumerate(small.items())]
    return section(
        "Learning-rate sensitivity",
        "Every tuning trial, of all studies: validation loss over learning rate, all on the same axes. The "
        "line is the loss to expect, shaded where it is within 10 % of its lowest. Large dot: the best. "
        "Red cross: diverged.",
        f'<div class="bowls">{"".join(panels)}</div>{need_for_tuning(comparison, table, verdict)}',
    )


def _panel(key: str, name: str, figure: figures.Drawing, table: list[Row]) -> str:
    found = next(row.response for row in table if row.arm == name)
    width = "" if found is None else f"<small>good over {found.good.decades:.1f} decades</small>"
    chart = _figure(key, figure, f"Loss over learning rate of {name}")
    return f"<figure><figcaption>{escape(name)}{width}</figcaption>{chart}</figure>"


def _toggle(figure: str) -> str:
    return (
        f'<div class="toggle" role="group" aria-label="Horizontal axis" data-figure="{figure}">'
        '<button type="button" data-unit="epochs" aria-pressed="true">epochs</button>'
        '<button type="button" data-unit="steps" aria-pressed="false">steps</button></div>'
    )


def _figure(key: str, figure: figures.Drawing, label: str) -> str:
    return drawn(key, json.dumps(figure, separators=(",", ":")), label)


def drawn(key: str, plot: str, label: str) -> str:
    """Return a place for the figure and its data, JSON, in which no text can end the script element."""
    data = plot.replace("<", "\\u003c")
    place = f'id="{key}" data-source="{key}-data" role="img" aria-label="{escape(label)}"'
    source = f'<script type="application/json" id="{key}-data">{data}</script>'
    return f'<div class="figure" {place}></div>{source}'
