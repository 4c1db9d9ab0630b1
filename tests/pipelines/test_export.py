"""Exports: read back by other readers, and all counts add up to the faces there are."""

from __future__ import annotations

import csv
import json
import shutil
import struct
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer import Typer
from typer.testing import CliRunner

from facepipe.errors import CorruptData, StoreError, UsageError
from facepipe.export_choice import ExportSettings, RemovedBy
from facepipe.folder_names import person_of
from facepipe.object_store import ObjectStore
from facepipe.overlap import OverlapSettings
from facepipe.shards import Dataset, open_dataset
from facepipe.source_rec import open_rec
from pipelines import cli_export, export_formats
from pipelines.export import Export, run_export
from pipelines.export_folder import new_folder
from pipelines.export_spill import Spill
from pipelines.export_target import STARTED
from pipelines.overlap import NamedProbes, run_overlap
from pipelines.progress import Progress
from pipelines.runners.local import LocalRunner
from tests import made
from tests.object_server import S3Server
from tests.pipelines.conftest import curated, labelled_settings

Rows = list[dict[str, Any]]
HOSTILE = {"person-0": "CON", "person-1": "~..", "person-2": "Ann", "person-3": "ANN"}


def exported(dataset: Dataset, out: Path | str, format_: str, **asked: Any) -> dict[str, Any]:
    settings = ExportSettings(shard_faces=asked.pop("shard_faces", 4))
    export = Export(out=str(out), format=format_, settings=settings, **asked)
    return run_export(dataset, export, Progress(quiet=True))


def read_csv(path: Path) -> Rows:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def kept(dataset: Dataset) -> dict[str, dict[str, Any]]:
    rows = dataset.table("decisions").to_pylist()
    return {
        r["face_id"]: r
        for r in rows
        if r["decision"] in ("keep", "relabel", "merge") and r["identity_id"] is not None
    }


def crops(dataset: Dataset) -> dict[str, bytes]:
    rows = dataset.table("faces", ["face_id", "crop"]).to_pylist()
    return {r["face_id"]: r["crop"] for r in rows}


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, photos: Path, made_pack: Path) -> Dataset:
    """Return a dataset of people whose names file systems do not like."""
    root = tmp_path_factory.mktemp("hostile")
    for folder, name in HOSTILE.items():
        shutil.copytree(photos / folder, root / "photos" / name)
    curated([root / "photos"], root / "ds", made_pack)
    return open_dataset(root / "ds")


# -- folders -----------------------------------------------------------------------------


def test_folders_hold_every_kept_face_under_its_person(dataset: Dataset, tmp_path: Path) -> None:
    result = exported(dataset, tmp_path / "out", "folders")
    wanted, stored = kept(dataset), crops(dataset)
    files = contents(tmp_path / "out" / "images")
    assert {Path(f).stem: Path(f).parts[0] for f in files} == {
        face: row["identity_id"] for face, row in wanted.items()
    }
    assert all(data == stored[Path(f).stem] for f, data in files.items())
    for name, data in files.items():
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None and picture.shape == (112, 112, 3)
        assert name.endswith(".png") == data.startswith(b"\x89PNG")
    assert result["exported"] == len(files)


def test_hostile_names_stay_inside_and_apart(hostile: Dataset, tmp_path: Path) -> None:
    exported(hostile, tmp_path / "out", "folders")
    labels = read_csv(tmp_path / "out" / "labels.csv")
    assert [r["identity_id"] for r in labels] == sorted(HOSTILE.values())
    assert [int(r["label"]) for r in labels] == [0, 1, 2, 3]
    folders = [r["folder"] for r in labels]
    assert folders == ["ANN", "Ann~2", "%43ON", "%7E.%2E"]
    assert [person_of(f) for f in folders] == [r["identity_id"] for r in labels]
    assert names(tmp_path / "out" / "images") == sorted(folders)
    assert names(tmp_path) == ["out"]
    for row in labels:
        assert len(names(tmp_path / "out" / "images" / row["folder"])) == int(row["faces"])


# -- webdataset --------------------------------------------------------------------------


def test_webdataset_is_read_by_the_standard_library(dataset: Dataset, tmp_path: Path) -> None:
    exported(dataset, tmp_path / "out", "webdataset", shard_faces=5)
    wanted, stored = kept(dataset), crops(dataset)
    people = [r["identity_id"] for r in read_csv(tmp_path / "out" / "labels.csv")]
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert [t.name for t in tars] == [f"faces-{i:06d}.tar" for i in range(len(tars))]
    seen: list[str] = []
    for path in tars:
        with tarfile.open(path) as tar:
            data = {e.name: tar.extractfile(e).read() for e in tar}  # type: ignore[union-attr]
        keys = [name.removesuffix(".cls") for name in data if name.endswith(".cls")]
        assert len(keys) == 5 or path == tars[-1]
        for key in keys:
            known = json.loads(data[f"{key}.json"])
            assert known["identity"] == people[known["label"]] == wanted[key]["identity_id"]
            assert data[f"{key}.cls"] == str(known["label"]).encode()
            assert known["weight"] == pytest.approx(wanted[key]["weight"], abs=1e-6)
            assert data[f"{key}.png"] == stored[key]
        seen += keys
    assert seen == sorted(wanted)
    listed = {r["face_id"]: r["file"] for r in read_csv(tmp_path / "out" / "faces.csv")}
    with tarfile.open(tars[1]) as tar:
        inside = {n.partition(".")[0] for n in tar.getnames()}
    assert inside == {face for face, file in listed.items() if file == tars[1].name}


def test_curate_reads_the_webdataset_back(
    dataset: Dataset, tmp_path: Path, made_pack: Path
) -> None:
    exported(dataset, tmp_path / "out", "webdataset")
    settings = labelled_settings("sources.label_field=identity")
    tars = sorted((tmp_path / "out").glob("*.tar"))
    curated(tars, tmp_path / "ds", made_pack, settings=settings, steps=("detect",))
    rows = open_dataset(tmp_path / "ds").table("photos", ["member", "source_label"]).to_pylist()
    assert {r["member"].partition(".")[0]: r["source_label"] for r in rows} == {
        face: row["identity_id"] for face, row in kept(dataset).items()
    }


# -- .rec --------------------------------------------------------------------------------


def test_rec_is_read_by_facepipes_own_reader(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(dataset, out, "rec")
    wanted, stored = kept(dataset), crops(dataset)
    labels = read_csv(out / "labels.csv")
    number = {r["identity_id"]: r["label"] for r in labels}
    container = open_rec((out / "train.rec").open("rb"), lambda n: (out / n).open("rb"))
    members = list(container.members())
    assert len(members) == len(wanted) and all(m.problem is None for m in members)
    for member in members:
        face = Path(member.name).stem
        assert member.label == number[wanted[face]["identity_id"]]
        assert container.read(member, 1 << 20) == stored[face]
    container.close()
    assert [int(m.label or -1) for m in members] == sorted(int(m.label or -1) for m in members)
    assert (out / "property").read_text() == f"{len(labels)},112,112\n"


def test_rec_has_a_header_and_the_range_of_each_person(dataset: Dataset, tmp_path: Path) -> None:
    """As insightface's MXFaceDataset reads it: record 0, then the identities' ranges."""
    out = tmp_path / "out"
    result = exported(dataset, out, "rec")
    data = (out / "train.rec").read_bytes()
    lines = (out / "train.idx").read_text().splitlines()
    offsets = {int(k): int(v) for k, v in (line.split("\t") for line in lines)}

    def labels(key: int) -> tuple[float, float]:
        magic, _, flag, _, number, _ = struct.unpack_from("<IIIfQQ", data, offsets[key])
        assert magic == 0xCED7230A and flag == 2 and number == key
        first, second = struct.unpack_from("<2f", data, offsets[key] + 32)
        return first, second

    photos, people = result["exported"], result["people"]
    assert labels(0) == (photos + 1, photos + 1 + people)
    faces = read_csv(out / "faces.csv")
    assert {int(r["record"]) for r in faces} == set(range(1, photos + 1))
    by_record = {int(r["record"]): int(r["label"]) for r in faces}
    start = 1
    for person in range(people):
        first, end = labels(photos + 1 + person)
        assert first == start and {by_record[i] for i in range(int(first), int(end))} == {person}
        start = end
    assert start == photos + 1


def test_curate_lists_the_same_labels_from_the_rec(
    dataset: Dataset, tmp_path: Path, made_pack: Path
) -> None:
    exported(dataset, tmp_path / "out", "rec")
    rec = tmp_path / "out" / "train.rec"
    curated([rec], tmp_path / "ds", made_pack, steps=("detect",))
    photos = open_dataset(tmp_path / "ds").table("photos").to_pylist()
    assert {p["status"] for p in photos} == {"ok"}
    people = [r["identity_id"] for r in read_csv(tmp_path / "out" / "labels.csv")]
    found = Counter(people[int(p["source_label"])] for p in photos)
    assert found == Counter(r["identity_id"] for r in kept(dataset).values())


# -- lists and counts --------------------------------------------------------------------


@pytest.mark.parametrize("format_", sorted(export_formats.FORMATS))
def test_every_face_is_in_one_list(dataset: Dataset, tmp_path: Path, format_: str) -> None:
    out = tmp_path / "out"
    result = exported(dataset, out, format_, min_weight=0.1, min_faces=2)
    total = len(dataset.table("faces"))
    removed = pq.read_table(out / "removed.parquet").to_pylist()
    assert read_csv(out / "removed.csv")[0].keys() == removed[0].keys()
    assert len(read_csv(out / "removed.csv")) == len(removed) == result["removed"]
    assert result["exported"] + result["removed"] == total == result["faces"]
    assert Counter(r["removed_by"] for r in removed) == Counter(result["removed_by"])
    assert set(result["removed_by"]) == {c.value for c in RemovedBy}
    key = ("face_id", "uri", "member")
    keys = [tuple(r[k] for k in key) for r in removed]
    if format_ == "removed":
        assert names(out) == ["export.json", "removed.csv", "removed.parquet"]
    else:
        faces = pq.read_table(out / "faces.parquet").to_pylist()
        assert len(read_csv(out / "faces.csv")) == len(faces) == result["exported"]
        keys += [tuple(r[k] for k in key) for r in faces]
    every = {tuple(r[k] for k in key) for r in dataset.table("decisions").to_pylist()}
    assert len(keys) == len(set(keys)) and (set(keys) == every or format_ == "removed")
    record = json.loads((out / "export.json").read_text())
    assert record["removed_by"] == result["removed_by"] and record["min_faces"] == 2


def test_removed_faces_come_with_reason_and_evidence(dataset: Dataset, tmp_path: Path) -> None:
    exported(dataset, tmp_path / "out", "removed")
    removed = pq.read_table(tmp_path / "out" / "removed.parquet").to_pylist()
    decided = {
        (r["face_id"], r["uri"], r["member"]): r for r in dataset.table("decisions").to_pylist()
    }
    for row in removed:
        own = decided[(row["face_id"], row["uri"], row["member"])]
        assert {k: v for k, v in row.items() if k != "removed_by"} == own
    assert {r["reason"] for r in removed} >= {"same_bytes", "same_picture", "quality"}


@pytest.mark.parametrize("format_", ["folders", "webdataset", "rec"])
def test_the_same_faces_are_the_same_bytes(
    dataset: Dataset, tmp_path: Path, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(dataset, tmp_path / "one", format_)
    monkeypatch.setattr(export_formats, "SPILL_FACES", 3)
    exported(dataset, tmp_path / "two", format_)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two and len(one) >= 7


def test_limit_and_dry_run(dataset: Dataset, tmp_path: Path) -> None:
    asked = Export(out=str(tmp_path / "out"), limit=3, settings=ExportSettings())
    dry = run_export(dataset, asked, Progress(quiet=True), dry=True)
    assert names(tmp_path) == []
    done = run_export(dataset, asked, Progress(quiet=True))
    assert {**dry, "out": str(tmp_path / "out")} == done
    assert done["exported"] == 3 == len(contents(tmp_path / "out" / "images"))


# -- overlap -----------------------------------------------------------------------------


@pytest.fixture
def marked(dataset: Dataset, tmp_path: Path, made_pack: Path) -> Iterator[Dataset]:
    """Return a copy of the dataset that has been compared with shots of person 1."""
    shutil.copytree(dataset.uri, tmp_path / "ds")
    for shot in range(50, 53):
        picture = made.photo([(1, shot, 100, 100)], background=8000 + shot)
        made.save(tmp_path / "probes" / "one" / f"{shot}.png", picture)
    curated([tmp_path / "probes"], tmp_path / "p", made_pack, steps=("detect", "embed"))
    copy = open_dataset(tmp_path / "ds")
    named = [NamedProbes(name="probes", dataset=str(tmp_path / "p"))]
    with LocalRunner(1) as runner:
        run_overlap(copy, named, OverlapSettings(), runner, Progress(quiet=True))
    yield open_dataset(tmp_path / "ds")


def test_faces_of_test_sets_are_left_out_unless_asked_for(marked: Dataset, tmp_path: Path) -> None:
    exported(marked, tmp_path / "without", "folders")
    assert "person-1" not in names(tmp_path / "without" / "images")
    removed = read_csv(tmp_path / "without" / "removed.csv")
    by_overlap = {r["identity_id"] for r in removed if r["removed_by"] == "overlap"}
    assert "person-1" in by_overlap
    exported(marked, tmp_path / "with", "folders", overlap=True)
    assert "person-1" in names(tmp_path / "with" / "images")


def test_marks_of_other_faces_do_not_count(
    marked: Dataset, tmp_path: Path, made_pack: Path, photos: Path
) -> None:
    made.save(tmp_path / "more" / "person-3" / "new.png", made.photo([(3, 90, 100, 100)], 8100))
    curated([photos, tmp_path / "more"], marked.uri, made_pack)
    with pytest.raises(StoreError, match="overlap again"):
        exported(open_dataset(marked.uri), tmp_path / "out", "folders")
    exported(open_dataset(marked.uri), tmp_path / "out", "folders", overlap=True)


def test_without_overlap_needs_a_comparison(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="facepipe overlap"):
        exported(dataset, tmp_path / "out", "folders", overlap=False)
    assert names(tmp_path) == []


# -- the folder --------------------------------------------------------------------------


def test_a_folder_that_holds_anything_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(UsageError, match="not empty"):
        exported(dataset, tmp_path, "folders")
    with pytest.raises(UsageError, match="is a file"):
        exported(dataset, tmp_path / "mine", "folders")
    with pytest.raises(UsageError, match="not empty"):
        exported(dataset, Path(dataset.uri), "folders")
    assert contents(tmp_path) == {"mine": b"keep me"}


def test_an_empty_folder_is_taken(dataset: Dataset, tmp_path: Path) -> None:
    exported(dataset, tmp_path, "removed")
    assert (tmp_path / "removed.csv").is_file()


@pytest.mark.parametrize("format_", ["folders", "webdataset", "rec"])
def test_an_export_that_fails_half_way_leaves_nothing(
    dataset: Dataset, tmp_path: Path, format_: str
) -> None:
    shutil.copytree(dataset.uri, tmp_path / "ds")
    copy = open_dataset(tmp_path / "ds")
    last = copy.files("faces")[-1].file
    (tmp_path / "ds" / last).write_bytes(b"damaged")
    (tmp_path / "to").mkdir()
    with pytest.raises(CorruptData):
        exported(copy, tmp_path / "to" / "out", format_)
    assert names(tmp_path / "to") == []


def test_ctrl_c_leaves_nothing_and_a_filled_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(str(tmp_path / "out")) as folder:
        (folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt
    assert names(tmp_path) == []
    with pytest.raises(UsageError, match="meanwhile"), new_folder(str(tmp_path / "out")) as folder:
        (folder / "half").write_bytes(b"x")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_bytes(b"y")
    assert contents(tmp_path) == {"out/theirs": b"y"}


# -- buckets -----------------------------------------------------------------------------


def objects(uri: str) -> dict[str, bytes]:
    store = ObjectStore(uri)
    return {name: store.get(name) for name in store.list_all()}


@pytest.mark.parametrize("format_", ["folders", "webdataset", "rec", "removed"])
def test_a_bucket_gets_the_files_of_a_folder(
    dataset: Dataset, tmp_path: Path, bucket: str, format_: str
) -> None:
    exported(dataset, tmp_path / "out", format_)
    exported(dataset, f"{bucket}/set", format_)
    assert objects(f"{bucket}/set") == contents(tmp_path / "out")
    with pytest.raises(UsageError, match="not empty"):
        exported(dataset, f"{bucket}/set", format_)


@pytest.mark.parametrize("format_", ["folders", "webdataset", "rec"])
@pytest.mark.parametrize("puts", [1, 3, 6])
def test_an_export_that_was_cut_off_goes_on(
    dataset: Dataset, tmp_path: Path, s3: S3Server, bucket: str, format_: str, puts: int
) -> None:
    def fail(method: str, path: str) -> int | None:
        done = sum(r.method == "PUT" and r.status == 200 for r in s3.requests)
        return 403 if method == "PUT" and done >= puts else None

    s3.forget()
    s3.fail = fail
    with pytest.raises(StoreError):
        exported(dataset, f"{bucket}/set", format_)
    s3.fail = lambda method, path: None
    begun = objects(f"{bucket}/set")
    assert STARTED in begun and "export.json" not in begun and len(begun) == puts
    with pytest.raises(UsageError, match="another export was begun"):
        exported(dataset, f"{bucket}/set", format_, min_faces=2)
    s3.forget()
    exported(dataset, f"{bucket}/set", format_)
    exported(dataset, tmp_path / "out", format_)
    assert objects(f"{bucket}/set") == contents(tmp_path / "out")
    written = {r.path.split("/set/")[1] for r in s3.requests if r.method == "PUT"}
    assert written & set(begun) == {STARTED}  # which says whose the beginning is


def test_an_unknown_format_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are folders"):
        exported(dataset, tmp_path / "out", "zip")


def test_spill_puts_in_order_and_notices_what_is_missing(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    items = [(int(i), bytes([i % 251]) * int(i % 7)) for i in rng.permutation(100)]
    spill = Spill(tmp_path / "s", 9)
    for start in range(0, 100, 13):
        spill.add(items[start : start + 13])
    assert list(spill.ordered(100)) == sorted(items)
    assert names(tmp_path) == []
    holes = Spill(tmp_path / "h", 9)
    holes.add([(0, b"a"), (2, b"c")])
    with pytest.raises(CorruptData, match="picture 1"):
        list(holes.ordered(3))


def test_the_command_prints_counts(dataset: Dataset, tmp_path: Path) -> None:
    app = Typer()
    app.command("other")(lambda: None)
    cli_export.register(app)
    args = ["export", dataset.uri, "--out", str(tmp_path / "out"), "--format", "rec"]
    dry = CliRunner().invoke(app, [*args, "--dry-run", "--json"])
    assert dry.exit_code == 0 and not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*args, "--quiet"])
    assert done.exit_code == 0, done.output
    counts = json.loads(dry.stdout)
    assert f"{counts['exported']} of {counts['faces']} faces" in done.stdout
    again = CliRunner().invoke(app, args)
    assert again.exit_code == 2 and "not empty" in again.stderr
