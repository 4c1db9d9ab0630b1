"""Versions: written, checked, put in force, and gone back to."""

from __future__ import annotations

from pathlib import Path

import pytest

from facepipe import ids, open_index
from facepipe.errors import CorruptData, DatasetNotFound, GateFailed, StoreError, UsageError
from facepipe.index_manifest import CURRENT, Recall, manifest_key, read_manifest, read_version
from facepipe.index_settings import IndexSettings
from facepipe.store import open_store
from pipelines.index import build_index
from pipelines.index_build import changed
from pipelines.index_compact import compact_index
from pipelines.index_delete import Doomed, delete_from_index
from pipelines.index_publish import list_versions, publish_version, roll_back
from tests.pipelines.made_gallery import Made, contents, people

FLAT = IndexSettings()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(folder=tmp_path / "dataset", faces=people(20, 4))


@pytest.fixture
def index(made: Made, tmp_path: Path) -> Path:
    build_index(made.write(), str(tmp_path / "index"), FLAT)
    return tmp_path / "index"


def test_of_an_index_that_only_waits_the_way_out_is_named(made: Made, tmp_path: Path) -> None:
    index = str(tmp_path / "index")
    build_index(made.write(), index, FLAT, publish=False)
    with pytest.raises(DatasetNotFound, match=f"waits there: facepipe index publish {index}"):
        open_index(index)
    publish_version(index)
    assert open_index(index).record.totals.indexed == 80


def test_a_version_waits_until_it_is_published(made: Made, index: Path) -> None:
    before = open_index(index).version
    staged = build_index(made.write(), str(index), IndexSettings(fpir=0.1), publish=False)
    assert (staged["published"], open_index(index).version) == (False, before)
    states = {row["version"]: row["state"] for row in list_versions(str(index))}
    assert states == {before: "in force", staged["version"]: "waits"}
    made_current = publish_version(str(index))
    assert made_current["version"] == staged["version"] == open_index(index).version
    states = {row["version"]: row["state"] for row in list_versions(str(index))}
    assert states == {before: "before", staged["version"]: "in force"}
    assert not publish_version(str(index), staged["version"][:6])["published"]


def test_back_and_forth(made: Made, index: Path) -> None:
    first = open_index(index).version
    second = delete_from_index(str(index), Doomed(people=("person-001",)))["version"]
    assert roll_back(str(index))["version"] == first == open_index(index).version
    assert publish_version(str(index))["version"] == second == open_index(index).version
    assert len(open_index(index)) == 76
    third = delete_from_index(str(index), Doomed(people=("person-002",)))["version"]
    assert {row["version"] for row in list_versions(str(index))} == {second, third}
    assert roll_back(str(index))["version"] == second
    with pytest.raises(UsageError, match="a second version after it"):
        roll_back(str(index))


def test_the_first_version_has_none_before_it(index: Path) -> None:
    with pytest.raises(UsageError, match="is the first"):
        roll_back(str(index))


def test_a_rollback_to_files_that_are_gone_is_refused(made: Made, index: Path) -> None:
    vectors = next(index.rglob("vectors.f16"))
    made.faces = made.faces[1:]
    now = build_index(made.write(), str(index), FLAT)["version"]
    vectors.unlink()
    with pytest.raises(StoreError, match=r"vectors\.f16 is missing"):
        roll_back(str(index))
    assert open_index(index).version == now


@pytest.mark.parametrize("name", ["vectors.f16", "rows.parquet"])
def test_a_damaged_version_is_not_put_in_force(made: Made, index: Path, name: str) -> None:
    before = open_index(index).version
    old = set(index.rglob(name))
    made.faces = made.faces[1:]
    build_index(made.write(), str(index), FLAT, publish=False)
    (path,) = set(index.rglob(name)) - old
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptData, match="is not put in force"):
        publish_version(str(index))
    assert open_index(index).version == before


def test_a_version_that_finds_too_little_is_not_put_in_force(made: Made, index: Path) -> None:
    before = open_index(index).version
    settings = IndexSettings(kind="ivf_pqfs", recall=0.9)
    staged = build_index(made.write(), str(index), settings, publish=False)["version"]
    store = open_store(str(index))
    manifest = read_version(store, staged)
    assert manifest.recall is not None
    recall = Recall(**{**manifest.recall.model_dump(), "rth": 0.8})
    data = changed(manifest, recall=recall).to_json()
    store.put(manifest_key(ids.sha256_hex(data)), data)
    with pytest.raises(GateFailed, match=r"finds 0\.8000 of the pairs"):
        publish_version(str(index), ids.sha256_hex(data))
    assert open_index(index).version == before
    assert publish_version(str(index), staged)["published"]


@pytest.mark.parametrize(
    ("name", "said"), [("ffff", "no version"), ("", "0 versions"), (None, "0")]
)
def test_versions_that_are_not_there_are_said(index: Path, name: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        publish_version(str(index), name)


def test_a_swap_that_another_run_was_first_to_make_is_refused(
    made: Made, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of a machine that does not see ours: compare-and-swap is what decides."""
    from pipelines import index_build

    before = read_manifest(open_store(str(index)))[0]
    other = build_index(made.write(), str(index), IndexSettings(fpir=0.1), publish=False)
    need_recall = index_build.need_recall

    def meanwhile(*given: object) -> None:
        need_recall(*given)  # type: ignore[arg-type]
        (index / CURRENT).write_text(f"{other['version']}\n")

    monkeypatch.setattr(index_build, "need_recall", meanwhile)
    with pytest.raises(StoreError, match="another run has put a version"):
        build_index(made.write(), str(index), IndexSettings(fpir=0.3))
    assert open_index(index).version == other["version"] != before


def test_no_index_is_said(tmp_path: Path) -> None:
    for command in (publish_version, roll_back, list_versions):
        with pytest.raises((DatasetNotFound, UsageError)):
            command(str(tmp_path / "none"))


def test_listing_changes_nothing(index: Path) -> None:
    before = contents(index)
    (row,) = list_versions(str(index))
    assert (row["indexed"], row["dead"], row["shards"], row["kind"]) == (80, 0, 1, "flat")
    assert contents(index) == before


@pytest.mark.parametrize("damage", ["manifest", "CURRENT changed", "CURRENT gone"])
def test_a_damaged_version_is_followed_by_none_that_was_not_named(
    made: Made, index: Path, damage: str
) -> None:
    """The version before would bring back who was deleted, and destroy the list of them."""
    first = open_index(index).version
    deleted = delete_from_index(str(index), Doomed(people=("person-001",)))["version"]
    path = index / (manifest_key(deleted) if damage == "manifest" else CURRENT)
    path.unlink() if damage == "CURRENT gone" else path.write_bytes(b"?" + path.read_bytes()[1:])
    before = contents(index)
    with pytest.raises(UsageError, match="cannot be read"):
        publish_version(str(index))
    assert contents(index) == before
    assert publish_version(str(index), first)["published"]  # as it was asked for by its name
    if damage == "manifest":
        lists = {k: v for k, v in before.items() if k.startswith("suppressed/")}
        assert lists and lists.items() <= contents(index).items()
        compact_index(str(index), FLAT, erase=True)
        assert not [k for k in contents(index) if k.startswith("suppressed/")]
        assert len(list((index / "versions").iterdir())) == 1


def test_a_first_version_that_waits_needs_no_name(made: Made, tmp_path: Path) -> None:
    staged = build_index(made.write(), str(tmp_path / "new"), FLAT, publish=False)["version"]
    assert publish_version(str(tmp_path / "new"))["version"] == staged


def test_no_file_is_removed_that_is_not_the_indexs_own(
    made: Made, index: Path, tmp_path: Path
) -> None:
    """Linked folders are read, as another disk is; what else lies there stays."""
    name, shared = "0123456789abcdef", tmp_path / "shared"
    (shared / "below").mkdir(parents=True)
    others = ("vectors.f16", "a.txt", "below/b.txt", "manifest.json", "000000.parquet")
    for other in others:
        (shared / other).write_bytes(b"mine")
    for folder in ("shards", "versions", "templates", "_work"):
        (index / folder).mkdir(exist_ok=True)
        (index / folder / name).symlink_to(shared)
    own = index / "shards" / "fedcba9876543210"
    own.mkdir()
    (own / "vectors.f16").write_bytes(b"left by a run that was killed")
    (own / "notes.txt").write_bytes(b"mine")
    delete_from_index(str(index), Doomed(people=("person-001",)))
    assert [other for other in others if not (shared / other).exists()] == []
    assert [path.name for path in own.iterdir()] == ["notes.txt"]


def test_a_folder_with_another_current_is_no_index(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "leveldb"
    other.mkdir()
    (other / "CURRENT").write_text("MANIFEST-000001\n")
    (other / "MANIFEST-000001").write_bytes(b"theirs")
    before = contents(other)
    with pytest.raises(UsageError, match="holds other things"):
        build_index(made.write(), str(other), FLAT)
    assert contents(other) == before
