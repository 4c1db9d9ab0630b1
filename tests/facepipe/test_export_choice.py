"""Choosing what is exported: every row of DECISIONS has one outcome, whatever is asked."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.errors import CorruptData
from facepipe.export_choice import CAUSES, CHOICE_COLUMNS, EXPORTED, Choice, RemovedBy, choose
from facepipe.face_places import FacePlaces, id_bytes

Row = tuple[str, str | None, str, float]


def face(number: int) -> str:
    return f"{number:032x}-0000"


def batches(rows: list[Row], size: int = 3) -> list[pa.RecordBatch]:
    columns = list(zip(*rows, strict=True)) or [[], [], [], []]
    types = (pa.string(), pa.string(), pa.string(), pa.float32())
    arrays = [pa.array(c, t) for c, t in zip(columns, types, strict=True)]
    table = pa.table(arrays, names=list(CHOICE_COLUMNS))
    return table.to_batches(max_chunksize=size)


def outcome(choice: Choice) -> dict[str, str | int]:
    """Return for each kept face its label, or who removed it."""
    rows = zip(choice.places.ids, choice.cause_M, choice.label_M, strict=True)
    return {
        i.decode(): int(label) if cause == EXPORTED else CAUSES[cause].value
        for i, cause, label in rows
    }


ROWS: list[Row] = [
    (face(5), "bob", "keep", 0.5),
    (face(1), "ann", "relabel", 0.9),
    (face(1), "ann", "duplicate", 0.0),
    (face(2), None, "drop", 0.0),
    (face(3), None, "keep", 0.7),
    (face(4), "ann", "merge", 0.2),
    (face(6), "Zed", "keep", 0.8),
]


def test_people_are_numbered_by_their_sorted_names() -> None:
    choice = choose(batches(ROWS))
    assert choice.people == ("Zed", "ann", "bob")
    assert outcome(choice) == {
        face(1): 1,
        face(3): "no_identity",
        face(4): 1,
        face(5): 2,
        face(6): 0,
    }
    assert choice.total == 7 and choice.exported == 4
    assert {k: v for k, v in choice.counts.items() if v} == {"decision": 2, "no_identity": 1}
    assert choice.sizes().tolist() == [1, 2, 1]
    by_label = [choice.places.ids[p].decode() for p in choice.by_label()]
    assert by_label == [face(6), face(1), face(4), face(5)]


def test_the_first_cause_counts_and_later_filters_see_what_is_left() -> None:
    marked = FacePlaces(id_bytes(pa.array([face(3), face(5)])))
    choice = choose(batches(ROWS), min_weight=0.5, min_faces=2, overlapping=marked)
    assert outcome(choice) == {
        face(1): "min_faces",  # the other of its person is too light
        face(3): "no_identity",
        face(4): "min_weight",
        face(5): "overlap",
        face(6): "min_faces",
    }
    assert choice.people == () and choice.exported == 0


def test_limit_takes_the_first_in_the_order_of_people() -> None:
    choice = choose(batches(ROWS), limit=2)
    assert outcome(choice)[face(6)] == 0 and outcome(choice)[face(1)] == 1
    assert choice.people == ("Zed", "ann")
    assert choice.counts["limit"] == 2


def test_no_rows_are_no_export() -> None:
    choice = choose([])
    assert choice.total == choice.exported == 0 and choice.people == ()


@pytest.mark.parametrize("bad", ["../../x-0000", "0" * 32 + "-0000/..", face(1).upper() + "A", ""])
def test_a_face_id_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(CorruptData, match="face id"):
        choose(batches([(bad, "ann", "keep", 1.0)]))


def test_a_face_that_is_kept_twice_is_refused() -> None:
    with pytest.raises(CorruptData, match="twice"):
        choose(batches([(face(1), "ann", "keep", 1.0), (face(1), "bob", "keep", 1.0)]))


DECIDED = st.tuples(
    st.sampled_from(["a", "B", "\N{GREEK SMALL LETTER BETA}", None]),
    st.sampled_from(["keep", "relabel", "merge", "drop", "duplicate"]),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)


@given(
    st.lists(DECIDED, max_size=25),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(1, 4),
    st.sets(st.integers(0, 24)),
    st.one_of(st.none(), st.integers(1, 10)),
)
def test_counts_add_up_and_agree_with_a_plain_account(
    decided: list[tuple[str | None, str, float]],
    min_weight: float,
    min_faces: int,
    marked: set[int],
    limit: int | None,
) -> None:
    rows = [(face(i), *row) for i, row in enumerate(decided)]
    overlapping = FacePlaces.of([pa.array([face(i) for i in marked], pa.string())])
    choice = choose(
        batches(rows),
        min_weight=min_weight,
        min_faces=min_faces,
        overlapping=overlapping,
        limit=limit,
    )
    left = [
        (name, i)
        for i, (name, decision, weight) in enumerate(decided)
        if decision not in ("drop", "duplicate")
        and name is not None
        and i not in marked
        and weight >= min_weight
    ]
    sizes = Counter(name for name, _ in left)
    left = sorted((name, face(i)) for name, i in left if sizes[name] >= min_faces)[:limit]
    people = sorted({name for name, _ in left})
    assert choice.people == tuple(people)
    exported = {i: label for i, label in outcome(choice).items() if isinstance(label, int)}
    assert exported == {i: people.index(name) for name, i in left}
    assert choice.exported + sum(choice.counts.values()) == choice.total == len(rows)
    assert set(choice.counts) == {c.value for c in RemovedBy}
    assert np.array_equal(np.sort(choice.by_face()), np.sort(choice.by_label()))
