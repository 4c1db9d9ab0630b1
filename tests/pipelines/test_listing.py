"""Which shard an input is in, from night to night."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from facepipe.errors import CorruptData
from facepipe.shards import Dataset
from facepipe.sources import Entry
from facepipe.store import open_store
from pipelines.listing import Listing, extend, read_listing, write_listing


def entries(*names: str, **fields: object) -> list[Entry]:
    return [Entry(uri=f"/in/{n}", version="1", **fields) for n in names]  # type: ignore[arg-type]


def names(listing: Listing) -> dict[str, list[str]]:
    return {s: [e.uri.removeprefix("/in/") for e in es] for s, es in listing.shards.items()}


FIRST = extend(Listing(), [*entries("a", "b", "c"), *entries("t.tar", kind="tar")], 2)


def test_photos_fill_shards_and_a_container_has_its_own() -> None:
    assert names(FIRST) == {"000000": ["a", "b"], "000001": ["c"], "000002": ["t.tar"]}
    assert set(FIRST.generation.values()) == {0}
    assert list(FIRST.photos()) == ["000000", "000001"] and list(FIRST.containers()) == ["000002"]


@pytest.mark.parametrize(
    ("photos", "sizes"),
    [
        (3, [3]),
        (90, [16] * 5 + [10]),
        (1_000, [42] * 21 + [16] * 7 + [6]),
        (10_000, [64] * 154 + [16] * 9),
    ],
)
def test_shards_are_neither_many_nor_large_and_the_last_are_smaller(
    photos: int, sizes: list[int]
) -> None:
    listing = extend(Listing(), entries(*(f"{i:05d}" for i in range(photos))), None)
    assert [len(e) for e in listing.shards.values()] == sizes
    assert [e.uri for es in listing.shards.values() for e in es] == [
        f"/in/{i:05d}" for i in range(photos)
    ]


def test_what_is_new_comes_after_what_is_there() -> None:
    found = [*entries("0", "a", "b", "c"), *entries("s.tar", "t.tar", kind="tar")]
    second = extend(FIRST, found, 2)
    assert names(second) == {**names(FIRST), "000003": ["0"], "000004": ["s.tar"]}
    assert [second.generation[s] for s in ("000002", "000003", "000004")] == [0, 1, 1]
    assert names(extend(second, [], 2, drop_gone=False)) == names(second)


def test_a_changed_input_keeps_its_place() -> None:
    changed = [replace(e, version="2") for e in entries("a")]
    second = extend(FIRST, changed, 2)
    assert names(second) == names(FIRST) and second.shards["000000"][0].version == "2"


def test_a_file_that_becomes_a_container_leaves_the_photos() -> None:
    second = extend(FIRST, entries("c", kind="zip"), 2)
    assert names(second) == {"000000": ["a", "b"], "000002": ["t.tar"], "000003": ["c"]}
    assert second.containers()["000003"].kind == "zip"


def test_a_container_that_becomes_a_file_comes_with_the_photos() -> None:
    second = extend(FIRST, entries("t.tar"), 2)
    assert names(second) == {"000000": ["a", "b"], "000001": ["c"], "000003": ["t.tar"]}
    assert not second.containers()


def test_a_container_that_cannot_be_read_tonight_stays_one() -> None:
    second = extend(FIRST, entries("t.tar", problem="cannot be read"), 2)
    assert second.shards == FIRST.shards


def test_a_list_of_which_only_the_folder_is_given_stays_one() -> None:
    first = extend(Listing(), entries("l.csv", kind="list"), 2)
    second = extend(first, entries("l.csv"), 2)
    assert second == first


def test_a_listing_is_stored_and_read_back(tmp_path: Path) -> None:
    dataset = Dataset(open_store(tmp_path))
    assert read_listing(dataset) == Listing()
    write_listing(dataset, FIRST)
    assert read_listing(dataset) == FIRST


def test_a_listing_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    dataset = Dataset(open_store(tmp_path))
    write_listing(dataset, FIRST)
    path = tmp_path / "_plan/listing.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptData, match=r"another version of facepipe.* new dataset"):
        read_listing(dataset)
