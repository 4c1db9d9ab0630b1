"""Each schedule against its formula, written out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from training.schedules import Cosine, Poly, WarmRestarts, factor

TOTAL, EPOCH, STEP = 1000, 100, 10


def at(schedule: Any, start: int, step: int = STEP) -> float:
    return factor(schedule, start, start + step, total=TOTAL, epoch_samples=EPOCH)


@pytest.mark.parametrize("kind", [Poly, Cosine, WarmRestarts])
def test_the_warm_up_is_a_line_to_the_full_rate(kind: Any) -> None:
    schedule = kind(warmup_epochs=2.0)
    assert [at(schedule, start) for start in (0, 10, 100, 190)] == [0.05, 0.1, 0.55, 1.0]
    assert at(schedule, 200) == 1.0
    assert at(schedule, 195, step=30) == 1.0  # a step over its end is not above the rate


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_poly(power: float) -> None:
    schedule = Poly(power=power, warmup_epochs=2.0)
    for start in (200, 360, 600, 990):
        assert at(schedule, start) == pytest.approx((1 - (start - 200) / 800) ** power)
    assert at(schedule, 990) > 0


def test_poly_is_arcface_torch_s_recurrence() -> None:
    # PolynomialLRWarmup.get_lr: each step multiplies the last rate with a ratio.
    w, t, rate = 20, 100, 1.0
    for step in range(w + 1, t):
        rate *= (1 - (step - w) / (t - w)) / (1 - (step - 1 - w) / (t - w))
        assert at(Poly(warmup_epochs=2.0), step * STEP) == pytest.approx(rate)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine(floor: float) -> None:
    for start in (0, 250, 500, 990):
        expected = floor + (1 - floor) * (1 + math.cos(math.pi * start / TOTAL)) / 2
        assert at(Cosine(floor=floor), start) == pytest.approx(expected)


def test_warm_restarts() -> None:
    # Three cycles, each twice as long: 1000 / 7 * (1, 2, 4) samples.
    schedule = WarmRestarts(cycles=3, growth=2.0)
    unit = TOTAL / 7
    for begin, length in ((0, 1), (1, 2), (3, 4)):
        for part in (0.01, 0.5, 0.95):
            start = int((begin + part * length) * unit)
            within = (start / unit - begin) / length
            assert at(schedule, start) == pytest.approx((1 + math.cos(math.pi * within)) / 2)


def test_equal_cycles_start_anew() -> None:
    schedule = WarmRestarts(cycles=4, growth=1.0)
    assert [at(schedule, start) for start in (0, 250, 500, 750)] == [1.0, 1.0, 1.0, 1.0]
    assert at(schedule, 240) == pytest.approx((1 + math.cos(math.pi * 0.96)) / 2)


def test_a_rate_hangs_on_the_samples_and_not_on_the_steps() -> None:
    # After the warm-up two runs with other steps have the same rate at the same place.
    assert at(Poly(), 400, step=10) == at(Poly(), 400, step=200)


@pytest.mark.parametrize("kind", [Poly, Cosine, WarmRestarts])
def test_a_step_beyond_the_end_does_nothing_strange(kind: Any) -> None:
    assert at(kind(), 1200) == pytest.approx(0.0)
    assert at(kind(warmup_epochs=20.0), 990) == 0.5  # a warm-up longer than the run
