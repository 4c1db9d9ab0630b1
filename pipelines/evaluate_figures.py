"""Geometry of an evaluation's figures: DET on probit axes, ROC over a logarithmic FAR.

The page draws what is computed here as inline SVG, `evaluate_png` the same as PNG; histograms
are `report_figures.histogram`. Curves are drawn as the staircases that they are. A rate of 0
has no place on either axis: it is drawn at the axis's end, half of what the data resolve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pipelines.evaluate import Curve
from pipelines.report_figures import Axis, Group, Histogram, Line, Tick, histogram

Float = npt.NDArray[np.float64]
Scale = Callable[[float], float]

WIDTH, HEIGHT = 480.0, 400.0  # SVG units; a unit is about a CSS pixel
LEFT, RIGHT, TOP, BOTTOM = 62.0, 468.0, 14.0, 352.0
COLOURS = 8  # of the page's palette, then they repeat
TICK = 0.2  # of cosines
STEP_PX = 0.4  # nearer steps of a staircase are not told apart
PROBIT_TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.2, 0.3, 0.5)
LAX = 0.5  # the end of both DET axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisker:
    """An interval, upright at one place of the other axis."""

    x: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One model's curve: its colour's number, its corners, its intervals."""

    name: str
    colour: int
    points: tuple[tuple[float, float], ...]
    whiskers: tuple[Whisker, ...]

    @property
    def path(self) -> str:
        """Return the corners as an SVG path."""
        return "M" + "L".join(f"{x:g} {y:g}" for x, y in self.points)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """All that is needed to draw one figure of curves."""

    title: str
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    traces: tuple[Trace, ...]


def det_plot(curves: Sequence[Curve]) -> Plot:
    """Return FNMR against FMR on probit axes (Martin et al. 1997), with 95 % intervals."""
    least_x = min(_resolved(len(c.mismatched)) for c in curves)
    least_y = min(_resolved(len(c.matched)) for c in curves)
    x, y = _probit(least_x, LEFT, RIGHT), _probit(least_y, BOTTOM, TOP)
    traces = [
        Trace(
            name=curve.model,
            colour=n % COLOURS,
            points=_staircase(curve.det.fmr, curve.det.fnmr, x, y),
            whiskers=tuple(
                Whisker(
                    x=_place(x, b.far),
                    low=_place(y, 1 - b.tar.high),
                    high=_place(y, 1 - b.tar.low),
                )
                for b in curve.bands
            ),
        )
        for n, curve in enumerate(curves)
    ]
    return Plot(
        title="DET",
        x_title="false match rate (FMR, FAR)",
        y_title="false non-match rate (FNMR)",
        x_ticks=_rate_ticks(x, least_x),
        y_ticks=_rate_ticks(y, least_y),
        traces=tuple(traces),
    )


def roc_plot(curves: Sequence[Curve]) -> Plot:
    """Return TAR against FAR, the FAR on a logarithmic axis, with 95 % intervals."""
    least = min(_resolved(len(c.mismatched)) for c in curves)
    lowest = min((b.tar.low for c in curves for b in c.bands), default=0.0)
    floor = max(0.0, 1 - 1.25 * (1 - lowest)) if lowest < 1 else 0.9
    y_step = _even_step(1 - floor)
    floor = max(0.0, y_step * math.floor(floor / y_step + 1e-9))
    x, y = _logarithmic(least, LEFT, RIGHT), _linear(floor, 1.0, BOTTOM, TOP)
    decades = range(math.ceil(math.log10(least) - 1e-9), 1)
    traces = [
        Trace(
            name=curve.model,
            colour=n % COLOURS,
            points=_staircase(curve.det.fmr, 1 - curve.det.fnmr, x, y),
            whiskers=tuple(
                Whisker(x=_place(x, b.far), low=_place(y, b.tar.low), high=_place(y, b.tar.high))
                for b in curve.bands
            ),
        )
        for n, curve in enumerate(curves)
    ]
    levels = [floor + y_step * k for k in range(round((1 - floor) / y_step) + 1)]
    return Plot(
        title="ROC",
        x_title="false accept rate (FAR)",
        y_title="true accept rate (TAR)",
        x_ticks=tuple(Tick(at=_place(x, 10.0**e), text=_rate_text(10.0**e)) for e in decades),
        y_ticks=tuple(Tick(at=_place(y, v), text=f"{v:.4g}") for v in levels),
        traces=tuple(traces),
    )


def score_histograms(curves: Sequence[Curve]) -> list[Histogram]:
    """Return each model's similarities over one axis: matched pairs above, mismatched below."""
    seen = np.concatenate([v for c in curves for v in (c.matched, c.mismatched)])
    ends = (math.floor(seen.min() / TICK), math.ceil(seen.max() / TICK)) if len(seen) else (0, 1)
    low, high = (TICK * end for end in (ends[0], max(ends[1], ends[0] + 1)))
    drawn = [_score_histogram(curve, low, high) for curve in curves]
    return [figure for figure in drawn if figure is not None]


def _score_histogram(curve: Curve, low: float, high: float) -> Histogram | None:
    lines = [
        Line(name=f"FAR {_rate_text(b.far)}:", value=b.threshold)
        for b in curve.bands[-1:]
        if math.isfinite(b.threshold)
    ]
    groups = [
        Group(name="matched", colour="kept", values_N=curve.matched),
        Group(name="mismatched", colour="dropped", values_N=curve.mismatched),
    ]
    title = f"Similarities: {curve.model}"
    axis = Axis(title=title, unit="cosine", low=low, high=high, step=TICK)
    return histogram(axis, groups, lines)


def _resolved(trials: int) -> float:
    """Return half of the least rate that so many trials show, at most a tenth of the lax end."""
    return min(0.5 / max(trials, 1), LAX / 10)


def _staircase(rate_x: Float, rate_y: Float, x: Scale, y: Scale) -> tuple[tuple[float, float], ...]:
    """Return the corners of a staircase, sideways before up or down, without tiny steps."""
    points: list[tuple[float, float]] = []
    here = (0.0, 0.0)
    for one, other in zip(rate_x.tolist(), rate_y.tolist(), strict=True):
        here = (_place(x, one), _place(y, other))
        if not points:
            points.append(here)
        elif max(abs(here[0] - points[-1][0]), abs(here[1] - points[-1][1])) >= STEP_PX:
            points += [(here[0], points[-1][1]), here]
    if points[-1] != here:  # nearer than a step, but the curve ends here
        points += [(here[0], points[-1][1]), here]
    return tuple(points)


def _place(scale: Scale, value: float) -> float:
    return round(scale(value), 1)


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    def place(value: float) -> float:
        return start + (end - start) * (min(max(value, low), high) - low) / (high - low)

    return place


def _logarithmic(low: float, start: float, end: float) -> Scale:
    even = _linear(math.log10(low), 0.0, start, end)
    return lambda value: even(math.log10(max(value, low)))


def _probit(low: float, start: float, end: float) -> Scale:
    normal = NormalDist()
    even = _linear(normal.inv_cdf(low), normal.inv_cdf(LAX), start, end)
    return lambda value: even(normal.inv_cdf(min(max(value, low), LAX)))


def _rate_ticks(scale: Scale, low: float) -> tuple[Tick, ...]:
    return tuple(
        Tick(at=_place(scale, rate), text=_rate_text(rate))
        for rate in PROBIT_TICKS
        if low <= rate <= LAX
    )


def _rate_text(rate: float) -> str:
    """Return a rate in percent from a thousandth up, else as a power of ten."""
    return f"{100 * rate:g} %" if rate >= 1e-3 else f"{rate:.0e}".replace("e-0", "e-")


def _even_step(extent: float) -> float:
    """Return 1, 2 or 5 times a power of ten that cuts an extent in at most six parts."""
    power = 10.0 ** math.floor(math.log10(extent / 6))
    return next(m * power for m in (1, 2, 5, 10) if extent / (m * power) <= 6 + 1e-9)
