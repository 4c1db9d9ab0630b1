"""Commit records, plans and the tables they make up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facepipe import ids, open_dataset
from facepipe.commits import Commit, Plan, record_key, total_counts, write_parquet, write_shard
from facepipe.errors import CorruptData, DatasetNotFound, UsageError
from facepipe.schema import DECISIONS, PHOTOS, embeddings
from facepipe.shards import Dataset, new_or_open_dataset
from facepipe.store import LocalStore


def photos(*names: str) -> pa.Table:
    rows = [
        {"photo_id": None, "uri": n, "bytes": 1, "faces": 0, "status": "ok", "error": ""}
        for n in names
    ]
    return pa.Table.from_pylist(rows, schema=PHOTOS)


def commit(store: LocalStore, shard: str, key: str, table: pa.Table) -> Commit:
    counts = {"photos": {"ok": table.num_rows}}
    tables = [("photos", "photos", table, PHOTOS)]
    return write_shard(store, step="detect", shard=shard, key=key, tables=tables, counts=counts)


def planned(store: LocalStore, **shards: str) -> Dataset:
    dataset = Dataset(store)
    dataset.write_plan(Plan(step="detect", shards=shards, basis={}))
    return dataset


def test_same_rows_same_bytes_and_read_back(tmp_path: Path) -> None:
    table = photos("a", "b")
    data = write_parquet(table, PHOTOS)
    assert data == write_parquet(photos("a", "b"), PHOTOS)
    (tmp_path / "t.parquet").write_bytes(data)
    back = pq.read_table(tmp_path / "t.parquet")
    assert back.to_pylist() == table.to_pylist()
    assert back.schema.metadata[b"facepipe.schema_version"] == b"1"


def test_vectors_keep_their_type_and_model(tmp_path: Path) -> None:
    vectors = np.eye(3, 4, dtype=np.float16)
    schema = embeddings(4, "m1")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
    table = pa.Table.from_arrays(
        [
            pa.array(["a", "b", "c"]),
            column,
            pa.array([1.0] * 3, pa.float32()),
            pa.array(["ok"] * 3),
        ],
        schema=schema,
    )
    (tmp_path / "e.parquet").write_bytes(write_parquet(table, schema))
    back = pq.read_table(tmp_path / "e.parquet")
    assert back.schema.field("vector").type == pa.list_(pa.float16(), 4)
    assert back.schema.metadata[b"facepipe.model_id"] == b"m1"
    assert np.array_equal(np.array(back["vector"].to_pylist(), np.float16), vectors)


def test_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(CorruptData, match="columns"):
        write_parquet(photos("a"), DECISIONS)


def test_readers_follow_the_plan_and_its_order(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    dataset = planned(store, **{"000001": "k1", "000000": "k0"})
    commit(store, "000000", "k0", photos("a"))
    assert not dataset.finished("detect")
    commit(store, "000001", "k1", photos("b", "c"))
    commit(store, "000000", "other key", photos("stale"))
    assert dataset.finished("detect")
    table = open_dataset(tmp_path).table("photos", ["uri"])
    assert table["uri"].to_pylist() == ["b", "c", "a"]
    assert dataset.scan("photos").count_rows() == 3
    assert total_counts(dataset.commits("detect")) == {"photos": {"ok": 3}}


def test_the_record_decides_between_two_attempts(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    dataset = planned(store, **{"000000": "k0"})
    first = commit(store, "000000", "k0", photos("first"))
    second = commit(store, "000000", "k0", photos("second"))  # a zombie with other bytes
    assert second == first
    assert dataset.table("photos")["uri"].to_pylist() == ["first"]
    assert len(store.list("photos")) == 2
    assert dataset.retire("detect") == 1
    assert store.list("photos") == [first.files[0].file]


def test_retire_never_touches_what_is_not_its_own(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    dataset = planned(store, **{"000000": "k0"})
    commit(store, "000000", "k0", photos("a"))
    for name in ("holiday.jpg", "000000-notes.parquet", "000001-0123abcd.parquet.bak"):
        (tmp_path / "photos" / name).write_bytes(b"mine")
    assert dataset.retire("detect") == 0
    assert len(store.list("photos")) == 4


def test_a_dataset_has_its_folder_for_itself(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").write_text("x")
    for out, message in (
        (tmp_path, "holds other things"),
        ("", "empty"),
        (tmp_path / "file", "a file"),
    ):
        with pytest.raises(UsageError, match=message):
            new_or_open_dataset(out)
    assert new_or_open_dataset(tmp_path / "new").uri == str(tmp_path / "new")
    planned(LocalStore(tmp_path / "ds"), **{"000000": "k0"})
    (tmp_path / "ds" / "my notes.txt").write_text("beside a dataset is fine")
    assert new_or_open_dataset(tmp_path / "ds").plan("detect") is not None


def test_retire_removes_superseded_records_and_files(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    planned(store, **{"000000": "old"})
    commit(store, "000000", "old", photos("old"))
    dataset = planned(store, **{"000000": "new"})
    commit(store, "000000", "new", photos("new"))
    dataset.retire("detect")
    assert dataset.table("photos")["uri"].to_pylist() == ["new"]
    assert store.list("_commits/detect") == [record_key("detect", "000000", "new")]
    folder = pq.read_table(tmp_path / "photos")  # as DuckDB or Spark would: the whole folder
    assert folder["uri"].to_pylist() == ["new"]


def test_manifest_has_no_time_in_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    dataset = planned(store, **{"000000": "k0"})
    commit(store, "000000", "k0", photos("a"))
    first = dataset.write_manifest()
    assert first["steps"]["detect"]["complete"] is True
    assert first["steps"]["detect"]["counts"] == {"photos": {"ok": 1}}
    before = store.get("MANIFEST.json")
    dataset.write_manifest()
    assert store.get("MANIFEST.json") == before


def test_missing_things_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match="facepipe curate"):
        open_dataset(tmp_path)
    dataset = planned(LocalStore(tmp_path), **{"000000": "k0"})
    with pytest.raises(DatasetNotFound, match="facepipe detect"):
        dataset.table("photos")
    with pytest.raises(DatasetNotFound, match="facepipe clean"):
        dataset.table("decisions")
    with pytest.raises(DatasetNotFound, match="facepipe embed"):
        dataset.table("embeddings")
    with pytest.raises(DatasetNotFound, match="no table 'people'"):
        dataset.table("people")


def test_damage_is_an_error_not_an_answer(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    dataset = planned(store, **{"000000": "k0"})
    file = commit(store, "000000", "k0", photos("a")).files[0]
    store.path(file.file).write_bytes(b"PAR1 nonsense")
    with pytest.raises(CorruptData, match="verify"):
        dataset.table("photos")
    store.path(file.file).unlink()
    with pytest.raises(CorruptData, match="verify"):
        dataset.table("photos")
    store.path(record_key("detect", "000000", "k0")).write_text("{")
    with pytest.raises(CorruptData, match="delete it"):
        dataset.commits("detect")


def test_a_hostile_record_cannot_reach_outside(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "ds")
    dataset = planned(store, **{"000000": "k0"})
    record = json.loads(commit(store, "000000", "k0", photos("a")).to_json())
    record["files"][0]["file"] = "../outside.parquet"
    store.put(record_key("detect", "000000", "k0"), json.dumps(record).encode())
    with pytest.raises(Exception, match="leaves the folder"):
        dataset.table("photos")


def test_ids() -> None:
    photo = ids.photo_id(b"abc")
    assert photo == "ba7816bf8f01cfea414140de5dae2223"
    assert ids.photo_of(ids.face_id(photo, 12)) == photo
    assert ids.face_id(photo, 9) < ids.face_id(photo, 10)
    assert ids.digest({"b": 1, "a": [1, 2]}) == ids.digest({"a": [1, 2], "b": 1})
    with pytest.raises(TypeError):
        ids.digest({"a": object()})
