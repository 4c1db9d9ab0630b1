"""The lists a query is looked for in, by integers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from facepipe import nearest_lists
from facepipe.index_manifest import CodeKind
from facepipe.nearest_lists import CENTRE_LEVELS, QUERY_LEVELS, NearestLists
from tests.facepipe.made_index import people, template, units

QUERIES = people(60, 1, 64, seed=5).astype(np.float32)
LISTS = 128


def centres(kind: CodeKind = "ivf_pqfs") -> np.ndarray:
    found: np.ndarray = template(kind, 64, LISTS)[1].quantizer.reconstruct_n(0, LISTS)
    return found


@pytest.mark.parametrize("wanted", [1, 5, 100, LISTS, 1000])
def test_lists_are_those_of_integer_products(wanted: int) -> None:
    lists, products = NearestLists(template("ivf_pqfs", 64, LISTS)[1]).find(QUERIES, wanted)
    kept = min(wanted, LISTS)
    assert lists.shape == products.shape == (60, kept)
    assert not products.any()
    levels = np.rint(centres() * (CENTRE_LEVELS / np.abs(centres()).max())).astype(np.int64)
    for query, found in zip(QUERIES, lists, strict=True):
        asked = np.rint(query * (QUERY_LEVELS / np.abs(query).max())).astype(np.int64)
        scores = levels @ asked
        best = np.lexsort((np.arange(LISTS), -scores))[:kept]
        assert sorted(found.tolist()) == sorted(best.tolist())


def test_they_are_nearly_those_of_floats() -> None:
    lists, _ = NearestLists(template("ivf_pqfs", 64, LISTS)[1]).find(QUERIES, 16)
    nearest = np.argsort(-(QUERIES @ centres().T), axis=1)[:, :16]
    same = [len(set(a) & set(b)) for a, b in zip(lists.tolist(), nearest.tolist(), strict=True)]
    assert sum(same) >= 0.95 * lists.size


def test_codes_of_what_is_left_beside_the_centre_get_exact_products() -> None:
    lists, products = NearestLists(template("ivf_sq8", 64, LISTS)[1]).find(QUERIES, 9)
    exact = QUERIES.astype(np.float64) @ centres("ivf_sq8").T.astype(np.float64)
    np.testing.assert_allclose(products, np.take_along_axis(exact, lists, axis=1), atol=1e-6)


@pytest.mark.parametrize("kind", ["ivf_sq8", "ivf_pqfs"])
@pytest.mark.parametrize("items", [1, 5 * LISTS, 2**23])
def test_other_queries_change_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: CodeKind, items: int
) -> None:
    nearest = NearestLists(template(kind, 64, LISTS)[1])
    together = nearest.find(QUERIES, 7)
    monkeypatch.setattr(nearest_lists, "TABLE_ITEMS", items)
    again = nearest.find(QUERIES, 7)
    alone = [nearest.find(QUERIES[q : q + 1], 7) for q in range(60)]
    for column in (0, 1):
        np.testing.assert_array_equal(again[column], together[column])
        np.testing.assert_array_equal(np.concatenate([a[column] for a in alone]), together[column])
    assert nearest.find(QUERIES[:0], 7)[0].shape == (0, 7)


@pytest.mark.parametrize("items", [1, 5 * LISTS, 2**23])
def test_a_face_goes_to_the_first_list_of_its_order(
    monkeypatch: pytest.MonkeyPatch, items: int
) -> None:
    monkeypatch.setattr(nearest_lists, "TABLE_ITEMS", items)
    nearest = NearestLists(template("ivf_pqfs", 64, LISTS)[1])
    assert nearest.assign(QUERIES).tolist() == nearest.find(QUERIES, 1)[0][:, 0].tolist()
    assert nearest.assign(QUERIES[:0]).shape == (0,)
    lists = np.random.default_rng(0).integers(0, LISTS, (len(QUERIES), 4))
    ranks = nearest.ranks(QUERIES, lists)
    for query in range(len(QUERIES)):
        for own, rank in zip(lists[query], ranks[query], strict=True):
            one = QUERIES[query : query + 1]
            assert own not in nearest.find(one, rank)[0] if rank else True
            assert own in nearest.find(one, rank + 1)[0]


def test_equal_lists_are_taken_by_number() -> None:
    """Eight centres twice over: each product occurs twice."""
    trained = template("ivf_pqfs", 64, 16)[1]
    quantizer = faiss.IndexFlatIP(64)
    quantizer.add(np.tile(units(8, 64).astype(np.float32), (2, 1)))
    index = SimpleNamespace(quantizer=quantizer, d=64, code_size=trained.code_bytes)
    lists, _ = NearestLists(replace(trained, index=index)).find(QUERIES, 5)
    nearest = NearestLists(replace(trained, index=index))
    assert nearest.assign(QUERIES).max() < 8
    halves = np.tile([[3, 11]], (len(QUERIES), 1))
    assert (np.diff(nearest.ranks(QUERIES, halves), axis=1) == 1).all()
    for found in lists.tolist():
        twice = [number for number in found if number < 8 and number + 8 in found]
        once = [number for number in found if number % 8 not in twice]
        assert len(twice) == 2
        assert len(once) == 1
        assert once[0] < 8


def test_a_graph_searches_many_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = template("ivf_pqfs", 64, LISTS)[1]
    graph = faiss.IndexHNSWFlat(64, 16, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efSearch = LISTS
    graph.add(centres())
    index = SimpleNamespace(quantizer=graph, d=64, code_size=trained.code_bytes)
    lists, products = NearestLists(replace(trained, index=index)).find(QUERIES, 9)
    exact = QUERIES @ centres().T
    np.testing.assert_allclose(products, np.take_along_axis(exact, lists, axis=1), atol=1e-5)
    best = np.argsort(-exact, axis=1)[:, :9]
    same = sum(len(set(a) & set(b)) for a, b in zip(lists.tolist(), best.tolist(), strict=True))
    assert same >= 0.9 * lists.size
    graphs = NearestLists(replace(trained, index=index))
    assert graphs.assign(QUERIES).tolist() == best[:, 0].tolist()
    monkeypatch.setattr(nearest_lists, "RANKED", 50)
    assert (graphs.ranks(QUERIES, best) == np.arange(9)).all()
