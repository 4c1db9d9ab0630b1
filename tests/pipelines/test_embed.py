"""Faces without a vector: stored, read back, and left alone by the steps that follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from facepipe import open_dataset
from facepipe.builtin_pack import BUILTIN, default_note
from facepipe.commits import record_key, write_shard
from facepipe.errors import ModelMismatch
from facepipe.packs import find_pack
from facepipe.schema import FACES
from facepipe.shards import Dataset, new_or_open_dataset
from pipelines import curate
from pipelines.embed import embed_job, model_change
from pipelines.verify import verify_dataset
from tests import made
from tests.pipelines.conftest import curated, labelled_settings


def spoil_a_crop(dataset: Dataset) -> str:
    """Put bytes that are no picture in place of one stored crop; return its face."""
    commit = dataset.commits("detect")[0]
    folder = dataset.store.local
    assert folder is not None
    photos, faces = (pq.read_table(folder / f.file) for f in commit.files)
    crops = faces["crop"].to_pylist()
    crops[0] = b"no picture"
    faces = faces.set_column(faces.schema.get_field_index("crop"), FACES.field("crop"), [crops])
    dataset.delete(record_key("detect", commit.shard, commit.key))
    write_shard(
        dataset.store,
        step="detect",
        shard=commit.shard,
        key=commit.key,
        tables=[("photos", "photos", photos, photos.schema), ("faces", "faces", faces, FACES)],
        counts=commit.counts,
        facts=commit.facts,
    )
    (folder / commit.files[1].file).unlink()
    (folder / "_commits/detect.jsonl").unlink()
    return str(faces["face_id"][0])


def test_vectors_of_the_same_model_or_the_first_ones_are_no_change(
    dataset: Dataset, made_pack: Path, tmp_path: Path
) -> None:
    pack, settings = find_pack(str(made_pack)), labelled_settings()
    assert model_change(dataset, embed_job(dataset, pack, settings)) is None
    new = new_or_open_dataset(str(tmp_path / "new"))
    assert model_change(new, embed_job(new, pack, settings)) is None
    flipped = labelled_settings("embed.flip=sum")
    assert "embed.flip=sum" in str(model_change(dataset, embed_job(dataset, pack, flipped)))


def test_who_goes_on_by_default_is_told_what_the_default_was(
    dataset: Dataset, photos: Path
) -> None:
    builtin = find_pack(BUILTIN)
    settings = labelled_settings()
    said = str(model_change(dataset, embed_job(dataset, builtin, settings)))
    assert f"of {BUILTIN} " in said and said.endswith(default_note(BUILTIN))
    request = curate.Request(
        steps=curate.STEPS,
        out=dataset.uri,
        settings=settings,
        pack=builtin,
        sources=[str(photos)],
    )
    with pytest.raises(ModelMismatch, match=r"another detector .* of builtin .* buffalo_l was"):
        curate.dry_run(request)


def test_a_face_without_a_vector_goes_through(tmp_path: Path, made_pack: Path) -> None:
    made.people(tmp_path / "in", persons=3, shots=4)
    out = tmp_path / "ds"
    curated([tmp_path / "in"], out, made_pack, steps=("detect",))
    dataset = open_dataset(out)
    victim = spoil_a_crop(dataset)
    curated([tmp_path / "in"], out, made_pack, steps=curate.STEPS[1:])
    rows = dataset.table("embeddings").to_pylist()
    (bad,) = [r for r in rows if r["status"] != "ok"]
    assert (bad["face_id"], bad["status"], bad["norm"]) == (victim, "bad_crop", 0.0)
    assert not np.any(bad["vector"])
    decided = {r["face_id"]: r["reason"] for r in dataset.table("decisions").to_pylist()}
    assert decided[victim] == "no_vector" and len(decided) == 12
    assert verify_dataset(dataset)["problems"] == []
