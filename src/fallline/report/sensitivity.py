"""Small figures, one for each optimizer, of the tuning loss over the learning rate; all share their axes."""

from math import inf
from typing import Any

from fallline.compare.judgement.verdict import Verdict
from fallline.compare.records import Comparison
from fallline.compare.statistics.rate_response import Response
from fallline.compare.statistics.sensitivity import tuning_losses
from fallline.report.figures import GREY, PALETTE, RED, Drawing, axis, figure_of, readable
from fallline.report.summary import Row

HEIGHT = 150
#: Every so many points of the curve are drawn.
POINTS = 10


def bowls(comparison: Comparison, table: list[Row], verdict: Verdict) -> dict[str, Drawing]:
    """Return a figure for each optimizer with tuning trials, whose good learning rates are shaded."""
    tried = {row.arm: tuning_losses(comparison, row.arm) for row in table}
    finite = [loss for _, losses in tried.values() for loss in losses if loss < inf]
    rates = [rate for found, _ in tried.values() for rate in found]
    if not finite or min(rates) <= 0:
        return {}
    axes = {
        "xaxis": axis(rates, "log", "", coarse=True),
        "yaxis": axis(readable(finite), verdict.scale, "", coarse=True),
        "yaxis2": {"overlaying": "y", "range": [0, 1.06], "visible": False, "fixedrange": True},
    }
    return {row.arm: _bowl(row.response, *tried[row.arm], axes) for row in table if tried[row.arm][0]}


def _bowl(response: Response | None, rates: list[float], losses: list[float], axes: dict) -> Drawing:
    finite = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if loss < inf]
    lost = [rate for rate, loss in zip(rates, losses, strict=True) if loss == inf]
    shade = [] if response is None else [_shade(response.good.low, response.good.high)]
    curve = [] if response is None else [_expected(response)]
    margin = {"l": 4, "r": 8, "t": 8, "b": 4}
    traces = [*curve, _trials(finite), _diverged(lost)]
    return figure_of(traces, HEIGHT, margin=margin, shapes=shade, **axes)


def _shade(low: float, high: float) -> dict[str, Any]:
    look = {"fillcolor": PALETTE[2], "opacity": 0.2, "line": {"width": 0}, "layer": "below"}
    return {"type": "rect", "x0": low, "x1": high, "y0": 0, "y1": 1, "yref": "paper", **look}


def _expected(response: Response) -> dict[str, Any]:
    return {
        "x": response.rates[::POINTS],
        "y": response.losses[::POINTS],
        "mode": "lines",
        "line": {"width": 2, "color": PALETTE[0]},
        "hovertemplate": "expected at lr %{x:.3g}: %{y:.4g}<extra></extra>",
    }


def _trials(points: list[tuple[float, float]]) -> dict[str, Any]:
    best = min((loss for _, loss in points), default=None)
    sizes = [10 if loss == best else 5 for _, loss in points]
    return {
        "x": [rate for rate, _ in points],
        "y": [loss for _, loss in points],
        "mode": "markers",
        "marker": {"color": GREY, "size": sizes, "line": {"width": 0}},
        "hovertemplate": "lr %{x:.3g}: %{y:.4g}<extra></extra>",
    }


def _diverged(rates: list[float]) -> dict[str, Any]:
    return {
        "x": rates,
        "y": [1.0] * len(rates),
        "yaxis": "y2",
        "mode": "markers",
        "marker": {"size": 8, "symbol": "x-thin", "line": {"width": 2, "color": RED}},
        "hovertemplate": "lr %{x:.3g}: diverged<extra></extra>",
    }
