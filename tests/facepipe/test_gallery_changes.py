"""Which rows of a gallery stay, come and go when its dataset has changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.errors import CorruptData
from facepipe.gallery import GALLERY
from facepipe.gallery_changes import Indexed, Named, overlaps, row_keys

Face = tuple[str, str, str | None, float, str | None]  # face, uri, member, left, identity


def rows(*faces: Face) -> pa.Table:
    values = [
        {
            "face_id": face,
            "uri": uri,
            "member": member,
            "box_xyxy_px": [left, 0.0, left + 10, 10.0],
            "identity_id": identity,
        }
        for face, uri, member, left, identity in faces
    ]
    return pa.Table.from_pylist(values, schema=GALLERY)


def parts(*tables: pa.Table) -> list[Any]:
    return [(i, np.arange(len(t)) * 2, t) for i, t in enumerate(tables)]  # every other row lives


A: Face = ("a", "1", None, 0, "Ann")
B: Face = ("b", "2", "m", 5, None)
C: Face = ("c", "3", None, 0, "Cy")


@pytest.mark.parametrize(
    "changed",
    [
        ("a", "9", None, 0, "Ann"),
        ("a", "1", "m", 0, "Ann"),
        ("a", "1", None, 1, "Ann"),
        ("a", "1", None, 0, "Bob"),
        ("a", "1", None, 0, None),
        ("d", "1", None, 0, "Ann"),
    ],
)
def test_a_row_with_any_other_value_is_another_row(changed: Face) -> None:
    first, second = row_keys(rows(A, changed)).tolist()
    assert first != second
    indexed = Indexed.read(lambda: parts(rows(A, B), rows(C)))
    new = indexed.new(rows(changed, B, C))
    assert new["face_id"].to_pylist() == [changed[0]]
    assert [g.tolist() for g in indexed.gone(2)] == [[0], []]


FACES = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(FACES, FACES, st.sets(st.sampled_from("abcdefgh")), st.integers(0, 8), st.integers(0, 8))
def test_what_stays_comes_and_goes_adds_up(
    before: list[str], after: list[str], renamed: set[str], cut: int, batch: int
) -> None:
    old = rows(*((f, "1", None, 0, "x") for f in before))
    now = rows(*((f, "1", None, 0, "y" if f in renamed else "x") for f in after))
    indexed = Indexed.read(lambda: parts(old[:cut], old[cut:]))
    new = [indexed.new(part) for part in (now[:batch], now[batch:])]
    staying = set(before) & set(after) - renamed
    assert {f for part in new for f in part["face_id"].to_pylist()} == set(after) - staying
    gone = {
        table["face_id"][int(place) // 2].as_py()
        for table, places in zip((old[:cut], old[cut:]), indexed.gone(2), strict=True)
        for place in places
    }
    assert gone == set(before) - staying


def test_a_face_that_is_there_twice_is_damage() -> None:
    with pytest.raises(CorruptData, match="twice"):
        Indexed.read(lambda: parts(rows(A), rows(A)))


def test_names_are_kept_and_another_place_of_the_photo_is_another_face() -> None:
    named = Named.read(parts(rows(A, C), rows(B)))
    now = rows(
        ("a", "1", None, 2, "new name"),  # 8 of 12 pixels in common
        ("b", "2", "m", 5, "new name"),
        ("c", "3", None, 8, "new name"),  # 2 of 18
        ("d", "4", None, 0, "new name"),
    )
    kept = named.keep(now)
    assert kept["face_id"].to_pylist() == ["a", "b"]
    assert kept["identity_id"].to_pylist() == ["Ann", None]
    assert (kept.schema, named.taken) == (now.schema, 2)


def test_overlaps() -> None:
    first = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [3, 3, 3, 3]], np.float32)
    second = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [3, 3, 3, 3]], np.float32)
    np.testing.assert_allclose(overlaps(first, second), [1, 1 / 3, 0, 1])
