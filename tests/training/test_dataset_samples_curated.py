"""Samples of a dataset that curate made are those that export writes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from facepipe.export_choice import ExportSettings
from facepipe.shards import Dataset, open_dataset
from pipelines.export import Export, run_export
from pipelines.progress import Progress
from tests import made
from tests.pipelines.conftest import add_awkward, curated
from training.dataset_samples import dataset_samples
from training.samples import Samples, read_crops
from training.source_samples import source_samples


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("curated")
    photos = made.people(folder / "photos", persons=4, shots=6)
    add_awkward(photos)
    curated([photos], folder / "ds", made.pack(folder / "pack"))
    return open_dataset(folder / "ds")


def told(samples: Samples) -> list[tuple[str, bytes]]:
    people = [samples.people[label] for label in samples.label_N]
    found = zip(people, read_crops(samples, np.arange(len(samples))), strict=True)
    samples.groups.close()
    return sorted(found)


def test_every_face_is_used_or_left_out_for_a_reason(dataset: Dataset) -> None:
    samples = dataset_samples(dataset)
    decisions = dataset.table("decisions").to_pylist()
    assert sum(samples.counts.values()) == len(decisions)
    kept = [r for r in decisions if r["decision"] in ("keep", "relabel", "merge")]
    named = Counter(r["identity_id"] for r in kept if r["identity_id"] is not None)
    sizes = dict(zip(samples.people, samples.sizes_L().tolist(), strict=True))
    assert sizes == named
    assert samples.counts["decision"] == len(decisions) - len(kept) > 0
    weights = {r["face_id"]: r["weight"] for r in kept}
    for n in range(len(samples)):
        assert weights[samples.name(n).split(": ")[1]] == samples.weight_N[n]


@pytest.mark.parametrize("format_", ["folders", "rec"])
def test_an_export_has_the_same_crops_and_people(
    dataset: Dataset, tmp_path: Path, format_: str
) -> None:
    straight = dataset_samples(dataset)
    settings = ExportSettings()
    asked = Export(out=str(tmp_path / "out"), format=format_, settings=settings)
    result = run_export(dataset, asked, Progress(quiet=True))
    where = tmp_path / "out" / ("images" if format_ == "folders" else "train.rec")
    through = source_samples([str(where)])
    assert result["exported"] == len(straight) == len(through)
    expected = told(straight)
    if format_ == "rec":  # whose people are numbers
        numbers = {name: str(n) for n, name in enumerate(straight.people)}
        expected = sorted((numbers[name], crop) for name, crop in expected)
    assert told(through) == expected
