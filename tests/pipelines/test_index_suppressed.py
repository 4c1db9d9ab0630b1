"""Who was deleted stays out: of add, build, migrate and compact, until it is said otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from facepipe import ids, open_index
from facepipe.errors import CorruptData, StoreError, UsageError
from facepipe.index_manifest import CURRENT, manifest_key, read_manifest
from facepipe.index_settings import IndexSettings
from facepipe.store import open_store
from pipelines.index import build_index, plan_build
from pipelines.index_absent import find_traces
from pipelines.index_add import add_to_index
from pipelines.index_build import changed
from pipelines.index_compact import compact_index
from pipelines.index_delete import Doomed, delete_from_index
from pipelines.index_migrate import migrate_index
from pipelines.index_publish import roll_back
from pipelines.index_suppressed import need_same, read_suppressed
from pipelines.index_verify import verify_index
from tests.pipelines.made_gallery import Copy, Face, Made, contents, nearest, people, search

FLAT = IndexSettings()
WHO = "person-007"
FIRST = Face(person=7, shot=0)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(folder=tmp_path / "dataset", faces=people(20, 4))


@pytest.fixture
def index(made: Made, tmp_path: Path) -> Path:
    """Make an index with a person of four faces deleted, whom the dataset keeps."""
    build_index(made.write(), str(tmp_path / "index"), FLAT)
    delete_from_index(str(tmp_path / "index"), Doomed(people=(WHO,)))
    return tmp_path / "index"


def add(index: Path, made: Made, **options: Any) -> dict[str, Any]:
    return add_to_index(str(index), made.write(), FLAT, **options)


def in_it(index: Path, faces: list[Face]) -> list[Face]:
    gallery = open_index(index)
    return [f for f in faces if gallery.shards.rows_of([f.face_id])[0] >= 0]


Step = Callable[..., dict[str, Any]]
STEPS: dict[str, Step] = {
    "add": add,
    "build": lambda index, made: build_index(made.write(), str(index), FLAT),
    "compact, add": lambda index, made: (
        compact_index(str(index), FLAT, everything=True) and add(index, made)
    ),
    "build, add": lambda index, made: (
        build_index(made.write(), str(index), IndexSettings(fpir=0.1)) and add(index, made)
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_no_later_step_brings_the_deleted_back(made: Made, index: Path, step: str) -> None:
    made.faces += people(5, 3, first=30)
    report = STEPS[step](index, made)
    left = [face for face in made.faces if face.name != WHO]
    assert report["totals"] == {
        "expected": 95,
        "indexed": 91,
        "left_out": {"deleted": 4},
        "identities": 24,
    }
    queries = [FIRST, made.faces[3], made.faces[-1]]
    assert search(index, made, queries, 91) == nearest(made, left, queries, 91)
    result = verify_index(str(index), full=True, dataset=made.write())
    assert (result["problems"], result["unknown"]) == ([], [])


def test_nothing_new_is_no_version(made: Made, index: Path) -> None:
    before = contents(index)
    assert not add(index, made)["built"]
    assert contents(index) == before
    build_index(made.write(), str(index), FLAT)
    before = contents(index)
    assert not build_index(made.write(), str(index), FLAT)["built"]
    assert contents(index) == before


def test_what_a_build_would_do_leaves_them_out(made: Made, index: Path) -> None:
    planned = plan_build(made.write(), FLAT, "kept", out=str(index))
    assert (planned["faces"], planned["left_out"]) == (76, {"deleted": 4})
    assert plan_build(made.write(), FLAT, "kept")["faces"] == 80


def test_copies_count_once(made: Made, index: Path, tmp_path: Path) -> None:
    """A deleted face under two uris is one that was deleted, and one copy."""
    folder = tmp_path / "copies"
    copied = Made(folder=tmp_path / "copied", faces=[*made.faces, Copy(person=7, shot=0)])
    report = build_index(copied.write(), str(folder), FLAT)
    assert report["totals"]["left_out"] == {"same_bytes": 1}
    assert made.faces[7] == FIRST
    delete_from_index(str(folder), Doomed(faces=(made.faces[7].face_id,)))
    assert not add_to_index(str(folder), copied.write(), FLAT)["built"]
    totals = open_index(folder).record.totals
    assert totals.left_out == {"deleted": 1, "same_bytes": 1}


def test_new_faces_of_a_deleted_photo_stay_out_and_of_a_person_do_not(
    made: Made, index: Path
) -> None:
    """A photo is known again by its bytes; a name is not kept."""
    delete_from_index(str(index), Doomed(photos=(Face(person=3, shot=0).uri,)))
    again, new = Face(person=3, shot=0, ordinal=1), Face(person=7, shot=9)
    made.faces += [again, new]
    assert add(index, made)["added"] == 1
    assert in_it(index, [again, new]) == [new]


def test_the_proof_holds_while_the_dataset_keeps_them(made: Made, index: Path) -> None:
    """The list has digests, and no id, vector or name."""
    compact_index(str(index), FLAT, everything=True)
    add(index, made)
    result = find_traces(str(index), [WHO, FIRST.face_id, FIRST.photo_id], dataset=made.write())
    assert (result["found"], result["faces"], result["vectors"]) == ([], 4, 4)
    (stored,) = [data for key, data in contents(index).items() if key.startswith("suppressed/")]
    assert len(stored) == 4 * 16


@pytest.mark.parametrize(
    ("restore", "back"),
    [
        ((FIRST.face_id,), 1),
        ((FIRST.uri,), 1),
        ((FIRST.photo_id, Face(person=7, shot=2).face_id), 2),
        ((WHO,), 4),
    ],
)
def test_who_is_named_comes_back(
    made: Made, index: Path, restore: tuple[str, ...], back: int
) -> None:
    report = add(index, made, restore=restore)
    assert (report["built"], report["added"]) == (True, back)
    assert report["totals"]["indexed"] == 76 + back
    assert report["totals"]["left_out"] == ({"deleted": 4 - back} if back < 4 else {})
    assert not add(index, made)["built"]
    assert len(in_it(index, [f for f in made.faces if f.name == WHO])) == back
    assert verify_index(str(index), dataset=made.write())["problems"] == []


def test_one_face_of_a_photo_comes_back_and_the_photo_stays_out(made: Made, index: Path) -> None:
    """Also of later builds, and of faces that were never in the gallery."""
    photo = [Face(person=3, shot=0), Face(person=3, shot=0, ordinal=1, decision="drop")]
    made.faces.append(photo[1])
    add(index, made)
    delete_from_index(str(index), Doomed(photos=(photo[0].uri,)))
    assert add(index, made, restore=(photo[0].face_id,))["added"] == 1
    build_index(made.write(), str(index), FLAT, include="all")
    assert in_it(index, photo) == photo[:1]
    assert verify_index(str(index), dataset=made.write())["problems"] == []
    delete_from_index(str(index), Doomed(photos=(photo[0].uri,)))
    build_index(made.write(), str(index), FLAT, include="all")
    assert in_it(index, photo) == []


def test_asking_back_twice_is_asking_once(made: Made, index: Path) -> None:
    """As after a kill between the swap and the end."""
    back = add(index, made, restore=(WHO,))
    again = add(index, made, restore=(WHO,))
    assert (again["built"], again["version"]) == (False, back["version"])
    with pytest.raises(UsageError, match="'person-008' is nobody who was deleted"):
        add(index, made, restore=("person-008",))


@pytest.mark.parametrize("command", ["add", "build"])
def test_all_come_back(made: Made, index: Path, command: str) -> None:
    delete_from_index(str(index), Doomed(photos=(Face(person=3, shot=0).uri,)))
    if command == "add":
        report = add(index, made, restore_all=True)
    else:
        report = build_index(made.write(), str(index), FLAT, restore_all=True)
    assert report["totals"]["indexed"] == 80
    assert report["suppressed"] is None
    assert not add(index, made)["built"]


def test_a_name_of_nobody_deleted_is_refused(made: Made, index: Path) -> None:
    before = contents(index)
    for name in ("person-008", "nobody"):
        with pytest.raises(UsageError, match=f"'{name}' is nobody who was deleted"):
            add(index, made, restore=(WHO, name))
    assert contents(index) == before


def test_a_rollback_takes_a_deletion_back_for_good(made: Made, index: Path) -> None:
    roll_back(str(index))
    assert not add(index, made)["built"]
    assert len(in_it(index, made.faces)) == 80


def test_another_model_has_them_neither(made: Made, index: Path) -> None:
    made.model = "second"
    report = migrate_index(str(index), made.write(), FLAT)
    assert (report["totals"]["indexed"], report["totals"]["left_out"]) == (76, {"deleted": 4})
    made.faces += people(2, 2, first=30)
    assert add(index, made)["added"] == 4
    assert in_it(index, [FIRST]) == []


# -- the file ----------------------------------------------------------------------------


def test_a_gallery_of_nobody_deleted_is_as_it_was_before_there_were_lists(
    made: Made, tmp_path: Path
) -> None:
    build_index(made.write(), str(tmp_path / "index"), FLAT)
    (manifest,) = (tmp_path / "index" / "versions").rglob("manifest.json")
    assert "suppressed" not in json.loads(manifest.read_bytes())
    assert not (tmp_path / "index" / "suppressed").exists()


def test_only_the_lists_of_kept_versions_are_there(made: Made, index: Path) -> None:
    for number in (1, 2, 3):
        delete_from_index(str(index), Doomed(people=(f"person-{number:03d}",)))
    sizes = sorted(path.stat().st_size for path in (index / "suppressed").iterdir())
    assert sizes == [12 * 16, 16 * 16]
    store = open_store(str(index))
    assert len(read_suppressed(store, read_manifest(store)[1])) == 16


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_list_is_refused_everywhere(made: Made, index: Path, damage: str) -> None:
    (path,) = (index / "suppressed").iterdir()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert any("suppressed/" in problem for problem in verify_index(str(index))["problems"])
    with pytest.raises(CorruptData, match="suppressed/"):
        open_index(index, check="sizes")
    for step in ("add", "build"):
        with pytest.raises(CorruptData, match="--restore-all"):
            STEPS[step](index, made)
    build_index(made.write(), str(index), FLAT, restore_all=True)
    assert len(in_it(index, made.faces)) == 80


@pytest.mark.parametrize("name", ["CURRENT", "manifest.json"])
def test_a_build_over_a_damaged_version_brings_nobody_back(
    made: Made, index: Path, name: str
) -> None:
    for path in index.rglob(name):
        path.write_bytes(path.read_bytes()[:-2] + b"??")
    report = build_index(made.write(), str(index), FLAT)
    assert report["totals"]["left_out"] == {"deleted": 4}
    assert in_it(index, [FIRST]) == []
    for path in [*index.rglob("CURRENT"), *index.rglob("*.b16")]:
        path.write_bytes(path.read_bytes()[:-2] + b"??")
    with pytest.raises(CorruptData, match="no version says who was deleted"):
        build_index(made.write(), str(index), FLAT)


def test_a_living_face_in_the_list_is_a_problem(made: Made, index: Path) -> None:
    """As no command makes it: a version whose rows are of before the deletion."""
    store = open_store(str(index))
    deleted = read_manifest(store)[1]
    roll_back(str(index))
    whole = read_manifest(store)[1]
    data = changed(whole, suppressed=deleted.suppressed).to_json()
    version = ids.sha256_hex(data)
    store.put(manifest_key(version), data)
    store.put(CURRENT, f"{version}\n".encode())
    problems = verify_index(str(index))["problems"]
    assert problems == ["4 faces are in the index and among those deleted from it"]


def test_a_deletion_meanwhile_is_noticed(made: Made, index: Path) -> None:
    store = open_store(str(index))
    seen = read_manifest(store)[1]
    need_same(store, seen, seen)
    need_same(store, None, None)
    delete_from_index(str(index), Doomed(people=("person-001",)))
    now = read_manifest(store)[1]
    for pair in ((seen, now), (None, now), (seen, None)):
        with pytest.raises(StoreError, match="another version: run the same command again"):
            need_same(store, *pair)


def test_faces_that_the_dataset_drops_are_counted_by_its_own_reason(
    made: Made, index: Path
) -> None:
    made.faces = [replace(f, decision="drop") if f.name == WHO else f for f in made.faces]
    report = add(index, made)
    assert report["totals"]["left_out"] == {"outlier": 4}
    made.faces = [replace(f, decision="keep") for f in made.faces]
    assert add(index, made)["totals"]["left_out"] == {"deleted": 4}
