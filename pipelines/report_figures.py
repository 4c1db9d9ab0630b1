"""Geometry of the report's figures: histograms as paths and ticks for inline SVG.

The template draws what is computed here. A histogram has one group above its axis and may
have another below, each on a scale of its own, so that a few dropped faces are seen beside
many kept ones, without telling them apart by colour. Legend: N values, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

WIDTH, LEFT, RIGHT = 400.0, 46.0, 388.0  # SVG units; a unit is about a CSS pixel
TOP, UP_PX, DOWN_PX, FOOT_PX = 26.0, 120.0, 64.0, 40.0
BINS = 48
MINUS = "\u2212"  # as wide as a plus, where a hyphen is not


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What a histogram is over, and how far it goes: from the data where not given."""

    title: str
    unit: str
    low: float | None = None
    high: float | None = None
    step: float | None = None  # between ticks
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Values with a name and the class that colours them."""

    name: str
    colour: str
    values_N: Float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A threshold."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """One group drawn: a closed step outline, its scale, and its numbers in words."""

    name: str
    colour: str
    path: str
    ticks: tuple[Tick, ...]
    count: int
    missing: int
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A threshold drawn; ``anchor`` is SVG's text-anchor."""

    at: float
    text: str
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """All that the template needs to draw one."""

    axis: Axis
    height: float
    base: float
    bars: tuple[Bars, ...]
    ticks: tuple[Tick, ...]
    lines: tuple[Mark, ...]


def histogram(axis: Axis, groups: Sequence[Group], lines: Sequence[Line] = ()) -> Histogram | None:
    """Return the first group above the axis and the second, if it has values, below.

    Values that are not finite are left out and counted; those beyond the axis are in its
    first or last bin. None where no group has a value.
    """
    finite = [g.values_N[np.isfinite(g.values_N)] for g in groups]
    seen = np.concatenate([*finite, np.empty(0)])
    if len(seen) == 0:
        return None
    scale = _Scale.of(axis, seen)
    base = TOP + UP_PX
    bars: list[Bars] = []
    for group, values, reach in zip(groups, finite, (-UP_PX, DOWN_PX), strict=False):
        if len(values) or not bars:
            bars.append(_bars(group, values, scale, base, reach))
    foot = base + (DOWN_PX if len(bars) > 1 else 0.0)
    return Histogram(
        axis=axis,
        height=foot + FOOT_PX,
        base=base,
        bars=tuple(bars),
        ticks=tuple(Tick(at=scale.x(v), text=number(v)) for v in scale.ticks()),
        lines=tuple(_mark(line, scale) for line in lines if scale.low <= line.value <= scale.high),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """From values to places along the axis."""

    low: float
    high: float
    step: float
    log: bool

    @classmethod
    def of(cls, axis: Axis, values_N: Float) -> _Scale:
        if axis.log:
            positive = values_N[values_N > 0]
            low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 10.0)
            steps = [m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5)]
            low = max((s for s in steps if s <= low), default=float(low))
            high = min((s for s in steps if s > max(high, low)), default=float(high))
            return cls(low=low, high=high, step=0.0, log=True)
        low = float(values_N.min()) if axis.low is None else axis.low
        high = float(values_N.max()) if axis.high is None else axis.high
        step = _step(high - low, 10)
        if axis.low is None:
            low = step * math.floor(low / step)
        if axis.high is None:
            high = step * math.ceil(high / step)
        high = high if high > low else low + step
        return cls(low=low, high=high, step=axis.step or _step(high - low, 6), log=False)

    def along(self, values_N: Float) -> Float:
        """Return places from 0 to 1; what lies beyond the axis is put on its end."""
        values_N = np.clip(values_N, self.low, self.high)
        if self.log:
            return np.log(values_N / self.low) / math.log(self.high / self.low)
        return (values_N - self.low) / (self.high - self.low)

    def x(self, value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * float(self.along(np.array([value]))[0]), 1)

    def ticks(self) -> list[float]:
        if self.log:
            exponents = range(
                math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1
            )
            multiples = (1, 2, 5) if len(exponents) <= 4 else (1,)
            values = [m * 10.0**e for e in exponents for m in multiples]
        else:
            first = math.ceil(round(self.low / self.step, 6))
            last = math.floor(round(self.high / self.step, 6))
            values = [self.step * k for k in range(first, last + 1)]
        slack = 1e-9 * abs(self.high)
        return [v for v in values if self.low - slack <= v <= self.high + slack]


def _bars(group: Group, values: Float, scale: _Scale, base: float, reach: float) -> Bars:
    """Return a group's outline from the base line, ``reach`` high (negative is up)."""
    bin_N = np.minimum((scale.along(values) * BINS).astype(np.int64), BINS - 1)
    count_B = np.bincount(bin_N, minlength=BINS)
    step = max(1.0, _step(float(count_B.max(initial=1)), 2 if reach > 0 else 4))
    top = step * math.ceil(count_B.max(initial=1) / step)
    edges = [round(LEFT + (RIGHT - LEFT) * b / BINS, 1) for b in range(BINS + 1)]
    parts = [f"M{edges[0]:g} {base:g}"]
    level = base
    for b, count in enumerate(count_B.tolist()):
        place = round(base + reach * count / top, 1)
        if place != level:
            parts.append(f"H{edges[b]:g}V{place:g}")
            level = place
    parts.append(f"H{edges[-1]:g}V{base:g}Z")
    marks = [step * k for k in range(1, round(top / step) + 1)]
    return Bars(
        name=group.name,
        colour=group.colour,
        path="".join(parts),
        ticks=tuple(Tick(at=round(base + reach * m / top, 1), text=number(m)) for m in marks),
        count=len(values),
        missing=len(group.values_N) - len(values),
        summary=_summary(values, scale),
    )


def _summary(values: Float, scale: _Scale) -> str:
    """Return median and spread in words, to a thousandth of what the axis shows."""
    if len(values) == 0:
        return ""
    places = 2 - math.floor(math.log10(scale.high - scale.low))
    quantiles = [float(v) for v in np.quantile(values, (0.05, 0.5, 0.95))]
    rounded = [round_to(v, 3) if scale.log else round(v, max(0, places)) for v in quantiles]
    low, middle, high = (number(v) for v in rounded)
    return f"median {middle}, nine in ten between {low} and {high}"


def _mark(line: Line, scale: _Scale) -> Mark:
    at = scale.x(line.value)
    anchor = "start" if at < LEFT + 60 else "end" if at > RIGHT - 60 else "middle"
    return Mark(at=at, text=f"{line.name} {number(round_to(line.value, 3))}", anchor=anchor)


def _step(extent: float, parts: int) -> float:
    """Return 1, 2 or 5 times a power of ten that cuts an extent in at most so many parts."""
    if extent <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(extent / parts))
    steps = [m * power for m in (1, 2, 5, 10)]
    return float(next((s for s in steps if extent / s <= parts * (1 + 1e-9)), steps[-1]))


def round_to(value: float, digits: int) -> float:
    """Return a number to so many significant digits, never fewer than its whole part has."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def number(value: float) -> str:
    """Return a number as people write it: 12,345 or 0.25 or -30, with a true minus sign."""
    rounded = round(value, 6) + 0.0  # no minus zero
    text = f"{rounded:,.0f}" if rounded == round(rounded) else f"{rounded:,.6f}".rstrip("0")
    return text.replace("-", MINUS)


def percent(part: float, whole: float) -> float:
    """Return a share in percent for a width in CSS; 0 of nothing."""
    return round(100.0 * part / whole, 3) if whole else 0.0
