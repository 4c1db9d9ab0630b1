"""The least lists that are enough are found, in few trials."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from facepipe.exact_scores import NO_ROW, Float32, Hits
from facepipe.index_manifest import Search
from facepipe.recall import Truth
from facepipe.recall_people import Known
from facepipe.search_calibration import STEPS, Trials

QUERIES, LISTS, TARGET = 400, 512, 0.9


@dataclass
class Codes:
    """Find match k of a query where its list is searched and enough candidates are looked at."""

    ranks_QK: np.ndarray
    places_QK: np.ndarray  # of the match among those its codes bring
    asked: list[Search] = field(default_factory=list)

    def search_approximate(
        self, queries_QD: Float32, k: int, *, nprobe: int, candidates: int
    ) -> Hits:
        self.asked.append(Search(nprobe=nprobe, candidates=candidates))
        seen_QK = (self.ranks_QK < nprobe) & (self.places_QK < candidates)
        rows_QK = np.where(seen_QK, self.rows(), NO_ROW)
        rows_QK = np.hstack([rows_QK, np.full((len(rows_QK), 1), NO_ROW)])
        return np.zeros(rows_QK.shape, np.float32), rows_QK

    def search_exact(self, queries_QD: Float32, k: int) -> Hits:
        raise AssertionError("not asked for here")

    def rows(self) -> np.ndarray:
        return np.arange(self.ranks_QK.size).reshape(self.ranks_QK.shape)


def made(seed: int) -> tuple[Codes, Trials]:
    random = np.random.default_rng(seed)
    codes = Codes(
        (LISTS * random.random((QUERIES, 10)) ** 3).astype(np.int64),
        (400 * random.random((QUERIES, 10)) ** 8).astype(np.int64),
    )
    known = Known(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int32))
    truth = Truth(
        rows_Q=np.full(QUERIES, 10**6),
        vectors_QD=np.zeros((QUERIES, 4), np.float32),
        found_QK=codes.rows(),
        matches_QK=random.random((QUERIES, 10)) < 0.5,
        known=known,
        seed=0,
    )
    return codes, Trials(codes, truth, TARGET, LISTS, codes.ranks_QK)


def least_of_all(candidates: int, seed: int) -> int | None:
    """Try every number of lists."""
    _, trials = made(seed)
    for nprobe in range(1, LISTS + 1):
        if trials._enough(nprobe, candidates):
            return nprobe
    return None


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("ahead", [False, True])
def test_the_least_lists_are_found_to_an_eighth(seed: int, ahead: bool) -> None:
    _, trials = made(seed)
    if ahead:
        trials.look_ahead(10.0, 400, 1.0)
    for candidates in (10, 50, 100, 200, 400):
        wanted, found = least_of_all(candidates, seed), trials.least(candidates, LISTS)
        assert (wanted is None) == (found is None)
        if wanted is not None and found is not None:
            assert wanted <= found <= wanted + max(1, found // STEPS)


def test_what_the_most_candidates_do_not_find_is_not_tried_with_fewer() -> None:
    codes, trials = made(0)
    trials.look_ahead(10.0, 200, 1.0)
    first = codes.asked[0]
    assert first.candidates == 200
    for candidates in (25, 50, 100, 200):
        trials.least(candidates, LISTS)
    assert all(search.nprobe > first.nprobe for search in codes.asked[1:])
    assert len(set(codes.asked)) == len(codes.asked)


def test_candidates_that_cost_more_than_lists_are_not_tried_first() -> None:
    codes, trials = made(0)
    trials.look_ahead(1.0, 400, 10.0**9)
    assert not codes.asked
