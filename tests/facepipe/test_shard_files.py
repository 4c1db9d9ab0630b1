"""Opening the codes of many shards: merged into few parts, and the same answers from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from facepipe import shard_files, shard_search
from facepipe.index import Gallery, open_index
from tests.facepipe.made_index import LISTS, made, people

FACES = people(100, 6)
QUERIES = FACES[::5].astype(np.float32)
SHARDS = 8


@pytest.fixture(autouse=True)
def _by_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_search, "EXACT_ROWS", 0)
    monkeypatch.setattr(shard_search, "EXACT_SHARE", 0.0)


@pytest.fixture(scope="module", params=["ivf_sq8", "ivf_pqfs"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("i")
    return made(folder, FACES, kind=request.param, shards=SHARDS, dead=[3, 400])


def parts(gallery: Gallery) -> list[tuple[int, int]]:
    assert gallery.codes is not None
    return [(part.first, part.rows) for part in gallery.codes.parts]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(0, SHARDS), (75, SHARDS), (76, 4), (150, 4), (151, 3), (10**9, 1)],
)
def test_parts_are_full_shards_together_and_find_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rows: int, expected: int
) -> None:
    """Eight shards of 75 rows; nprobe 2 of LISTS."""
    whole = open_index(folder, threads=1)
    assert parts(whole) == [(0, 600)]
    monkeypatch.setattr(shard_files, "MERGE_ROWS", rows)
    monkeypatch.setattr(shard_files, "MERGE_LIST_CODES", 0)
    cut = open_index(folder, threads=1)
    found = parts(cut)
    assert len(found) == expected
    assert [first for first, _ in found] == np.cumsum([0, *(n for _, n in found)])[:-1].tolist()
    for nprobe in (2, LISTS):
        for mine, theirs in zip(
            cut.search(QUERIES, 9, nprobe=nprobe),
            whole.search(QUERIES, 9, nprobe=nprobe),
            strict=True,
        ):
            np.testing.assert_array_equal(mine, theirs)


def test_longer_lists_make_larger_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "MERGE_ROWS", 0)
    monkeypatch.setattr(shard_files, "MERGE_LIST_CODES", 300 // LISTS)
    assert [rows for _, rows in parts(open_index(folder))] == [300, 300]


def test_shards_stay_apart_where_the_disk_is_full(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = sum(path.stat().st_size for path in folder.rglob("codes.ivf"))
    for free, expected in ((2 * codes, 1), (2 * codes - 2, SHARDS)):
        usage = shutil.disk_usage(folder)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        assert len(parts(open_index(folder))) == expected
    assert len(parts(open_index(folder, merge=False))) == SHARDS
