"""Whether people are found: against exact search where it is cheap, and counted by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from facepipe import recall_people, shard_search
from facepipe.evaluate import wilson_interval
from facepipe.exact_scores import NO_ROW, Float32, Hits
from facepipe.index import Gallery, open_index
from facepipe.index_manifest import Search
from facepipe.recall_people import (
    MIN_COSINE,
    PARTS,
    PEOPLE_QUERIES,
    Found,
    Known,
    ask_people,
    enough_for_people,
    find_known,
    find_people,
    highest,
)
from facepipe.search_calibration import calibrate_search
from tests.facepipe.made_index import made, people

ANY = Search(nprobe=1, candidates=1)
FACES = people(200, 5, 32)
NAMES = [f"p{i // 5}" for i in range(len(FACES))]


class Told:
    """Finds what it is told to, query by query."""

    def __init__(self, hits: Sequence[tuple[Sequence[float], Sequence[int]]]) -> None:
        self.hits, self.searches = list(hits), 0

    def search_approximate(
        self, queries_QD: Float32, k: int, *, nprobe: int, candidates: int
    ) -> Hits:
        some = self.hits[: len(queries_QD)]
        self.hits, self.searches = self.hits[len(queries_QD) :], self.searches + 1
        scores, rows = zip(*some, strict=True)
        return np.array(scores, np.float32), np.array(rows)

    def search_exact(self, queries_QD: Float32, k: int) -> Hits:
        raise AssertionError("not asked for here")


def known(rows: list[int], own: list[float], person: list[int]) -> Known:
    return Known(
        np.array(rows),
        np.zeros((len(rows), 4), np.float32),
        np.array(own, np.float32),
        np.array(person, np.int32),
    )


def test_who_is_right_missed_and_not_asked_for() -> None:
    asked = known([0, 1, 2, 3, 4], [0.6] * 5, [0, 0, 0, 1, 1, 2, -1])
    hits = [
        ([1.0, 0.6], [0, 1]),  # the person, behind the face itself
        ([1.0, 0.5], [1, 5]),  # another one, who is less like it than its own: missed
        ([1.0, 0.7], [2, 5]),  # another one, who is more like it: exact search finds that one, too
        ([0.4, 0.3], [6, 5]),  # nobody's face, and not even itself: missed
        ([1.0, -np.inf], [4, NO_ROW]),  # nothing: missed
    ]
    right, missed = find_people(Told(hits), asked, ANY)
    assert (right.tolist(), missed.tolist()) == ([1, 0, 0, 0, 0], [0, 1, 0, 1, 1])
    assert Found.of(right, missed) == Found(right=1, asked=4)


@pytest.mark.parametrize(
    ("right", "asked", "least", "enough"),
    [
        (3838, 3838, 0.999, True),  # the fewest that can show it
        (3837, 3838, 0.999, False),
        (3837, 3837, 0.999, True),  # too few: then all must be right
        (3836, 3837, 0.999, False),
        (16_376, 16_384, 0.999, True),
        (16_375, 16_384, 0.999, False),
        (8190, 8192, 0.999, True),
        (8189, 8192, 0.999, False),
        (0, 0, 0.999, True),
        (95, 100, 0.9, False),
        (97, 100, 0.9, True),
    ],
)
def test_what_is_enough(right: int, asked: int, least: float, enough: bool) -> None:
    assert Found(right, asked).is_enough(least) == enough
    assert Found(right, asked).interval == wilson_interval(right, asked)


# -- a real gallery ----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _by_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_search, "EXACT_ROWS", 0)
    monkeypatch.setattr(shard_search, "EXACT_SHARE", 0.0)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    folder = tmp_path_factory.mktemp("people")
    dead = [4, 9, *range(20, 24)]  # of p4 only one face is left
    names: list[str | None] = [None if i % 50 == 7 else name for i, name in enumerate(NAMES)]
    path = made(folder, FACES, kind="ivf_pqfs", shards=2, identities=names, dead=dead)
    return open_index(path, threads=1)


def all_known(gallery: Gallery) -> Known:
    person_N, _ = gallery.shards.identities()
    return find_known(gallery, person_N, gallery.shards.keys(0))


@pytest.mark.parametrize("most", [64, 2])
def test_own_matches_are_those_of_a_full_comparison(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(recall_people, "PERSON_FACES", most)
    found = all_known(gallery)
    person_N, _ = gallery.shards.identities()
    living_N = gallery.shards.living
    assert living_N is not None
    vectors = gallery.shards.vectors(np.arange(len(FACES))).astype(np.float64)
    expected = {}
    for row in range(len(FACES)):
        own = np.flatnonzero((person_N == person_N[row]) & living_N)
        others = [o for o in own[:most] if o != row]
        if person_N[row] >= 0 and living_N[row] and others:
            best = max(float(vectors[row] @ vectors[o]) for o in others)
            if best >= MIN_COSINE:
                expected[row] = best
    assert found.rows_Q.tolist() == sorted(expected)
    np.testing.assert_allclose(found.own_Q, [expected[r] for r in found.rows_Q], atol=1e-6)


def test_exact_search_misses_nobody(gallery: Gallery) -> None:
    assert gallery.codes is not None
    asked = all_known(gallery)
    everything = Search(nprobe=gallery.codes.nlist, candidates=len(FACES))
    found = Found.of(*find_people(gallery, asked, everything))
    assert found.right == found.asked > 900


def test_misses_are_those_that_exact_search_shows(gallery: Gallery) -> None:
    """Its best hit is the person's own face, and the search by codes ends with somebody else."""
    asked = all_known(gallery)
    _, rows = gallery.search_exact(asked.vectors_QD, 2)
    best = np.where(rows[:, 0] == asked.rows_Q, rows[:, 1], rows[:, 0])
    own = asked.person_N[best] == asked.person_N[asked.rows_Q]
    scores, coded = gallery.search_approximate(asked.vectors_QD, 2, nprobe=1, candidates=4)
    itself = coded[:, 0] == asked.rows_Q
    seen, score = np.where(itself, coded.T[::-1], coded.T)[0], np.where(itself, *scores.T[::-1])
    there = seen != NO_ROW
    right = there & (asked.person_N[seen] == asked.person_N[asked.rows_Q])
    found = Found.of(*find_people(gallery, asked, Search(nprobe=1, candidates=4)))
    assert found.right == right.sum()
    missed = own & ~right
    # And those where a stranger in other lists would have been nearer still.
    unseen = ~own & ~right & (asked.own_Q > score)
    assert found.asked - found.right == (missed | unseen).sum()
    assert missed.sum() > 100 > 10 > unseen.sum()


def test_a_sample_is_of_the_highest_keys(gallery: Gallery) -> None:
    person_N, _ = gallery.shards.identities()
    keys_N = gallery.shards.keys(0)
    some, every = find_known(gallery, person_N, keys_N, 100), all_known(gallery)
    assert 90 < len(some.rows_Q) <= 100
    others = np.setdiff1d(every.rows_Q, some.rows_Q)
    assert keys_N[some.rows_Q].min() > keys_N[others].max()
    assert PEOPLE_QUERIES > len(FACES)


@pytest.mark.parametrize("count", [0, 1, 40, 400, 2000])
def test_the_highest_keys_are_found_however_they_are_spread(count: int) -> None:
    rng = np.random.default_rng(3)
    mask = rng.random(2000) < 0.7
    spread = rng.integers(0, 2**64, 2000, np.uint64)
    for keys in (spread, spread >> np.uint64(3), np.arange(2000, dtype=np.uint64)):
        rows = np.flatnonzero(mask)
        expected = np.sort(rows[np.argsort(keys[rows])[::-1][:count]])
        np.testing.assert_array_equal(highest(mask, keys, count), expected)


def test_calibration_goes_on_until_people_are_found(gallery: Gallery) -> None:
    """With 992 to be asked for, none may be missed for an id@1 of 0.99."""
    search, recall = calibrate_search(gallery, target=0.9, seed=0, queries=300)
    assert recall is not None
    assert recall.people_queries > 380  # that show it, if nobody is missed
    assert recall.id_at_1_low >= 0.99
    fewer = Search(nprobe=max(1, search.nprobe // 2), candidates=search.candidates)
    assert not Found.of(*find_people(gallery, all_known(gallery), fewer)).is_enough(0.99)


class Counting:
    """Counts how many are asked for."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery, self.asked = gallery, list[int]()

    def search_approximate(
        self, queries_QD: Float32, k: int, *, nprobe: int, candidates: int
    ) -> Hits:
        self.asked.append(len(queries_QD))
        return self.gallery.search_approximate(queries_QD, k, nprobe=nprobe, candidates=candidates)

    def search_exact(self, queries_QD: Float32, k: int) -> Hits:
        raise AssertionError("not asked for here")


def test_more_lists_are_searched_for_those_who_are_missed_alone(gallery: Gallery) -> None:
    assert gallery.codes is not None
    asked, counting = all_known(gallery), Counting(gallery)
    first, widest = Search(nprobe=2, candidates=25), Search(nprobe=64, candidates=1000)
    assert not Found.of(*find_people(gallery, asked, first)).is_enough(0.99)
    chosen, found = enough_for_people(counting, asked, first, widest, 0.99)
    assert found == Found.of(*ask_people(gallery, asked, chosen, 0.99))
    assert found.is_enough(0.99)
    assert chosen.candidates == first.candidates
    assert first.nprobe < chosen.nprobe < widest.nprobe
    parts = [count for count in counting.asked if count >= len(asked.rows_Q) // PARTS]
    first_asked = sum(parts[:PARTS])
    assert first_asked == len(asked.rows_Q)  # and of what was chosen, as many as show it
    assert PARTS < len(parts) <= 2 * PARTS
    assert len(counting.asked) > len(parts)
    fewer = Search(nprobe=max(2, chosen.nprobe // 2), candidates=25)
    assert not Found.of(*find_people(gallery, asked, fewer)).is_enough(0.99)


def test_no_more_are_asked_for_than_show_it(gallery: Gallery) -> None:
    """A quarter, 248 of 992, show an id@1 of 0.98 where hardly anybody is missed."""
    asked, counting = all_known(gallery), Counting(gallery)
    search = Search(nprobe=64, candidates=1000)
    for least, parts in ((0.98, 1), (0.99, 2), (0.9999, PARTS)):
        counting.asked.clear()
        right, missed = ask_people(counting, asked, search, least)
        assert len(counting.asked) == parts
        assert sum(counting.asked) == -(-len(asked.rows_Q) * parts // PARTS)
        some = np.arange(len(asked.rows_Q)) % PARTS < parts
        whole = find_people(gallery, asked, search)
        np.testing.assert_array_equal(right, whole[0] & some)
        np.testing.assert_array_equal(missed, whole[1] & some)


def test_more_candidates_are_looked_at_where_all_lists_are_searched(gallery: Gallery) -> None:
    assert gallery.codes is not None
    asked, nlist = all_known(gallery), gallery.codes.nlist
    first, widest = Search(nprobe=nlist, candidates=2), Search(nprobe=nlist, candidates=1000)
    assert not Found.of(*find_people(gallery, asked, first)).is_enough(0.99)
    chosen, found = enough_for_people(gallery, asked, first, widest, 0.99)
    assert (chosen.nprobe, found.is_enough(0.99)) == (nlist, True)
    assert 2 < chosen.candidates < 1000
    # Nothing is enough: the widest, and what it finds.
    beyond = enough_for_people(gallery, asked, first, first.model_copy(), 0.99)
    assert beyond == (first, Found.of(*find_people(gallery, asked, first)))
