"""The main job on made photos: outcomes, sums, resume, determinism, appending, refusals."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from facepipe import open_dataset
from facepipe.commits import record_key
from facepipe.config import load
from facepipe.errors import (
    DatasetNotFound,
    FacepipeError,
    ModelMismatch,
    ModelUnreadable,
    SourceNotFound,
    StoreError,
    UsageError,
)
from facepipe.shards import Dataset
from facepipe.store import LocalStore, locked
from pipelines import curate
from pipelines.verify import verify_dataset
from tests import made
from tests.pipelines.conftest import curated, labelled_settings, ran, tree


def by_name(dataset: Dataset, table: str, *columns: str) -> dict[str, list[tuple[object, ...]]]:
    found: dict[str, list[tuple[object, ...]]] = {}
    for row in dataset.table(table, ["uri", *columns]).to_pylist():
        name = "/".join(Path(row["uri"]).parts[-2:])
        found.setdefault(name, []).append(tuple(row[c] for c in columns))
    return found


def test_every_input_has_one_outcome(dataset: Dataset, photos: Path) -> None:
    files = sorted(str(p) for p in photos.rglob("*") if p.is_file())
    rows = dataset.table("photos")
    assert sorted(rows["uri"].to_pylist()) == files
    status = {
        Path(u).name: s
        for u, s in zip(*(rows[c].to_pylist() for c in ("uri", "status")), strict=True)
    }
    assert status["notes.txt"] == status["empty.jpg"] == "not_an_image"
    assert status["broken.jpg"] == "corrupt"
    counts = Counter(rows["status"].to_pylist())
    assert counts == {"ok": len(files) - 3, "not_an_image": 2, "corrupt": 1}


def test_counts_add_up_and_files_verify(dataset: Dataset) -> None:
    assert verify_dataset(dataset)["problems"] == []
    faces = dataset.table("faces")
    assert sum(dataset.table("photos")["faces"].to_pylist()) == faces.num_rows
    keys = [tuple(r.values()) for r in faces.select(["face_id", "uri"]).to_pylist()]
    for table in ("duplicates", "decisions"):
        rows = dataset.table(table, ["face_id", "uri"]).to_pylist()
        assert sorted(tuple(r.values()) for r in rows) == sorted(keys)
    assert dataset.table("embeddings", ["face_id"]).num_rows == faces.num_rows


def test_decisions_say_what_was_planted(dataset: Dataset) -> None:
    found = by_name(dataset, "decisions", "decision", "reason", "identity_id")
    assert found["person-0/shot-3.png"] == [("keep", "same_person", "person-0")]
    copies = found["person-0/copy.png"] + found["person-0/shot-0.png"]
    assert sorted(d for d, *_ in copies) == ["duplicate", "keep"]
    resaved = found["person-0/resaved.jpg"] + found["person-0/shot-1.png"]
    assert sorted(d for d, *_ in resaved) == ["duplicate", "keep"]
    assert found["person-1/wrong.png"][0][:2] == ("drop", "outlier")
    assert found["person-2/swapped.png"] == [("relabel", "other_identity", "person-3")]
    faces = by_name(dataset, "faces", "status")
    assert sorted(faces["person-1/two.png"]) == [("bystander",), ("ok",)]
    reasons = [r for _, r, _ in found["person-1/two.png"]]
    assert sorted(reasons) == ["quality", "same_person"]


def test_rows_are_by_id_and_schema_versions_are_there(dataset: Dataset) -> None:
    for table, column in (("photos", "photo_id"), ("faces", "face_id")):
        for file in dataset.files(table):
            stored = pq.read_table(dataset.store.path(file.file))
            ids = [i or "" for i in stored[column].to_pylist()]
            assert ids == sorted(ids)
            assert stored.schema.metadata[b"facepipe.table"] == table.encode()


def test_a_second_run_does_nothing(tmp_path: Path, photos: Path, made_pack: Path) -> None:
    out = tmp_path / "ds"
    first = curated([photos], out, made_pack)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    second = curated([photos], out, made_pack)
    assert all(r.shards_run > 0 for r in first)
    assert all(r.shards_run == 0 for r in second)
    assert [r.counts for r in first] == [r.counts for r in second]
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before


def test_any_number_of_workers_gives_the_same_bytes(
    tmp_path: Path, photos: Path, made_pack: Path, dataset: Dataset
) -> None:
    curated([photos], tmp_path / "one", made_pack, workers=1)
    assert tree(tmp_path / "one") == tree(Path(dataset.uri))


def test_new_photos_are_appended_and_old_shards_stay(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    source, out = tmp_path / "photos", tmp_path / "ds"
    shutil.copytree(photos, source)
    curated([source], out, made_pack)
    old = {f.file for f in open_dataset(out).files("faces")}
    made.save(source / "person-3" / "new.png", made.photo([(3, 40, 100, 100)], 904))
    reports = curated([source], out, made_pack)
    assert (reports[0].shards_run, reports[1].shards_run) == (1, 1)
    dataset = open_dataset(out)
    assert old < {f.file for f in dataset.files("faces")}
    assert by_name(dataset, "decisions", "decision")["person-3/new.png"] == [("keep",)]
    assert verify_dataset(dataset)["problems"] == []
    # Tonight's folder only: what earlier nights brought stays.
    tonight = made.save(
        tmp_path / "tonight" / "person-9" / "x.png", made.photo([(9, 0, 80, 80)], 905)
    )
    curated([tonight.parents[1]], out, made_pack)
    names = by_name(open_dataset(out), "photos", "status")
    assert "person-9/x.png" in names and "person-3/new.png" in names


def test_a_changed_photo_redoes_its_shard_only(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    source, out = tmp_path / "photos", tmp_path / "ds"
    shutil.copytree(photos, source)
    curated([source], out, made_pack)
    made.save(source / "person-3" / "shot-0.png", made.photo([(3, 41, 140, 140)], 906))
    reports = curated([source], out, made_pack)
    assert reports[0].shards_run == 1
    assert verify_dataset(open_dataset(out))["problems"] == []


def test_a_changed_setting_redoes_what_depends_on_it(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    out = tmp_path / "ds"
    curated([photos], out, made_pack)
    changed = labelled_settings("clean.relabel_confidence=0.9")
    assert ran(curated([photos], out, made_pack, settings=changed)) == {"clean": 1}
    flipped = labelled_settings("clean.relabel_confidence=0.9", "embed.flip=sum")
    again = ran(curated([photos], out, made_pack, settings=flipped))
    assert set(again) == {"embed", "dedup", "by_label", "cluster", "clean"}


def test_no_step_works_on_a_fragment_or_on_other_faces(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    source, out = tmp_path / "photos", tmp_path / "ds"
    shutil.copytree(photos, source)
    curated([source], out, made_pack)
    dataset = open_dataset(out)
    last = dataset.commits("detect")[-1]
    dataset.store.delete(record_key("detect", last.shard, last.key))  # as if interrupted there
    for step in ("embed", "dedup", "clean"):
        with pytest.raises(StoreError, match=r"detect of .* has not finished"):
            curated([], out, made_pack, steps=(step,))
    with pytest.raises(StoreError, match="has not finished"):
        dataset.table("faces")
    assert 0 < dataset.table("faces", partial=True).num_rows
    changed = made.save(source / "person-3" / "shot-0.png", made.photo([(3, 41, 140, 140)], 906))
    curated([changed.parents[1]], out, made_pack, steps=("detect",))
    for step in ("dedup", "clean"):
        with pytest.raises(StoreError, match="have changed since they were embedded"):
            curated([], out, made_pack, steps=(step,))
    curated([source], out, made_pack)
    assert verify_dataset(dataset)["problems"] == []


def test_another_recogniser_gets_its_own_table(
    tmp_path: Path, photos: Path, made_pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ds"
    curated([photos], out, made_pack)
    first = open_dataset(out).current_model()
    other = made.pack(tmp_path / "other", seed=1)
    capsys.readouterr()
    curated([photos], out, other, steps=("embed",), quiet=False)
    dataset = open_dataset(out)
    (said,) = (line for line in capsys.readouterr().err.splitlines() if first[:12] in line)
    assert dataset.current_model()[:12] in said and str(other) in said
    assert dataset.current_model() != first
    both = [dataset.table("embeddings", ["face_id"], m) for m in (first, dataset.current_model())]
    assert both[0] == both[1]


def test_an_embed_that_fails_leaves_readers_what_they_had(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    out = tmp_path / "ds"
    curated([photos], out, made_pack)
    first = open_dataset(out).current_model()
    other = made.pack(tmp_path / "other", seed=1)
    settings = load(None, ["models.device=cuda"])
    with pytest.raises(FacepipeError, match="cuda"):
        curated([photos], out, other, steps=("embed",), settings=settings)
    assert open_dataset(out).current_model() == first
    curated([photos], out, made_pack, steps=("dedup", "clean"))


def test_another_detector_is_refused(tmp_path: Path, photos: Path, made_pack: Path) -> None:
    out = tmp_path / "ds"
    curated([photos], out, made_pack, steps=("detect",))
    other = made.pack(tmp_path / "other")
    (other / "pack.yaml").write_text(
        "detector: {file: det_made.onnx, std: 127.0}\nrecogniser: {file: made_recogniser.onnx}\n"
    )
    with pytest.raises(ModelMismatch, match=r"det_made\.onnx .* another --out"):
        curated([photos], out, other)


def test_a_failed_first_run_leaves_nothing_in_the_way(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    out, wrong = tmp_path / "ds", made.pack(tmp_path / "wrong")
    (wrong / "pack.yaml").write_text(
        "detector: {file: made_recogniser.onnx}\nrecogniser: {file: made_recogniser.onnx}\n"
    )
    with pytest.raises(ModelUnreadable, match=r"made_recogniser\.onnx"):
        curated([photos], out, wrong)
    (wrong / "pack.yaml").write_text(
        "detector: {file: det_made.onnx}\nrecogniser: {file: det_made.onnx}\n"
    )
    with pytest.raises(ModelUnreadable, match="no face recogniser"):
        curated([photos], out, wrong)
    assert not out.exists()
    assert curated([photos], out, made_pack)[0].shards_run > 0


def test_photos_that_are_gone_are_kept_until_they_are_let_go(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    source, out = tmp_path / "photos", tmp_path / "ds"
    shutil.copytree(photos, source)
    curated([source], out, made_pack)
    (source / "person-3" / "shot-1.png").unlink()
    assert all(r.shards_run == 0 for r in curated([source], out, made_pack))
    changed = labelled_settings("detect.threshold=0.6")
    with pytest.raises(SourceNotFound, match=r"1 photos .*shot-1\.png .* sources\.gone=drop"):
        curated([source], out, made_pack, settings=changed)
    names = by_name(open_dataset(out), "photos", "status")
    assert names["person-3/shot-1.png"] == [("ok",)]
    reports = curated([source], out, made_pack, settings=labelled_settings("sources.gone=drop"))
    assert reports[0].shards_run == 1
    assert "person-3/shot-1.png" not in by_name(open_dataset(out), "photos", "status")
    assert verify_dataset(open_dataset(out))["problems"] == []


def test_a_dataset_inside_its_source_is_no_source(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    source = tmp_path / "photos"
    shutil.copytree(photos, source)
    files = sum(p.is_file() for p in source.rglob("*"))
    curated([source], source / "dataset", made_pack)
    assert all(r.shards_run == 0 for r in curated([source], source / "dataset", made_pack))
    assert open_dataset(source / "dataset").table("photos").num_rows == files


def test_photos_in_the_output_folder_are_safe(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    shutil.copytree(photos, tmp_path / "project" / "photos")
    before = sorted((tmp_path / "project").rglob("*"))
    with pytest.raises(UsageError, match="holds other things"):
        curated([tmp_path / "project" / "photos"], tmp_path / "project", made_pack)
    assert sorted((tmp_path / "project").rglob("*")) == before


def test_what_is_missing_is_named_and_nothing_is_left_behind(
    tmp_path: Path, made_pack: Path
) -> None:
    with pytest.raises(SourceNotFound, match="nowhere"):
        curated([tmp_path / "nowhere"], tmp_path / "ds", made_pack)
    assert not (tmp_path / "ds").exists()
    with pytest.raises(DatasetNotFound, match="facepipe curate"):
        curated([], tmp_path / "ds", made_pack, steps=("embed",))
    assert not (tmp_path / "ds").exists()


def test_a_dataset_is_for_one_run_at_a_time(tmp_path: Path, photos: Path, made_pack: Path) -> None:
    with locked(LocalStore(tmp_path / "ds")), pytest.raises(StoreError, match="another run"):
        curated([photos], tmp_path / "ds", made_pack)


@pytest.mark.parametrize("what", ["flip a bit", "truncate", "delete", "break the record"])
def test_damage_is_found_and_only_its_shard_is_redone(
    tmp_path: Path, photos: Path, made_pack: Path, what: str
) -> None:
    out = tmp_path / "ds"
    curated([photos], out, made_pack)
    whole = tree(out)
    dataset = open_dataset(out)
    victim = dataset.store.path(dataset.files("faces")[1].file)
    data = bytearray(victim.read_bytes())
    if what == "flip a bit":
        data[len(data) // 2] ^= 4
        victim.write_bytes(bytes(data))
    elif what == "truncate":
        victim.write_bytes(bytes(data[:-100]))
    elif what == "delete":
        victim.unlink()
    else:
        next((out / "_commits/detect").iterdir()).write_text("{")
    assert verify_dataset(dataset)["problems"]
    verify_dataset(dataset, repair=True)
    reports = curated([photos], out, made_pack)
    assert ran(reports) == {"detect": 1}
    assert tree(out) == whole
    assert verify_dataset(dataset)["problems"] == []


def test_a_redone_shard_counts_even_where_its_bytes_are_others(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    source, out = tmp_path / "photos", tmp_path / "ds"
    shutil.copytree(photos, source)
    curated([source], out, made_pack)
    victim = source / "person-0/shot-2.png"
    time_ns, size = victim.stat().st_mtime_ns, victim.stat().st_size
    victim.write_bytes(bytes(size))  # other bytes of the same size and time: nobody can tell
    os.utime(victim, ns=(time_ns, time_ns))
    dataset = open_dataset(out)
    commit = dataset.commits("detect")[0]
    dataset.store.path(commit.files[0].file).unlink()
    verify_dataset(dataset, repair=True)
    curated([source], out, made_pack)
    assert verify_dataset(open_dataset(out))["problems"] == []
    again = {p.name: p.stat().st_mtime_ns for p in (out / "photos").iterdir()}
    assert ran(curated([source], out, made_pack)) == {}
    assert {p.name: p.stat().st_mtime_ns for p in (out / "photos").iterdir()} == again


def test_dry_run_writes_nothing(tmp_path: Path, photos: Path, made_pack: Path) -> None:
    from facepipe.packs import find_pack

    request = curate.Request(
        steps=curate.STEPS,
        out=str(tmp_path / "ds"),
        settings=labelled_settings(),
        pack=find_pack(str(made_pack)),
        sources=[str(photos)],
    )
    rows = curate.dry_run(request)
    files = sum(p.is_file() for p in photos.rglob("*"))
    assert (rows[0]["items_to_do"], rows[1]["after"]) == (files, "detect")
    assert not (tmp_path / "ds").exists()


def test_no_photos_and_no_faces(tmp_path: Path, made_pack: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SourceNotFound, match="no file"):
        curated([empty], tmp_path / "ds", made_pack, settings=load())
    assert not (tmp_path / "ds").exists()
    made.save(empty / "landscape.png", made.photo([], 1))
    reports = curated([empty], tmp_path / "ds", made_pack, settings=load())
    assert [r.counts for r in reports[1:]] == [
        {"embeddings": {}},
        {"duplicates": {}},
        {"by_label": {}},
        {"clusters": {}, "cluster_pairs": {}},
        {"decisions": {}, "label_pairs": {}},
    ]
    dataset = open_dataset(tmp_path / "ds")
    assert dataset.table("decisions").num_rows == dataset.table("faces").num_rows == 0
    assert verify_dataset(dataset)["problems"] == []


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    tmp_path: Path, photos: Path, made_pack: Path, dataset: Dataset
) -> None:
    out = tmp_path / "ds"
    command = [sys.executable, "-m", "pipelines.cli", "curate", str(photos), "--labels", "folder"]
    command += ["--set", "run.shard_photos=6", "--out", str(out), "--models", str(made_pack)]
    command += ["--workers", "2", "--no-index", "--no-report", "--quiet"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    rng = random.Random(5)
    for _ in range(6):
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=rng.uniform(0.5, 3.5))
        except subprocess.TimeoutExpired:
            process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            process.wait()
    _until_unlocked(out)
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    assert tree(out) == tree(Path(dataset.uri))
    assert list((out / "_tmp").iterdir()) == []
    assert verify_dataset(open_dataset(out))["problems"] == []


def _until_unlocked(out: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with locked(LocalStore(out)):
                return
        except StoreError:
            os.sched_yield()
