"""Samples of a dataset: each kept face once, its own crop, and counts that add up to all faces."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from facepipe import ids, schema
from facepipe.commits import Plan, write_shard
from facepipe.errors import CorruptData, StoreError, UsageError
from facepipe.shards import Dataset
from tests.training.made_crops import Face, dataset_of, faces_of
from training.dataset_samples import SampleSettings, dataset_samples, lineage
from training.samples import Samples, read_crops

MIXED = [
    *faces_of({"cid": 4, "ann": 3, "Bob": 5}),
    Face(number=20, decision="drop", weight=0.0),
    Face(number=21, person="Bob", decision="relabel", weight=0.25),
    Face(number=22, person="ann", decision="merge", weight=0.5),
    Face(number=23, person="dan", decision="keep", weight=0.75),
    Face(number=24, person=None, decision="keep"),
    Face(number=2, person="cid", decision="duplicate", weight=0.0, copy=1),
]


def kept(faces: list[Face]) -> list[Face]:
    """Return what is to be trained on, by the decision alone."""
    return [f for f in faces if f.person and f.decision in ("keep", "relabel", "merge")]


def crops_of(samples: Samples) -> list[bytes | None]:
    return list(read_crops(samples, np.arange(len(samples))))


def told(samples: Samples) -> list[tuple[str, float, bytes | None]]:
    """Return who each sample is, its weight and crop."""
    people = [samples.people[label] for label in samples.label_N]
    return list(zip(people, samples.weight_N.tolist(), crops_of(samples), strict=True))


@pytest.fixture
def mixed(tmp_path: Path) -> Dataset:
    return dataset_of(tmp_path / "mixed", MIXED)


def test_every_kept_face_is_there_once_with_its_own_crop(mixed: Dataset) -> None:
    # The kept faces of MIXED are in the order of FACES already.
    expected = [(f.person, f.weight, f.crop) for f in kept(MIXED)]
    assert told(dataset_samples(mixed)) == expected


def test_labels_are_numbered_by_sorted_identity(mixed: Dataset) -> None:
    samples = dataset_samples(mixed)
    table = samples.labels_table()
    sizes = Counter(f.person for f in kept(MIXED))
    names = sorted(str(name) for name in sizes)
    assert names == ["Bob", "ann", "cid", "dan"]
    assert table.to_pylist() == [
        {"label": i, "identity_id": name, "samples": sizes[name]} for i, name in enumerate(names)
    ]
    assert samples.label_N.min() == 0 and samples.label_N.max() == len(names) - 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_weight": 0.6},
        {"min_faces": 2},
        {"min_weight": 0.3, "min_faces": 4},
        {"overlap": True},
    ],
)
def test_counts_add_up_to_all_faces(mixed: Dataset, settings: dict[str, Any]) -> None:
    samples = dataset_samples(mixed, SampleSettings(**settings))
    assert sum(samples.counts.values()) == len(MIXED)
    assert samples.counts["used"] == len(samples)
    assert samples.counts["decision"] == 2  # the dropped and the duplicate
    assert samples.counts["no_identity"] == 1


def test_what_is_left_out_is_told(mixed: Dataset) -> None:
    samples = dataset_samples(mixed, SampleSettings(min_weight=0.6, min_faces=4))
    expected = Counter(f.person for f in kept(MIXED) if f.weight >= 0.6)
    left = {name for name, n in expected.items() if n >= 4}
    assert set(samples.people) == left == {"cid", "Bob"}
    assert samples.text() == (
        "9 samples of 2 people; left out: 2 decision, 1 no_identity, 2 min_weight, 4 min_faces"
    )


@pytest.mark.parametrize("shard_faces", [1, 3, 100])
def test_shards_do_not_change_what_is_trained_on(tmp_path: Path, shard_faces: int) -> None:
    samples = dataset_samples(dataset_of(tmp_path / "other", MIXED, shard_faces))
    assert told(samples) == [(f.person, f.weight, f.crop) for f in kept(MIXED)]


def test_a_face_that_is_there_twice_is_one_sample(tmp_path: Path) -> None:
    faces = faces_of({"ann": 2, "bob": 2})
    twin = replace(faces[1], copy=1, decision="duplicate", weight=0.0)
    samples = dataset_samples(dataset_of(tmp_path / "twins", [*faces, twin], shard_faces=2))
    assert [crop for _, _, crop in told(samples)] == [f.crop for f in faces]


def test_a_sample_is_named_by_its_face(mixed: Dataset) -> None:
    samples = dataset_samples(mixed)
    for sample in (0, 7, len(samples) - 1):
        assert samples.name(sample).endswith(kept(MIXED)[sample].face_id)


def test_the_list_costs_twelve_bytes_a_sample(mixed: Dataset) -> None:
    samples = dataset_samples(mixed)
    assert samples.row_N is not None
    arrays = (samples.row_N, samples.label_N, samples.weight_N)
    assert sum(a.itemsize for a in arrays) == 12


# -- the digest --------------------------------------------------------------------------


def digest(folder: Path, faces: list[Face], **settings: Any) -> str:
    return dataset_samples(dataset_of(folder, faces), SampleSettings(**settings)).digest


def test_a_copy_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    assert digest(tmp_path / "one", MIXED) == digest(tmp_path / "two", MIXED)


@pytest.mark.parametrize(
    "changed",
    [
        MIXED[1:],
        [replace(MIXED[0], weight=0.5), *MIXED[1:]],
        [replace(MIXED[0], person="ann"), *MIXED[1:]],
        [replace(MIXED[0], data=Face(number=99).crop), *MIXED[1:]],
        [MIXED[1], MIXED[0], *MIXED[2:]],
        [replace(f, person="eve" if f.person == "dan" else f.person) for f in MIXED],
    ],
    ids=["fewer", "weight", "identity", "crop", "order", "name"],
)
def test_whatever_is_trained_on_is_in_the_digest(tmp_path: Path, changed: list[Face]) -> None:
    assert digest(tmp_path / "one", MIXED) != digest(tmp_path / "two", changed)


def test_a_setting_that_leaves_nothing_out_does_not_change_the_digest(tmp_path: Path) -> None:
    assert digest(tmp_path / "a", MIXED) == digest(tmp_path / "b", MIXED, min_weight=0.1)
    assert digest(tmp_path / "c", MIXED) != digest(tmp_path / "d", MIXED, min_weight=0.3)


def test_lineage_names_plans_and_decisions(mixed: Dataset) -> None:
    found = lineage(mixed, SampleSettings(min_faces=2))
    plans = {step: mixed.plan(step) for step in ("detect", "clean")}
    assert found == {
        "plans": {step: plan.plan_id for step, plan in plans.items() if plan},
        "decisions": [f.sha256 for f in mixed.files("decisions")],
        "settings": {"min_weight": 0.0, "min_faces": 2, "overlap": None},
    }


# -- test sets ---------------------------------------------------------------------------


def marked(dataset: Dataset, faces: list[Face], *, stale: bool = False) -> None:
    """Mark faces as overlapping, as facepipe overlap does."""
    model = ids.digest("a model")
    vectors = schema.embeddings(4, model)
    _commit(dataset, f"embed-{model[:12]}", "embeddings", vectors.empty_table())
    dataset.set_current_model(model)
    blank = dict.fromkeys(schema.OVERLAPS.names)
    sure = {"probe": "lfw", "level": "same_person", "confidence": 1.0}
    rows = [{**blank, **sure, "face_id": f.face_id, "uri": "x"} for f in faces]
    table = pa.Table.from_pylist(rows, schema=schema.OVERLAPS)
    tables = [f for n in ("faces", "embeddings", "decisions") for f in dataset.files(n)]
    basis = "" if stale else ids.digest([f.sha256 for f in tables])
    _commit(dataset, "overlap", "overlaps", table, {"tables": basis})


def _commit(
    dataset: Dataset, step: str, name: str, table: pa.Table, basis: dict[str, str] | None = None
) -> None:
    key = ids.digest([step, table.num_rows])
    write_shard(
        dataset.store,
        step=step,
        shard="000000",
        key=key,
        tables=[(name, name, table, table.schema)],
        counts={},
    )
    dataset.write_plan(Plan(step=step, shards={"000000": key}, basis=basis or {}))


@pytest.mark.parametrize(("overlap", "left_out"), [(None, 2), (False, 2), (True, 0)])
def test_faces_of_test_sets_are_left_out_unless_asked_for(
    mixed: Dataset, overlap: bool | None, left_out: int
) -> None:
    marked(mixed, [MIXED[0], MIXED[13], MIXED[12]])  # the last one is dropped anyway
    samples = dataset_samples(mixed, SampleSettings(overlap=overlap))
    assert samples.counts["overlap"] == left_out
    assert (MIXED[0].crop in crops_of(samples)) == (overlap is True)


def test_marks_of_other_faces_do_not_count(mixed: Dataset) -> None:
    marked(mixed, [MIXED[0]], stale=True)
    with pytest.raises(StoreError, match="run facepipe overlap again"):
        dataset_samples(mixed)
    assert len(dataset_samples(mixed, SampleSettings(overlap=True))) == len(kept(MIXED))


def test_without_overlap_needs_a_comparison(mixed: Dataset) -> None:
    with pytest.raises(StoreError, match=r"run facepipe overlap .* first"):
        dataset_samples(mixed, SampleSettings(overlap=False))


# -- what cannot be trained on -----------------------------------------------------------


def test_clean_must_have_finished(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "unclean", MIXED)
    dataset.write_plan(Plan(step="clean", shards={"000000": "f" * 64}, basis={}))
    with pytest.raises(StoreError, match=r"clean of .* has not finished"):
        dataset_samples(dataset)


def test_faces_and_decisions_must_belong_together(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "one", MIXED)
    other = dataset_of(tmp_path / "two", [*MIXED[1:], Face(number=77)])
    _commit(dataset, "clean", "decisions", other.table("decisions"))
    with pytest.raises(CorruptData, match="1 faces that are to be trained on are not in"):
        dataset_samples(dataset)
    _commit(dataset, "clean", "decisions", other.table("decisions").slice(1))
    with pytest.raises(StoreError, match="has 18 faces and 17 decisions"):
        dataset_samples(dataset)


@pytest.mark.parametrize("people", [{}, {"ann": 3}])
def test_one_person_is_too_few(tmp_path: Path, people: dict[str, int]) -> None:
    faces = [*faces_of(people), Face(number=50, decision="drop")]
    with pytest.raises(UsageError, match="training needs two people or more"):
        dataset_samples(dataset_of(tmp_path / "few", faces))


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="min_face"):
        SampleSettings.model_validate({"min_face": 2})
