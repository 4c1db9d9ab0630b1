"""Figures of the report: every value is in the outline, and axes end on round numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.report_figures import (
    BINS,
    DOWN_PX,
    LEFT,
    MINUS,
    RIGHT,
    UP_PX,
    Axis,
    Bars,
    Group,
    Line,
    histogram,
    number,
    percent,
    round_to,
)

PLAIN = Axis(title="Yaw", unit="degrees")


def group(*values: float) -> Group:
    return Group(name="kept", colour="kept", values_N=np.array(values, np.float64))


def heights(bars: Bars, base: float) -> list[float]:
    """Return the height of each bin in px (negative is down), read from the SVG path."""
    found = re.fullmatch(r"M([\d.]+) ([\d.]+)((?:H[\d.]+V[\d.]+)*)Z", bars.path)
    assert found and float(found[1]) == LEFT and float(found[2]) == base
    edges = np.linspace(LEFT, RIGHT, BINS + 1)
    level, start, per_bin = base, 0, [0.0] * BINS
    for x, y in re.findall(r"H([\d.]+)V([\d.]+)", found[3]):
        end = int(np.abs(edges - float(x)).argmin())
        per_bin[start:end] = [base - level] * (end - start)
        level, start = float(y), end
    assert level == base and start == BINS
    return per_bin


def faces_in(bars: Bars, base: float, reach: float) -> list[int]:
    """Return the faces of each bin, by the scale that the ticks give."""
    top = max(bars.ticks, key=lambda t: abs(t.at - base))
    scale = float(top.text.replace(",", "")) / abs(top.at - base)
    assert abs(abs(top.at - base) - reach) < 0.1
    return [round(abs(h) * scale) for h in heights(bars, base)]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60))
def test_every_value_is_in_the_outline(values: list[float]) -> None:
    drawn = histogram(PLAIN, [group(*values)])
    assert drawn is not None
    (bars,) = drawn.bars
    assert sum(faces_in(bars, drawn.base, UP_PX)) == len(values) == bars.count


def test_values_are_in_the_bins_of_their_place() -> None:
    drawn = histogram(Axis(title="", unit="", low=0.0, high=48.0), [group(0.0, 0.5, 7.0, 48.0)])
    assert drawn is not None
    counts = faces_in(drawn.bars[0], drawn.base, UP_PX)
    assert {b: n for b, n in enumerate(counts) if n} == {0: 2, 7: 1, 47: 1}


def test_values_beyond_the_axis_are_in_its_last_bins() -> None:
    drawn = histogram(Axis(title="", unit="", low=-90.0, high=90.0), [group(-200.0, 91.0, 91.0)])
    assert drawn is not None
    counts = faces_in(drawn.bars[0], drawn.base, UP_PX)
    assert counts[0] == 1 and counts[-1] == 2 and sum(counts) == 3


def test_groups_have_scales_of_their_own() -> None:
    drawn = histogram(PLAIN, [group(*[5.0] * 9000, 0.0), group(10.0)])
    assert drawn is not None
    up, down = drawn.bars
    assert max(faces_in(up, drawn.base, UP_PX)) == pytest.approx(9000, rel=0.02)
    assert sum(faces_in(down, drawn.base, DOWN_PX)) == 1
    assert max(heights(down, drawn.base)) == 0 < max(heights(up, drawn.base))


def test_what_has_no_value_is_counted_apart() -> None:
    drawn = histogram(PLAIN, [group(1.0, np.nan, np.inf), group(np.nan)])
    assert drawn is not None
    assert [(b.count, b.missing) for b in drawn.bars] == [(1, 2)]
    assert histogram(PLAIN, [group(np.nan), group()]) is None


def test_a_first_group_without_values_leaves_its_place_empty() -> None:
    drawn = histogram(PLAIN, [group(), group(1.0, 2.0)])
    assert drawn is not None and [b.count for b in drawn.bars] == [0, 2]
    assert not any(heights(drawn.bars[0], drawn.base)) and drawn.bars[0].summary == ""


@given(
    st.lists(st.floats(1e-4, 1e6), min_size=1, max_size=30),
    st.booleans(),
)
def test_ticks_are_on_the_axis_in_order(values: list[float], log: bool) -> None:
    drawn = histogram(Axis(title="", unit="", log=log), [group(*values)])
    assert drawn is not None
    places = [t.at for t in drawn.ticks]
    assert places == sorted(set(places)) and len(places) >= 1
    assert min(places) >= LEFT and max(places) <= RIGHT


def test_a_log_axis_has_equal_ratios_at_equal_distances() -> None:
    drawn = histogram(Axis(title="", unit="", log=True), [group(1.0, 10.0, 90.0, 0.0)])
    assert drawn is not None
    at = {t.text: t.at for t in drawn.ticks}
    assert at["10"] - at["1"] == pytest.approx(at["100"] - at["10"], abs=0.2)
    assert faces_in(drawn.bars[0], drawn.base, UP_PX)[0] == 2  # zero is put on the low end


def test_ticks_may_be_asked_for() -> None:
    axis = Axis(title="", unit="", low=-90.0, high=90.0, step=30.0)
    drawn = histogram(axis, [group(0.0)])
    assert drawn is not None
    minus = [f"{MINUS}{v}" for v in (90, 60, 30)]
    assert [t.text for t in drawn.ticks] == [*minus, "0", "30", "60", "90"]


def test_a_threshold_is_drawn_where_it_is_on_the_axis() -> None:
    axis = Axis(title="", unit="", low=0.0, high=1.0)
    lines = [Line(name="threshold", value=v) for v in (0.25, 1.5)]
    drawn = histogram(axis, [group(0.5)], lines)
    assert drawn is not None
    (line,) = drawn.lines
    assert line.at == pytest.approx(LEFT + (RIGHT - LEFT) / 4, abs=0.1)
    assert line.text == "threshold 0.25"


def test_the_summary_is_of_the_values() -> None:
    drawn = histogram(PLAIN, [group(*np.linspace(-50.0, 50.0, 101))])
    assert drawn is not None
    assert drawn.bars[0].summary == f"median 0, nine in ten between {MINUS}45 and 45"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345, "12,345"),
        (0.25, "0.25"),
        (-30.0, f"{MINUS}30"),
        (-0.0, "0"),
        (1e-9, "0"),
        (0.5, "0.5"),
    ],
)
def test_numbers_are_written_as_people_do(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "digits", "result"),
    [(0.123456, 3, 0.123), (98765.4, 3, 98765.0), (-4.4444, 2, -4.4), (0.0, 3, 0.0)],
)
def test_rounding_keeps_whole_parts(value: float, digits: int, result: float) -> None:
    assert round_to(value, digits) == result


def test_a_share_of_nothing_is_no_share() -> None:
    assert percent(1, 3) == 33.333 and percent(0, 0) == 0.0
