"""Which faces and identities overlap: made searches, and sums done again by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from facepipe.overlap import LEVELS, SAME_PICTURE_COSINE, Marks, OverlapSettings, mark_faces
from facepipe.person_search import Hits
from facepipe.schema import OVERLAP_IDENTITIES, OVERLAPS

NAMED = 10  # people of the probes; unlabelled faces have higher numbers


def hits(chance: list[float], person: list[int], cosine: float = 0.0) -> Hits:
    found = Hits.none(len(chance))
    found.chance_N[:] = chance
    found.person_N[:] = person
    found.cosine_N[:] = cosine
    return found


def marked(found: Hits, identity: list[int], identities: int, fpir: float = 0.01) -> Marks:
    same_bytes = np.zeros(len(found.chance_N), dtype=bool)
    return mark_faces(found, same_bytes, np.array(identity, np.int32), identities, NAMED, fpir)


def level(marks: Marks) -> list[str | None]:
    return [LEVELS[i].value if i >= 0 else None for i in marks.level_N]


# -- marks -------------------------------------------------------------------------------


def test_the_strongest_level_is_named() -> None:
    found = hits([1e-9, 1e-9, 1e-9, 1.0, 1.0], [4, 4, 4, 2, 2])
    found.cosine_N[:] = [0.99, SAME_PICTURE_COSINE, 0.7, 0.1, 0.1]
    same_bytes = np.array([True, False, False, False, False])
    identity = np.array([0, 0, 0, 0, 1], np.int32)
    marks = mark_faces(found, same_bytes, identity, 2, NAMED, 0.01)
    assert level(marks) == ["same_bytes", "same_picture", "same_person", "same_identity", None]
    assert marks.by_identity_I.tolist() == [True, False]
    assert marks.person_I.tolist() == [4, -1] and marks.person_N[3] == 4


@pytest.mark.parametrize(
    ("chances", "people_found", "overlaps"),
    [
        ([0.0, 1.0], [1, 1], True),  # half
        ([0.0, 1.0, 1.0], [1, 1, 1], False),
        ([0.0, 0.0, 1.0, 1.0], [1, 2, 1, 1], False),  # half, but two people
        ([0.0, 0.0, 0.0], [1, 2, 2], True),
        ([0.0, 0.0, 1.0, 1.0], [10, 12, 11, 11], True),  # who may be one person
        ([1.0], [1], False),
    ],
)
def test_an_identity_overlaps_with_half_of_its_faces(
    chances: list[float], people_found: list[int], overlaps: bool
) -> None:
    marks = marked(hits(chances, people_found), [0] * len(chances), 1)
    assert marks.by_identity_I.tolist() == [overlaps]


def test_faces_without_vector_or_identity_do_not_vote() -> None:
    found = hits([0.0, 1.0, 1.0, 1.0], [3, -1, -1, 5])
    marks = marked(found, [0, 0, 0, -1], 1)  # two of three have no vector
    assert marks.by_identity_I.tolist() == [True]
    assert level(marks) == ["same_person", "same_identity", "same_identity", None]


def test_nothing_is_marked_where_there_is_nothing() -> None:
    assert level(marked(Hits.none(3), [-1, -1, -1], 0)) == [None] * 3
    assert level(marked(Hits.none(0), [], 0)) == []


@given(st.lists(st.sampled_from([0.0, 1e-6, 1e-3, 0.004, 0.01, 0.3, 1.0]), min_size=1, max_size=30))
def test_confidence_is_what_strangers_leave(chances: list[float]) -> None:
    marks = marked(hits(chances, [0] * len(chances)), [-1] * len(chances), 0)
    rising = sorted(np.float32(c) for c in chances)
    for chance, sure, mark in zip(chances, marks.confidence_N, marks.level_N, strict=True):
        assert (mark >= 0) == (np.float32(chance) <= 0.01)
        if mark < 0:
            continue
        shares = [
            len(chances) * float(c) / sum(o <= c for o in rising)
            for c in rising
            if c >= np.float32(chance)
        ]
        assert sure == pytest.approx(1 - min([1.0, *shares]), abs=1e-6)


def test_confidence_of_an_identity_is_that_of_its_found_faces() -> None:
    found = hits([1e-6, 1e-3, 1.0, 1.0], [2, 2, 0, 0])
    marks = marked(found, [0, 0, 0, 1], 2)
    assert marks.confidence_I[0] == pytest.approx(((1 - 4e-6) + (1 - 2e-3)) / 2, abs=1e-6)
    assert marks.confidence_N[2] == marks.confidence_I[0]


# -- contracts ---------------------------------------------------------------------------


@pytest.mark.parametrize("fpir", [0.0, -1.0, 0.2])
def test_a_rate_out_of_range_is_refused(fpir: float) -> None:
    with pytest.raises(ValidationError):
        OverlapSettings(fpir=fpir)


def test_schemas_say_which_table_they_are() -> None:
    assert OVERLAPS.metadata[b"facepipe.table"] == b"overlaps"
    assert OVERLAP_IDENTITIES.metadata[b"facepipe.table"] == b"overlap_identities"
    assert [level.value for level in LEVELS] == OVERLAP_IDENTITIES.names[-len(LEVELS) :]
