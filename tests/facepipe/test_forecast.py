"""Totals from samples: against hand-made cases, known laws, and how often they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facepipe.evaluate import wilson_interval
from facepipe.forecast import (
    Interval,
    added,
    exactly,
    fewest_copies,
    pairs_total,
    poisson_interval,
    population,
    share_total,
    time_total,
    total,
)


def test_a_sample_of_all_is_exact() -> None:
    of = population(6)
    values = [1.0, 0.0, 3.0, 1.0, 2.0, 0.0]
    assert total(values, of) == exactly(7.0)
    assert total(values, of, counts=False) == exactly(7.0)
    assert share_total(2, 6, of) == exactly(2.0)
    assert pairs_total(3, 6, of) == exactly(3.0)


def test_the_estimate_is_the_mean_times_the_photos() -> None:
    found = total([0, 1, 1, 2, 3, 1, 0, 2, 5, 0], population(1000))
    assert found.value == pytest.approx(1500)
    assert found.low < 1500 < found.high


@pytest.mark.parametrize(
    ("photos", "sampled"), [(100_000, 200), (400, 200)], ids=["few of many", "half"]
)
def test_intervals_hold_the_truth_as_often_as_they_say(photos: int, sampled: int) -> None:
    """Faces of photos as they are: mostly one, some crowds. Also narrow: no wider than needed."""
    rng = np.random.default_rng(4)
    faces = rng.poisson(0.4, photos) + 1
    of = population(photos)
    held, widths = 0, []
    tries = 200
    for _ in range(tries):
        sample = faces[rng.choice(photos, sampled, replace=False)]
        found = total(sample, of)
        held += found.holds(faces.sum())
        widths.append(found.high - found.low)
    # The width of the normal law for a mean without replacement (Cochran 1977, 2.15).
    shrink = math.sqrt(1 - sampled / photos)
    normal = 2 * 1.96 * photos * faces.std() / math.sqrt(sampled) * shrink
    assert 0.90 <= held / tries <= 0.99  # 2.5 standard errors around .95
    assert np.mean(widths) == pytest.approx(normal, rel=0.1)


def test_shares_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    has = np.arange(2000) < 60
    of = population(2000)
    held = sum(
        share_total(int(has[rng.choice(2000, 300, replace=False)].sum()), 300, of).holds(60)
        for _ in range(300)
    )
    assert 0.91 <= held / 300 <= 1.0


def test_share_is_wilson_with_the_trials_of_a_finite_population() -> None:
    found = share_total(20, 100, population(1_000_000_000))
    low, high = wilson_interval(20, 100)
    assert (found.low / 1e9, found.high / 1e9) == pytest.approx((low, high))
    # Of 190 photos 100 tell as much as 100 * 189 / 90 = 210 of endless ones, with 42 hits.
    found = share_total(20, 100, population(190))
    low, high = wilson_interval(42, 210)
    assert (found.low, found.high) == pytest.approx((low * 190, high * 190))


def test_what_was_seen_bounds_the_total() -> None:
    found = share_total(1, 99, population(100))
    assert found.low >= 1 and found.high <= 100 - 98


@pytest.mark.parametrize("usual", [0.0, 1.0, 2.0])
def test_a_sample_all_alike_still_leaves_room_for_others(usual: float) -> None:
    found = total([usual] * 50, population(1000))
    unseen = wilson_interval(0, round(50 * 999 / 950))[1] * 1000
    assert found.value == 1000 * usual
    assert found.high == pytest.approx(1000 * usual + unseen * max(1.0, usual))
    assert found.low == pytest.approx(max(50 * usual, (1000 - unseen) * usual))


def test_a_rare_crowd_stretches_the_interval_upwards() -> None:
    found = total([0.0] * 99 + [7.0], population(10_000))
    share = share_total(1, 100, population(10_000))
    assert found.high == pytest.approx(share.high * 7)
    assert found.low == 7.0 and found.value == pytest.approx(700)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Garwood's table, as in Johnson, Kotz and Kemp, Univariate Discrete Distributions.
    [(0, 0.0, 3.689), (1, 0.0253, 5.572), (5, 1.623, 11.668), (100, 81.36, 121.63)],
)
def test_poisson_interval_is_garwoods(count: int, low: float, high: float) -> None:
    assert poisson_interval(count) == pytest.approx((low, high), rel=1e-3)


def test_pairs_are_scaled_by_pairs() -> None:
    found = pairs_total(2, 10, population(100))
    assert found.value == pytest.approx(2 * (100 * 99 / 2) / (10 * 9 / 2))
    none = pairs_total(0, 10, population(100))
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(3.689 * 110, rel=1e-3)
    assert pairs_total(0, 1, population(100)).high == math.inf


@pytest.mark.parametrize("crowd", [2, 3, 10])
def test_a_crowd_of_copies_makes_the_most_pairs_a_copy(crowd: int) -> None:
    assert fewest_copies(crowd * (crowd - 1) / 2) == pytest.approx(crowd - 1)
    assert fewest_copies(0) == 0


def test_containers_that_were_not_listed_are_estimated_by_their_bytes() -> None:
    of = population(50, members=[10, 22], bytes_each=[100, 200], all_bytes=3000)
    assert of.photos.value == pytest.approx(50 + 32 + 2700 * 32 / 300)
    assert of.photos.low < of.photos.value < of.photos.high and not of.known
    # Both kinds as often: the ratio is between that of either.
    assert of.photos.low == pytest.approx(82 + 2700 * 0.1)
    assert of.photos.high == pytest.approx(82 + 2700 * 0.11)
    whole = population(50, members=[10, 22], bytes_each=[100, 200], all_bytes=300)
    assert whole.photos == exactly(82) and whole.known


def test_an_unsure_number_of_photos_widens_every_total() -> None:
    values = [0, 1, 1, 2, 3, 1, 0, 2, 5, 0] * 5
    sure, unsure = population(1000), population(0, [90, 10], [100, 100], 2000)
    assert unsure.photos.value == pytest.approx(1000)
    a, b = total(values, sure), total(values, unsure)
    assert b.high - b.low > 1.5 * (a.high - a.low)


def test_times_of_all_photos_are_not_exact() -> None:
    of = population(4)
    found = time_total([1.0, 2.0, 3.0, 2.0], of)
    assert found.value == pytest.approx(8.0) and found.low < 8.0 < found.high
    assert time_total([], of) == exactly(0.0)


def test_the_same_sample_gives_the_same_interval() -> None:
    values = [0, 1, 1, 2, 3, 1, 0, 2, 5, 0]
    assert total(values, population(1000)) == total(values, population(1000))


def test_intervals_add_up_and_are_stored() -> None:
    both = added([Interval(value=2, low=1, high=4), exactly(3)])
    assert both == Interval(value=5, low=4, high=7)
    assert Interval.of(both.as_json()) == both
    assert both.holds(3.6) and not both.holds(3.4) and not both.holds(7.6)
