"""Containers in a run: the photos inside are photos like any other."""

from __future__ import annotations

import base64
import csv
import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facepipe import open_dataset
from facepipe.errors import SourceNotFound
from facepipe.record_writer import RecordStreams, write_records
from facepipe.shards import Dataset
from pipelines.verify import verify_dataset
from pipelines.why import explain_face, format_faces
from tests import made
from tests.pipelines.conftest import curated, labelled_settings, ran, tree


def pictures(folder: Path) -> dict[str, bytes]:
    """Return six made photos of two people by "person-0/shot-0.png"."""
    made.people(folder, persons=2, shots=3)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def as_tar(path: Path, photos: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in photos.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("person-0/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../etc/passwd"
        tar.addfile(link)


def as_zip(path: Path, photos: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in photos.items():
            archive.writestr(name, data)


def as_tsv(path: Path, photos: dict[str, bytes]) -> None:
    with path.open("wb") as stream:
        for i, (name, data) in enumerate(photos.items()):
            fields = [f"m.{name.split('/')[0]}", "1", "url", "page", f"FaceId-{i}", "AAAA"]
            stream.write("\t".join(fields).encode() + b"\t" + base64.b64encode(data) + b"\n")


def as_parquet(path: Path, photos: dict[str, bytes]) -> None:
    labels = [name.split("/")[0] for name in photos]
    pq.write_table(pa.table({"jpg": list(photos.values()), "label": labels}), path)


def as_rec(folder: Path, photos: dict[str, bytes]) -> None:
    folder.mkdir()
    with (
        (folder / "train.rec").open("wb") as rec,
        (folder / "train.idx").open("wb") as idx,
        (folder / "train.lst").open("wb") as lst,
        (folder / "property").open("wb") as about,
    ):
        rows = ((int(n.split("/")[0][-1]), n, data) for n, data in photos.items())
        write_records(rows, RecordStreams(rec=rec, idx=idx, lst=lst, property=about))


def by_member(dataset: Dataset) -> dict[str, dict[str, object]]:
    return {r["member"]: r for r in dataset.table("photos").to_pylist() if r["member"]}


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "tsv", "parquet", "rec"])
def test_photos_in_a_container_give_the_faces_of_the_photos(
    tmp_path: Path, made_pack: Path, kind: str
) -> None:
    photos = pictures(tmp_path / "plain")
    source = tmp_path / "in"
    source.mkdir()
    write = {"tar": as_tar, "zip": as_zip, "tsv": as_tsv, "parquet": as_parquet}
    if kind == "rec":
        as_rec(source / "rec", photos)
    elif kind == "tar.gz":
        as_tar(source / "photos.tar.gz", photos, "w:gz")
    else:
        write[kind](source / f"photos.{kind}", photos)
    curated([source], tmp_path / "ds", made_pack)
    curated([tmp_path / "plain"], tmp_path / "flat", made_pack)
    dataset, flat = open_dataset(tmp_path / "ds"), open_dataset(tmp_path / "flat")
    names = ["face_id", "box_xyxy_px", "crop"]
    faces = dataset.table("faces", names).sort_by("face_id").to_pylist()
    assert faces == flat.table("faces", names).sort_by("face_id").to_pylist() and len(faces) == 6
    statuses = Counter(dataset.table("photos")["status"].to_pylist())
    assert statuses == {"ok": 6, **({"refused": 1} if kind.startswith("tar") else {})}
    labels = Counter(dataset.table("faces")["source_label"].to_pylist())
    assert sorted(labels.values()) == [3, 3] and None not in labels
    assert verify_dataset(dataset)["problems"] == []


def test_a_list_stands_for_the_photos_it_names(tmp_path: Path, made_pack: Path) -> None:
    photos = pictures(tmp_path / "plain")
    with (tmp_path / "list.csv").open("w") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label"])
        rows.writerows((f"plain/{name}", name.split("/")[0]) for name in photos)
        rows.writerow(["plain/none.png", "person-0"])
        rows.writerow(["https://192.0.2.1/x.jpg", "person-0"])
    curated([tmp_path / "list.csv"], tmp_path / "ds", made_pack)
    dataset = open_dataset(tmp_path / "ds")
    rows_by_uri = {r["uri"]: r for r in dataset.table("photos").to_pylist()}
    assert {u for u, r in rows_by_uri.items() if r["status"] == "ok"} == {
        str(tmp_path / "plain" / name) for name in photos
    }
    assert rows_by_uri[str(tmp_path / "plain/none.png")]["status"] == "unreadable"
    refused = [r for r in rows_by_uri.values() if r["status"] == "refused"]
    assert len(refused) == 1 and "urls.allow" in refused[0]["error"]
    assert verify_dataset(dataset)["problems"] == []


def test_parts_resume_and_do_not_depend_on_workers(tmp_path: Path, made_pack: Path) -> None:
    photos = {f"p/{i}.png": d for i, d in enumerate(pictures(tmp_path / "plain").values())}
    (tmp_path / "in").mkdir()
    as_zip(tmp_path / "in/a.zip", photos)
    settings = labelled_settings("run.shard_photos=2")
    curated([tmp_path / "in"], tmp_path / "one", made_pack, workers=1, settings=settings)
    reports = curated([tmp_path / "in"], tmp_path / "two", made_pack, settings=settings)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert [(r.step.split("-")[0], r.shards) for r in reports[:3]] == [
        ("members", 1),
        ("detect", 3),
        ("embed", 3),
    ]
    again = curated([tmp_path / "in"], tmp_path / "two", made_pack, settings=settings)
    assert ran(again) == {}


def test_tonights_archive_is_a_new_generation(tmp_path: Path, made_pack: Path) -> None:
    photos = pictures(tmp_path / "plain")
    (tmp_path / "in").mkdir()
    as_zip(tmp_path / "in/monday.zip", photos)
    curated([tmp_path / "in"], tmp_path / "ds", made_pack)
    before = {f.file for f in open_dataset(tmp_path / "ds").files("photos")}
    as_zip(tmp_path / "in/tuesday.zip", {"q/x.png": next(iter(photos.values()))})
    reports = curated([tmp_path / "in"], tmp_path / "ds", made_pack)
    assert [r.shards_run for r in reports[:3]] == [1, 1, 1]
    dataset = open_dataset(tmp_path / "ds")
    assert before < {f.file for f in dataset.files("photos")}
    generations = [c.facts["generation"] for c in dataset.commits("detect")]
    assert generations == [0, 1]
    counts = dataset.write_manifest()["steps"]["detect"]["generations"]
    assert counts["0"]["photos"] == {"ok": 6} and counts["1"]["photos"] == {"ok": 1}


@pytest.mark.parametrize(
    ("prefix", "labels"),
    [("", {"person-0", "person-1"}), ("lfw/", {"person-0", "person-1"}), ("a/b/", {"b"})],
)
def test_the_one_folder_that_holds_all_is_nobody(
    tmp_path: Path, made_pack: Path, prefix: str, labels: set[str]
) -> None:
    photos = {prefix + name: data for name, data in pictures(tmp_path / "plain").items()}
    as_zip(tmp_path / "photos.zip", photos)
    curated([tmp_path / "photos.zip"], tmp_path / "ds", made_pack, steps=("detect",))
    found = open_dataset(tmp_path / "ds").table("photos")["source_label"].to_pylist()
    assert set(found) == labels


def test_an_archive_without_folders_has_no_labels(tmp_path: Path, made_pack: Path) -> None:
    photos = pictures(tmp_path / "plain")
    as_zip(tmp_path / "photos.zip", {n.replace("/", "-"): d for n, d in photos.items()})
    curated([tmp_path / "photos.zip"], tmp_path / "ds", made_pack, steps=("detect",))
    assert set(open_dataset(tmp_path / "ds").table("photos")["source_label"].to_pylist()) == {None}


def test_an_archive_that_is_away_is_not_forgotten(tmp_path: Path, made_pack: Path) -> None:
    photos = pictures(tmp_path / "plain")
    (tmp_path / "in").mkdir()
    as_zip(tmp_path / "in/a.zip", photos)
    curated([tmp_path / "plain", tmp_path / "in"], tmp_path / "ds", made_pack)
    (tmp_path / "in/a.zip").rename(tmp_path / "away.zip")
    changed = labelled_settings("sources.label_field=name")
    with pytest.raises(SourceNotFound, match=r"a\.zip"):
        curated([tmp_path / "plain"], tmp_path / "ds", made_pack, settings=changed)
    assert open_dataset(tmp_path / "ds").table("photos").num_rows == 12
    (tmp_path / "away.zip").rename(tmp_path / "in/a.zip")
    curated([tmp_path / "plain", tmp_path / "in"], tmp_path / "ds", made_pack, settings=changed)
    assert open_dataset(tmp_path / "ds").table("photos").num_rows == 12


def test_a_list_stays_one_when_only_its_folder_is_given(tmp_path: Path, made_pack: Path) -> None:
    pictures(tmp_path / "plain")
    names = sorted(str(p) for p in (tmp_path / "plain").rglob("*.png"))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/some.csv").write_text("\n".join(["path", *names[:3]]) + "\n")
    made.save(tmp_path / "lists/one.png", made.photo([(3, 0, 80, 80)]))
    given = [tmp_path / "lists", tmp_path / "lists/some.csv"]
    for sources in (given, given[::-1], [tmp_path / "lists"]):
        curated(sources, tmp_path / "ds", made_pack)
        assert open_dataset(tmp_path / "ds").table("photos").num_rows == 4


def test_why_knows_members(tmp_path: Path, made_pack: Path) -> None:
    photos = pictures(tmp_path / "plain")
    as_zip(tmp_path / "photos.zip", photos)
    curated([tmp_path / "photos.zip"], tmp_path / "ds", made_pack)
    (face,) = explain_face(open_dataset(tmp_path / "ds"), "person-1/shot-2.png")
    assert face["member"] == "person-1/shot-2.png" and len(face["chain"]) == 2
    assert "photos.zip : person-1/shot-2.png" in format_faces([face])


def test_an_empty_and_a_broken_container_have_one_row_each(tmp_path: Path, made_pack: Path) -> None:
    source = tmp_path / "in"
    pictures(source)
    as_zip(source / "empty.zip", {})
    (source / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(200))
    curated([source], tmp_path / "ds", made_pack)
    dataset = open_dataset(tmp_path / "ds")
    rows = {r["uri"].removeprefix(f"{source}/"): r for r in dataset.table("photos").to_pylist()}
    assert rows["empty.zip"]["status"] == rows["broken.zip"]["status"] == "refused"
    assert rows["empty.zip"]["error"] == "there is no photo in it"
    assert len(rows) == 8 and verify_dataset(dataset)["problems"] == []
