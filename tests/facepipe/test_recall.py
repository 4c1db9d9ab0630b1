"""What a search by codes finds of what exact search finds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facepipe import shard_search
from facepipe.evaluate import wilson_interval
from facepipe.exact_scores import NO_ROW, Float32, Hits
from facepipe.index import Gallery, open_index
from facepipe.index_manifest import CodeKind, Recall, Search
from facepipe.index_sample import sample_places
from facepipe.recall import (
    Matches,
    Truth,
    find_truth,
    finds_enough,
    measure,
    sample_rows,
)
from facepipe.recall_people import MIN_COSINE, Known
from facepipe.search_calibration import CANDIDATES, Trials, calibrate_search
from tests.facepipe.made_index import LISTS, made, people

ANY = Search(nprobe=1, candidates=1)


class Found:
    """Finds what it is told to."""

    def __init__(self, rows_QK: list[list[int]]) -> None:
        self.rows_QK = np.array(rows_QK)

    def search_approximate(
        self, queries_QD: Float32, k: int, *, nprobe: int, candidates: int
    ) -> Hits:
        rows_QK = self.rows_QK[: len(queries_QD)]
        return np.zeros(rows_QK.shape, np.float32), rows_QK

    def search_exact(self, queries_QD: Float32, k: int) -> Hits:
        raise AssertionError("not asked for here")


def truth(rows: list[int], found: list[list[int]], matches: list[list[int]]) -> Truth:
    return Truth(
        rows_Q=np.array(rows),
        vectors_QD=np.zeros((len(rows), 4), np.float32),
        found_QK=np.array(found),
        matches_QK=np.array(matches, bool),
        known=Known(
            np.zeros(0, np.int64),
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.array([0, 0, 0, 1, 1, 2, -1, -1, 2, 2], np.int32),
        ),
        seed=3,
    )


def test_shares_are_those_counted_by_hand() -> None:
    known = truth(
        rows=[0, 3, 6],
        found=[[1, 2, 5], [4, 9, NO_ROW], [7, 0, 1]],
        matches=[[1, 1, 0], [1, 0, 0], [1, 0, 0]],
    )
    # The row itself comes back first, last, or not at all (then the last hit is one too many).
    found = Found([[0, 2, 5, 8], [9, 8, 7, 3], [7, 5, 0, 1]])
    recall = measure(found, known, ANY, 0.9)
    assert (recall.queries, recall.pairs, recall.min_cosine, recall.seed) == (3, 4, MIN_COSINE, 3)
    assert recall.rth == pytest.approx(2 / 4)  # of 1, 2 | 4 | 7: the first and the second are not
    assert recall.recall_at_10 == pytest.approx((2 + 1 + 2) / 8, abs=1e-6)
    assert (recall.people_queries, recall.id_at_1) == (0, 1)  # nobody was asked for


def test_the_interval_of_pairs_knows_that_queries_miss_together() -> None:
    """40 queries of 10 pairs; 4 pairs in 100 missed, of four queries or of sixteen."""
    rows = list(range(40))
    wanted = [[100 + i for i in range(10)]] * 40
    together = [[-5] * 10 if q < 2 else wanted[q] for q in range(40)]
    apart = [[*wanted[q][:9], -5] if q < 20 else wanted[q] for q in range(40)]
    known = replace(
        truth([0], [[1]], [[1]]),
        rows_Q=np.array(rows),
        vectors_QD=np.zeros((40, 4), np.float32),
        found_QK=np.array(wanted),
        matches_QK=np.ones((40, 10), bool),
    )
    intervals = []
    for found in (together, apart):
        recall = measure(Found([[*row, 0] for row in found]), known, ANY, 0.9)
        assert recall.rth == pytest.approx(0.95)
        intervals.append((recall.rth_low, recall.rth_high))
    # Whole queries are missed: as many trials as there are queries.
    assert intervals[0] == pytest.approx(wilson_interval(38, 40), abs=1e-6)
    assert intervals[1][0] > intervals[0][0]
    assert intervals[1] == pytest.approx(wilson_interval(380, 400), abs=1e-3)


def test_no_matches_say_nothing() -> None:
    recall = measure(Found([[0, 2]]), truth([0], [[2]], [[0]]), ANY, 0.9)
    assert (recall.rth, recall.rth_low, recall.rth_high, recall.pairs) == (1, 0, 1, 0)
    assert (recall.id_at_1, recall.id_at_1_low, recall.id_at_1_high) == (1, 0, 1)
    assert finds_enough(Matches(recall.rth, recall.rth_low, recall.rth_high, 1.0), 0.9, 0)


@pytest.mark.parametrize(
    ("rth", "low", "queries", "enough"),
    [(0.995, 0.991, 900, True), (0.995, 0.989, 900, False), (1.0, 0.93, 50, True),
     (0.999, 0.93, 50, False), (1.0, 0.0, 0, True)],
)  # fmt: skip
def test_a_target_counts_at_the_lower_end(
    rth: float, low: float, queries: int, enough: bool
) -> None:
    assert finds_enough(Matches(rth, low, 1.0, 1.0), 0.99, queries) == enough


def test_a_sample_is_half_of_people_with_several_faces() -> None:
    person = np.concatenate([np.arange(5000), np.repeat(np.arange(5000, 5050), 4), [-1] * 800])
    person = person.astype(np.int32)
    living = np.ones(6000, bool)
    living[::9] = False
    keys = np.random.default_rng(1).permutation(6000).astype(np.uint64)
    rows = sample_rows(person, living, keys, 200)
    assert len(set(rows.tolist())) == 200
    assert (np.diff(rows) > 0).all()
    assert living[rows].all()
    several = (rows >= 5000) & (rows < 5200)
    assert 100 <= several.sum() <= 110
    assert (rows[~several] < 5000).any()
    assert (rows[~several] >= 5200).any()
    assert keys[rows[~several]].min() > 5500  # of the template's sample are the lowest
    other = np.random.default_rng(2).permutation(6000).astype(np.uint64)
    assert (sample_rows(person, living, other, 200) != rows).any()
    # A person of two, one of whom is deleted, has one face.
    two, high = np.array([0, 0, 1, 1], np.int32), np.array([9, 8, 1, 2], np.uint64)
    assert sample_rows(two, np.array([True, False, True, True]), high, 2).tolist() == [0, 3]
    for nobody in (np.full(7, -1, np.int32), np.arange(7, dtype=np.int32)):
        assert sample_rows(nobody, None, keys[:7], 100).tolist() == list(range(7))
    assert len(sample_rows(np.zeros(0, np.int32), None, keys[:0], 100)) == 0


def test_queries_are_not_those_the_template_was_trained_on(tmp_path: Path) -> None:
    gallery = opened(tmp_path, "ivf_sq8", shards=3)
    assert gallery.record.template is not None
    rows = find_truth(gallery, seed=5, queries=300).rows_Q
    faces = [name.decode() for name in gallery.shards.face_ids(np.arange(len(FACES)))]
    trained = sample_places(faces, None, 600, gallery.record.template.seed)
    assert not set(rows.tolist()) & set(trained.tolist())


# -- a real gallery ----------------------------------------------------------------------

FACES = people(200, 5, 32)
NAMES = [f"p{i // 5}" for i in range(len(FACES))]


@pytest.fixture(autouse=True)
def _by_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_search, "EXACT_ROWS", 0)
    monkeypatch.setattr(shard_search, "EXACT_SHARE", 0.0)


def opened(folder: Path, kind: CodeKind, shards: int = 2) -> Gallery:
    return open_index(
        made(folder, FACES, kind=kind, shards=shards, identities=NAMES, dead=[4, 9]), threads=1
    )


def test_the_truth_leaves_out_the_face_itself(tmp_path: Path) -> None:
    gallery = opened(tmp_path, "flat")
    known = find_truth(gallery, seed=0, queries=60)
    assert known.found_QK.shape == (60, 10)
    assert not (known.found_QK == known.rows_Q[:, None]).any()
    vectors = gallery.shards.vectors(np.arange(len(FACES))).astype(np.float64)
    assert gallery.shards.living is not None
    for q, row in enumerate(known.rows_Q):
        scores = vectors @ vectors[row]
        scores[~gallery.shards.living] = -9
        scores[row] = -9
        assert set(known.found_QK[q]) == set(np.argsort(-scores)[:10])
        matches = scores[known.found_QK[q]] >= MIN_COSINE
        np.testing.assert_array_equal(known.matches_QK[q], matches)
    recall = measure(gallery, known, Search(nprobe=0, candidates=0), 0.99)
    assert (recall.rth, recall.id_at_1, recall.recall_at_10) == (1, 1, 1)


@pytest.mark.parametrize("kind", ["ivf_sq8", "ivf_pqfs"])
def test_the_least_search_that_reaches_the_target_is_chosen(tmp_path: Path, kind: CodeKind) -> None:
    gallery = opened(tmp_path, kind)
    results: dict[float, tuple[Search, Recall]] = {}
    for target in (0.6, 0.9):
        search, recall = calibrate_search(gallery, target=target, seed=0, queries=300)
        assert recall is not None
        results[target] = search, recall
        assert recall.rth_low >= target == recall.target
        known = find_truth(gallery, seed=0, queries=300)
        assert measure(gallery, known, search, target) == recall
        if search.nprobe > 1:
            fewer = search.model_copy(update={"nprobe": search.nprobe - 1})
            assert measure(gallery, known, fewer, target).rth_low < target
    low, high = results[0.6][0], results[0.9][0]
    assert low.nprobe * low.candidates <= high.nprobe * high.candidates
    assert calibrate_search(gallery, target=0.9, seed=0, queries=300) == results[0.9]


def test_a_target_out_of_reach_gives_the_best_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facepipe.search_calibration.CANDIDATES", (11, 12))
    _, recall = calibrate_search(opened(tmp_path, "ivf_pqfs"), target=0.9999, seed=0, queries=100)
    assert recall is not None
    assert recall.rth_low < 0.9999
    assert recall.rth < 0.9999
    gallery = opened(tmp_path / "again", "ivf_pqfs")
    widest = Search(nprobe=LISTS, candidates=12)
    assert recall.rth >= measure(gallery, find_truth(gallery, seed=0, queries=100), widest, 0.9).rth


def test_lists_that_find_nothing_more_are_not_searched(tmp_path: Path) -> None:
    gallery = opened(tmp_path, "ivf_pqfs")
    truth = find_truth(gallery, seed=0, queries=100)
    for lists in (1, 3, LISTS):
        ranks_QK = np.full(truth.matches_QK.shape, lists - 1)
        trials = Trials(gallery, truth, 1.0, LISTS, ranks_QK)
        widest = Search(nprobe=LISTS, candidates=CANDIDATES[-1])
        every = {search: truth.matches_QK for search in (widest, *_with(lists))}
        trials.seen.update(every)
        assert trials.as_good_as(widest) == Search(nprobe=lists, candidates=CANDIDATES[0])


def _with(lists: int) -> list[Search]:
    return [Search(nprobe=lists, candidates=candidates) for candidates in CANDIDATES]


def test_a_flat_gallery_has_nothing_to_calibrate(tmp_path: Path) -> None:
    assert calibrate_search(opened(tmp_path, "flat"), target=0.99, seed=0) == (
        Search(nprobe=0, candidates=0),
        None,
    )


def test_a_gallery_without_names_or_matches(tmp_path: Path) -> None:
    """Strangers only: nothing is missed, and the interval says that nothing was shown."""
    strangers = np.linalg.qr(np.random.default_rng(0).normal(size=(512, 512)))[0][:64]
    folder = made(tmp_path, strangers.astype(np.float16), kind="ivf_sq8")
    search, recall = calibrate_search(open_index(folder), target=0.99, seed=0)
    assert recall is not None
    assert (recall.pairs, recall.rth, recall.rth_low, recall.id_at_1_low) == (0, 1, 0, 0)
    assert search.nprobe == 1
    assert math.isfinite(recall.recall_at_10)
