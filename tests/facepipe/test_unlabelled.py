"""Faces without a label as tables: which are looked at, what their rows say, how they are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from facepipe import ids, schema
from facepipe.cluster import ClusterSettings
from facepipe.errors import CorruptData
from facepipe.unlabelled import SomeRows, cluster_faces, name_clusters

DIM, PEOPLE, SHOTS = 64, 6, 8
SETTINGS = ClusterSettings()


def face(number: int) -> str:
    return ids.face_id(ids.photo_id(b"%d" % number), 0)


def rows(count: int, **given: list[Any]) -> pa.Table:
    """Return rows of FACES, with the columns that are read."""
    columns = {
        "face_id": [face(i) for i in range(count)],
        "photo_id": [ids.photo_id(b"%d" % i) for i in range(count)],
        "uri": [f"{i}.jpg" for i in range(count)],
        "member": [None] * count,
        "source_label": [None] * count,
        "status": ["ok"] * count,
        **given,
    }
    text = pa.string()
    return pa.table({name: pa.array(values, text) for name, values in columns.items()})


def marked(faces: pa.Table, decision: list[str]) -> pa.Table:
    return faces.select(["face_id", "uri", "member"]).append_column("decision", pa.array(decision))


@pytest.fixture(scope="module")
def shots() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the vectors of some people, and after them of as many who are alone."""
    rng = np.random.default_rng(4)
    centres = rng.normal(size=(PEOPLE, DIM))
    person = np.repeat(np.arange(PEOPLE), SHOTS)
    vectors = centres[person] + 0.5 * rng.normal(size=(len(person), DIM))
    vectors = np.concatenate([vectors, rng.normal(size=(PEOPLE, DIM))])
    person = np.concatenate([person, np.full(PEOPLE, -1)])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float16), person


def known(faces: pa.Table) -> pa.Table:
    ok = pa.array([True] * len(faces))
    return pa.table([faces["face_id"], ok], names=["face_id", "vector"])


def clusters(
    faces: pa.Table, vectors: np.ndarray[Any, Any], decision: list[str] | None = None, **said: Any
) -> tuple[pa.Table, pa.Table]:
    duplicates = marked(faces, decision or ["keep"] * len(faces))
    return cluster_faces(faces, duplicates, known(faces), SETTINGS, vectors, **said)


def decisions(faces: pa.Table) -> pa.Table:
    """Return DECISIONS as clean_faces makes them of faces without a label."""
    columns = {
        "decision": ["keep"] * len(faces),
        "reason": ["unlabelled"] * len(faces),
        "confidence": [1.0] * len(faces),
        "weight": [0.8] * len(faces),
    }
    table = faces.sort_by([("face_id", "ascending"), ("uri", "ascending")])
    made = [
        table[f.name].combine_chunks()
        if f.name in table.column_names
        else pa.array(columns.get(f.name, [None] * len(faces)), f.type)
        for f in schema.DECISIONS
    ]
    return pa.table(made, schema=schema.DECISIONS)


def groups(table: pa.Table) -> dict[str, int]:
    return dict(zip(table["face_id"].to_pylist(), table["cluster"].to_pylist(), strict=True))


def test_people_are_found_and_rows_say_why(shots: Any) -> None:
    vectors, person = shots
    table, pairs = clusters(rows(len(vectors)), vectors)
    assert table.schema.equals(schema.CLUSTERS) and pairs.schema.equals(schema.CLUSTER_PAIRS)
    assert table["face_id"].to_pylist() == sorted(face(i) for i in range(len(vectors)))
    found = groups(table)
    for one in range(PEOPLE):
        mine = {found[face(i)] for i in np.flatnonzero(person == one)}
        assert len(mine) == 1 and mine != {-1}
    assert {found[face(i)] for i in np.flatnonzero(person < 0)} == {-1}
    for row in table.to_pylist():
        if row["cluster"] < 0:
            assert row["evidence"] is None and row["similarity"] is None
        else:
            assert row["evidence"] != row["face_id"]
            assert found[row["evidence"]] == row["cluster"]
    mine = [i for i in range(len(vectors)) if found[face(i)] == found[face(0)]]
    wide = vectors.astype(np.float64)
    others = wide[[i for i in mine if i != 0]].sum(axis=0)
    expected = wide[0] @ others / np.linalg.norm(wide[0]) / np.linalg.norm(others)
    similarity = dict(
        zip(table["face_id"].to_pylist(), table["similarity"].to_pylist(), strict=True)
    )
    assert similarity[face(0)] == pytest.approx(expected, abs=2e-3)


def test_only_fit_faces_without_label_are_looked_at(shots: Any) -> None:
    vectors, _ = shots
    count = len(vectors)
    label = ["Ann" if i == 1 else None for i in range(count)]
    status = ["blurred" if i == 2 else "ok" for i in range(count)]
    decision = ["duplicate" if i == 3 else "keep" for i in range(count)]
    table, _ = clusters(rows(count, source_label=label, status=status), vectors, decision)
    assert set(groups(table)) == {face(i) for i in range(count) if i not in (1, 2, 3)}
    nobody, none = clusters(rows(count, source_label=["Ann"] * count), vectors)
    assert len(nobody) == len(none) == 0


def test_two_faces_of_one_photo_and_what_was_said(shots: Any) -> None:
    vectors, person = shots
    one, other = (int(np.flatnonzero(person == p)[0]) for p in (0, 1))
    table, _ = clusters(rows(len(vectors)), vectors, same=[(face(one), face(other))])
    found = groups(table)
    assert found[face(one)] == found[face(other)]
    apart = [(face(one), face(one + 1)), (face(one), "of another dataset")]
    table, _ = clusters(rows(len(vectors)), vectors, different=apart)
    found = groups(table)
    assert found[face(one)] != found[face(one + 1)]
    photo = [ids.photo_id(b"%d" % (one if i == one + 1 else i)) for i in range(len(vectors))]
    table, _ = clusters(rows(len(vectors), photo_id=photo), vectors)
    found = groups(table)  # more alike than two people ever are: a collage
    assert found[face(one)] == found[face(one + 1)]


def test_names_go_to_rows_their_duplicates_and_pairs(shots: Any) -> None:
    vectors, _ = shots
    faces = rows(len(vectors))
    table, _ = clusters(faces, vectors)
    twin = {f.name: [None] for f in schema.DECISIONS}
    twin |= {"face_id": [face(0)], "uri": ["copy.jpg"], "decision": ["duplicate"]}
    twin |= {"reason": ["same_bytes"], "evidence": [face(0)], "confidence": [1.0], "weight": [0.0]}
    copy = pa.table([pa.array(twin[f.name], f.type) for f in schema.DECISIONS], schema.DECISIONS)
    keys = [("face_id", "ascending"), ("uri", "ascending")]
    before = pa.concat_tables([decisions(faces), copy]).sort_by(keys)
    pair = {"cluster_a": [1], "cluster_b": [0], "verdict": ["ambiguous"]}
    pair |= {"confidence": [0.4], "similarity": [0.3]}
    pairs = pa.table([pair[f.name] for f in schema.CLUSTER_PAIRS], schema=schema.CLUSTER_PAIRS)
    named, labels = name_clusters(before, table, pairs, {face(0): "Ann"})
    assert named.select(["face_id", "uri"]).equals(before.select(["face_id", "uri"]))
    found = groups(table)
    by_face: dict[str, set[str | None]] = {}
    for row in named.to_pylist():
        by_face.setdefault(row["face_id"], set()).add(row["identity_id"])
        clustered = found[row["face_id"]] >= 0 and row["decision"] == "keep"
        assert row["reason"] == (
            "clustered" if clustered else "same_bytes" if row["uri"] == "copy.jpg" else "unlabelled"
        )
        if row["decision"] == "keep":
            assert row["weight"] == pytest.approx(0.8 * row["confidence"], rel=1e-6)
    assert by_face[face(0)] == {"Ann"} and by_face[face(1)] == {"Ann"}
    assert len({next(iter(v)) for v in by_face.values()}) == PEOPLE + 1
    (row,) = labels.to_pylist()
    assert row["label_a"] < row["label_b"] and row["verdict"] == "ambiguous"
    assert row["support"] is None and row["rank"] is None


def test_clusters_of_other_faces_are_refused(shots: Any) -> None:
    vectors, _ = shots
    table, pairs = clusters(rows(len(vectors)), vectors)
    with pytest.raises(CorruptData, match="run facepipe clean again"):
        name_clusters(decisions(rows(3)), table, pairs, {})


def test_some_rows_are_read_as_asked() -> None:
    stored = np.arange(20, dtype=np.float16).reshape(10, 2)
    some = SomeRows(stored, np.array([7, 2, 5]))
    assert some.shape == (3, 2)
    np.testing.assert_array_equal(some[np.array([2, 0])], stored[[5, 7]])
