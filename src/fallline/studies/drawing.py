"""Figures for findings: lines with intervals, bars and heat maps, in the colours of every report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from fallline.report.figures import DASHES, GREY, LEGEND, PALETTE, axis, figure_of


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its title with the unit, and whether it is logarithmic."""

    title: str
    log: bool = False

    def around(self, values: Sequence[float]) -> dict[str, Any]:
        """Return Plotly's axis around ``values``."""
        return axis(list(values), "log" if self.log else "linear", self.title)


@dataclass(frozen=True)
class Line:
    """Points of one line, with the ends of their intervals if they have any."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def lines(
    named: Mapping[str, Line], x: Axis, y: Axis, *, markers: bool = True, height: int = 420
) -> dict[str, Any]:
    """Return a figure of several lines, each with whiskers where it has intervals.

    Example:
        >>> figure = lines({"adam": Line([1, 10], [0.5, 0.1])}, Axis("steps", log=True), Axis("loss"))
        >>> figure["data"][0]["y"]
        [0.5, 0.1]
    """
    traces = [_line(name, line, place, markers) for place, (name, line) in enumerate(named.items())]
    ends = [
        value for line in named.values() for side in (line.y, line.low, line.high) for value in side or ()
    ]
    return figure_of(
        traces,
        height,
        xaxis=x.around([value for line in named.values() for value in line.x]),
        yaxis=y.around(ends),
        showlegend=len(named) > 1,
        legend={**LEGEND, "traceorder": "normal"},
    )


def _line(name: str, line: Line, place: int, markers: bool) -> dict[str, Any]:
    colour = PALETTE[place % len(PALETTE)]
    trace: dict[str, Any] = {
        "x": list(line.x),
        "y": list(line.y),
        "name": escape(name),
        "mode": "lines+markers" if markers else "lines",
        "line": {"color": colour, "width": 2.2, "dash": DASHES[place // len(PALETTE) % len(DASHES)]},
        "hovertemplate": f"{escape(name)}: %{{y:.4g}} at %{{x:.4g}}<extra></extra>",
    }
    if line.low is not None and line.high is not None:
        up = [high - y for high, y in zip(line.high, line.y, strict=True)]
        down = [y - low for low, y in zip(line.low, line.y, strict=True)]
        trace["error_y"] = {
            "type": "data",
            "array": up,
            "arrayminus": down,
            "symmetric": False,
            "thickness": 1.4,
        }
    return trace


def bars(
    values: Mapping[str, float], title: str, intervals: Mapping[str, tuple[float, float]] | None = None
) -> dict[str, Any]:
    """Return a figure of horizontal bars from 0, each with its interval if it has one; the first on top."""
    names, found = [escape(name) for name in values], intervals or {}
    up = [found[name][1] - value if name in found else 0.0 for name, value in values.items()]
    down = [value - found[name][0] if name in found else 0.0 for name, value in values.items()]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": list(values.values()),
        "y": names,
        "marker": {"color": PALETTE[0]},
        "error_x": {"type": "data", "array": up, "arrayminus": down, "symmetric": False, "color": GREY},
        "hovertemplate": "%{y}: %{x:.4g}<extra></extra>",
    }
    across = {"type": "category", "autorange": "reversed", "ticksuffix": "  "}
    return figure_of([trace], 90 + 27 * len(names), xaxis={"title": {"text": title}}, yaxis=across)


def heat(
    grid: Sequence[Sequence[float | None]], x: Sequence[str], y: Sequence[str], titles: tuple[str, str, str]
) -> dict[str, Any]:
    """Return a heat map of ``grid``, a row for each of ``y``, the first on top, as in a table.

    ``titles`` are of x, y and the colours.
    """
    trace = {
        "type": "heatmap",
        "z": [list(row) for row in grid],
        "x": list(x),
        "y": list(y),
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": titles[2]}},
        "hovertemplate": "%{x}, %{y}: %{z:.4g}<extra></extra>",
    }
    axes = {
        "xaxis": {"type": "category", "title": {"text": titles[0]}},
        "yaxis": {
            "type": "category",
            "title": {"text": titles[1]},
            "automargin": True,
            "autorange": "reversed",
        },
    }
    return figure_of([trace], 160 + 32 * len(y), **axes)
