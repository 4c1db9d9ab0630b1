"""Adding: a gallery follows its dataset, and what has not changed is left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from facepipe import open_index
from facepipe.errors import DatasetNotFound, ModelMismatch, StoreError
from facepipe.index_settings import IndexSettings
from pipelines import index_add
from pipelines.index import build_index
from pipelines.index_add import add_to_index
from pipelines.index_delete import Doomed, delete_from_index
from pipelines.index_verify import verify_index
from pipelines.progress import Progress
from tests.pipelines.made_gallery import SHARD_FACES, Face, Made, contents, nearest, people, search

FLAT = IndexSettings()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = Made(folder=tmp_path / "dataset", faces=people(20, 4))
    build_index(made.write(), str(tmp_path / "index"), FLAT)
    return made


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"


def test_new_photos_are_new_shards_beside_the_old_ones(made: Made, index: Path) -> None:
    before = contents(index)
    made.faces += people(5, 3, first=30)
    report = add_to_index(str(index), made.write(), FLAT)
    assert (report["built"], report["added"], report["removed"]) == (True, 15, 0)
    after = contents(index)
    old = {name: data for name, data in before.items() if name.startswith("shards/")}
    assert old.items() <= after.items()
    assert [shard["rows"] for shard in report["shards"]] == [80, 15]
    assert report["totals"] == {"expected": 95, "indexed": 95, "left_out": {}, "identities": 25}
    assert (report["action"], report["parent"] + "\n") == ("add", before["CURRENT"].decode())
    queries = [made.faces[3], made.faces[-1], Face(person=31, shot=9)]
    assert search(index, made, queries, 5) == nearest(made, made.faces, queries, 5)


def test_a_second_time_there_is_nothing_to_do(made: Made, index: Path) -> None:
    made.faces += people(2, 2, first=30)
    dataset = made.write()
    first = add_to_index(str(index), dataset, FLAT)
    before = contents(index)
    again = add_to_index(str(index), dataset, FLAT)
    assert (again["built"], again["version"]) == (False, first["version"])
    assert contents(index) == before


def test_nothing_new_right_after_a_build_is_no_version(made: Made, index: Path) -> None:
    before = contents(index)
    assert not add_to_index(str(index), made.write(), FLAT)["built"]
    assert contents(index) == before


def test_names_boxes_and_decisions_are_followed(made: Made, index: Path) -> None:
    renamed, moved, dropped, gone = made.faces[0], made.faces[41], made.faces[7], made.faces[-1]
    made.faces[0] = replace(renamed, identity="someone else")
    made.faces[41] = replace(moved, left_px=12.0)
    made.faces[7] = replace(dropped, decision="drop")
    made.faces.pop()
    report = add_to_index(str(index), made.write(), FLAT)
    assert (report["added"], report["removed"]) == (2, 4)
    assert [(s["rows"], s["dead"]) for s in report["shards"]] == [(80, 4), (2, 0)]
    assert report["totals"] == {
        "expected": 79,
        "indexed": 78,
        "left_out": {"outlier": 1},
        "identities": 21,
    }
    gallery = open_index(index)
    rows = gallery.rows([renamed.face_id, moved.face_id]).to_pylist()
    assert rows[0]["identity_id"] == "someone else"
    assert rows[1]["box_xyxy_px"][0] == 12.0
    kept = [f for f in made.faces if f.decision == "keep"]
    queries = [dropped, gone, renamed]
    assert search(index, made, queries, 78) == nearest(made, kept, queries, 78)
    assert verify_index(str(index), full=True, dataset=made.write())["problems"] == []


def test_the_end_is_that_of_a_build(made: Made, index: Path, tmp_path: Path) -> None:
    """The same faces, names, threshold and account, whichever way they came in."""
    made.faces += people(6, 3, first=30)
    made.faces[5] = replace(made.faces[5], identity=None)
    dataset = made.write()
    added = add_to_index(str(index), dataset, FLAT)
    built = build_index(dataset, str(tmp_path / "other"), FLAT)
    for name in ("totals", "threshold", "dataset", "embedding"):
        assert added[name] == built[name], name
    assert verify_index(str(index), full=True, dataset=dataset)["problems"] == []


def test_lists_stay_those_the_gallery_was_built_with(made: Made, tmp_path: Path) -> None:
    coded, index = IndexSettings(kind="ivf_pqfs", recall=0.9), tmp_path / "coded"
    built = build_index(made.write(), str(index), coded)
    made.faces += people(5, 3, first=30)
    added = add_to_index(str(index), made.write(), FLAT)
    assert added["template"] == built["template"]
    assert added["recall"]["target"] == 0.9
    assert [len(shard["files"]) for shard in added["shards"]] == [3, 3]
    assert verify_index(str(index), full=True)["problems"] == []
    found = search(index, made, made.faces[-15:], 1)
    assert [row[0] for row in found] == [face.face_id for face in made.faces[-15:]]


def test_added_faces_wait_where_they_are_not_to_be_published(made: Made, index: Path) -> None:
    before = open_index(index).version
    made.faces += people(2, 2, first=30)
    report = add_to_index(str(index), made.write(), FLAT, publish=False)
    assert (report["published"], open_index(index).version) == (False, before)


def test_another_model_and_no_index_are_refused(made: Made, index: Path, tmp_path: Path) -> None:
    dataset = made.write()
    with pytest.raises(DatasetNotFound, match="facepipe index build"):
        add_to_index(str(tmp_path / "none"), dataset, FLAT)
    made.model = "second"
    with pytest.raises(ModelMismatch, match="facepipe index migrate"):
        add_to_index(str(index), made.write(), FLAT)


def test_a_shard_whose_rows_were_all_deleted_comes_again(made: Made, index: Path) -> None:
    """The very rows of a shard that is there, dead: the same name, and alive again."""
    new = people(5, 3, first=30)
    made.faces += new
    add_to_index(str(index), made.write(), FLAT)
    delete_from_index(str(index), Doomed(faces=tuple(face.face_id for face in new)))
    report = add_to_index(str(index), made.write(), FLAT, restore_all=True)
    assert [(s["rows"], s["dead"]) for s in report["shards"]] == [(80, 0), (15, 0)]
    assert search(index, made, new[:3], 95) == nearest(made, made.faces, new[:3], 95)
    assert verify_index(str(index), full=True, dataset=made.write())["problems"] == []


@pytest.mark.parametrize("other", ["model", "faces", "promise"])
def test_another_kind_of_version_meanwhile_is_refused(
    made: Made, index: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """One that is put in force while the dataset is looked at, before the index is held."""
    look = index_add.look
    made.faces += people(2, 2, first=30)
    dataset = made.write()

    def meanwhile(*given: Any, **options: Any) -> Any:
        seen = look(*given, **options)
        if other == "model":
            made.model = "second"
            build_index(made.write(), str(index), FLAT)
            dataset.set_current_model(replace(made, model="first").model_id)
        else:
            changes: dict[str, Any] = {"include": "all"} if other == "faces" else {}
            settings = IndexSettings(fpir=0.1) if other == "promise" else FLAT
            build_index(dataset, str(index), settings, **changes)
        return seen

    monkeypatch.setattr(index_add, "look", meanwhile)
    with pytest.raises((ModelMismatch, StoreError), match=r"index migrate|just got another"):
        add_to_index(str(index), dataset, FLAT)
    model = "second" if other == "model" else "first"
    assert open_index(index).record.embedding.model_id == replace(made, model=model).model_id


def test_a_waiting_version_that_is_dropped_is_named(
    made: Made, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = delete_from_index(str(index), Doomed(people=("person-001",)), publish=False)
    made.faces += people(2, 2, first=30)
    add_to_index(str(index), made.write(), FLAT, progress=Progress(quiet=False))
    assert f"{waits['version'][:12]}, which is not in force, is dropped" in capsys.readouterr().err


def test_the_made_faces_are_of_several_shards(made: Made) -> None:
    assert len(made.write().files("faces")) == 80 // SHARD_FACES
