"""The figures of the way to the target: when each run arrived, and the share of runs that had."""

from collections.abc import Iterable
from html import escape
from math import inf
from typing import Any

from fallline.compare.records import Comparison
from fallline.report.figures import (
    GREY,
    LEGEND,
    PALETTE,
    RED,
    ROW_HEIGHT,
    Drawing,
    axis,
    figure_of,
    line_style,
    names_axis,
)
from fallline.report.summary import Row


def to_target(comparison: Comparison, table: list[Row]) -> Drawing:
    """Return when each final run reached the target, with the median, and how many missed it."""
    shown = [row for row in table if row.finals]
    runs = [(row.arm, t) for row in shown for t in comparison.finals(row.arm)]
    hits = [(name, t.epochs_to_target, t.steps_to_target) for name, t in runs]
    hits = [(name, epochs, steps) for name, epochs, steps in hits if epochs is not None]
    medians = [(r.arm, r.epochs.time, r.steps.time) for r in shown if r.epochs and r.steps]
    medians = [median for median in medians if median[1] < inf]
    epochs = axis([epochs for _, epochs, _ in hits], "log", "epochs", room=0.2)
    steps = axis([steps for _, _, steps in hits if steps], "log", "steps", room=0.2)
    bar = {"size": 17, "symbol": "line-ns", "line": {"width": 3, "color": PALETTE[0]}}
    return figure_of(
        [
            _times(hits, "one seed", {"size": 6, "color": GREY}),
            _times(medians, "median", bar),
            _missed(shown),
        ],
        90 + ROW_HEIGHT * len(shown),
        xaxis=epochs,
        meta={"epochs": epochs, "steps": steps},
        xaxis2={"overlaying": "x", "range": [0, 1], "visible": False, "fixedrange": True},
        yaxis=names_axis(shown),
        margin={"l": 8, "r": 24, "t": 12, "b": 8},
    )


def _times(times: list[tuple[str, float, Any]], what: str, marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "x": [epochs for _, epochs, _ in times],
        "customdata": [steps for _, _, steps in times],
        "y": [escape(name) for name, _, _ in times],
        "mode": "markers",
        "marker": marker,
        "hovertemplate": f"%{{y}}, {what}: %{{x:.4g}}<extra></extra>",
    }


def _missed(table: list[Row]) -> dict[str, Any]:
    missed = [row for row in table if row.reached < row.finals]
    return {
        "x": [1.0] * len(missed),
        "y": [escape(row.arm) for row in missed],
        "xaxis": "x2",
        "mode": "text",
        "text": [f"{row.finals - row.reached} of {row.finals} missed" for row in missed],
        "textposition": "middle left",
        "textfont": {"size": 12, "color": RED},
        "hoverinfo": "skip",
    }


def arrivals(comparison: Comparison, table: list[Row]) -> Drawing:
    """Return the share of final runs that have reached the target, over the time they had (Kaplan-Meier).

    Every run has the whole of its time, so the estimate is the share of all runs, those that diverged too.
    """
    lines = [line for place, row in enumerate(table) if (line := _arrivals(comparison, row, place))]
    axes = {
        unit: {"type": "linear", "rangemode": "tozero", "autorange": True, "title": {"text": unit}}
        for unit in ("epochs", "steps")
    }
    share = {"type": "linear", "range": [-0.02, 1.04], "tickformat": ".0%", "title": {"text": "runs there"}}
    return figure_of(
        list(reversed(lines)),
        380,
        xaxis=axes["epochs"],
        yaxis=share,
        meta=axes,
        showlegend=True,
        legend={**LEGEND, "y": -0.28},
    )


def _arrivals(comparison: Comparison, row: Row, place: int) -> dict[str, Any]:
    runs = [t for t in comparison.finals(row.arm) if t.status != "failed"]
    curves = [t.curve for t in runs if t.curve.step]
    epochs, steps = _sorted(t.epochs_to_target for t in runs), _sorted(t.steps_to_target for t in runs)
    if not epochs or not steps or not curves:
        return {}
    shares = [i / len(runs) for i in range(len(epochs) + 1)]
    name = escape(row.arm)
    return {
        "x": [0.0, *epochs, max(c.epoch[-1] for c in curves)],
        "customdata": [0, *steps, max(c.step[-1] for c in curves)],
        "y": [*shares, shares[-1]],
        **line_style(row, place),
        "line": {**line_style(row, place)["line"], "shape": "hv"},
        "hovertemplate": f"{name}: %{{y:.0%}} after %{{x:.4g}}<extra></extra>",
    }


def _sorted(times: Iterable[float | None]) -> list[float]:
    return sorted(t for t in times if t is not None)
