"""Steps on a store: the same in a bucket as in a folder, and one look at it a run."""

from __future__ import annotations

from pathlib import Path

from facepipe import open_dataset
from facepipe.store import open_store
from pipelines.verify import verify_dataset
from tests import made
from tests.object_server import S3Server
from tests.pipelines.conftest import curated, labelled_settings, ran

COLUMNS = ("face_id", "box_xyxy_px", "crop", "source_label", "status")


def uploaded(folder: Path, bucket: str) -> str:
    """Put a folder's files below a prefix of a bucket, and return that."""
    store = open_store(f"{bucket}/raw")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        store.put(path.relative_to(folder).as_posix(), path.read_bytes())
    return f"{bucket}/raw"


def test_from_a_bucket_to_a_bucket(
    tmp_path: Path, made_pack: Path, s3: S3Server, bucket: str
) -> None:
    made.people(tmp_path / "photos", persons=2, shots=4)
    (tmp_path / "photos/notes.txt").write_text("no photo")
    source, out = uploaded(tmp_path / "photos", bucket), f"{bucket}/datasets/one"
    curated([source], out, made_pack)
    curated([tmp_path / "photos"], tmp_path / "ds", made_pack)
    remote, local = open_dataset(out), open_dataset(tmp_path / "ds")
    assert remote.table("faces", COLUMNS).equals(local.table("faces", COLUMNS))
    for table in ("embeddings", "duplicates", "decisions"):
        assert (
            remote.table(table)
            .drop_columns(_uris(table))
            .equals(local.table(table).drop_columns(_uris(table)))
        )
    uris = {r["uri"].removeprefix(f"{source}/") for r in remote.table("photos").to_pylist()}
    assert uris == {
        p.relative_to(tmp_path / "photos").as_posix()
        for p in (tmp_path / "photos").rglob("*")
        if p.is_file()
    }
    assert remote.scan("faces").to_table().num_rows == 8
    assert verify_dataset(remote)["problems"] == []


def _uris(table: str) -> list[str]:
    return [] if table == "embeddings" else ["uri"]


def test_a_second_run_lists_the_store_once_and_writes_nothing(
    tmp_path: Path, made_pack: Path, s3: S3Server, bucket: str
) -> None:
    made.people(tmp_path / "photos", persons=2, shots=4)
    out = f"{bucket}/ds"
    settings = labelled_settings("run.shard_photos=2")
    curated([tmp_path / "photos"], out, made_pack, settings=settings)
    s3.forget()
    assert ran(curated([tmp_path / "photos"], out, made_pack, settings=settings)) == {}
    whole = [
        r
        for r in s3.requests
        if r.method == "GET" and "list-type=2" in r.query and "delimiter" not in r.query
    ]
    assert len(whole) == 1
    written = [r for r in s3.requests if r.method in ("PUT", "DELETE", "POST")]
    assert all("_lease" in r.path for r in written)
    records = [r for r in s3.requests if "/_commits/" in r.path and r.path.endswith(".json")]
    assert records == []  # the finished steps' records are read as one file each


def test_tonights_photos_in_a_bucket(
    tmp_path: Path, made_pack: Path, s3: S3Server, bucket: str
) -> None:
    made.people(tmp_path / "photos", persons=2, shots=3)
    source, out = uploaded(tmp_path / "photos", bucket), f"{bucket}/ds"
    curated([source], out, made_pack)
    made.save(tmp_path / "new/person-0/late.png", made.photo([(0, 9, 80, 80)]))
    uploaded(tmp_path / "new", bucket)
    again = ran(curated([source], out, made_pack))
    assert (again["detect"], again["embed"]) == (1, 1)
    assert verify_dataset(open_dataset(out))["problems"] == []
    assert open_dataset(out).table("photos").num_rows == 7
