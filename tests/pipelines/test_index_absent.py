"""Proof of absence: whatever lies in the folder is read, and a trace anywhere is found."""

from __future__ import annotations

import gzip
import unicodedata
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facepipe.errors import UsageError
from facepipe.index_settings import IndexSettings
from pipelines.index import build_index
from pipelines.index_absent import find_traces
from pipelines.index_select import look
from tests.pipelines.made_gallery import Face, Made, contents, people

WHO = Face(person=30, shot=0)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(folder=tmp_path / "dataset", faces=people(20, 4))


@pytest.fixture
def index(made: Made, tmp_path: Path) -> Path:
    """Make an index without WHO, whom the dataset then gets."""
    build_index(made.write(), str(tmp_path / "index"), IndexSettings())
    made.faces += people(1, 2, first=WHO.person)
    return tmp_path / "index"


def found(index: Path, made: Made, *names: str) -> list[str]:
    return [
        entry["file"] for entry in find_traces(str(index), names, dataset=made.write())["found"]
    ]


def test_who_is_not_there_leaves_no_trace(made: Made, index: Path) -> None:
    result = find_traces(str(index), [WHO.face_id, WHO.uri, "person-030"], dataset=made.write())
    assert result["found"] == []
    assert (result["names"], result["faces"], result["vectors"]) == (3, 2, 2)
    assert result["bytes"] == sum(len(data) for data in contents(index).values())


@pytest.mark.parametrize("name", [Face(person=4, shot=2).face_id, "person-004", "004/002.jpg"])
def test_who_is_there_is_found_by_every_name(made: Made, index: Path, name: str) -> None:
    (rows,) = (p.relative_to(index).as_posix() for p in index.rglob("rows.parquet"))
    assert rows in found(index, made, name)


def test_a_dataset_tells_what_a_name_means(made: Made, index: Path) -> None:
    """Only the dataset knows the faces of somebody whose name is in no file."""
    renamed = Made(folder=made.folder.with_name("renamed"), faces=list(made.faces))
    name = "only here"
    renamed.faces[5] = Face(person=5, shot=0, identity=name)
    assert find_traces(str(index), [name])["found"] == []
    files = {Path(file).name for file in found(index, renamed, name)}
    assert files == {"rows.parquet", "vectors.f16"}


@pytest.mark.parametrize("place", ["_tmp/123-abc", "notes.txt", "shards/0123456789abcdef/x", "a/b"])
@pytest.mark.parametrize("trace", ["id", "vector", "name"])
def test_a_trace_in_any_file_is_found(made: Made, index: Path, place: str, trace: str) -> None:
    data = {
        "id": WHO.face_id.encode(),
        "vector": made.vector(WHO).tobytes(),
        "name": b"person-030",
    }[trace]
    (index / place).parent.mkdir(parents=True, exist_ok=True)
    (index / place).write_bytes(b"abc" + data + b"xyz")
    assert found(index, made, WHO.face_id, "person-030") == [place]


def test_a_trace_in_compressed_columns_is_found(made: Made, index: Path) -> None:
    vector = made.vector(WHO)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vector), len(vector))
    tables = {
        "ids.parquet": pa.table({"x": [WHO.face_id] * 3}),
        "vectors.parquet": pa.table({"x": column}),
        "nested.parquet": pa.table({"x": [[{"y": WHO.face_id}]]}),
    }
    for name, table in tables.items():
        pq.write_table(table, index / name, compression="zstd", write_statistics=False)
    assert sorted(found(index, made, WHO.face_id)) == sorted(tables)


def test_parquet_that_cannot_be_read_is_no_proof(made: Made, index: Path) -> None:
    (index / "odd.parquet").write_bytes(b"PAR1" + gzip.compress(WHO.face_id.encode()))
    result = find_traces(str(index), [WHO.face_id])
    assert result["found"] == [{"file": "odd.parquet", "unreadable": True}]


def test_faces_that_were_left_out_are_known_by_their_vectors_too(made: Made, index: Path) -> None:
    """All faces of a photo, also those that no decision keeps."""
    made.faces.append(Face(person=30, shot=1, ordinal=1, decision="drop", identity=None))
    dataset = made.write()
    assert look(dataset, "kept", decided=True).selector.left_out == {"outlier": 1}
    result = find_traces(str(index), [Face(person=30, shot=1).photo_id], dataset=dataset)
    assert (result["found"], result["faces"], result["vectors"]) == ([], 2, 2)


def test_linked_folders_are_searched(made: Made, index: Path) -> None:
    index.with_name("elsewhere").mkdir()
    (index / "shards").rename(index.with_name("elsewhere") / "shards")
    (index / "shards").symlink_to(index.with_name("elsewhere") / "shards")
    assert found(index, made, "person-004")


def test_a_missing_file_is_no_proof(made: Made, index: Path) -> None:
    (rows,) = index.rglob("rows.parquet")
    rows.unlink()
    expected = {"file": rows.relative_to(index).as_posix(), "unreadable": True}
    assert find_traces(str(index), ["person-030"])["found"] == [expected]


def test_what_cannot_be_read_is_no_proof(
    made: Made, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without the right to: a test may run as one who has every right."""
    from facepipe.local_store import LocalStore

    opened = LocalStore.open

    def forbidden(store: LocalStore, key: str) -> BinaryIO:
        if key.endswith("vectors.f16"):
            raise PermissionError(13, "Permission denied", key)
        return opened(store, key)

    monkeypatch.setattr(LocalStore, "open", forbidden)
    (entry,) = find_traces(str(index), ["person-030"])["found"]
    assert entry["file"].endswith("vectors.f16") and entry["unreadable"]


def test_names_that_the_dataset_does_not_know_are_told(made: Made, index: Path) -> None:
    result = find_traces(str(index), ["person-030", "nobody"], dataset=made.write())
    assert result["unknown"] == ["nobody"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_both_forms_of_a_name_are_searched_for(made: Made, index: Path, form: str) -> None:
    (index / "notes.txt").write_bytes(unicodedata.normalize(form, "Zo\u00eb Lange").encode())
    for name in ("Zo\u00eb Lange", "Zoe\u0308 Lange"):
        assert [e["file"] for e in find_traces(str(index), [name])["found"]] == ["notes.txt"]


def test_a_photo_in_an_archive_is_searched_for_by_its_name(made: Made, index: Path) -> None:
    (index / "notes.txt").write_bytes(b"x/ann 1.jpg")
    found = find_traces(str(index), ["file:///a.zip : x/ann 1.jpg"])["found"]
    assert [entry["file"] for entry in found] == ["notes.txt"]


def test_nothing_to_look_for_is_refused(index: Path) -> None:
    with pytest.raises(UsageError, match="nothing to look for"):
        find_traces(str(index), [""])


def test_vectors_in_the_index_are_those_of_the_dataset(made: Made, index: Path) -> None:
    """Or the search for them would prove nothing."""
    stored = np.frombuffer(next(index.rglob("vectors.f16")).read_bytes(), "<f2").reshape(80, -1)
    order = sorted(made.faces[:80], key=lambda face: face.face_id)
    np.testing.assert_array_equal(stored, made.vectors(order))
