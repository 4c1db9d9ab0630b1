"""The sample of faces: the same for any order, never the first ones, a share of each source."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from facepipe.index_sample import sample_by_key, sample_places

FACES = [f"{i:032x}-0000" for i in range(2000)]
# Sorted by source, as archives are: one large, one half as large, ten of a few faces.
SOURCES = ["a"] * 1200 + ["b"] * 600 + [f"s{i // 20}" for i in range(200)]


@pytest.mark.parametrize("count", [12, 100, 700])
def test_each_source_gives_its_share_and_one_at_least(count: int) -> None:
    places = sample_places(FACES, SOURCES, count, 0)
    assert len(places) == len(set(places.tolist())) == count
    taken = Counter(SOURCES[i] for i in places)
    sizes = Counter(SOURCES)
    for source, size in sizes.items():
        assert 1 <= taken[source]
        # The one at least of each of 12 sources comes out of the share of all.
        assert abs(taken[source] - count * size / len(FACES)) <= 1 + 12 * size / len(FACES)


def test_with_no_room_for_all_sources_each_gives_one_at_most() -> None:
    taken = Counter(SOURCES[i] for i in sample_places(FACES, SOURCES, 7, 0))
    assert sorted(taken.values()) == [1] * 7


def test_the_order_of_the_input_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(len(FACES))
    faces, sources = [FACES[i] for i in order], [SOURCES[i] for i in order]
    for count in (5, 12, 333, 2000):
        one = [FACES[i] for i in sample_places(FACES, SOURCES, count, 3)]
        other = [faces[i] for i in sample_places(faces, sources, count, 3)]
        assert one == other


def test_a_larger_sample_holds_the_smaller_one() -> None:
    few, many = (set(sample_places(FACES, SOURCES, n, 1).tolist()) for n in (100, 300))
    assert few < many


def test_it_is_spread_over_a_source_and_moves_with_the_seed() -> None:
    """Of 200 of 2000, ten in each tenth are expected, with a deviation of four."""
    found = [sample_places(FACES, None, 200, seed) for seed in range(4)]
    for places in found:
        tenths = np.bincount(places // 200, minlength=10)
        assert tenths.min() >= 5
        assert tenths.max() <= 40
        assert abs(np.corrcoef(places, np.arange(200))[0, 1]) < 0.25  # nor in their order
    shared = set(found[0].tolist()) & set(found[1].tolist())
    assert len(shared) < 50  # 20 are expected


@pytest.mark.parametrize("kind", [list, pa.array, lambda x: pa.chunked_array([x[:9], x[9:]])])
def test_texts_come_in_any_form(kind: type) -> None:
    faces, sources = FACES[:50], [None, "x"] * 25
    expected = sample_places(faces, sources, 10, 0)
    np.testing.assert_array_equal(sample_places(kind(faces), kind(sources), 10, 0), expected)


@pytest.mark.parametrize("faces", [[], FACES[:1], FACES[:5]])
def test_where_there_are_fewer_all_are_taken(faces: list[str]) -> None:
    places = sample_places(pa.array(faces, pa.string()), None, 10, 0)
    assert sorted(places.tolist()) == list(range(len(faces)))
    assert len(sample_places(faces, None, 0, 0)) == 0


def test_the_rule_of_the_ranks() -> None:
    """Stratum 0 has keys 10..13 (size 4), stratum 1 has 1 and 2: ranks over sizes by hand."""
    keys = np.array([13, 1, 10, 12, 2, 11], np.uint64)
    strata = np.array([0, 1, 0, 0, 1, 0])
    # rank/size: 10: 0, 11: 1/4, 12: 2/4, 13: 3/4; 1: 0, 2: 1/2. Equal turns: the lower key.
    turns = [1, 10, 11, 2, 12, 13]
    for count in range(7):
        taken = keys[sample_by_key(keys, strata, count)].tolist()
        assert taken == sorted(turns[:count])
