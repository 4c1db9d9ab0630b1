"""One search over all shards: by codes or of every row, in blocks, in threads."""

from __future__ import annotations

import numpy as np
import pytest

from facepipe import shard_search
from facepipe.exact_scores import NO_ROW
from facepipe.index import Gallery, open_index
from facepipe.shard_search import Allowed, is_exact_cheaper, search_all, search_codes
from tests.facepipe.made_index import LISTS, made, people

FACES = people(100, 6)
QUERIES = FACES[::5].astype(np.float32)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return open_index(made(tmp_path_factory.mktemp("i"), FACES, kind="ivf_sq8", shards=3))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block", [1, 7, 1024])
def test_blocks_and_threads_change_nothing(
    opened: Gallery, monkeypatch: pytest.MonkeyPatch, threads: int, block: int
) -> None:
    codes = opened.codes
    assert codes is not None

    def search() -> tuple[np.ndarray, np.ndarray]:
        return search_codes(opened.shards, codes, QUERIES, 9, 3, 20, None, threads)

    scores, rows = search()
    monkeypatch.setattr(shard_search, "CODE_QUERIES", block)
    monkeypatch.setattr(shard_search, "SLICE_QUERIES", 5)
    again = search()
    np.testing.assert_array_equal(again[0], scores)
    np.testing.assert_array_equal(again[1], rows)
    every = search_all(opened.shards, QUERIES, 9, None, 1)
    monkeypatch.setattr(shard_search, "SCAN_QUERIES", block)
    monkeypatch.setattr(shard_search, "PIECE_ROWS", 10 * block)
    again = search_all(opened.shards, QUERIES, 9, None, threads)
    np.testing.assert_array_equal(again[0], every[0])
    np.testing.assert_array_equal(again[1], every[1])


def test_all_lists_and_enough_candidates_are_every_row(opened: Gallery) -> None:
    assert opened.codes is not None
    allowed = Allowed.of(np.random.default_rng(0).random(600) < 0.5, opened.codes)
    for chosen in (None, allowed):
        by_codes = search_codes(opened.shards, opened.codes, QUERIES, 700, LISTS, 600, chosen, 2)
        every = search_all(opened.shards, QUERIES, 700, chosen, 2)
        np.testing.assert_array_equal(by_codes[0], every[0])
        np.testing.assert_array_equal(by_codes[1], every[1])
        count = 600 if chosen is None else chosen.count
        assert ((every[1] != NO_ROW).sum(axis=1) == count).all()


def test_few_rows_are_scored_exactly(opened: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = opened.codes
    assert codes is not None
    some = Allowed.of(np.arange(600) < 55, codes)
    assert is_exact_cheaper(codes, 1, None)  # 600 are few in themselves
    monkeypatch.setattr(shard_search, "EXACT_ROWS", 50)
    assert not is_exact_cheaper(codes, LISTS, None)
    assert is_exact_cheaper(codes, LISTS, some)  # all 600 codes would be looked at
    assert not is_exact_cheaper(codes, 6, some)  # three quarters of them
    assert is_exact_cheaper(codes, 1, Allowed.of(np.arange(600) < 50, codes))
