"""Migration: the same faces and names with another model's vectors, and the way back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from facepipe import open_index
from facepipe.index_settings import IndexSettings
from pipelines.index import build_index
from pipelines.index_delete import Doomed, delete_from_index
from pipelines.index_migrate import migrate_index
from pipelines.index_publish import roll_back
from pipelines.index_verify import verify_index
from tests.pipelines.made_gallery import Face, Made, contents, nearest, people, search

FLAT = IndexSettings()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(folder=tmp_path / "dataset", faces=people(20, 4))


@pytest.fixture
def index(made: Made, tmp_path: Path) -> Path:
    build_index(made.write(), str(tmp_path / "index"), FLAT)
    return tmp_path / "index"


def test_faces_and_names_are_kept_and_vectors_are_new(made: Made, index: Path) -> None:
    before = open_index(index)
    old = {row["face_id"]: row for row in rows(index)}
    made.model = "second"
    made.faces[0] = replace(made.faces[0], identity="renamed since")
    made.faces += people(3, 2, first=30)  # not in the gallery: for index add
    report = migrate_index(str(index), made.write(), FLAT)
    assert (report["built"], report["before"]) == (True, 80)
    assert report["totals"] == {
        "expected": 86,
        "indexed": 80,
        "left_out": {"not_migrated": 6},
        "identities": 20,
    }
    after = open_index(index)
    assert after.model_id == made.model_id != before.model_id
    assert {row["face_id"]: row for row in rows(index)} == old
    queries = [made.faces[3], Face(person=7, shot=9)]
    assert search(index, made, queries, 6) == nearest(made, made.faces[:80], queries, 6)
    assert verify_index(str(index), full=True)["problems"] == []


def rows(index: Path) -> list[dict[str, object]]:
    gallery = open_index(index)
    faces = [str(face) for face in gallery.shards.all[0].rows.face_ids.astype("U")]
    found: list[dict[str, object]] = gallery.rows(faces).to_pylist()
    return found


def test_agreement_is_who_both_find(made: Made, index: Path) -> None:
    """Both models know all people apart: the same person nearly always, the same face by chance."""
    made.model = "second"
    agreement = migrate_index(str(index), made.write(), FLAT)["agreement"]
    assert agreement["faces"] == 80
    first, second = Made(folder=made.folder, faces=made.faces), made
    owner = {face.face_id: face.person for face in made.faces}
    old, new = (
        [
            next(hit for hit in hits if hit != face.face_id)
            for face, hits in zip(
                sorted(made.faces, key=lambda f: f.face_id),
                nearest(model, made.faces, sorted(made.faces, key=lambda f: f.face_id), 2),
                strict=True,
            )
        ]
        for model in (first, second)
    )
    same_face = sum(a == b for a, b in zip(old, new, strict=True)) / 80
    same_person = sum(owner[a] == owner[b] for a, b in zip(old, new, strict=True)) / 80
    assert agreement["same_face"] == pytest.approx(same_face, abs=1e-4)
    assert agreement["same_person"] == pytest.approx(same_person, abs=1e-4)
    assert same_person > 0.95 > same_face


def test_the_old_gallery_answers_until_the_swap_and_after_a_rollback(
    made: Made, index: Path
) -> None:
    before = open_index(index).version
    made.model = "second"
    staged = migrate_index(str(index), made.write(), FLAT, publish=False)
    assert open_index(index).version == before != staged["version"]
    migrate_index(str(index), made.write(), FLAT)
    assert open_index(index).version == staged["version"]
    roll_back(str(index))
    first = Made(folder=made.folder, faces=made.faces)
    assert search(index, first, made.faces[:4], 3) == nearest(first, made.faces, made.faces[:4], 3)


def test_deleted_faces_stay_deleted_and_moved_ones_are_others(made: Made, index: Path) -> None:
    delete_from_index(str(index), Doomed(people=("person-003",)))
    made.model = "second"
    moved, gone = made.faces[20], made.faces[-1]
    made.faces[20] = replace(moved, left_px=45.0)  # another face of that photo has its rank now
    made.faces.pop()
    report = migrate_index(str(index), made.write(), FLAT)
    assert report["totals"]["indexed"] == 80 - 4 - 2
    found = {row["face_id"] for row in rows(index)}
    assert not found & {moved.face_id, gone.face_id}
    assert not any(face.face_id in found for face in made.faces if face.person == 3)


def test_the_same_model_is_nothing_to_do(made: Made, index: Path) -> None:
    before = contents(index)
    assert not migrate_index(str(index), made.write(), FLAT)["built"]
    assert contents(index) == before
