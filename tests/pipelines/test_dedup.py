"""Duplicates of a stored dataset: what is read, and what is found in it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facepipe.crop_rows import fixed_rows
from facepipe.dedup import DedupSettings, find_duplicates
from facepipe.schema import CROP_GREY_PX
from facepipe.shards import Dataset, open_dataset
from pipelines.dedup import StoredGreys
from tests import made
from tests.pipelines.conftest import curated, labelled_settings


def test_small_pictures_are_read_by_the_row(dataset: Dataset) -> None:
    files = dataset.files("faces")
    assert len(files) > 2
    whole = fixed_rows(dataset.table("faces", ["crop_grey"])["crop_grey"], CROP_GREY_PX**2)
    whole = whole.reshape(-1, CROP_GREY_PX, CROP_GREY_PX)
    stored = StoredGreys(dataset, files)
    rows = np.array([len(whole) - 1, 0, 7, 7, 3, len(whole) // 2])
    np.testing.assert_array_equal(stored[rows], whole[rows])
    assert stored[rows[:0]].shape == (0, CROP_GREY_PX, CROP_GREY_PX)


def test_duplicates_are_those_of_tables_in_memory(dataset: Dataset) -> None:
    tables = [dataset.table(name) for name in ("faces", "photos", "embeddings")]
    expected = find_duplicates(*tables, DedupSettings())
    assert dataset.table("duplicates").equals(expected)
    commit = dataset.commits("dedup")[0]
    decisions = expected["decision"].to_pylist()
    assert commit.counts["duplicates"] == {d: decisions.count(d) for d in set(decisions)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, made_pack: Path) -> dict[str, tuple[str, str]]:
    """Return decision and reason by file, of a photo, copies of it, and another shot."""
    folder = tmp_path_factory.mktemp("copies")
    photo = made.photo([(0, 0, 160, 160)], background=5)
    pictures = {
        "photo": photo,
        "fainter": photo,
        "cropped": cv2.copyMakeBorder(photo[100:220, 80:240], 0, 200, 0, 160, 0, value=(9, 99, 0)),
        "framed": np.roll(cv2.copyMakeBorder(photo[:, 80:240], 0, 0, 0, 160, 0), 40, axis=1),
        "other-shot": made.photo([(0, 1, 160, 160)], background=5),
        "other-person": made.photo([(1, 1, 160, 160)], background=5),
    }
    for name, picture in pictures.items():
        fainter = picture if name == "photo" else picture * 0.97 + 3  # so the photo is kept
        made.save(folder / f"{name}.png", fainter.astype(np.uint8))
    out = tmp_path_factory.mktemp("copies-dataset") / "ds"
    curated([folder], out, made_pack, settings=labelled_settings())
    rows = open_dataset(out).table("duplicates").to_pylist()
    assert len(rows) == len(pictures)
    return {Path(r["uri"]).stem: (r["decision"], r["reason"]) for r in rows}


def test_copies_go_and_say_whether_the_photos_are_alike(found: dict[str, tuple[str, str]]) -> None:
    assert found == {
        "photo": ("keep", "same_picture"),
        "fainter": ("duplicate", "same_picture"),
        "cropped": ("duplicate", "same_crop"),
        "framed": ("duplicate", "same_crop"),
        "other-shot": ("keep", "single"),
        "other-person": ("keep", "single"),
    }
