"""Draws an evaluation's figures as PNG with Pillow, from the geometry that the page uses.

Drawn at four times the size and reduced, for smooth lines: Pillow's own are not. No date is
written, so that the same figures are the same bytes.
"""

from __future__ import annotations

import io
import re
from typing import Any

from pipelines.evaluate_figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Plot
from pipelines.report_figures import MINUS, Histogram
from pipelines.report_figures import WIDTH as HISTOGRAM_WIDTH

PIXELS = 2  # a unit of the figures
SMOOTH = 4
TEXT_PX, TITLE_PX = 11, 13
GROUND, INK, MUTED, RULE = "#ffffff", "#1d2125", "#5c646d", "#dfe2e5"
# Okabe and Ito's colours, as the page's --c0 to --c7: told apart by the colour-blind too.
PALETTE = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7"),
    *("#56b4e9", "#d55e00", "#8a8f98", "#b8a400"),
)
BARS = {"kept": "#0072b2", "dropped": "#d55e00"}
KEY_PX = 16.0  # of a line of the key
_TOKEN = re.compile(r"([MHVZ])([-0-9.e]*) ?([-0-9.e]*)")


def plot_png(plot: Plot) -> bytes:
    """Return a figure of curves as PNG bytes, its key below it."""
    page = _Canvas(WIDTH, HEIGHT + KEY_PX * len(plot.traces) + 8)
    for tick in plot.x_ticks:
        page.line([(tick.at, TOP), (tick.at, BOTTOM)], RULE)
        page.text((tick.at, BOTTOM + 12), tick.text, "mm", MUTED)
    for tick in plot.y_ticks:
        page.line([(LEFT, tick.at), (RIGHT, tick.at)], RULE)
        page.text((LEFT - 6, tick.at), tick.text, "rm", MUTED)
    page.line([(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], MUTED)
    page.text(((LEFT + RIGHT) / 2, BOTTOM + 32), plot.x_title, "mm", INK)
    page.upright((12, (TOP + BOTTOM) / 2), plot.y_title, INK)
    for n, trace in enumerate(plot.traces):
        colour = PALETTE[trace.colour]
        page.line(list(trace.points), colour, 1.6)
        for whisker in trace.whiskers:
            x = whisker.x + 1.5 * trace.colour  # side by side where models share a FAR
            page.line([(x, whisker.low), (x, whisker.high)], colour, 1.2)
            for end in (whisker.low, whisker.high):
                page.line([(x - 3, end), (x + 3, end)], colour, 1.2)
        y = HEIGHT + KEY_PX * n
        page.line([(LEFT, y), (LEFT + 24, y)], colour, 2.4)
        page.text((LEFT + 32, y), trace.name, "lm", INK)
    return page.png()


def histogram_png(figure: Histogram) -> bytes:
    """Return a histogram as PNG bytes."""
    head = 22.0 + KEY_PX * len(figure.bars)
    page = _Canvas(HISTOGRAM_WIDTH, head + figure.height)
    page.text((8, 14), figure.axis.title, "lm", INK, TITLE_PX)
    for n, bars in enumerate(figure.bars):
        y = 34 + KEY_PX * n
        page.area([(8, y - 4), (18, y - 4), (18, y + 4), (8, y + 4)], BARS[bars.colour])
        page.text((24, y), f"{bars.count:,} {bars.name}, {bars.summary}", "lm", MUTED)
    left, right = 46.0, 388.0
    for bars in figure.bars:
        for tick in bars.ticks:
            page.line([(left, head + tick.at), (right, head + tick.at)], RULE)
            page.text((left - 6, head + tick.at), tick.text, "rm", MUTED)
        page.area([(x, head + y) for x, y in _corners(bars.path)], BARS[bars.colour])
    page.line([(left, head + figure.base), (right, head + figure.base)], MUTED)
    foot = head + figure.height
    for mark in figure.lines:
        page.line([(mark.at, head + 18), (mark.at, foot - 34)], INK)
        anchor = {"start": "lm", "middle": "mm", "end": "rm"}[mark.anchor]
        page.text((mark.at, head + 10), mark.text, anchor, INK)
    for tick in figure.ticks:
        page.text((tick.at, foot - 26), tick.text, "mm", MUTED)
    page.text(((left + right) / 2, foot - 8), figure.axis.unit, "mm", INK)
    return page.png()


def _corners(path: str) -> list[tuple[float, float]]:
    """Return the corners of a closed step outline: M x y, then H x and V y in turn."""
    corners: list[tuple[float, float]] = []
    for command, one, other in _TOKEN.findall(path):
        if command == "M":
            corners.append((float(one), float(other)))
        elif command == "H":
            corners.append((float(one), corners[-1][1]))
        elif command == "V":
            corners.append((corners[-1][0], float(one)))
    return corners


class _Canvas:
    """A white picture in figure units."""

    def __init__(self, width: float, height: float) -> None:
        from PIL import Image, ImageDraw  # 60 ms to import: only where a figure is drawn

        self._scale = PIXELS * SMOOTH
        size = (round(width) * self._scale, round(height) * self._scale)
        self._image: Any = Image.new("RGB", size, GROUND)
        self._draw: Any = ImageDraw.Draw(self._image)

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1.0) -> None:
        """Draw a line through points."""
        self._draw.line(
            self._pixels(points), colour, max(1, round(width * self._scale)), joint="curve"
        )

    def area(self, points: list[tuple[float, float]], colour: str) -> None:
        """Fill an outline."""
        self._draw.polygon(self._pixels(points), colour)

    def text(
        self,
        at: tuple[float, float],
        text: str,
        anchor: str,
        colour: str,
        size_px: int = TEXT_PX,
    ) -> None:
        """Write a line; the anchor is Pillow's, such as mm for its middle."""
        (place,) = self._pixels([at])
        text = text.replace(MINUS, "-")  # Pillow's font lacks it
        self._draw.text(place, text, colour, self._font(size_px), anchor)

    def upright(self, middle: tuple[float, float], text: str, colour: str) -> None:
        """Write a line from below upwards."""
        from PIL import Image, ImageDraw

        font = self._font(TEXT_PX)
        width, height = round(font.getlength(text)), 2 * TEXT_PX * self._scale
        strip = Image.new("RGB", (width, height), GROUND)
        ImageDraw.Draw(strip).text((width / 2, height / 2), text, colour, font, "mm")
        turned = strip.transpose(Image.Transpose.ROTATE_90)
        ((x, y),) = self._pixels([middle])
        self._image.paste(turned, (round(x - height / 2), round(y - width / 2)))

    def png(self) -> bytes:
        """Return the picture, reduced to its size."""
        stream = io.BytesIO()
        self._image.reduce(SMOOTH).save(stream, "PNG", optimize=True)
        return stream.getvalue()

    def _font(self, size_px: int) -> Any:
        from PIL import ImageFont

        return ImageFont.load_default(size_px * self._scale)

    def _pixels(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * self._scale, y * self._scale) for x, y in points]
