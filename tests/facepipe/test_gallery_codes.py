"""Which rows are worth an exact score: the same however the codes are cut."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe import gallery_codes
from facepipe.errors import CorruptData
from facepipe.exact_scores import Pairs
from facepipe.gallery_codes import Codes, Part
from facepipe.index import open_index
from facepipe.index_codes import read_codes
from facepipe.index_manifest import CodeKind
from facepipe.nearest_lists import NearestLists
from tests.facepipe.made_index import LISTS, code_bytes, cuts, made, people, template

KINDS: list[CodeKind] = ["ivf_sq8", "ivf_pqfs"]


def alike(vectors: NDArray[np.float16]) -> NDArray[np.float16]:
    """Return vectors that products of floats, which faiss takes, lead to the same lists."""
    wide, same = vectors.astype(np.float32), np.ones(len(vectors), bool)
    for kind in KINDS:
        index = faiss.deserialize_index(np.frombuffer(template(kind)[0], np.uint8))
        lists = NearestLists(template(kind)[1]).assign(wide)
        same &= index.quantizer.search(wide, 1)[1][:, 0] == lists
    assert same.mean() > 0.9
    return vectors[same]


VECTORS = alike(people(150, 8))
QUERIES = people(150, 8)[::37].astype(np.float32)
COUNT = len(VECTORS)


def approximate(codes: Codes, kind: CodeKind, nprobe: int) -> NDArray[np.float32]:
    """Return all approximate scores (Q x N) by faiss's own index; -inf outside of the lists."""
    index = faiss.deserialize_index(np.frombuffer(template(kind)[0], np.uint8))
    index.add(VECTORS.astype(np.float32))
    index.nprobe = min(nprobe, LISTS)
    lists, products = codes.nearest.find(QUERIES, nprobe)
    found, rows = index.search_preassigned(QUERIES, COUNT, lists, products)
    scores = np.full((len(QUERIES), COUNT + 1), -np.inf, np.float32)
    np.put_along_axis(scores, rows, found, axis=1)  # -1 is the last column
    return scores[:, :COUNT]


def faces(pairs: Pairs, order: NDArray[np.int64]) -> list[set[int]]:
    query_P, row_P = pairs
    assert (np.diff(query_P) >= 0).all()
    assert len(set(zip(query_P.tolist(), row_P.tolist(), strict=True))) == len(row_P)
    return [set(order[row_P[query_P == q]].tolist()) for q in range(len(QUERIES))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 5, 64])
@pytest.mark.parametrize("merged", [True, False])
def test_candidates_are_all_with_the_best_approximate_scores(
    tmp_path: Path, kind: CodeKind, shards: int, merged: bool
) -> None:
    codes = open_index(made(tmp_path, VECTORS, kind=kind, shards=shards), merge=merged).codes
    assert codes is not None
    assert len(codes.parts) == (1 if merged else shards)
    order = np.concatenate(cuts(COUNT, shards))
    some = np.random.default_rng(2).random(COUNT) < 0.7
    for count, nprobe in [(1, 2), (20, 3), (300, LISTS), (5000, LISTS)]:
        for allowed in (None, some):
            scores = approximate(codes, kind, nprobe)
            if allowed is not None:
                scores[:, ~allowed] = -np.inf
            least_Q = np.sort(scores, axis=1)[:, -min(count, COUNT)]
            expected = [
                set(np.flatnonzero((scores[q] >= least_Q[q]) & np.isfinite(scores[q])).tolist())
                for q in range(len(QUERIES))
            ]
            bits = None if allowed is None else codes.bits(allowed[order])
            assert faces(codes.candidates(QUERIES, count, nprobe, bits), order) == expected


@pytest.mark.parametrize("shards", [1, 4])
def test_many_equal_scores_are_all_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    """A thousand copies of one face: faiss gives some of them, whichever come first."""
    monkeypatch.setattr(gallery_codes, "HITS", 700)
    vectors = np.concatenate([np.repeat(VECTORS[:1], 1000, axis=0), VECTORS[:200]])
    codes = open_index(made(tmp_path, vectors, kind="ivf_pqfs", shards=shards), merge=False).codes
    assert codes is not None
    query_P, row_P = codes.candidates(VECTORS[:3].astype(np.float32), 60, LISTS, None)
    copies = np.isin(row_P, np.flatnonzero(np.concatenate(cuts(1200, shards)) < 1000))
    assert copies[query_P == 0].sum() == 1000


def test_one_query_is_answered_as_among_many(tmp_path: Path) -> None:
    codes = open_index(made(tmp_path, VECTORS, kind="ivf_sq8")).codes
    assert codes is not None
    order = np.arange(COUNT)
    together = faces(codes.candidates(QUERIES, 15, 3, None), order)
    for q in range(len(QUERIES)):
        alone, rows = codes.candidates(QUERIES[q : q + 1], 15, 3, None)
        assert not alone.any()
        assert set(rows.tolist()) == together[q]


def test_no_queries_and_no_rows(tmp_path: Path) -> None:
    codes = open_index(made(tmp_path, VECTORS[:0], kind="ivf_pqfs")).codes
    assert codes is not None
    for queries in (QUERIES, QUERIES[:0]):
        query_P, row_P = codes.candidates(queries, 5, 3, None)
        assert (len(query_P), len(row_P)) == (0, 0)
    trained = template("ivf_pqfs")[1]
    assert len(Codes.of(trained, []).candidates(QUERIES, 5, 3, None)[0]) == 0


def test_an_id_that_is_no_row_is_refused_when_it_comes_up(tmp_path: Path) -> None:
    """Where a very large gallery is opened by sizes alone, the ids have not been read."""
    data, trained = bytearray(code_bytes(VECTORS, "ivf_sq8")), template("ivf_sq8")[1]
    at = bytes(data).index((COUNT - 1).to_bytes(8, "little"))
    data[at : at + 8] = (COUNT + 5).to_bytes(8, "little")
    path = tmp_path / "index.faiss"
    path.write_bytes(data)
    index = read_codes(path, trained, COUNT, check_ids=False)
    codes = Codes.of(trained, [Part(0, index, "its place")])
    with pytest.raises(CorruptData, match=f"its place names row {COUNT + 5} of {COUNT}"):
        codes.candidates(QUERIES, COUNT, LISTS, None)
