"""What a run reads, and the first pictures that lost statistics are taken from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from facepipe.errors import SourceNotFound, UsageError
from tests.training.made_crops import crop, dataset_of, faces_of, rec_of
from tests.training.train_runs import BAD, made_run_samples, run_settings
from training import run_data
from training.dataset_samples import SampleSettings
from training.run_data import first_images, open_samples, order_of


def test_a_dataset_and_a_rec_are_told_apart(tmp_path: Path) -> None:
    dataset_of(tmp_path / "set", faces_of({"ann": 3, "bob": 2}))
    samples, lineage = open_samples([str(tmp_path / "set")], SampleSettings())
    assert list(samples.people) == ["ann", "bob"] and lineage["decisions"]
    samples, lineage = open_samples([str(tmp_path / "set")], SampleSettings(min_faces=2))
    assert lineage["settings"] == SampleSettings(min_faces=2).model_dump(mode="json")
    rec_of(tmp_path / "rec", [0, 1, 1])
    samples, lineage = open_samples([str(tmp_path / "rec" / "train.rec")], SampleSettings())
    assert len(samples) == 3 and lineage == {"sources": "photos"}


def test_settings_that_only_a_dataset_can_follow(tmp_path: Path) -> None:
    rec_of(tmp_path / "rec", [0, 1])
    with pytest.raises(UsageError, match=r"data\.samples\.min_faces is of datasets alone"):
        open_samples([str(tmp_path / "rec" / "train.rec")], SampleSettings(min_faces=2))
    with pytest.raises(SourceNotFound):
        open_samples([str(tmp_path / "none")], SampleSettings(min_faces=2))


def test_first_images_are_the_first_crops_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_data, "STATISTIC_BATCHES", 2)
    monkeypatch.setattr(run_data, "STATISTIC_BATCH", 5)
    order = order_of(made_run_samples(), run_settings())
    found = torch.cat(list(first_images(order, torch.device("cpu"))))
    stream = order.samples_from(0)
    numbers = [number for number in (next(stream) for _ in range(10)) if number not in BAD]
    assert len(found) == len(numbers)
    for image_CHW, number in zip(found, numbers, strict=True):
        expected = torch.from_numpy(crop(number)).permute(2, 0, 1).float()
        torch.testing.assert_close(image_CHW * 127.5 + 127.5, expected, rtol=0, atol=1e-4)
