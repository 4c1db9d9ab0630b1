"""Intervals that resample people, against copies of rows, closed forms and known truths."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest

from facepipe.bootstrap import (
    Interval,
    independent,
    interval,
    intervals,
    paired_difference,
    resampled,
    share_interval,
)
from facepipe.evaluate import wilson_bounds, wilson_interval

Float = npt.NDArray[np.float64]


def test_a_trial_counts_as_often_as_its_person_was_drawn() -> None:
    people = np.array([7, 7, 3, 9, 3])  # in order: 3, 7, 9
    rng = np.random.default_rng(5)
    for times in resampled(people, samples=20, seed=5):
        drawn = rng.integers(3, size=3).tolist()
        assert times.tolist() == [drawn.count({3: 0, 7: 1, 9: 2}[p]) for p in people.tolist()]


def test_a_pair_of_two_people_is_in_every_combination_of_their_copies() -> None:
    people = np.array([[0, 1], [0, 0], [2, 1], [2, 2]])
    rng = np.random.default_rng(1)
    for times in resampled(people, samples=20, seed=1):
        copies = rng.integers(3, size=3).tolist()
        expected = []
        for a, b in people.tolist():
            if a == b:  # a matched pair comes with its person
                expected.append(sum(who == a for who in copies))
            else:
                expected.append(sum({c, d} == {a, b} for c, d in itertools.combinations(copies, 2)))
        assert times.tolist() == expected


def test_the_same_seed_gives_the_same_bounds_and_another_others() -> None:
    rng = np.random.default_rng(0)
    right_a, right_b = rng.random(300) < 0.9, rng.random(300) < 0.85
    people = rng.integers(40, size=300)
    found = [paired_difference(right_a, right_b, people, samples=200, seed=s) for s in (3, 3, 4)]
    assert found[0] == found[1] and found[0] != found[2]
    assert found[0].value == pytest.approx(right_a.mean() - right_b.mean(), abs=1e-15)
    assert found[0].low < found[0].value < found[0].high


def test_names_of_people_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    a, b, people = rng.random(90), rng.random(90), rng.integers(12, size=90)
    assert paired_difference(a, b, people) == paired_difference(a, b, people * 1000 - 7)


def test_one_trial_a_person_is_the_usual_standard_error() -> None:
    gain = np.random.default_rng(3).normal(0.1, 1.0, 400)
    found = paired_difference(gain, np.zeros(400), np.arange(400), samples=4000)
    half = 1.95996 * gain.std() / math.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)


def test_twenty_trials_of_a_person_that_err_together_are_worth_one() -> None:
    once = (np.random.default_rng(4).random(100) < 0.8).astype(float)
    zeros = np.zeros(2000)
    together = paired_difference(np.repeat(once, 20), zeros, np.repeat(np.arange(100), 20))
    assert together == pytest.approx(paired_difference(once, zeros[:100], np.arange(100)))
    apart = paired_difference(np.repeat(once, 20), zeros, np.arange(2000))
    assert together.high - together.low > 3.5 * (apart.high - apart.low)


def test_bounds_hold_the_truth_as_often_as_they_promise() -> None:
    """60 people, each pair's error moved by both: resampling pairs fails, people hold."""
    rng = np.random.default_rng(8)
    pairs = np.array(list(itertools.combinations(range(60), 2)))
    held = {"people": 0, "pairs": 0}
    for trial in range(120):
        hardness = rng.normal(size=60)  # the mean of a pair is 0
        value = hardness[pairs].sum(axis=1) + rng.normal(0, 0.5, len(pairs))
        for kind, cluster in (("people", pairs), ("pairs", np.arange(len(pairs)))):
            found = paired_difference(value, np.zeros(len(pairs)), cluster, samples=150, seed=trial)
            held[kind] += found.low <= 0 <= found.high
    assert held["people"] >= 0.9 * 120
    assert held["pairs"] <= 0.6 * 120


def test_a_resample_with_nothing_to_measure_has_no_say() -> None:
    def first_person(times: Float) -> float:
        return 1.0 if times[0] else math.nan

    assert interval(first_person, [0, 1, 1], samples=100) == (1.0, 1.0, 1.0)
    nothing = interval(lambda times: math.nan, [0, 1], samples=10)
    assert all(math.isnan(value) for value in nothing)


def test_several_statistics_come_from_the_same_resamples() -> None:
    value = np.random.default_rng(6).random(50)

    def mean(times: Float) -> float:
        return float((value * times).sum() / times.sum())

    people = np.arange(50)
    both = intervals(lambda times: [mean(times), 1 - mean(times)], people, samples=300)
    assert both[0] == interval(mean, people, samples=300)
    assert both[1].low == pytest.approx(1 - both[0].high)


@pytest.mark.parametrize(
    ("cluster", "match"),
    [
        ([4, 4, 4], "one cluster"),
        ([0.5, 1.0, 2.0], "whole numbers"),
        ([[0, 1, 2]] * 3, "one or two people"),
        ([], "whole numbers"),
    ],
)
def test_clusters_that_cannot_be_resampled_are_refused(cluster: list[float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        next(resampled(cluster))


def test_lengths_and_confidence_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) trials"):
        paired_difference([1, 0], [1, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="confidence 95"):
        paired_difference([1, 0], [1, 1], [0, 1], confidence=95)


@pytest.mark.parametrize(
    ("cluster", "trials"),
    [
        ([1, 1, 2, 3], 3),
        ([[0, 0], [1, 1], [1, 1]], 2),  # matched pairs: one a person
        ([[0, 1], [2, 3], [4, 5]], 3),  # nobody twice
        ([[0, 1], [0, 2], [1, 2]], 1),  # three people: one pair that shares nobody
        ([[0, 0], [0, 1]], 1),
    ],
)
def test_trials_that_share_nobody(cluster: list[int], trials: int) -> None:
    assert independent(cluster) == trials


def test_no_error_at_all_is_not_certainty() -> None:
    people = np.repeat(np.arange(25), 8)
    found = share_interval(np.ones(200, bool), people)
    assert found == Interval(1.0, wilson_interval(25, 25)[0], 1.0)
    none = share_interval(np.zeros(200, bool), people)
    assert none.value == none.low == 0.0
    assert none.high == pytest.approx(1.959964**2 / (25 + 1.959964**2))
    empty = share_interval([], [])
    assert math.isnan(empty.value) and empty[1:] == (0.0, 1.0)
    alone = share_interval([True, False], [5, 5])  # one person cannot be resampled
    assert alone.low < 0.12 and alone.high > 0.88


def test_a_share_is_worth_as_many_trials_as_its_resamples_spread() -> None:
    hit = np.random.default_rng(9).random(400) < 0.3
    people = np.repeat(np.arange(40), 10)
    drawn = [(hit * times).sum() / times.sum() for times in resampled(people, 500, 2)]
    share = hit.mean()
    expected = wilson_bounds(share, share * (1 - share) / np.var(drawn))
    found = share_interval(hit, people, samples=500, seed=2)
    assert found == pytest.approx((share, *expected))


@pytest.mark.parametrize(("people", "base"), [(50, -2.2), (200, -2.5)])
def test_rare_errors_of_people_are_held_where_percentiles_fail(people: int, base: float) -> None:
    """A pair is missed where its person's hardness and its own exceed a bound: 1 in 70, 160."""
    rng = np.random.default_rng(people)
    truth, who = NormalDist().cdf(base), np.repeat(np.arange(people), 6)
    held = {"share": 0, "percentiles": 0}
    for trial in range(100):
        hardness = math.sqrt(0.7) * rng.normal(size=people)[who]
        missed = base + hardness + math.sqrt(0.3) * rng.normal(size=len(who)) > 0
        shares = share_interval(missed, who, samples=100, seed=trial)
        plain = paired_difference(missed, np.zeros(len(who)), who, samples=100, seed=trial)
        for kind, found in (("share", shares), ("percentiles", plain)):
            held[kind] += found.low <= truth <= found.high
    assert held["share"] >= 90 > held["percentiles"]
