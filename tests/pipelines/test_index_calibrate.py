"""What a gallery is measured on: a sample of its living faces, however they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from facepipe.id_keys import joined, text_keys
from facepipe.index_manifest import read_manifest
from facepipe.index_settings import IndexSettings
from facepipe.store import open_store
from pipelines import index_calibrate
from pipelines.index import build_index
from pipelines.index_add import add_to_index
from pipelines.index_calibrate import _sample, calibrate_gallery
from pipelines.index_delete import Doomed, delete_from_index
from tests.object_server import S3Server
from tests.pipelines.made_gallery import Made, people

FLAT = IndexSettings()
GONE = "person-002"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(folder=tmp_path / "dataset", faces=people(20, 4))


def grown(made: Made, index: str) -> None:
    """Make an index of two shards with deleted rows."""
    build_index(made.write(), index, FLAT)
    made.faces += people(5, 3, first=30)
    add_to_index(index, made.write(), FLAT)
    delete_from_index(index, Doomed(people=(GONE,)))


def sampled(index: str, seed: int) -> tuple[list[str], np.ndarray]:  # type: ignore[type-arg]
    store = open_store(index)
    with _sample(store, read_manifest(store)[1], seed) as (vectors, rows):
        assert rows.column_names == ["face_id", "identity_id", "uri"]
        return rows["face_id"].to_pylist(), vectors.copy()


@pytest.mark.parametrize("count", [1, 30, 90, 91, 1000])
def test_the_sample_is_of_the_least_keys_and_of_the_living(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    grown(made, str(tmp_path / "index"))
    monkeypatch.setattr(index_calibrate, "SAMPLE_FACES", count)
    living = {face.face_id: face for face in made.faces if face.name != GONE}
    assert len(living) == 91
    for seed in (0, 5):
        faces, vectors = sampled(str(tmp_path / "index"), seed)
        names = pa.array(living)
        keys = joined(np.full(len(names), seed, np.uint64), text_keys(names))
        assert faces == sorted(names.take(pa.array(np.argsort(keys)[:count])).to_pylist())
        np.testing.assert_array_equal(vectors, made.vectors([living[face] for face in faces]))


def test_a_bucket_gives_the_same_sample(
    made: Made, tmp_path: Path, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_calibrate, "SAMPLE_FACES", 40)
    grown(made, str(tmp_path / "index"))
    made.faces = people(20, 4)
    grown(made, f"{bucket}/index")
    local, remote = sampled(str(tmp_path / "index"), 3), sampled(f"{bucket}/index", 3)
    assert local[0] == remote[0]
    np.testing.assert_array_equal(local[1], remote[1])


def test_the_threshold_is_of_all_faces(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample says what strangers score; how many there are to be met, the gallery says."""
    whole = build_index(made.write(), str(tmp_path / "index"), FLAT)["threshold"]
    monkeypatch.setattr(index_calibrate, "SAMPLE_FACES", 40)
    store = open_store(str(tmp_path / "index"))
    draft = read_manifest(store)[1]
    calibration = index_calibrate.Calibration(draft=draft)
    sample = calibrate_gallery(store, calibration, FLAT)["threshold"]
    assert sample["fmr"] == whole["fmr"]
    assert sample["value"] == pytest.approx(whole["value"], abs=0.1)
    assert sample["comparisons"] < whole["comparisons"]


def test_an_empty_gallery_has_a_threshold_too(made: Made, tmp_path: Path) -> None:
    made.faces = [f for f in made.faces if f.person == 0]
    build_index(made.write(), str(tmp_path / "index"), FLAT)
    delete_from_index(str(tmp_path / "index"), Doomed(people=("person-000",)))
    assert sampled(str(tmp_path / "index"), 0)[0] == []
    store = open_store(str(tmp_path / "index"))
    calibration = index_calibrate.Calibration(draft=read_manifest(store)[1])
    assert calibrate_gallery(store, calibration, FLAT)["threshold"]["method"] == "prior"
