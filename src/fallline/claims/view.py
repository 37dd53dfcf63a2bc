"""Judged claims as JSON, as lines of a terminal, and as a page with a figure of all effects."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from math import asinh
from typing import TYPE_CHECKING, Any

from fallline.claims.outcome import Evidence, Judgement
from fallline.compare.judgement.wording import number, plural
from fallline.report.figures import GREY, INK, PALETTE, RED, ROW_HEIGHT, figure_of
from fallline.report.finding import Figure, Finding, Table
from fallline.report.findings import page as findings_page
from fallline.report.terminal import WIDTH
from fallline.studies.measuring.timing import stamp

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

COLOURS = {"for": PALETTE[2], "against": RED, "open": GREY}
#: What stands before a contrast that says so of its claim.
SIGNS = {"for": "✓", "against": "✗", "open": "?"}
SIGNS_SAY = "✓ speaks for the claim, ✗ against it, ? is open."
STYLES = {"supported": "green", "refuted": "red", "depends": "yellow", "not settled": "dim"}
#: Numbers on the axis of effects, in units of the smallest difference that matters.
TICKS = (-1000, -100, -10, -3, -1, 0, 1, 3, 10, 100, 1000)
#: Effects beyond these many units are drawn at the end.
FARTHEST = 3000.0
CHANCE = (
    "Each claim is judged by itself at 2.5 % on either side: of fifty, one may well be judged wrongly. "
    "All runs have the same data, so nothing is said of others."
)
TITLE = "What tutorials say of optimizers, measured"
LEGEND = (
    "× is how many times as much the arm has of which a claim expects more, + by how much more it has, each "
    "with its 95 % interval, from independent tunings where anything is tuned."
)
ABOUT = (
    "Each line is a difference with its 95 % interval, in units of the smallest difference that matters. "
    "Right of 0 it is as claimed; right of 1 it also matters. Green speaks for the claim, red against it, "
    "grey is open, after Holm's correction over the lines of a claim."
)


def document(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement as a JSON object."""
    claim = judgement.claim
    return {
        "name": claim.name,
        "statement": claim.statement,
        "origin": {"title": claim.origin.title, "site": claim.origin.site, "address": claim.origin.address},
        "outcome": judgement.outcome,
        "reason": judgement.reason,
        "note": claim.note,
        "contrasts": [_contrast(each) for each in judgement.evidence],
    }


def _contrast(evidence: Evidence) -> dict[str, Any]:
    effect, contrast = evidence.effect, evidence.effect.contrast
    interval = effect.interval()
    return {
        "experiment": contrast.experiment,
        "task": effect.task,
        "scale": effect.scale,
        "measure": contrast.measure,
        "less": contrast.less,
        "more": contrast.more,
        "denied": contrast.denied,
        "label": contrast.label,
        "values": list(effect.values),
        "kind": effect.measure.kind,
        "difference": effect.difference,
        "low": interval.low,
        "high": interval.high,
        "matters": contrast.threshold,
        "n": effect.n,
        "says": evidence.says,
        "why": evidence.why,
    }


def answer(judgement: Judgement) -> str:
    """Return the outcome with its numbers, in one sentence."""
    shown = judgement.reason or "; ".join(map(_measured, judgement.evidence))
    return f"{judgement.outcome[0].upper()}{judgement.outcome[1:]}: {shown}."


def _measured(evidence: Evidence) -> str:
    return f"{evidence.effect.contrast.measure} {evidence.effect.text} on {evidence.effect.where}"


def finding(judgement: Judgement) -> Finding:
    """Return a judgement as a finding: its statement in place of the question."""
    claim = judgement.claim
    scales = dict.fromkeys(f"{each.effect.task}: {each.effect.scale}" for each in judgement.evidence)
    figures = [Figure("Effects", ABOUT, forest([judgement]))] if judgement.evidence else []
    return Finding(
        claim.name,
        claim.statement,
        f"{claim.name}: {claim.origin.text}",
        answer(judgement),
        tables=[_table(judgement)] if judgement.evidence else [],
        figures=figures,
        caveats=[claim.note] if claim.note else [],
        facts={"Scale": "; ".join(scales)} if scales else {},
    )


def _table(judgement: Judgement) -> Table:
    rows = [
        [
            _label(each), number(each.effect.values[0]), number(each.effect.values[1]), each.effect.text,
            _margin(each), each.effect.n, f"{each.says}: {each.why}",
        ]
        for each in judgement.evidence
    ]  # fmt: skip
    return Table(["claimed", "less", "more", "ratio or difference, 95 %", "matters", "n", "says"], rows)


def _margin(evidence: Evidence) -> str:
    return evidence.effect.measure.text(evidence.effect.contrast.threshold)


def _label(evidence: Evidence) -> str:
    return f"{evidence.effect.contrast.text} ({evidence.effect.task})"


def page(judgements: Sequence[Judgement]) -> str:
    """Return all judgements as a page of HTML: a figure of all effects first."""
    return findings_page([overview(judgements), *map(finding, judgements)], TITLE)


def overview(judgements: Sequence[Judgement]) -> Finding:
    """Return how many claims have which outcome, and the figure of all effects."""
    counts = Counter(each.outcome.partition(" on ")[0] for each in judgements)
    said = ", ".join(f"{kind} {counts[kind]}" for kind in STYLES if counts[kind])
    figure = Figure("All effects", ABOUT, forest(judgements))
    return Finding(
        "overview",
        "How many hold?",
        plural(len(judgements), "claim"),
        f"{said[0].upper()}{said[1:]}." if said else "None is judged yet.",
        sentences=[LEGEND, CHANCE],
        figures=[figure],
        facts=stamp(),
    )


def forest(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Return the effects of all claims with their intervals, a line for each contrast."""
    evidence = [(judgement.claim.name, each) for judgement in judgements for each in judgement.evidence]
    names = _names(evidence)
    traces = [_trace(escape(name), each) for name, (_, each) in zip(names, evidence, strict=True)]
    ends = [end for trace in traces for end in trace["range"]]
    ticks = [tick for tick in TICKS if min(ends, default=-1) <= asinh(tick) <= max(ends, default=1)]
    across = {
        "title": {"text": "units of what matters"},
        "tickvals": list(map(asinh, ticks)),
        "zeroline": False,
    }
    lines = [_upright(0.0, "solid"), _upright(asinh(1.0), "dot")]
    return figure_of(
        [{key: value for key, value in trace.items() if key != "range"} for trace in traces],
        100 + ROW_HEIGHT * len(names),
        xaxis={**across, "ticktext": [f"{tick:g}" for tick in ticks]},
        yaxis={"type": "category", "range": [len(names) - 0.5, -0.5], "ticksuffix": "  ", "automargin": True},
        shapes=lines,
    )


def _names(evidence: Sequence[tuple[str, Evidence]]) -> list[str]:
    """Return a name for each line, the claim and where, with spaces behind until all are different."""
    names: list[str] = []
    for claim, each in evidence:
        name = f"{claim}: {each.effect.where}"
        while name in names:
            name += " "
        names.append(name)
    return names


def _upright(x: float, dash: str) -> dict[str, Any]:
    line = {"color": INK, "width": 1, "dash": dash}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _trace(name: str, evidence: Evidence) -> dict[str, Any]:
    low, middle, high = map(_drawn, _in_units(evidence))
    colour = COLOURS[evidence.says]
    bars = {"array": [high - middle], "arrayminus": [middle - low], "symmetric": False}
    return {
        "x": [middle],
        "y": [name],
        "mode": "markers",
        "marker": {"size": 9, "color": colour},
        "error_x": {"type": "data", "thickness": 2.2, "width": 0, "color": colour, **bars},
        "hovertemplate": f"{escape(_label(evidence))}: {escape(evidence.effect.text)}<extra></extra>",
        "range": (low, high),
    }


def _in_units(evidence: Evidence) -> tuple[float, float, float]:
    """Return low end, difference and high end, such that the claim says above 0 and what matters is 1.

    A denied difference d < m is drawn as 1 - d/m.
    """
    interval = evidence.effect.interval()
    matters = evidence.effect.contrast.threshold
    low, middle, high = (x / matters for x in (interval.low, interval.mean, interval.high) if x is not None)
    return (1 - high, 1 - middle, 1 - low) if evidence.effect.contrast.denied else (low, middle, high)


def _drawn(units: float) -> float:
    return asinh(min(max(units, -FARTHEST), FARTHEST))


def print_judgement(judgement: Judgement, console: "Console") -> None:
    """Print that a claim is judged, and how, in a line."""
    from rich.text import Text

    console.print(Text(f"{judgement.claim.statement} ") + _styled(judgement))


def print_table(judgements: Sequence[Judgement], console: "Console") -> None:
    """Print all claims with their outcomes and numbers, in the order of the report."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    for head, wide in (("claim", 25), ("outcome", 12), ("measured", 40)):
        grid.add_column(head, width=wide)
    for each in judgements:
        shown = [_brief(evidence) for evidence in each.evidence] or [each.reason]
        grid.add_row(Text(each.claim.statement), _styled(each), Text("\n".join(shown)), end_section=True)
    console.print(grid, width=min(WIDTH, console.width))
    for line in (f"{SIGNS_SAY} {LEGEND}", overview(judgements).answer):
        console.print(Text(line), width=min(WIDTH, console.width))


def _styled(judgement: Judgement) -> "Text":
    from rich.text import Text

    return Text(judgement.outcome, STYLES[judgement.outcome.partition(" on ")[0]])


def _brief(evidence: Evidence) -> str:
    effect = evidence.effect
    return f"{SIGNS[evidence.says]} {effect.where}: {effect.contrast.measure} {effect.text}"
