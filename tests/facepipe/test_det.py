"""DET points and TAR at a FAR, against counting; their intervals against copies of pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.bootstrap import resampled
from facepipe.det import (
    _Ranked,
    det,
    equal_error,
    require_supported,
    supported,
    tar_differences,
    tars_at_fars,
)
from facepipe.errors import UsageError
from facepipe.evaluate import tar_at_far, wilson_bounds, wilson_interval

NAN = math.nan
LEVELS = [-0.5, 0.0, 0.1, 0.2, 0.3, 0.9, NAN]
pair_lists = st.lists(
    st.tuples(st.sampled_from(LEVELS), st.booleans(), st.integers(1, 3)), min_size=2, max_size=30
).filter(lambda pairs: len({same for _, same, _ in pairs}) == 2)
fars = st.lists(st.sampled_from([0.05, 0.2, 1 / 3, 0.5, 1.0]), min_size=1, max_size=4)


@given(pair_lists)
def test_det_points_are_counts(pairs: list[tuple[float, bool, int]]) -> None:
    similarities, same, _ = zip(*pairs, strict=True)
    curve = det(similarities, same)
    levels = sorted({s for s in similarities if not math.isnan(s)}, reverse=True)
    assert curve.threshold.tolist() == [math.inf, *levels]
    for threshold, fmr, fnmr in zip(curve.threshold, curve.fmr, curve.fnmr, strict=True):
        missed = [not s >= threshold for s, matched, _ in pairs if matched]
        alarms = [not s < threshold for s, matched, _ in pairs if not matched]  # NaN too
        assert fnmr == pytest.approx(sum(missed) / len(missed), abs=1e-12)
        assert fmr == pytest.approx(sum(alarms) / len(alarms), abs=1e-12)


@given(pair_lists, fars)
def test_weighted_tar_is_that_of_copied_pairs(
    pairs: list[tuple[float, bool, int]], asked: list[float]
) -> None:
    similarities, same, times = (np.array(column) for column in zip(*pairs, strict=True))
    found = _Ranked.of(similarities, same).tars(times.astype(float), asked)
    copied = np.repeat(similarities, times), np.repeat(same, times)
    assert found.tolist() == [tar_at_far(*copied, far).tar for far in asked]


def test_a_resample_without_one_kind_measures_nothing() -> None:
    ranked = _Ranked.of([0.9, 0.1], np.array([True, False]))
    assert np.isnan(ranked.tars(np.array([1.0, 0.0]), [0.5])).all()
    assert np.isnan(ranked.tars(np.array([0.0, 2.0]), [0.5])).all()


def test_equal_error_by_hand() -> None:
    similarities = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    same = [True, True, False, True, True, False, False, False]
    # at 0.6: one of four alarms, one of four missed
    assert equal_error(det(similarities, same)) == 0.25
    assert equal_error(det([0.9, 0.1], [True, False])) == 0.0


@pytest.mark.parametrize(
    ("impostors", "least"), [(9, None), (10, 0.1), (999, 0.01), (1000, 0.001), (2100, 0.001)]
)
def test_a_far_below_one_impostor_is_refused(impostors: int, least: float | None) -> None:
    known = supported(impostors)
    assert (known[-1] if known else None) == least
    require_supported(known, impostors)
    with pytest.raises(UsageError, match=rf"at least {round(10 / (least or 1)):,}$"):
        require_supported([(least or 1.0) / 10], impostors)


@pytest.mark.parametrize("far", [0.0, -0.1, 1.5, NAN])
def test_what_is_no_rate_is_refused(far: float) -> None:
    with pytest.raises(UsageError, match="not between 0 and 1"):
        require_supported([far], 10**9)


def made_pairs(seed: int, people: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return similarities, same and people of pairs: 5 matched a person, and strangers."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.1, people)
    matched = np.repeat(np.arange(people), 5)
    strangers = rng.integers(people, size=(300, 2))
    strangers = strangers[strangers[:, 0] != strangers[:, 1]]
    who = np.concatenate([np.stack([matched, matched], axis=1), strangers])
    same = who[:, 0] == who[:, 1]
    similarity = np.where(same, 0.5, 0.1) + hard[who].sum(axis=1) + rng.normal(0, 0.1, len(who))
    return similarity, same, who


def test_tar_comes_with_the_interval_of_its_resamples() -> None:
    similarity, same, people = made_pairs(1)
    asked = [0.1, 0.01]
    bands = tars_at_fars(similarity, same, asked, people, samples=200, seed=4)
    drawn = []
    for times in resampled(people, 200, 4):
        copies = np.repeat(np.arange(len(same)), times.astype(int))
        drawn.append([tar_at_far(similarity[copies], same[copies], far).tar for far in asked])
    spread = np.var(drawn, axis=0)
    for n, (band, far) in enumerate(zip(bands, asked, strict=True)):
        point = tar_at_far(similarity, same, far)
        assert band.far == far and band.tar.value == point.tar
        assert (band.measured_far, band.threshold) == (point.far, point.threshold)
        trials = point.tar * (1 - point.tar) / spread[n]
        assert 10 < trials < same.sum()  # pairs of a person are worth less than as many people
        assert band.tar[1:] == pytest.approx(wilson_bounds(point.tar, trials), abs=1e-12)
        assert band.tar.low < band.tar.value < band.tar.high


def test_a_perfect_tar_is_as_sure_as_its_people_are_many() -> None:
    similarity, same, people = made_pairs(2)
    separated = np.where(same, 1.0, 0.0) + 0.01 * similarity
    (band,) = tars_at_fars(separated, same, [0.01], people, samples=100)
    assert band.tar == (1.0, wilson_interval(40, 40)[0], 1.0)


def test_differences_are_paired() -> None:
    similarity, same, people = made_pairs(3)
    worse = similarity + np.random.default_rng(0).normal(0, 0.02, len(same))
    (none,) = tar_differences(similarity, similarity, same, [0.05], people, samples=100)
    assert none == (0.0, 0.0, 0.0)
    (gain,) = tar_differences(similarity, worse, same, [0.05], people, samples=400)
    single = tars_at_fars(similarity, same, [0.05], people, samples=400)[0].tar
    first, second = (tar_at_far(s, same, 0.05).tar for s in (similarity, worse))
    assert gain.value == pytest.approx(first - second)
    assert gain.high - gain.low < 0.7 * (single.high - single.low)  # what both share cancels


def test_pairs_that_cannot_be_ranked_are_refused() -> None:
    with pytest.raises(ValueError, match="matched and mismatched"):
        _Ranked.of([0.1, 0.2], np.array([False, False]))
    with pytest.raises(ValueError, match=r"\(3,\) similarities"):
        _Ranked.of([0.1, 0.2, 0.3], np.array([False, True]))
