"""Rows over several shards: their vectors, names and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facepipe.exact_scores import NO_ROW
from facepipe.index import open_index
from facepipe.index_filter import parse_filter
from facepipe.open_shards import Shards
from tests.facepipe.made_index import cuts, made, names, rows_of, units

COUNT = 50


@pytest.fixture(params=[1, 3, 50])
def opened(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Shards, list[int]]:
    """Open shards, one for each face too, and say which face each row is."""
    people = [f"p{i % 4}" if i % 3 else None for i in range(COUNT)]
    folder = made(tmp_path, units(COUNT), shards=request.param, identities=people, dead=[7, 20])
    order = np.concatenate(cuts(COUNT, request.param)).tolist()
    return open_index(folder).shards, order


def test_rows_are_numbered_through_the_shards(opened: tuple[Shards, list[int]]) -> None:
    shards, order = opened
    assert len(shards) == COUNT
    rows = np.random.default_rng(0).integers(0, COUNT, 200)
    faces = [order[row] for row in rows]
    np.testing.assert_array_equal(shards.vectors(rows), units(COUNT)[faces])
    assert shards.face_ids(rows).tolist() == [names(COUNT)[face].encode() for face in faces]
    people = [f"p{i % 4}" if i % 3 else None for i in range(COUNT)]
    expected = rows_of([names(COUNT)[f] for f in faces], [people[f] for f in faces])
    assert shards.table(rows).equals(expected)
    assert shards.table(rows[:0]).equals(expected.slice(0, 0))
    assert len(shards.face_ids(rows[:0])) == 0


def test_faces_are_found_unless_they_are_deleted(opened: tuple[Shards, list[int]]) -> None:
    shards, order = opened
    assert shards.living is not None
    assert [order[row] for row in np.flatnonzero(~shards.living)] in ([7, 20], [20, 7])
    wanted = [names(COUNT)[i] for i in (49, 0, 7, 3, 3)] + ["", "nobody", "ffff" * 20, "ü"]
    rows = shards.rows_of(wanted)
    assert [order[row] if row != NO_ROW else None for row in rows[:5]] == [49, 0, None, 3, 3]
    assert (rows[5:] == NO_ROW).all()
    assert len(shards.rows_of([])) == 0


def test_identities_are_numbers(opened: tuple[Shards, list[int]]) -> None:
    shards, order = opened
    numbers, people = shards.identities()
    assert people == 4
    for row, face in enumerate(order):
        assert (numbers[row] == -1) == (face % 3 == 0)
        same = [other for other, at in enumerate(order) if at % 4 == face % 4 and at % 3]
        if face % 3:
            assert np.flatnonzero(numbers == numbers[row]).tolist() == same


def test_a_filter_goes_over_all_shards(opened: tuple[Shards, list[int]]) -> None:
    shards, order = opened
    where = parse_filter(["identity_id=p1", "uri!=/p/1.jpg"])
    assert where is not None
    found = [order[row] for row in np.flatnonzero(shards.mask(where))]
    assert sorted(found) == [i for i in range(2, COUNT) if i % 4 == 1 and i % 3]
