"""What goes into a gallery, and an account that adds up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.errors import CorruptData, StoreError
from facepipe.gallery import DECISION_COLUMNS, FACE_COLUMNS, GALLERY, select_faces
from facepipe.schema import DECISIONS, FACES, Decision, FaceStatus, Reason, embeddings

DIM = 4
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


def vectors(*face_ids: str, without: Sequence[str] = (), scale: float = 1.0) -> pa.Table:
    """Make EMBEDDINGS: face ``x`` points along axis ord(x) mod 4."""
    rows = [
        None if face in without else scale * np.eye(DIM, dtype=np.float16)[ord(face[0]) % DIM]
        for face in face_ids
    ]
    kind = embeddings(DIM, "m").field("vector").type
    face_column = pa.array(face_ids, pa.string())
    status = ["bad_crop" if face in without else "ok" for face in face_ids]
    return pa.table({"face_id": face_column, "vector": pa.array(rows, kind), "status": status})


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
    chosen = select_faces(table, vectors(*"abcdef"), decided, "kept")
    assert chosen.rows.schema == GALLERY
    assert chosen.rows["face_id"].to_pylist() == ["a", "d", "e"]
    assert chosen.rows["uri"].to_pylist() == ["1", "4", "5"]
    assert chosen.rows["identity_id"].to_pylist() == ["Ann", "Bob", None]
    assert chosen.vectors_ND.argmax(axis=1).tolist() == [ord(x) % DIM for x in "ade"]
    assert chosen.left_out == {"outlier": 1, "quality": 1, "same_picture": 1}
    assert (chosen.expected, chosen.by) == (6, "decisions")
    everyone = select_faces(table, vectors(*"abcdef"), decided, "all")
    assert everyone.rows["face_id"].to_pylist() == list("abcdef")
    assert everyone.rows["identity_id"].to_pylist() == ["Ann", None, None, "Bob", None, "Ann"]
    assert (everyone.left_out, everyone.by) == ({}, "all")


def test_without_decisions_good_faces_go_in_under_their_label() -> None:
    table = faces(("b", "1", "Ann", "ok"), ("a", "1", "Ann", "bystander"), ("c", "2", None, "ok"))
    chosen = select_faces(table, vectors(*"abc"), None, "kept")
    assert chosen.rows["face_id"].to_pylist() == ["b", "c"]
    assert chosen.rows["identity_id"].to_pylist() == ["Ann", None]
    assert (chosen.left_out, chosen.by) == ({"bystander": 1}, "status")
    everyone = select_faces(table, vectors(*"abc"), None, "all")
    assert everyone.rows["identity_id"].to_pylist() == [None, "Ann", None]


def test_exact_copies_go_in_once_under_the_first_kept_uri() -> None:
    table = faces(*(("a", uri, "Ann", "ok") for uri in ("z", "y", "x")), ("b", "w", "Ann", "ok"))
    decided = decisions(
        ("a", "x", "Ann", "duplicate", "same_bytes"),
        ("a", "z", "Ann", "keep", "same_person"),
        ("a", "y", "Ann", "keep", "same_person"),
        ("b", "w", "Ann", "keep", "same_person"),
    )
    chosen = select_faces(table, vectors("a", "a", "a", "b"), decided, "kept")
    assert chosen.rows["uri"].to_pylist() == ["y", "w"]
    assert chosen.left_out == {"same_bytes": 2}
    everyone = select_faces(table, vectors("a", "a", "a", "b"), decided, "all")
    assert everyone.rows["uri"].to_pylist() == ["x", "w"]


@pytest.mark.parametrize("include", ["kept", "all"])
def test_a_face_without_a_vector_is_left_out_and_counted(include: Any) -> None:
    table = faces(("a", "1", None, "ok"), ("b", "2", None, "ok"))
    chosen = select_faces(table, vectors("a", "b", without="b"), None, include)
    assert chosen.rows["face_id"].to_pylist() == ["a"]
    assert chosen.left_out == {"no_vector": 1}


def test_no_faces_make_an_empty_gallery() -> None:
    chosen = select_faces(faces(), vectors(), None, "kept")
    assert (len(chosen.rows), chosen.vectors_ND.shape, chosen.expected) == (0, (0, DIM), 0)


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
)
def test_counts_always_add_up(
    rows: list[Row], without: set[str], include: Any, decided: bool
) -> None:
    table = faces(*((f, str(i), "Ann", str(s)) for i, (f, s, _, _) in enumerate(rows)))
    table_of_decisions = decisions(
        *((f, str(i), "Ann", str(d), str(r)) for i, (f, _, d, r) in enumerate(rows))
    )
    with_vectors = vectors(*(f for f, *_ in rows), without=sorted(without))
    chosen = select_faces(table, with_vectors, table_of_decisions if decided else None, include)
    assert chosen.expected == len(rows) == len(chosen.rows) + sum(chosen.left_out.values())
    face_ids = chosen.rows["face_id"].to_pylist()
    assert face_ids == sorted(set(face_ids))
    assert not without & set(face_ids)
    if include == "all":
        assert set(face_ids) == {f for f, *_ in rows} - without


def test_tables_that_do_not_belong_together_are_refused() -> None:
    table = faces(("a", "1", None, "ok"), ("b", "2", None, "ok"))
    keep = ("keep", "unlabelled")
    with pytest.raises(StoreError, match="2 faces and 1 decisions"):
        select_faces(table, vectors("a", "b"), decisions(("a", "1", None, *keep)), "kept")
    strange = decisions(("a", "1", None, *keep), ("b", "9", None, *keep))
    with pytest.raises(StoreError, match="1 of 2 faces have no decision"):
        select_faces(table, vectors("a", "b"), strange, "kept")
    with pytest.raises(StoreError, match="1 of 2 faces have not been embedded"):
        select_faces(table, vectors("a"), None, "kept")


@pytest.mark.parametrize("scale", [0.9, 1.1, 0.0, float("nan"), float("inf")])
def test_vectors_that_are_no_unit_vectors_are_refused(scale: float) -> None:
    with np.errstate(invalid="ignore"):
        table = vectors("a", scale=scale)  # 0 times infinity is NaN
    with pytest.raises(CorruptData, match="1 of 1 embeddings"):
        select_faces(faces(("a", "1", None, "ok")), table, None, "kept")
