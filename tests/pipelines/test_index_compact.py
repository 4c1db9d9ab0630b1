"""Compaction: shards without their deleted rows, and no byte of those anywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from facepipe import open_index
from facepipe.errors import UsageError
from facepipe.index_manifest import VECTORS, IndexFile, Shard, shard_name
from facepipe.index_settings import IndexSettings
from facepipe.shards import Dataset
from pipelines import index_build
from pipelines.index import build_index
from pipelines.index_absent import find_traces
from pipelines.index_add import add_to_index
from pipelines.index_compact import compact_index, regrouped
from pipelines.index_delete import Doomed, delete_from_index
from pipelines.index_publish import roll_back
from pipelines.index_verify import verify_index
from tests.pipelines.made_gallery import Made, contents, nearest, people, search

FLAT = IndexSettings()
CODED = IndexSettings(kind="ivf_pqfs", recall=0.9)
WHO = "person-007"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(folder=tmp_path / "dataset", faces=people(20, 4))


@pytest.fixture(params=[FLAT, CODED], ids=["flat", "ivf_pqfs"])
def index(request: pytest.FixtureRequest, made: Made, tmp_path: Path) -> Path:
    """Make an index of two shards, with a person of four faces deleted."""
    folder = tmp_path / "index"
    build_index(made.write(), str(folder), request.param)
    made.faces += people(5, 3, first=30)
    add_to_index(str(folder), made.write(), FLAT)
    delete_from_index(str(folder), Doomed(people=(WHO,)))
    return folder


def test_nothing_of_the_deleted_is_left(made: Made, index: Path) -> None:
    dataset = Dataset(made.write().store)
    assert find_traces(str(index), [WHO], dataset=dataset)["found"]
    report = compact_index(str(index), FLAT, everything=True)
    assert (report["rewritten"], report["erased"], report["dead"]) == (2, 4, 0)
    assert [(s["rows"], s["dead"]) for s in report["shards"]] == [(91, 0)]
    result = find_traces(str(index), [WHO], dataset=dataset)
    assert (result["found"], result["faces"], result["vectors"]) == ([], 4, 4)
    stored = b"".join(contents(index).values())
    for face in made.faces:
        vector = made.vector(face).tobytes()
        assert (vector in stored) == (face.name != WHO)
    left = [face for face in made.faces if face.name != WHO]
    queries = made.faces[:9]
    if report["kind"] == "flat":
        assert search(index, made, queries, 91) == nearest(made, left, queries, 91)
    assert verify_index(str(index), full=True)["problems"] == []


def test_bytes_do_not_depend_on_how_rows_came_in(made: Made, index: Path, tmp_path: Path) -> None:
    """One shard of all faces is the same, joined from two or made at once."""
    joined = compact_index(str(index), FLAT, everything=True)
    build = IndexSettings(kind=joined["kind"], recall=0.9)
    made.faces = [face for face in made.faces if face.name != WHO]
    at_once = build_index(made.write(), str(tmp_path / "other"), build)
    if joined["kind"] == "flat":  # its codes are of the template of another sample
        assert joined["shards"][0]["files"] == at_once["shards"][0]["files"]
    for name in (VECTORS, "rows.parquet"):
        assert joined["shards"][0]["files"][name] == at_once["shards"][0]["files"][name]


def test_a_second_time_there_is_nothing_to_do(index: Path) -> None:
    compact_index(str(index), FLAT, everything=True)
    before = contents(index)
    assert not compact_index(str(index), FLAT, everything=True)["built"]
    assert contents(index) == before


def test_counting_changes_nothing(index: Path) -> None:
    before = contents(index)
    report = compact_index(str(index), FLAT, everything=True, dry=True)
    assert (report["built"], report["rewritten"], report["erased"]) == (False, 2, 4)
    assert contents(index) == before


def test_the_version_before_is_erased_unless_it_is_kept(index: Path) -> None:
    version = open_index(index).version
    compact_index(str(index), FLAT, everything=True, keep_versions=True)
    roll_back(str(index))
    assert open_index(index).version == version
    compact_index(str(index), FLAT, everything=True)
    with pytest.raises(UsageError, match="a compaction erases it"):
        roll_back(str(index))
    assert len(list((index / "versions").iterdir())) == 1


def test_a_kill_before_the_erasure_leaves_it_to_any_later_run(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to one that finds nothing to rewrite any more, and was not told to erase."""
    settings = IndexSettings(compact_at=0.001)
    with monkeypatch.context() as patch:
        patch.setattr(index_build, "retire", killed)
        with pytest.raises(KeyboardInterrupt):
            compact_index(str(index), settings)
    assert len(list((index / "versions").iterdir())) > 1
    assert not compact_index(str(index), settings)["built"]
    assert len(list((index / "versions").iterdir())) == 1
    assert find_traces(str(index), [WHO])["found"] == []


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_gallery_of_nobody_has_no_shards(made: Made, index: Path) -> None:
    left = [f.face_id for f in made.faces if f.name != WHO]
    delete_from_index(str(index), Doomed(faces=tuple(left)))
    report = compact_index(str(index), FLAT)
    assert (report["shards"], report["totals"]["indexed"]) == ([], 0)
    assert search(index, made, made.faces[:1], 2) == [["", ""]]
    assert verify_index(str(index), full=True)["problems"] == []
    assert not add_to_index(str(index), made.write(), FLAT)["built"]
    assert add_to_index(str(index), made.write(), FLAT, restore_all=True)["added"] == 95


def test_small_shards_are_joined_and_other_versions_stay(made: Made, tmp_path: Path) -> None:
    """Nothing was deleted, so that there is nothing to erase, unless it is asked for."""
    index = tmp_path / "joined"
    build_index(made.write(), str(index), FLAT)
    made.faces += people(5, 3, first=40)
    before = add_to_index(str(index), made.write(), FLAT)["version"]
    report = compact_index(str(index), FLAT)
    assert (report["rewritten"], report["erased"], len(report["shards"])) == (2, 0, 1)
    roll_back(str(index))
    assert open_index(index).version == before
    with pytest.raises(UsageError, match="--erase and --keep-versions"):
        compact_index(str(index), FLAT, erase=True, keep_versions=True)
    compact_index(str(index), FLAT, erase=True)
    assert len(list((index / "versions").iterdir())) == 1


def test_what_was_deleted_and_kept_is_erased_by_a_second_compaction(index: Path) -> None:
    compact_index(str(index), FLAT, everything=True, keep_versions=True)
    assert len(list((index / "versions").iterdir())) == 2
    assert not compact_index(str(index), FLAT)["built"]
    assert len(list((index / "versions").iterdir())) == 2
    compact_index(str(index), FLAT, everything=True)
    assert len(list((index / "versions").iterdir())) == 1


def shard(name: str, rows: int, dead: int) -> Shard:
    """Make a shard, known by the first letter of its inputs."""
    sha = hashlib.sha256(name.encode()).hexdigest()
    files = {VECTORS: IndexFile(bytes=rows, sha256=sha)}
    tombstones = IndexFile(bytes=4 * dead, sha256=sha) if dead else None
    return Shard(
        name=shard_name(files),
        rows=rows,
        files=files,
        inputs=name,
        dead=dead,
        tombstones=tombstones,
    )


@pytest.mark.parametrize(
    ("shards", "compact_at", "expected"),
    [
        ([("a", 100, 0)], 0.1, "a."),
        ([("a", 100, 9)], 0.1, "a."),  # too few to be rewritten
        ([("a", 100, 9)], 0.0, "a"),
        ([("a", 100, 10)], 0.1, "a"),
        ([("a", 10, 0)], 0.1, "a."),  # small, and nothing to join it with
        ([("a", 10, 1)], 0.2, "a."),
        ([("a", 10, 0), ("b", 20, 0)], 0.1, "ab"),
        ([("a", 10, 0), ("b", 100, 0), ("c", 10, 1)], 0.1, "ac b."),  # b is full
        ([("a", 49, 0), ("b", 49, 0), ("c", 49, 0)], 0.1, "ab c."),
        ([("a", 100, 60), ("b", 100, 60), ("c", 30, 0)], 0.1, "ab c."),
        ([("a", 100, 100)], 0.1, "a"),
        ([], 0.1, ""),
    ],
)
def test_which_shards_are_joined(
    shards: list[tuple[str, int, int]], compact_at: float, expected: str
) -> None:
    """A group that stays ends with a dot; a full shard has 100 rows."""
    groups = regrouped([shard(*each) for each in shards], 100, compact_at)
    shown = ["".join(s.inputs for s in group.shards) + "." * group.stays for group in groups]
    assert " ".join(shown) == expected
    for group in groups:
        assert group.stays or group.living <= 100
