"""Curves of a run: every metric once, in its place, whatever its values."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from training.curves import MAX_POINTS, draw_curves
from training.metric_sender import LoggedStep

SVG = "{http://www.w3.org/2000/svg}"


def run(**series: list[float]) -> list[LoggedStep]:
    length = len(next(iter(series.values())))
    return [
        LoggedStep(10 * n, 0, {name: values[n] for name, values in series.items()})
        for n in range(length)
    ]


def lines(svg: str) -> list[list[tuple[float, float]]]:
    found = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return [
        [(float(p.split(",")[0]), float(p.split(",")[1])) for p in line.attrib["points"].split()]
        for line in found
    ]


def test_a_metric_is_drawn_from_its_highest_to_its_lowest() -> None:
    svg = draw_curves(run(lr=[0.1, 0.1, 0.1], loss=[4.0, 1.0, 2.0], epoch=[0.0, 0.5, 1.0]))
    loss, lr = lines(svg)  # by name; epoch is the steps again
    assert [y for _, y in loss] == [30.0, 180.0, 130.0]  # of 150 px below 30 px
    assert [x for x, _ in loss] == [76.0, 356.0, 636.0]
    assert len({y for _, y in lr}) == 1  # a flat line is no division by zero
    assert "loss: 2 at last" in svg and ">4<" in svg and ">20<" in svg


def test_values_that_are_no_numbers_are_left_out() -> None:
    (loss,) = lines(draw_curves(run(loss=[3.0, math.nan, math.inf, 1.0], norm=[math.nan] * 4)))
    assert len(loss) == 2


def test_a_name_cannot_write_into_the_picture() -> None:
    svg = draw_curves([LoggedStep(1, 0, {"<script>": 1.0})])
    assert "<script>" not in svg
    assert len(lines(svg)) == 1


@pytest.mark.parametrize("length", [MAX_POINTS, MAX_POINTS + 1, 10 * MAX_POINTS])
def test_a_long_run_is_drawn_by_means(length: int) -> None:
    (loss,) = lines(draw_curves(run(loss=[float(n % 2) for n in range(length)])))
    assert len(loss) == MAX_POINTS
    assert [x for x, _ in loss] == sorted(x for x, _ in loss)


def test_a_run_without_metrics_is_an_empty_picture() -> None:
    assert lines(draw_curves([])) == []
