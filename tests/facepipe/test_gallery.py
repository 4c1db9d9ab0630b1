"""What goes into a gallery, and an account that adds up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.errors import StoreError
from facepipe.gallery import DECISION_COLUMNS, FACE_COLUMNS, GALLERY, Selector, Verdicts
from facepipe.schema import DECISIONS, FACES, Decision, FaceStatus, Reason

Row = tuple[Any, ...]


def faces(*rows: Row) -> pa.Table:
    """Make FACES of (face, uri, label, status)."""
    schema = pa.schema([FACES.field(name) for name in FACE_COLUMNS])
    values = [
        {
            "face_id": face,
            "uri": uri,
            "member": None,
            "box_xyxy_px": [0, 0, len(uri), 1],
            "source_label": label,
            "status": status,
        }
        for face, uri, label, status in rows
    ]
    return pa.Table.from_pylist(values, schema=schema)


def decisions(*rows: Row) -> pa.Table:
    """Make DECISIONS of (face, uri, identity, decision, reason)."""
    schema = pa.schema([DECISIONS.field(name) for name in DECISION_COLUMNS])
    values = [
        {
            "face_id": face,
            "uri": uri,
            "member": None,
            "identity_id": identity,
            "decision": decision,
            "reason": reason,
        }
        for face, uri, identity, decision, reason in rows
    ]
    return pa.Table.from_pylist(values, schema=schema)


def embedded(*face_ids: str, without: Sequence[str] = ()) -> pa.Table:
    """Make the columns of EMBEDDINGS that are read."""
    status = ["bad_crop" if face in without else "ok" for face in face_ids]
    return pa.table({"face_id": pa.array(face_ids, pa.string()), "status": pa.array(status)})


@dataclass
class Chosen:
    rows: pa.Table  # PICKED, by face_id
    selector: Selector


def select(
    table: pa.Table,
    embeddings: pa.Table,
    decided: pa.Table | None,
    include: Any,
    cuts: Sequence[int] = (),
) -> Chosen:
    """Choose among FACES that are cut into shards at some rows."""
    ends = [*sorted(cuts), len(table)]
    starts = [0, *ends[:-1]]
    shards = [
        (table.slice(a, b - a), embeddings.slice(a, b - a))
        for a, b in zip(starts, ends, strict=True)
    ]
    verdicts = None if decided is None else Verdicts.read(lambda: [decided[:2], decided[2:]])
    selector = Selector(verdicts, include)
    for shard in shards:
        selector.look(*shard)
    for number in selector.looked():
        selector.settle(number, *shards[number])
    rows = pa.concat_tables([selector.take(i, *shard) for i, shard in enumerate(shards)])
    return Chosen(rows.sort_by("face_id"), selector)


def test_decisions_choose_name_and_account() -> None:
    table = faces(
        ("d", "4", "Ann", "ok"),
        ("a", "1", "Ann", "ok"),
        ("b", "2", "Ann", "ok"),
        ("c", "3", "Ann", "blurred"),
        ("e", "5", None, "ok"),
        ("f", "6", "Ann", "ok"),
    )
    decided = decisions(
        ("f", "6", "Ann", "duplicate", "same_picture"),
        ("e", "5", None, "keep", "unlabelled"),
        ("d", "4", "Bob", "relabel", "other_identity"),
        ("c", "3", None, "drop", "quality"),
        ("b", "2", "Ann", "drop", "outlier"),
        ("a", "1", "Ann", "keep", "same_person"),
    )
    chosen = select(table, embedded(*"dabcef"), decided, "kept", cuts=[2])
    assert chosen.rows.select(GALLERY.names).schema == GALLERY
    assert chosen.rows["face_id"].to_pylist() == ["a", "d", "e"]
    assert chosen.rows["uri"].to_pylist() == ["1", "4", "5"]
    assert chosen.rows["identity_id"].to_pylist() == ["Ann", "Bob", None]
    assert chosen.rows["row"].to_pylist() == [1, 0, 2]  # of their shards
    assert chosen.rows["stratum"].to_pylist() == ["Ann", "Ann", "5"]
    assert chosen.selector.left_out == {"outlier": 1, "quality": 1, "same_picture": 1}
    assert (chosen.selector.expected, chosen.selector.by) == (6, "decisions")
    everyone = select(table, embedded(*"dabcef"), decided, "all")
    assert everyone.rows["face_id"].to_pylist() == list("abcdef")
    assert everyone.rows["identity_id"].to_pylist() == ["Ann", None, None, "Bob", None, "Ann"]
    assert (everyone.selector.left_out, everyone.selector.by) == ({}, "all")


def test_without_decisions_good_faces_go_in_under_their_label() -> None:
    table = faces(("b", "1", "Ann", "ok"), ("a", "1", "Ann", "bystander"), ("c", "2", None, "ok"))
    chosen = select(table, embedded(*"bac"), None, "kept")
    assert chosen.rows["face_id"].to_pylist() == ["b", "c"]
    assert chosen.rows["identity_id"].to_pylist() == ["Ann", None]
    assert (chosen.selector.left_out, chosen.selector.by) == ({"bystander": 1}, "status")
    everyone = select(table, embedded(*"bac"), None, "all")
    assert everyone.rows["identity_id"].to_pylist() == [None, "Ann", None]


def test_exact_copies_go_in_once_under_the_first_kept_uri() -> None:
    table = faces(*(("a", uri, "Ann", "ok") for uri in ("z", "y", "x")), ("b", "w", "Ann", "ok"))
    decided = decisions(
        ("a", "x", "Ann", "duplicate", "same_bytes"),
        ("a", "z", "Ann", "keep", "same_person"),
        ("a", "y", "Ann", "keep", "same_person"),
        ("b", "w", "Ann", "keep", "same_person"),
    )
    for cuts in ([], [1], [2], [1, 2, 3]):
        ids = embedded("a", "a", "a", "b")
        chosen = select(table, ids, decided, "kept", cuts)
        assert chosen.rows["uri"].to_pylist() == ["y", "w"]
        assert chosen.selector.left_out == {"same_bytes": 2}
        assert chosen.selector.count == 2
        everyone = select(table, ids, decided, "all", cuts)
        assert everyone.rows["uri"].to_pylist() == ["x", "w"]


@pytest.mark.parametrize("include", ["kept", "all"])
def test_a_face_without_a_vector_is_left_out_and_counted(include: Any) -> None:
    table = faces(("a", "1", None, "ok"), ("b", "2", None, "ok"))
    chosen = select(table, embedded("a", "b", without="b"), None, include)
    assert chosen.rows["face_id"].to_pylist() == ["a"]
    assert chosen.selector.left_out == {"no_vector": 1}


def test_of_copies_the_first_with_a_vector_goes_in() -> None:
    table = faces(("a", "1", None, "ok"), ("a", "2", None, "ok"))
    ids = pa.table({"face_id": ["a", "a"], "status": ["bad_crop", "ok"]})
    chosen = select(table, ids, None, "kept")
    assert chosen.rows["uri"].to_pylist() == ["2"]
    assert chosen.selector.left_out == {"no_vector": 1}


def test_no_faces_make_an_empty_gallery() -> None:
    chosen = select(faces(), embedded(), None, "kept")
    assert (len(chosen.rows), chosen.selector.count, chosen.selector.expected) == (0, 0, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdefgh"),
            st.sampled_from(list(FaceStatus)),
            st.sampled_from(list(Decision)),
            st.sampled_from(list(Reason)),
        ),
        max_size=30,
    ),
    st.sets(st.sampled_from("abcdefgh")),
    st.sampled_from(["kept", "all"]),
    st.booleans(),
    st.sets(st.integers(0, 30)),
)
def test_counts_always_add_up_however_faces_are_cut(
    rows: list[Row], without: set[str], include: Any, decided: bool, cuts: set[int]
) -> None:
    table = faces(*((f, str(i), "Ann", str(s)) for i, (f, s, _, _) in enumerate(rows)))
    table_of_decisions = decisions(
        *((f, str(i), "Ann", str(d), str(r)) for i, (f, _, d, r) in enumerate(rows))
    )
    ids = embedded(*(f for f, *_ in rows), without=sorted(without))
    said = table_of_decisions if decided else None
    chosen = select(table, ids, said, include, [c for c in cuts if c <= len(rows)])
    selector = chosen.selector
    assert selector.expected == len(rows) == len(chosen.rows) + sum(selector.left_out.values())
    assert selector.count == len(chosen.rows)
    face_ids = chosen.rows["face_id"].to_pylist()
    assert face_ids == sorted(set(face_ids))
    assert not without & set(face_ids)
    if include == "all":
        assert set(face_ids) == {f for f, *_ in rows} - without
    whole = select(table, ids, said, include)
    assert chosen.rows.drop(["row"]) == whole.rows.drop(["row"])
    assert selector.left_out == whole.selector.left_out


def test_tables_that_do_not_belong_together_are_refused() -> None:
    table = faces(("a", "1", None, "ok"), ("b", "2", None, "ok"))
    keep = ("keep", "unlabelled")
    with pytest.raises(StoreError, match="2 faces and 1 decisions"):
        select(table, embedded("a", "b"), decisions(("a", "1", None, *keep)), "kept")
    strange = decisions(("a", "1", None, *keep), ("b", "9", None, *keep))
    with pytest.raises(StoreError, match="1 of 2 faces have no decision"):
        select(table, embedded("a", "b"), strange, "kept")
    with pytest.raises(StoreError, match="1 of 2 faces have not been embedded"):
        select(table, embedded("a"), None, "kept")
    with pytest.raises(StoreError, match="2 of 2 faces have not been embedded"):
        select(table, embedded("b", "a"), None, "kept")
    twice = decisions(("a", "1", None, *keep), ("a", "1", None, *keep))
    with pytest.raises(StoreError, match="two decisions"):
        select(table, embedded("a", "b"), twice, "kept")
    unknown = decisions(("a", "1", None, "drop", "a new one"), ("b", "2", None, *keep))
    with pytest.raises(StoreError, match="'a new one'"):
        select(table, embedded("a", "b"), unknown, "kept")
