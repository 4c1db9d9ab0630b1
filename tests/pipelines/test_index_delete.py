"""Deleting: at once out of every search, counted, and back with a rollback."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from facepipe import open_index
from facepipe.errors import StoreError, UsageError
from facepipe.index_manifest import Manifest
from facepipe.index_settings import IndexSettings
from facepipe.store import Store
from pipelines import index_delete
from pipelines.index import build_index
from pipelines.index_add import add_to_index
from pipelines.index_compact import compact_index
from pipelines.index_delete import Doomed, delete_from_index
from pipelines.index_publish import roll_back
from tests.pipelines.made_gallery import Copy, Face, Made, contents, nearest, people, search

FLAT = IndexSettings()
CODED = IndexSettings(kind="ivf_sq8", recall=0.9)


@pytest.fixture(params=[FLAT, CODED], ids=["flat", "ivf_sq8"])
def index(request: pytest.FixtureRequest, made: Made, tmp_path: Path) -> Path:
    build_index(made.write(), str(tmp_path / "index"), request.param)
    return tmp_path / "index"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = Made(folder=tmp_path / "dataset", faces=people(20, 4))
    made.faces.append(replace(made.faces[0], ordinal=1, identity=None))  # beside, in one photo
    return made


FIRST = Face(person=0, shot=0)


@pytest.mark.parametrize(
    ("doomed", "removed", "photos"),
    [
        (Doomed(faces=(FIRST.face_id,)), 1, 1),
        (Doomed(photos=(FIRST.uri,)), 2, 1),
        (Doomed(photos=(FIRST.photo_id,)), 2, 1),
        (Doomed(people=("person-000",)), 4, 4),
        (Doomed(people=("person-001", "person-002")), 8, 8),
        (Doomed(faces=(FIRST.face_id,), photos=(FIRST.uri,), people=("person-000",)), 5, 4),
    ],
)
def test_what_is_deleted_is_found_no_more(
    made: Made, index: Path, doomed: Doomed, removed: int, photos: int
) -> None:
    before = open_index(index)
    report = delete_from_index(str(index), doomed)
    assert (report["built"], report["removed"], report["photos"]) == (True, removed, photos)
    assert report["faces"] == sorted(f.face_id for f in made.faces if is_doomed(f, doomed))
    left = [f for f in made.faces if not is_doomed(f, doomed)]
    assert report["totals"]["indexed"] == len(left) == 81 - removed
    assert report["totals"]["left_out"] == {"deleted": removed}
    assert report["totals"]["identities"] == len({f.name for f in left} - {None})
    queries = [FIRST, Face(person=1, shot=1), Face(person=19, shot=2)]
    assert search(index, made, queries, 80)[0][: len(left)] == nearest(made, left, queries, 80)[0]
    gone = next(f for f in made.faces if is_doomed(f, doomed))
    with pytest.raises(UsageError, match="is not in the gallery"):
        open_index(index).rows([gone.face_id])
    assert before.rows([gone.face_id]).num_rows == 1  # an open one goes on as it was


def is_doomed(face: Face, doomed: Doomed) -> bool:
    photo = {face.uri, face.photo_id} & set(doomed.photos)
    return bool(face.face_id in doomed.faces or photo or face.name in doomed.people)


def test_counting_changes_nothing(made: Made, index: Path) -> None:
    before = contents(index)
    report = delete_from_index(str(index), Doomed(people=("person-003",)), dry=True)
    assert (report["built"], report["removed"], report["photos"]) == (False, 4, 4)
    assert contents(index) == before


def test_deleting_again_changes_nothing(made: Made, index: Path) -> None:
    delete_from_index(str(index), Doomed(people=("person-003",)))
    before = contents(index)
    assert not delete_from_index(str(index), Doomed(people=("person-003",)))["built"]
    assert contents(index) == before


def test_deletions_add_up_and_a_rollback_undoes_the_last(made: Made, index: Path) -> None:
    for number in (1, 2):
        report = delete_from_index(str(index), Doomed(people=(f"person-{number:03d}",)))
    assert report["totals"]["left_out"] == {"deleted": 8}
    roll_back(str(index))
    gallery = open_index(index)
    assert gallery.record.totals.left_out == {"deleted": 4}
    assert gallery.rows([Face(person=2, shot=0).face_id]).num_rows == 1


def test_everybody_can_be_deleted(made: Made, index: Path) -> None:
    report = delete_from_index(str(index), Doomed(faces=tuple(f.face_id for f in made.faces)))
    assert report["totals"]["indexed"] == report["totals"]["identities"] == 0
    assert search(index, made, [FIRST], 2) == [["", ""]]


def test_a_photo_without_a_living_face_is_kept_out_as_well(made: Made, tmp_path: Path) -> None:
    folder = str(tmp_path / "index")
    build_index(made.write(), folder, FLAT)
    beside = made.faces.pop()  # that the dataset has no more when its photo is deleted
    delete_from_index(folder, Doomed(faces=(FIRST.face_id,)))
    add_to_index(folder, made.write(), FLAT)
    report = delete_from_index(folder, Doomed(photos=(FIRST.uri,)))
    assert (report["built"], report["removed"]) == (True, 0)
    assert not delete_from_index(folder, Doomed(photos=(FIRST.uri,)))["built"]
    made.faces += [beside, replace(beside, ordinal=2)]
    assert build_index(made.write(), folder, FLAT)["totals"]["left_out"] == {"deleted": 3}


def test_a_photo_that_lives_on_under_another_uri_is_left_alone(made: Made, tmp_path: Path) -> None:
    folder = str(tmp_path / "index")
    build_index(made.write(), folder, FLAT)
    made.faces[5] = Copy(person=5, shot=0, left_px=12.0)
    add_to_index(folder, made.write(), FLAT)
    old = Face(person=5, shot=0)
    assert not delete_from_index(folder, Doomed(photos=(old.uri,)))["built"]
    assert delete_from_index(folder, Doomed(photos=(old.photo_id,)))["removed"] == 1


def test_a_compaction_meanwhile_is_no_damage(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "index")
    build_index(made.write(), folder, FLAT)
    delete_from_index(folder, Doomed(people=("person-004",)))
    read_manifest = index_delete.read_manifest

    def meanwhile(store: Store) -> tuple[str, Manifest]:
        seen = read_manifest(store)
        compact_index(folder, FLAT, everything=True)
        return seen

    monkeypatch.setattr(index_delete, "read_manifest", meanwhile)
    with pytest.raises(StoreError, match="just got another version: run the same command again"):
        delete_from_index(folder, Doomed(people=("person-003",)))


@pytest.mark.parametrize(
    "doomed",
    [
        Doomed(faces=("nobody",)),
        Doomed(photos=(FIRST.photo_id[:20],)),
        Doomed(people=("person-000", "person-0")),
    ],
)
def test_names_that_are_not_there_are_said(made: Made, index: Path, doomed: Doomed) -> None:
    before = contents(index)
    with pytest.raises(UsageError, match=f"'{doomed.names[-1]}' is not in"):
        delete_from_index(str(index), doomed)
    with pytest.raises(UsageError, match="nothing to delete"):
        delete_from_index(str(index), Doomed())
    assert contents(index) == before


def test_of_the_end_of_a_path_whole_uris_are_named(index: Path) -> None:
    ending = FIRST.uri.partition("/")[2]
    with pytest.raises(UsageError, match=f"give a photo's whole uri, as '{FIRST.uri}'"):
        delete_from_index(str(index), Doomed(photos=(ending,)))
    with pytest.raises(UsageError, match="index verify --absent"):
        delete_from_index(str(index), Doomed(photos=(ending[1:],)))


def test_a_name_that_is_no_text_is_said(made: Made, index: Path) -> None:
    with pytest.raises(UsageError, match=r"is no UTF-8 text.*%FF"):
        delete_from_index(str(index), Doomed(people=(os.fsdecode(b"\xff\xfe"),)))
