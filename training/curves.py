"""A run's metrics by step as one picture: an SVG with a panel a metric, no script and no font."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from itertools import pairwise

from training.metric_sender import LoggedStep

PANEL_PX, GAP_PX, LEFT_PX, TOP_PX = (560, 150), 24, 76, 30
MAX_POINTS = 560  # one a pixel: a longer run is drawn by means of so many equal stretches
_LEFT_OUT = {"epoch", "position"}  # the steps again
_STYLE = "text{font:12px sans-serif;fill:#333}polyline{fill:none;stroke:#06c;stroke-width:1.5}"

Points = list[tuple[float, float]]  # step, value


def draw_curves(logged: Iterable[LoggedStep]) -> str:
    """Return the curves of all metrics, in the order of their names, as SVG.

    Values that are not finite are left out. The same steps give the same bytes.
    """
    series: dict[str, Points] = {}
    for line in logged:
        for name, value in line.values.items():
            if math.isfinite(value) and name not in _LEFT_OUT:
                series.setdefault(name, []).append((float(line.step), value))
    panels = [
        _panel(name, points, TOP_PX + number * (PANEL_PX[1] + GAP_PX + TOP_PX))
        for number, (name, points) in enumerate(sorted(series.items()))
    ]
    width = LEFT_PX + PANEL_PX[0] + GAP_PX
    height = len(panels) * (PANEL_PX[1] + GAP_PX + TOP_PX) + TOP_PX
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f"<style>{_STYLE}</style>"
        f'<rect width="{width}" height="{height}" fill="#fff"/>' + "".join(panels) + "</svg>\n"
    )


def _panel(name: str, points: Points, top_px: int) -> str:
    wide_px, high_px = PANEL_PX
    shown = _thinned(points)
    steps, values = [s for s, _ in shown], [v for _, v in shown]
    low, high = min(values), max(values)
    left, right = min(steps), max(steps)
    drawn = " ".join(
        f"{LEFT_PX + _share(s, left, right) * wide_px:.1f},"
        f"{top_px + (1 - _share(v, low, high)) * high_px:.1f}"
        for s, v in shown
    )
    bottom_px = top_px + high_px
    end_px = LEFT_PX + wide_px
    texts = [
        _text(LEFT_PX, top_px - 8, "start", f"{name}: {points[-1][1]:.4g} at last"),
        _text(LEFT_PX - 6, top_px + 10, "end", f"{high:.4g}"),
        _text(LEFT_PX - 6, bottom_px, "end", f"{low:.4g}"),
        _text(LEFT_PX, bottom_px + 15, "start", f"step {left:,.0f}"),
        _text(end_px, bottom_px + 15, "end", f"{right:,.0f}"),
    ]
    frame = f'<path d="M{LEFT_PX} {top_px}V{bottom_px}H{end_px}" fill="none" stroke="#999"/>'
    return f'<g>{frame}<polyline points="{drawn}"/>{"".join(texts)}</g>'


def _text(x_px: int, y_px: int, anchor: str, text: str) -> str:
    return f'<text x="{x_px}" y="{y_px}" text-anchor="{anchor}">{escape(text)}</text>'


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _thinned(points: Points) -> Points:
    """Return the points, or the means of MAX_POINTS equal stretches of them."""
    count = len(points)
    if count <= MAX_POINTS:
        return points
    edges = [round(n * count / MAX_POINTS) for n in range(MAX_POINTS + 1)]
    return [
        (_mean([s for s, _ in points[a:b]]), _mean([v for _, v in points[a:b]]))
        for a, b in pairwise(edges)
    ]


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
