"""The large figures of a report, drawn with Plotly; the page itself gives text and grid their colours."""

from html import escape
from math import ceil, floor, isfinite, log10
from typing import Any, TypeAlias

import numpy as np

from fallline.compare.judgement.verdict import Verdict
from fallline.compare.judgement.wording import number
from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.pairs import Scale
from fallline.report.summary import Row

#: A figure as Plotly's script reads it: its objects in Python took most of the time of a report.
Drawing: TypeAlias = dict[str, Any]

#: Distinguishable by colour-blind readers, and on a white as well as on a dark page.
PALETTE = ("#3b82c4", "#d9730d", "#1e9e74", "#c9559b", "#8a6fd1", "#9a7d2e")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
GREY = "#8b919c"
INK = "#5b6270"
RED = "#d0492f"
ROW_HEIGHT = 27
LEGEND = {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0, "traceorder": "reversed"}


def figure_of(traces: list[dict[str, Any]], height: int, **layout: Any) -> Drawing:
    """Return a figure of ``traces`` without Plotly's own colours and margins."""
    base = {"margin": {"l": 8, "r": 16, "t": 12, "b": 8}, "showlegend": False, "height": height}
    return _plain({"data": [{"type": "scatter", **t} for t in traces], "layout": {**base, **layout}})


def _plain(value: Any) -> Any:
    """Return a figure, or a part of one, of what JSON has; numbers that are not finite are None."""
    match value:
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case np.ndarray() | np.generic():
            return _plain(value.tolist())
        case float() if not isfinite(value):
            return None
    return value


def ranking(comparison: Comparison, table: list[Row], verdict: Verdict) -> Drawing:
    """Return each arm's mean loss with its interval, and its final runs as thin bars."""
    shown = [row for row in table if row.loss is not None]
    traces = [_mean(row, PALETTE[0] if row.arm in verdict.best_set else GREY) for row in shown]
    traces += _seeds(comparison, shown)
    ends = [end for row in shown if row.loss for end in (row.loss.mean, *(row.loss.ends or ()))]
    return figure_of(
        traces,
        90 + ROW_HEIGHT * len(shown),
        xaxis=axis(ends, verdict.scale, comparison.plan.judged_by),
        yaxis=names_axis(shown),
    )


def names_axis(table: list[Row]) -> dict[str, Any]:
    """Return an axis with a line for each arm, the first on top."""
    order = [escape(row.arm) for row in table]
    given = {"categoryorder": "array", "categoryarray": order}
    return {"type": "category", "autorange": "reversed", "ticksuffix": "  ", **given}


def _seeds(comparison: Comparison, table: list[Row]) -> list[dict[str, Any]]:
    """Return a trace of thin bars for each study, each in its own colour if there are several."""
    runs = [(row.arm, t) for row in table for t in comparison.finals(row.arm) if t.loss is not None]
    studies = sorted({t.spec.study for _, t in runs})
    colours = [INK] if len(studies) == 1 else PALETTE
    return [
        {
            "x": [t.loss for _, t in runs if t.spec.study == study],
            "y": [escape(name) for name, t in runs if t.spec.study == study],
            "mode": "markers",
            "marker": {
                "size": 7,
                "symbol": "line-ns",
                "line": {"width": 1.2, "color": colours[place % len(colours)]},
            },
            "hovertemplate": f"%{{y}}, one seed of study {study + 1}: %{{x:.4g}}<extra></extra>",
        }
        for place, study in enumerate(studies)
    ]


def _mean(row: Row, colour: str) -> dict[str, Any]:
    assert row.loss is not None
    mean = row.loss.mean
    low, high = row.loss.ends or (mean, mean)
    words = f"{number(mean)}<br>95 % {number(low)} to {number(high)}" if row.loss.ends else number(mean)
    bars = {"array": [high - mean], "arrayminus": [mean - low], "symmetric": False}
    return {
        "x": [mean],
        "y": [escape(row.arm)],
        "mode": "markers",
        "marker": {"size": 10, "color": colour},
        "error_x": {"type": "data", "thickness": 2.5, "width": 0, "color": colour, **bars},
        "hovertemplate": f"%{{y}}: {words}<extra></extra>",
    }


def curves(comparison: Comparison, table: list[Row], verdict: Verdict) -> Drawing:
    """Return the validation loss along the final runs: the median over seeds, bands for the best ones."""
    lines = [line for i, row in enumerate(table) if (line := _line(comparison, row, i))]
    traces = [trace for line in reversed(lines) for trace in line]
    losses = axis(readable([y for t in traces for y in t["y"]]), verdict.scale, "validation loss")
    steps = axis([x for t in traces for x in t["customdata"]], "log", "steps")
    epochs = {"type": "linear", "rangemode": "tozero", "autorange": True, "title": {"text": "epochs"}}
    return figure_of(
        traces,
        520,
        xaxis={**epochs, "tickvals": None},
        yaxis=losses,
        meta={"epochs": {**epochs, "tickvals": None}, "steps": {**steps, "autorange": False}},
        annotations=_labels([line[-1] for line in lines if len(line) > 1], losses["range"], verdict.scale),
        margin={"l": 8, "r": _room([line[-1]["name"] for line in lines]), "t": 12, "b": 8},
        showlegend=True,
        legend=LEGEND,
    )


def axis(
    values: list[float], scale: Scale, title: str, room: float = 0.0, coarse: bool = False
) -> dict[str, Any]:
    """Return an axis around ``values``, with ``room`` beyond them as a fraction of its length.

    ``coarse`` numbers whole powers of ten only, for small figures.
    """
    low, high = _range(values, scale)
    span = [low, high + room * (high - low)]
    ticks = _log_ticks(*span, most=4 if coarse else 9) if scale == "log" else []
    at, text = (ticks, [f"{x:g}" for x in ticks]) if len(ticks) > 1 else (None, None)
    return {"type": scale, "range": span, "title": {"text": title}, "tickvals": at, "ticktext": text}


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers whose log10 lies between the ends: fewer of each decade the more decades."""
    decades = high - low
    digits = next((d for d in ((1, 2, 3, 4, 5, 7), (1, 2, 5)) if len(d) * decades <= most), (1,))
    every = ceil(decades / most)
    powers = range(floor(low), ceil(high) + 1)
    ticks = [float(f"{digit}e{power}") for power in powers if power % every == 0 for digit in digits]
    return [tick for tick in ticks if low <= log10(tick) <= high]


def _range(values: list[float], scale: Scale) -> list[float]:
    low, high = (min(values), max(values)) if values else (0.1, 1.0)
    if scale == "log":
        low, high = log10(low), log10(high)
    pad = 0.06 * (high - low) + 0.02
    return [low - pad, high + pad]


def readable(losses: list[float]) -> list[float]:
    """Return ``losses`` without those a thousand times the lowest, which would flatten all others."""
    lowest = min(losses, default=0.0)
    return [x for x in losses if x <= 1000 * lowest] if lowest > 0 else losses


def _line(comparison: Comparison, row: Row, place: int) -> list[dict[str, Any]]:
    finals = [t for t in comparison.finals(row.arm) if t.curve.valid_loss]
    if not finals:
        return []
    longest = max(finals, key=lambda t: len(t.curve.step)).curve
    losses = _matrix(finals, len(longest.step))
    top = is_shown(row, place)
    middle = {
        "x": longest.epoch,
        "customdata": longest.step,
        "y": np.nanmedian(losses, axis=0).tolist(),
        **line_style(row, place),
        "hovertemplate": f"{escape(row.arm)}: %{{y:.4g}} after %{{x:.4g}}<extra></extra>",
    }
    return [_band(middle, losses), middle] if top else [middle]


def is_shown(row: Row, place: int) -> bool:
    """Whether an arm is one of the first few, which have a colour of their own."""
    return place < len(PALETTE) and row.rank is not None


def line_style(row: Row, place: int) -> dict[str, Any]:
    """Return name, colour and width of the line of the arm in this place: the same in every figure."""
    top, name = is_shown(row, place), escape(row.arm)
    return {
        "name": name,
        "legendgroup": name,
        "mode": "lines",
        "opacity": 1 if top else 0.55,
        "line": {
            "color": PALETTE[place] if top else GREY,
            "width": 2.4 if top else 1.2,
            "dash": DASHES[place] if top else "solid",
        },
    }


def _matrix(finals: list[Trial], length: int) -> np.ndarray:
    losses = np.full((len(finals), length), np.nan)
    for line, trial in zip(losses, finals, strict=True):
        line[: len(trial.curve.valid_loss)] = trial.curve.valid_loss
    return losses


def _band(middle: dict[str, Any], losses: np.ndarray) -> dict[str, Any]:
    low, high = np.nanmin(losses, axis=0).tolist(), np.nanmax(losses, axis=0).tolist()
    return {
        "x": [*middle["x"], *reversed(middle["x"])],
        "customdata": [*middle["customdata"], *reversed(middle["customdata"])],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": middle["line"]["color"],
        "opacity": 0.18,
        "line": {"width": 0},
        "mode": "lines",
        "legendgroup": middle["legendgroup"],
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _labels(lines: list[dict[str, Any]], span: list[float], scale: Scale) -> list[dict[str, Any]]:
    """Return the names at the right ends of the lines, moved apart where they would overlap."""
    lines = sorted(lines, key=lambda line: line["y"][-1])
    heights = _apart([log10(y) if scale == "log" else y for y in (line["y"][-1] for line in lines)], span)
    place = {"x": 1, "xref": "paper", "xanchor": "left", "xshift": 6, "yanchor": "middle", "showarrow": False}
    return [
        {**place, "y": y, "text": line["name"], "font": {"color": line["line"]["color"], "size": 13}}
        for line, y in zip(lines, heights, strict=True)
    ]


def _room(names: list[str]) -> int:
    """Return the pixels for ``names`` beside a figure, 13 pixels high, up to what leaves it readable."""
    return min(320, 24 + 8 * max(map(len, names), default=0))


def _apart(heights: list[float], span: list[float]) -> list[float]:
    """Return sorted ``heights`` with a line of text between any two, on average where they were."""
    gap, moved = 0.048 * (span[1] - span[0]), []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    shift = float(np.mean(np.subtract(moved, heights))) if heights else 0.0
    shift = min(shift, moved[0] - span[0]) if moved else 0.0
    return [height - shift for height in moved]
