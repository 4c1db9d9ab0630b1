"""The chain of a face: each occurrence its own, with what decided and who is near."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from facepipe.constraints import parse_constraints
from facepipe.errors import UsageError
from facepipe.schema import embeddings
from facepipe.shards import STEP_OF_TABLE, Dataset
from pipelines.constraints import add_constraints
from pipelines.why import explain_face, format_faces
from tests.pipelines.report_pages import a_face, a_photo, decided, store_step, stored

MODEL = "ab" * 32
DIM = 8
Row = dict[str, Any]


def store_vectors(dataset: Dataset, vectors: dict[str, np.ndarray[Any, Any]]) -> None:
    schema = embeddings(DIM, MODEL)
    rows = [
        {"face_id": f, "vector": v.astype(np.float16), "norm": 1.0, "status": "ok"}
        for f, v in sorted(vectors.items())
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    store_step(dataset, f"embed-{MODEL[:12]}", [[("embeddings", table, schema)]])
    dataset.set_current_model(MODEL)


def unit(*parts: float) -> np.ndarray[Any, Any]:
    vector = np.zeros(DIM)
    vector[: len(parts)] = parts
    return vector / np.linalg.norm(vector)


LABELS = ["ann", "ann", "ann", "bob", "bob", "cid"]
FACES = [a_face(i, source_label=label) for i, label in enumerate(LABELS)]
ID = [face["face_id"] for face in FACES]
VECTORS = [unit(1), unit(1, 0.2), unit(0.1, 1), unit(0, 1), unit(0, 1, 0.2), unit(0, 0, 0, 1)]


@pytest.fixture
def people(tmp_path: Path) -> Dataset:
    rows = [
        decided(FACES[0], "keep", "same_person", identity_id="ann", evidence="ann", confidence=0.9),
        decided(FACES[1], "keep", "same_person", identity_id="ann", evidence="ann"),
        decided(FACES[2], "drop", "outlier", evidence="ann", similarity=0.1, confidence=0.75),
        decided(FACES[3], "keep", "same_person", identity_id="bob", evidence="bob"),
        decided(FACES[4], "keep", "same_person", identity_id="bob", evidence="bob"),
        decided(FACES[5], "keep", "single", identity_id="cid"),
    ]
    dataset = stored(tmp_path / "ds", FACES, decisions=rows)
    store_vectors(dataset, dict(zip(ID, VECTORS, strict=True)))
    return dataset


def test_a_face_is_measured_against_its_own_and_the_nearest_people(people: Dataset) -> None:
    (face,) = explain_face(people, ID[2])
    own = face["label_identity"]
    mean = unit(*(VECTORS[0] + VECTORS[1]))
    assert own["identity_id"] == "ann" and own["faces"] == 2
    assert own["similarity"] == pytest.approx(float(mean @ VECTORS[2]), abs=2e-3)
    assert own["posterior"] == pytest.approx(0.25)
    assert [p["identity_id"] for p in face["other_identities"]] == ["bob", "cid"]
    mean = unit(*(VECTORS[3] + VECTORS[4]))
    expected = pytest.approx(float(mean @ VECTORS[2]), abs=2e-3)
    assert face["other_identities"][0]["similarity"] == expected
    text = format_faces([face])
    assert f"own       ann: {own['similarity']:.3f} to 2 kept faces, probability 0.250" in text
    assert "others    bob: 0.9" in text and "cid: 0.000 to 1 kept face" in text


def test_a_face_is_not_compared_with_itself(people: Dataset) -> None:
    (face,) = explain_face(people, ID[0])
    assert face["label_identity"]["faces"] == 1
    cosine = float(VECTORS[0] @ VECTORS[1])
    assert face["label_identity"]["similarity"] == pytest.approx(cosine, abs=2e-3)
    assert face["label_identity"]["posterior"] == pytest.approx(0.9)
    (single,) = explain_face(people, ID[5])
    assert single["label_identity"] is None


def test_batches_say_what_one_says(people: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [explain_face(people, face) for face in ID]
    monkeypatch.setattr("pipelines.why_people.BATCH_ROWS", 2)
    assert [explain_face(people, face) for face in ID] == whole


def test_lines_about_a_face_or_its_label_are_shown(people: Dataset) -> None:
    lines = f"kind,a,b\ndrop,{ID[1]},\nsame,label:ann,label:bob\nkeep,{ID[4]},\n"
    with people.held():
        add_constraints(people, parse_constraints(lines.encode(), "own"))
    (face,) = explain_face(people, ID[1])
    assert face["said"] == [f"drop,{ID[1]}", "same,label:ann,label:bob"]
    assert f"\n  said      drop,{ID[1]}\n" in format_faces([face])
    assert explain_face(people, ID[5])[0]["said"] == []


def test_without_vectors_and_decisions_there_is_still_a_chain(tmp_path: Path) -> None:
    dataset = stored(tmp_path / "ds", FACES)
    (face,) = explain_face(dataset, ID[0])
    assert face["chain"] == [] and face["label_identity"] is None
    assert "no decision yet" in format_faces([face])


def test_one_photo_in_a_list_and_a_folder_has_two_chains(tmp_path: Path) -> None:
    same = [a_face(0, source_label=label) for label in ("folder", "list", None, "folder")]
    rows = [
        decided(same[0], "keep", "same_person", identity_id="folder", evidence="folder"),
        decided(same[1], "duplicate", "same_bytes", evidence=ID[0], identity_id="folder"),
        decided(same[2], "duplicate", "same_bytes", evidence=ID[0], weight=0.0),
        decided(same[3], "duplicate", "same_bytes", evidence=ID[0], weight=0.25),
    ]
    dataset = stored(tmp_path / "ds", same, decisions=rows[::-1])
    chains = explain_face(dataset, ID[0])
    found = {}
    for face in chains:
        (step,) = face["chain"]
        found.setdefault(face["source_label"], []).append(step["reason"])
    assert sorted(found["folder"]) == ["same_bytes", "same_person"]
    assert found["list"] == ["same_bytes"] and found[None] == ["same_bytes"]


def test_what_decided_is_named_with_its_photo(tmp_path: Path) -> None:
    faces = [a_face(0), a_face(1, uri="/photos/a.tar", member="x/1.jpg")]
    rows = [
        decided(faces[0], "duplicate", "same_picture", evidence=ID[1], similarity=0.97),
        decided(faces[1], "keep", "same_picture"),
    ]
    photos = [a_photo(f, width_px=640, height_px=480, format="jpeg", uri=f["uri"]) for f in faces]
    dataset = stored(tmp_path / "ds", faces, photos, duplicates=rows)
    (face,) = explain_face(dataset, "0000.jpg")
    assert face["chain"][0]["evidence_photo"] == {"uri": "/photos/a.tar", "member": "x/1.jpg"}
    assert face["photo"]["width_px"] == 640
    text = format_faces([face])
    assert "(jpeg, 640 x 480 px)" in text and "(/photos/a.tar : x/1.jpg), similarity 0.970" in text
    (other,) = explain_face(dataset, "x/1.jpg")
    assert other["face_id"] == ID[1]


@pytest.mark.parametrize("kept", ["/a.jpg", "/b.jpg"])
def test_of_the_same_bytes_the_kept_file_is_named(tmp_path: Path, kept: str) -> None:
    faces = [a_face(0, uri=uri) for uri in ("/a.jpg", "/b.jpg")]
    rows = [
        decided(f, "keep" if f["uri"] == kept else "duplicate", "same_bytes", evidence=ID[0])
        for f in faces
    ]
    dataset = stored(tmp_path / "ds", faces, duplicates=rows)
    found = [f["chain"][0]["evidence_photo"]["uri"] for f in explain_face(dataset, ID[0])]
    assert found == [kept, kept]


def test_pairs_of_labels_are_shown_nearest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STEP_OF_TABLE, "label_pairs", "clean")
    pair = {"verdict": "ambiguous", "confidence": 0.4, "support": 0.5, "rank": 2}
    pairs = [
        {**pair, "label_a": "ann", "label_b": "bob", "similarity": 0.3},
        {**pair, "label_a": "aaa", "label_b": "ann", "similarity": 0.5},
        {**pair, "label_a": "bob", "label_b": "cid", "similarity": 0.9},
    ]
    rows = [decided(f, "keep", "same_person", identity_id=f["source_label"]) for f in FACES]
    dataset = stored(tmp_path / "ds", FACES, decisions=rows, pairs=pairs)
    (face,) = explain_face(dataset, ID[0])
    assert [p["label_a"] for p in face["label_pairs"]] == ["aaa", "ann"]
    text = format_faces([face])
    assert "labels    aaa and ann: ambiguous, similarity 0.500, support 0.50, rank 2" in text


def test_an_id_that_is_none_is_refused(people: Dataset) -> None:
    with pytest.raises(UsageError, match="no face in"):
        explain_face(people, "f" * 32)
