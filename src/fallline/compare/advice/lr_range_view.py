"""The learning-rate range test for a reader: a table and a plot of 80 columns, and a figure as HTML."""

from html import escape
from math import isfinite, log10
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from fallline.compare.advice.lr_range import LrRange, Spread
from fallline.compare.judgement.wording import number, plural
from fallline.compare.storage.files import write_whole
from fallline.report.figures import PALETTE, RED, axis, figure_of

#: Columns and rows of the plot, beside the numbers on its left.
COLUMNS, ROWS = 68, 12
WIDTH = 80


def text(found: LrRange) -> str:
    """Return the table, the plot and what follows from them, in lines of at most 80 characters."""
    parts = [_table(found), _plot(found), _conclusion(found)]
    return "\n\n".join("\n".join(lines) for lines in parts)


def _table(found: LrRange) -> list[str]:
    rows = [("", "median", "quartiles", "seeds")]
    rows += [_row("loss falls fastest at", found.steepest), _row("diverges at", found.diverged)]
    if found.tuned is not None:
        good = found.tuned.good
        between = "" if good is None else f"{number(good.low)} to {number(good.high)} good"
        rows.append(("best of the sweep", number(found.tuned.rate), between, f"{found.tuned.trials} trials"))
    tests = f"{plural(len(found.probes), 'seed')}, {len(found.rates)} steps each"
    lines = [
        f"  {what:<22}{middle:>10}  {ends:<24}{count:>10}".rstrip() for what, middle, ends, count in rows
    ]
    return [f"{found.optimizer} on {found.task}: {tests}", *lines]


def _row(what: str, spread: Spread | None) -> tuple[str, str, str, str]:
    if spread is None:
        return what, "never", "", ""
    return what, number(spread.median), f"{number(spread.low)} to {number(spread.high)}", str(spread.seeds)


def quartiles(found: LrRange) -> np.ndarray:
    """Return the quartiles over seeds of the smoothed loss at each rate, infinite once diverged."""
    losses = np.full((len(found.probes), len(found.rates)), np.inf)
    for line, probe in zip(losses, found.probes, strict=True):
        line[: len(probe.losses)] = probe.losses
    return np.quantile(losses, [0.25, 0.5, 0.75], axis=0, method="inverted_cdf")


def _plot(found: LrRange) -> list[str]:
    """Draw the median loss (o) between its quartiles (:), and mark the rates of the table below."""
    low, middle, high = quartiles(found)
    top, bottom = _ends(middle)
    rows = [[" "] * COLUMNS for _ in range(ROWS)]
    for i, column in enumerate(np.linspace(0, COLUMNS - 1, len(found.rates)).round().astype(int)):
        if isfinite(middle[i]):
            first, at, last = (_place(loss, top, bottom) for loss in (high[i], middle[i], low[i]))
            for row in range(first, last + 1):
                rows[row][column] = "o" if row == at or rows[row][column] == "o" else ":"
    labels = {0: number(top), ROWS - 1: number(bottom)}
    drawn = [f"{labels.get(i, ''):>9} |{''.join(row)}".rstrip() for i, row in enumerate(rows)]
    ends = f"{number(found.rates[0])}", f"{number(found.rates[-1])}"
    scale = f"{ends[0]}{'learning rate':^{COLUMNS - len(ends[0]) - len(ends[1])}}{ends[1]}"
    return [*drawn, " " * 10 + "+" + "-" * COLUMNS, *_marks(found), " " * 11 + scale]


def _ends(losses: np.ndarray) -> tuple[float, float]:
    finite = losses[np.isfinite(losses)]
    return (float(finite.max()), float(finite.min())) if len(finite) else (1.0, 0.0)


def _place(loss: float, top: float, bottom: float) -> int:
    """Return the row of a loss, counted from the top; what lies outside is drawn at the edge."""
    share = (top - min(max(loss, bottom), top)) / ((top - bottom) or 1.0)
    return round(share * (ROWS - 1))


def _marks(found: LrRange) -> list[str]:
    """Return a line for the test's rates and one for the sweep's: a letter at each, dashes for its spread."""
    lines = [_line(found, [("F", found.steepest), ("D", found.diverged)], "range test")]
    if found.tuned is not None:
        good = found.tuned.good
        ends = (good.low, good.high) if good else (found.tuned.rate, found.tuned.rate)
        lines.append(_line(found, [("B", Spread(ends[0], found.tuned.rate, ends[1], 0))], "sweep"))
    return lines


def _line(found: LrRange, marks: list[tuple[str, Spread | None]], name: str) -> str:
    cells = [" "] * COLUMNS
    for letter, spread in marks:
        if spread is not None:
            first, at, last = (_column(found, rate) for rate in (spread.low, spread.median, spread.high))
            cells[first : last + 1] = "-" * (last + 1 - first)
            cells[at] = letter
    return f"{name:>10} {''.join(cells)}".rstrip()


def _column(found: LrRange, rate: float) -> int:
    low, high = log10(found.rates[0]), log10(found.rates[-1])
    return min(max(round((log10(rate) - low) / (high - low) * (COLUMNS - 1)), 0), COLUMNS - 1)


def _conclusion(found: LrRange) -> list[str]:
    """Say what the test suggests, and whether whole trainings agree."""
    if found.suggestion is None:
        return ["The range test suggests nothing: the loss never fell."]
    told = f"The range test suggests {number(found.suggestion)}, where the loss fell fastest"
    return wrap(f"{told}{_agreement(found, found.suggestion)}", WIDTH)


def _agreement(found: LrRange, suggestion: float) -> str:
    if found.tuned is None:
        return "."
    if found.tuned.good is None:
        return "; the sweep has too few trials to say how good that is."
    good = found.tuned.good
    if found.agrees:
        return "; whole trainings agree: it is among their good rates."
    side, ratio = "below", good.low / suggestion
    if suggestion > good.high:
        side, ratio = "above", suggestion / good.high
    return (
        f"; whole trainings disagree: it lies {number(ratio)} times {side} their good rates. Trust those: "
        f"a range test sees {len(found.rates)} steps of a growing rate, not a training at one."
    )


def write_figure(found: LrRange, out: Path) -> None:
    """Write the plot as one HTML file that needs no network."""
    layout = {
        "template": "none",
        "xaxis": axis(found.rates, "log", "learning rate"),
        "yaxis": {"title": {"text": "training loss, smoothed"}},
        "title": {"text": escape(f"{found.optimizer} on {found.task}")},
        "margin": {"l": 70, "r": 20, "t": 70, "b": 60},
        "showlegend": True,
    }
    from plotly.io import to_html

    figure = figure_of(_traces(found), 520, shapes=_shapes(found), **layout)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, to_html(figure, include_plotlyjs=True))


def _traces(found: LrRange) -> list[dict[str, Any]]:
    losses = quartiles(found)
    rates, (low, middle, high) = found.rates, losses[:, np.isfinite(losses).all(axis=0)].tolist()
    rates = rates[: len(middle)]
    band = {
        "x": [*rates, *reversed(rates)],
        "y": [*high, *reversed(low)],
        "name": "quartiles over seeds",
        "mode": "lines",
        "fill": "toself",
        "fillcolor": PALETTE[0],
        "opacity": 0.2,
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    line = {"color": PALETTE[0], "width": 2.4}
    return [band, {"x": rates, "y": middle, "name": "median", "mode": "lines", "line": line}]


def _shapes(found: LrRange) -> list[dict[str, Any]]:
    """Return a band from quartile to quartile with its name, for each rate that is known."""
    known = [("fastest", found.steepest, PALETTE[2]), ("diverges", found.diverged, RED)]
    if found.tuned is not None and found.tuned.good is not None:
        good = found.tuned.good
        known.append(("good in the sweep", Spread(good.low, found.tuned.rate, good.high, 0), PALETTE[1]))
    return [
        {
            "type": "rect",
            "x0": spread.low,
            "x1": spread.high,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "fillcolor": colour,
            "opacity": 0.25,
            "line": {"color": colour},
            "label": {"text": name, "textposition": "top center"},
        }
        for name, spread, colour in known
        if spread is not None
    ]
