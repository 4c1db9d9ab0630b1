"""Faces by label and stored vectors: the same decisions as with all vectors in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from facepipe import ids, schema
from facepipe.clean import clean_faces
from facepipe.commits import Commit, Plan, write_shard
from facepipe.config import load
from facepipe.constraints import Constraints
from facepipe.crop_hash import crop_hash
from facepipe.dedup import find_duplicates
from facepipe.errors import StoreError
from facepipe.neighbors import vector_matrix, vector_rows
from facepipe.shards import Dataset
from facepipe.store import open_store
from facepipe.unlabelled import name_clusters
from pipelines import clean, dedup, partition
from pipelines.partition import vectors_by_label, vectors_by_shard
from pipelines.progress import Progress
from pipelines.runners import Job, ShardTask
from pipelines.stage import run_step
from tests.facepipe.small_pictures import picture

DIM, MODEL, SHARD = 32, "ab" * 32, 30
SETTINGS = load()


class Here:
    """An engine of one worker in this process, so that constants can be made small."""

    def check(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.open().check()

    def map(
        self, job: Job, tasks: Sequence[ShardTask], on_done: Callable[[ShardTask, Commit], None]
    ) -> None:
        worker = job.open()
        for task in tasks:
            on_done(task, worker.run(task, frozenset()))


def run(dataset: Dataset, steps: Iterable[tuple[Job, Plan, list[ShardTask]]]) -> list[int]:
    """Run parts one after the other; return how many shards each of them did."""
    done = []
    with Progress(quiet=True) as progress:
        for job, plan, tasks in steps:
            if plan.step == clean.STEP:
                clean.before_clean(dataset, tasks[0])
            done.append(run_step(dataset, Here(), job, plan, tasks, progress).shards_run)
    return done


def both(dataset: Dataset) -> list[int]:
    done = run(dataset, [dedup.dedup_plan(dataset, SETTINGS)])
    return done + run(dataset, clean.clean_steps(dataset, SETTINGS, Constraints()))


def shots(rng: np.random.Generator, number: int) -> tuple[Any, Any, Any, list[Any]]:
    """Return whose the faces of a shard are, their vectors, photos' hashes, and grey crops."""
    person = rng.integers(0, 12, SHARD)
    centres = np.random.default_rng(99).normal(size=(12, DIM))
    vectors = centres[person] + 0.5 * rng.normal(size=(SHARD, DIM))
    vectors[3] = -vectors[3]  # nobody known
    greys = [picture(1000 * number + i) for i in range(SHARD)]
    return person, vectors, rng.integers(0, 2**63, SHARD), greys


def shard_rows(number: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Return PHOTOS, FACES and EMBEDDINGS of 30 photos of 12 people, some awkward."""
    rng = np.random.default_rng(number)
    person, vectors, words, greys = shots(rng, number)
    names: list[str | None] = [f"person-{p:02d}" for p in person]
    names[0], names[1], names[2] = None, "person-03", "alone" if number == 1 else names[2]
    photo = [ids.photo_id(b"%d-%d" % (number, i)) for i in range(SHARD)]
    if number:  # a picture of shard 0 again, and the bytes of another under another name
        _, first, first_words, first_greys = shots(np.random.default_rng(0), 0)
        vectors[[5, 6]], words[[5, 6]] = first[[5, 6]], first_words[[5, 6]] ^ [3, 0]
        greys[5:7] = first_greys[5:7]
        photo[6] = ids.photo_id(b"0-6")
    status = ["blurred" if i == 7 else "ok" for i in range(SHARD)]
    text = pa.string()
    shared = {
        "photo_id": pa.array(photo),
        "uri": pa.array([f"{number}/{i:03d}.jpg" for i in range(SHARD)]),
        "member": pa.nulls(SHARD, text),
        "source_label": pa.array(names, text),
    }
    photos = filled(
        schema.PHOTOS,
        **shared,
        phash=pa.array([int(w).to_bytes(8, "big") for w in words], pa.binary(8)),
        width_px=pa.array([100] * SHARD),
        height_px=pa.array([100] * SHARD),
        status=pa.array(["ok"] * SHARD),
    )
    face_id = pa.array([ids.face_id(p, 0) for p in photo])
    box = pa.FixedSizeListArray.from_arrays(pa.array([20.0, 20, 60, 70] * SHARD, pa.float32()), 4)
    faces = filled(
        schema.FACES,
        **shared,
        face_id=face_id,
        box_xyxy_px=box,
        eye_distance_px=pa.array(rng.uniform(20, 40, SHARD)),
        crop_hash=pa.array([crop_hash(g) for g in greys], pa.binary(schema.CROP_HASH_BYTES)),
        crop_grey=pa.array([g.tobytes() for g in greys], pa.binary(schema.CROP_GREY_PX**2)),
        status=pa.array(status),
    )
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    embeddings = filled(
        schema.embeddings(DIM, MODEL),
        face_id=face_id,
        vector=pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), DIM),
        status=pa.array(["ok" if i != 8 else "bad_crop" for i in range(SHARD)]),
    )
    return photos, faces, embeddings


def filled(like: pa.Schema, **given: pa.Array) -> pa.Table:
    """Return rows with the columns given; what nothing here reads is empty or zero."""
    columns: list[Any] = []
    for field in like:
        kind = field.type
        if field.name in given:
            columns.append(given[field.name].cast(kind))
        elif field.nullable:
            columns.append(pa.nulls(SHARD, kind))
        elif pa.types.is_fixed_size_list(kind):
            values = pa.array(np.zeros(kind.list_size * SHARD, np.float32))
            columns.append(pa.FixedSizeListArray.from_arrays(values, kind.list_size))
        else:
            zero: Any = b"" if pa.types.is_binary(kind) else ""
            zero = zero if pa.types.is_binary(kind) or pa.types.is_string(kind) else 0
            columns.append(pa.array([zero] * SHARD).cast(kind))
    return pa.Table.from_arrays(columns, schema=like)


def make(folder: Path, shards: int) -> Dataset:
    """Write, or go on writing, the tables that detect and embed would have made."""
    dataset = Dataset(open_store(str(folder)))
    step = f"embed-{MODEL[:12]}"
    keys = {f"{n:06d}": ids.digest(n) for n in range(shards)}
    for number, (shard, key) in enumerate(keys.items()):
        photos, faces, embeddings = shard_rows(number)
        tables = [("photos", "photos", photos, schema.PHOTOS)]
        tables += [("faces", "faces", faces, schema.FACES)]
        detected = write_shard(
            dataset.store, step="detect", shard=shard, key=key, tables=tables, counts={}
        )
        write_shard(
            dataset.store,
            step=step,
            shard=shard,
            key=key,
            tables=[("embeddings", "embeddings/m", embeddings, embeddings.schema)],
            counts={},
            facts={"faces": detected.files[1].sha256},
        )
    dataset.write_plan(Plan(step="detect", shards=keys, basis={}))
    dataset.write_plan(Plan(step=step, shards=keys, basis={"model_id": MODEL}))
    dataset.set_current_model(MODEL)
    return dataset


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make runs of two shards, of many short row groups."""
    monkeypatch.setattr("facepipe.partition.RUN_SHARDS", 2)
    monkeypatch.setattr("pipelines.partition.GROUP_ROWS", 8)
    monkeypatch.setattr("facepipe.centres.BLOCK_ROWS", 16)
    monkeypatch.setattr("facepipe.centres.PART_ROWS", 64)
    monkeypatch.setattr("facepipe.dedup.READ_PAIRS", 2)
    monkeypatch.setattr("facepipe.crop_rows.READ_FACES", 4)


def in_memory(dataset: Dataset) -> tuple[pa.Table, pa.Table]:
    faces, photos = dataset.table("faces"), dataset.table("photos")
    embeddings = known_only(dataset.table("embeddings"))
    duplicates = find_duplicates(faces, photos, embeddings, SETTINGS.dedup)
    decisions, _ = clean_faces(faces, duplicates, embeddings, SETTINGS.clean)
    clusters, pairs = (dataset.table(name) for name in ("clusters", "cluster_pairs"))
    return duplicates, name_clusters(decisions, clusters, pairs, {})[0]


def known_only(embeddings: pa.Table) -> pa.Table:
    """Return the embeddings that have a vector."""
    return embeddings.filter(pa.compute.equal(embeddings["status"], "ok"))


def table_of(dataset: Dataset, step: str) -> pa.Table:
    return pa.concat_tables([dataset.read(c.files[0]) for c in dataset.commits(step)])


def test_decisions_are_those_of_vectors_in_memory(small: None, tmp_path: Path) -> None:
    dataset = make(tmp_path, 7)
    assert both(dataset) == [1, 4, 1, 1]
    duplicates, decisions = in_memory(dataset)
    for found, expected in (
        (table_of(dataset, "dedup"), duplicates),
        (table_of(dataset, "clean"), decisions),
    ):
        numbers = ["similarity", "confidence", "weight"]
        assert found.drop_columns(numbers).equals(expected.drop_columns(numbers))
        for name in numbers:
            np.testing.assert_allclose(found[name].to_numpy(), expected[name].to_numpy(), atol=1e-5)
    reasons = set(decisions["reason"].to_pylist())
    assert {"same_bytes", "same_picture", "no_vector", "quality", "unlabelled"} <= reasons
    assert {"same_person", "outlier"} <= reasons


def test_every_face_is_in_a_run_once(small: None, tmp_path: Path) -> None:
    dataset = make(tmp_path, 5)
    both(dataset)
    table = table_of(dataset, partition.STEP)
    ids_of = [
        sorted(zip(*(t[n].to_pylist() for n in ("face_id", "uri")), strict=True))
        for t in (table, dataset.table("faces"))
    ]
    assert ids_of[0] == ids_of[1]
    files = [c.files[0] for c in dataset.commits(partition.STEP)]
    assert len(files) == 3
    for commit in dataset.commits(partition.STEP):
        labels = dataset.read(commit.files[0], ["source_label"])["source_label"].to_pylist()
        usable = labels[: commit.facts["stored"]]
        assert usable == sorted(usable) and commit.facts["stored"] > 20


def test_new_shards_add_runs_and_leave_the_others(small: None, tmp_path: Path) -> None:
    both(make(tmp_path, 5))
    dataset = make(tmp_path, 5)
    assert both(dataset) == [0, 0, 0, 0]
    before = [c.files[0].file for c in dataset.commits(partition.STEP)]
    dataset = make(tmp_path, 8)
    assert both(dataset) == [1, 2, 1, 1]  # the run that was not full, and a new one
    after = [c.files[0].file for c in dataset.commits(partition.STEP)]
    assert after[:2] == before[:2] and before[2] not in after
    assert {k for k in dataset.store.list("by_label")} == set(after)


def test_the_same_shards_give_the_same_bytes(small: None, tmp_path: Path) -> None:
    one, other = make(tmp_path / "one", 4), make(tmp_path / "other", 4)
    both(one)
    both(other)
    for step in (partition.STEP, "dedup", "clean"):
        assert [c.files for c in one.commits(step)] == [c.files for c in other.commits(step)]


def test_clean_needs_its_runs(tmp_path: Path) -> None:
    dataset = make(tmp_path, 2)
    run(dataset, [dedup.dedup_plan(dataset, SETTINGS)])
    with pytest.raises(StoreError, match=r"by_label of .* has not finished"):
        clean.clean_plan(dataset, SETTINGS, Constraints())


@pytest.mark.parametrize("order", ["label", "shard"])
def test_any_rows_can_be_asked_for(small: None, tmp_path: Path, order: str) -> None:
    dataset = make(tmp_path, 5)
    both(dataset)
    by_label = order == "label"
    known, vectors = vectors_by_label(dataset) if by_label else vectors_by_shard(dataset, MODEL)
    embeddings = known_only(dataset.table("embeddings"))
    whole = vector_matrix(embeddings)
    assert vectors.shape[1] == DIM
    for rows in (
        np.arange(vectors.shape[0]),
        np.arange(vectors.shape[0])[::-1],
        np.random.default_rng(1).integers(0, vectors.shape[0], 60),
        np.array([3, 3, 40, 3]),
        np.empty(0, np.int64),
    ):
        faces = known["face_id"].take(pa.array(rows))
        has = known["vector"].take(pa.array(rows)).is_valid().to_numpy()
        expected = whole[vector_rows(faces, embeddings)]
        np.testing.assert_array_equal(vectors[rows][has], expected[has])
    assert known["vector"].null_count == 5


def test_few_vectors_are_held(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.partition.KEPT_BYTES", 0)
    dataset = make(tmp_path, 6)
    both(dataset)
    _, vectors = vectors_by_label(dataset)
    vectors[np.arange(vectors.shape[0])]
    assert sum(map(len, vectors._kept.values())) <= (2 * 3 + 2) * 8 < vectors.shape[0]
