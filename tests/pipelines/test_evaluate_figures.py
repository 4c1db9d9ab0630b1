"""Where figures put their points, against scipy's probit and plain logarithms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from facepipe.det import det, tars_at_fars
from pipelines.evaluate import Curve
from pipelines.evaluate_figures import (
    BOTTOM,
    LEFT,
    RIGHT,
    STEP_PX,
    TOP,
    det_plot,
    roc_plot,
    score_histograms,
)

MATCHED, MISMATCHED = 400, 2000


@pytest.fixture(scope="module")
def curve() -> Curve:
    rng = np.random.default_rng(0)
    same = np.arange(MATCHED + MISMATCHED) < MATCHED
    score = np.where(same, 0.5, 0.1) + rng.normal(0, 0.15, len(same))
    people = np.arange(len(same)) // 4
    return Curve(
        model="made",
        det=det(score, same),
        bands=tuple(tars_at_fars(score, same, [0.1, 0.01], people, samples=100)),
        matched=score[same],
        mismatched=score[~same],
    )


def test_det_is_straight_in_normal_deviates(curve: Curve) -> None:
    plot = det_plot([curve])
    low_x, low_y = norm.ppf(0.5 / MISMATCHED), norm.ppf(0.5 / MATCHED)

    def x(rate: float) -> float:
        return LEFT + (RIGHT - LEFT) * (norm.ppf(rate) - low_x) / (0 - low_x)

    def y(rate: float) -> float:
        return BOTTOM + (TOP - BOTTOM) * (norm.ppf(rate) - low_y) / (0 - low_y)

    ticks = {tick.text: tick.at for tick in plot.x_ticks}
    assert ticks["1 %"] == pytest.approx(x(0.01), abs=0.051)
    assert ticks["50 %"] == RIGHT and "0.1 %" in ticks and "1e-4" not in ticks
    (trace,) = plot.traces
    corners = np.array(trace.points)
    assert (np.diff(corners[:, 0]) >= 0).all() and (np.diff(corners[:, 1]) >= 0).all()
    middle = [
        (f, m) for f, m in zip(curve.det.fmr, curve.det.fnmr, strict=True) if 0 < f < 0.5 > m > 0
    ]
    for fmr, fnmr in middle[::50]:  # each lies within a step of the staircase drawn
        gap = np.abs(corners - (x(fmr), y(fnmr))).max(axis=1).min()
        assert gap <= STEP_PX + 0.1
    for whisker, band in zip(trace.whiskers, curve.bands, strict=True):
        assert whisker.x == pytest.approx(x(band.far), abs=0.051)
        assert whisker.low == pytest.approx(y(1 - band.tar.high), abs=0.051)
        assert whisker.high == pytest.approx(y(1 - band.tar.low), abs=0.051)


def test_roc_has_a_logarithmic_far(curve: Curve) -> None:
    plot = roc_plot([curve])
    low = math.log10(0.5 / MISMATCHED)
    for tick, far in zip(plot.x_ticks, (1e-3, 1e-2, 1e-1, 1.0), strict=True):
        expected = LEFT + (RIGHT - LEFT) * (math.log10(far) - low) / -low
        assert tick.at == pytest.approx(expected, abs=0.051)
    assert plot.y_ticks[-1].at == TOP and plot.y_ticks[-1].text == "1"
    (trace,) = plot.traces
    inside = [LEFT <= px <= RIGHT and TOP <= py <= BOTTOM for px, py in trace.points]
    assert all(inside) and trace.points[-1] == (RIGHT, TOP)
    for whisker in trace.whiskers:
        assert TOP <= whisker.high <= whisker.low <= BOTTOM


def test_histogram_counts_both_kinds_and_marks_the_strictest_threshold(curve: Curve) -> None:
    figure, same = score_histograms([curve, curve])
    assert figure == same and {tick.text for tick in figure.ticks} >= {"0", "0.2", "0.8"}
    assert [bars.count for bars in figure.bars] == [MATCHED, MISMATCHED]
    (line,) = figure.lines
    assert line.text.startswith("FAR 1 %: 0.")
